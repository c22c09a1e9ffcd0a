"""Answer over HTTP: the OpenAI protocol and others."""

from __future__ import annotations

import argparse
from pathlib import Path

from halfbyte.cli.common import add_model_arguments, load_model
from halfbyte.errors import UnsupportedError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (8080; 0: any free one)")
    parser.add_argument("--alias", action="append", metavar="NAME", help="name that clients use (may be repeated)")
    parser.add_argument("-np", "--max-sequences", type=int, default=64, metavar="N", help="answers at once (64)")


def run(arguments: argparse.Namespace) -> int:
    try:
        from halfbyte.server.app import create_app
        from halfbyte.server.listen import listen
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"The server needs the package {error.name}.", hint="Install it with: pip install 'halfbyte[server]'"
        ) from None
    from halfbyte.server.config import ServerConfig
    from halfbyte.server.models import SingleModelPool

    with load_model(arguments, max_sequences=arguments.max_sequences) as llm:
        names = tuple(arguments.alias or [_name_of(arguments.model or "smollm2")])
        config = ServerConfig()
        app = create_app(SingleModelPool(llm, names), config)
        listen(
            app, config, arguments.host, arguments.port, lambda url: print(f"Serving {names[0]} at {url}", flush=True)
        )
    return 0


def _name_of(model: str) -> str:
    return Path(model).stem if model.endswith(".gguf") else model
