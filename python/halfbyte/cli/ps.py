"""List the models that a running server holds in memory.

halfbyte ps --url http://127.0.0.1:8080 --api-key secret
"""

from __future__ import annotations

import argparse
import os
import urllib.error

from halfbyte.cli.common import human_bytes, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="the server's address (OLLAMA_HOST, else port 11434 of this machine)")
    parser.add_argument("--api-key", metavar="KEY", help="a key, where the server asks for one")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(arguments: argparse.Namespace) -> int:
    from halfbyte.cli.serve import ollama_address
    from halfbyte.errors import DownloadError
    from halfbyte.hub.web import get_json

    host, port = ollama_address(os.environ.get("OLLAMA_HOST", ""), "127.0.0.1")
    url = arguments.url or f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    try:
        headers = {"Authorization": f"Bearer {arguments.api_key}"} if arguments.api_key else {}
        models = get_json(f"{url.rstrip('/')}/api/ps", headers)["models"]
    except DownloadError as error:
        if isinstance(error.__cause__, urllib.error.HTTPError):
            code = error.__cause__.code
            hint = "Name its key with --api-key." if code == 401 else "Is it one of halfbyte or Ollama?"
            raise DownloadError(f"{url}: the server answered {code} {error.__cause__.reason}.", hint=hint) from error
        raise DownloadError(
            f"{url}: no server answers there.", hint="Start one with `halfbyte serve --ollama`, or name it with --url."
        ) from error
    if arguments.json:
        print_json(models)
        return 0
    for m in models:
        print(
            f"{m['name']:<24} {human_bytes(m['size']):>10}  context {m['context_length']:>6}  until {m['expires_at']}"
        )
    if not models:
        print("No model is loaded.")
    return 0
