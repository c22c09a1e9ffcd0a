"""Answer over HTTP: the OpenAI protocol and others.

halfbyte serve smollm2 --port 8080    # then open http://127.0.0.1:8080
halfbyte serve --ollama --models-dir models
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from halfbyte import _core
from halfbyte.cli.common import (
    UsageError,
    add_model_arguments,
    download_progress,
    load_model,
    model_options,
    read_text,
)
from halfbyte.errors import InvalidArgumentError, UnsupportedError
from halfbyte.llm import LLM
from halfbyte.server.config import ServerConfig

if TYPE_CHECKING:
    from halfbyte.server.pool import CatalogPool

# What Ollama lets in unasked: local pages, and applications whose pages are no web pages.
_OLLAMA_ORIGINS = (
    *(f"{scheme}://{host}{port}" for scheme in ("http", "https") for host in ("localhost", "127.0.0.1") for port in ("", ":*")),
    *(f"{scheme}://*" for scheme in ("app", "file", "tauri", "vscode-webview", "vscode-file")),
)  # fmt: skip
# Host names that mean this machine, for servers that listen on nothing else.
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--alias", action="append", metavar="NAME", help="name that clients use (may be repeated)")
    parser.add_argument("-np", "--max-sequences", type=int, default=64, metavar="N", help="answers at once (64)")
    parser.add_argument("--chat-template", metavar="NAME", help="a known template's name, Jinja text, or a file of it")
    several = parser.add_argument_group("several models, loaded when they are asked for")
    several.add_argument("--models-dir", metavar="DIR", help="serve the models of a folder")
    several.add_argument("--max-loaded", type=int, metavar="N", help="in memory at once (3)")
    several.add_argument(
        "--keep-alive", metavar="TIME", help="how long an idle model stays in memory: 5m, 1h30m, seconds, -1 (no limit)"
    )
    doors = parser.add_argument_group("doors")
    doors.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    doors.add_argument("--port", type=int, help="port to listen on (8080; 0: any free one)")
    doors.add_argument(
        "--ollama",
        action="store_true",
        help="listen where Ollama does (OLLAMA_HOST, or port 11434), too; serve the store",
    )
    doors.add_argument("--api-key", action="append", default=[], metavar="KEY", help="ask for it (may be repeated)")
    doors.add_argument("--api-key-file", metavar="FILE", help="keys, one a line")
    doors.add_argument(
        "--allow-origin", action="append", default=[], metavar="ORIGIN", help="web pages that may call (*)"
    )
    doors.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="names the server answers to")
    scale = parser.add_argument_group("scale-out")
    scale.add_argument(
        "--ray", action="store_true", help="run on Ray Serve: this machine, or the cluster at RAY_ADDRESS"
    )
    scale.add_argument("--replicas", default="1", metavar="N[:MAX]", help="with --ray: copies, or fewest:most (1)")
    limits = parser.add_argument_group("limits (0: none)")
    limits.add_argument(
        "--max-body",
        type=int,
        default=32 << 20,
        metavar="BYTES",
        help="largest request (32 MiB); uploaded models may be larger",
    )
    limits.add_argument("--max-prompt", type=int, default=0, metavar="TOKENS", help="longest prompt (0: the context)")
    limits.add_argument("--max-output", type=int, default=0, metavar="TOKENS", help="longest answer (0: the context)")
    limits.add_argument("--max-queue", type=int, default=512, metavar="N", help="waiting answers; beyond: 503 (512)")
    limits.add_argument("--timeout", type=float, default=0, metavar="S", help="longest time of an answer (0)")
    limits.add_argument("--rate", type=int, default=0, metavar="N", help="requests a minute of each client (0)")
    limits.add_argument("--token-rate", type=int, default=0, metavar="N", help="tokens a minute of each client (0)")
    limits.add_argument("--max-concurrent", type=int, default=0, metavar="N", help="requests at once of a client (0)")
    limits.add_argument(
        "--shutdown-timeout", type=float, default=60, metavar="S", help="to finish in, when told to stop"
    )
    log = parser.add_argument_group("log")
    log.add_argument("--log-format", choices=["text", "json"], default="text", help="of the lines on stderr")
    log.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    log.add_argument("--log-prompts", action="store_true", help="write what is asked into the log, too")


def run(arguments: argparse.Namespace) -> int:
    try:
        from halfbyte.server.app import create_app
        from halfbyte.server.listen import listen
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"The server needs the package {error.name}.", hint="Install it with: pip install 'halfbyte[server]'"
        ) from None
    from halfbyte.server.logs import set_up
    from halfbyte.server.models import SingleModelPool

    addresses = _addresses(arguments)
    is_local = all(host in ("127.0.0.1", "localhost", "::1") for host, _ in addresses)
    config = _config(arguments, is_local)
    set_up(arguments.log_format, arguments.log_level.upper())
    if not config.api_keys and not is_local:
        print("halfbyte: no --api-key: everyone who reaches this port may use it.", file=sys.stderr)
    names = tuple(arguments.alias or [_name_of(arguments.model or "smollm2")])
    if arguments.ray:
        return _run_on_ray(arguments, names[0], addresses[0], config)
    if arguments.ollama or arguments.models_dir or arguments.max_loaded or arguments.keep_alive:
        app = create_app(_pool(arguments, names), config)
        listen(app, config, addresses, lambda urls: _say(f"Serving models at {' and '.join(urls)}"))
        return 0
    with load_model(arguments, max_sequences=arguments.max_sequences, chat_template=arguments.chat_template) as llm:
        app = create_app(SingleModelPool(llm, names), config)
        listen(app, config, addresses, lambda urls: _say(f"Serving {names[0]} at {' and '.join(urls)}"))
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _pool(arguments: argparse.Namespace, names: tuple[str, ...]) -> CatalogPool:
    """The models of -m, of --models-dir and, for --ollama, of the store."""
    from halfbyte.hub import open_model
    from halfbyte.server.catalog import Catalog
    from halfbyte.server.ollama_shapes import duration
    from halfbyte.server.pool import CatalogPool

    environment = os.environ if arguments.ollama else {}
    keep_alive = arguments.keep_alive or environment.get("OLLAMA_KEEP_ALIVE") or ("5m" if arguments.ollama else "-1")
    try:
        keep_alive_s = duration(keep_alive)
    except InvalidArgumentError as error:
        raise UsageError(f"--keep-alive: {error}") from None
    wanted = environment.get("OLLAMA_MAX_LOADED_MODELS", "")
    most = arguments.max_loaded or (int(wanted) if wanted.isdigit() else 0) or 3
    folder = Path(arguments.models_dir) if arguments.models_dir else None
    if folder and not folder.is_dir():
        raise UsageError(f"--models-dir {folder} is no folder.")
    if most < 1:
        raise UsageError(f"--max-loaded is {most}; at least 1 was expected.")
    fixed = {}
    if arguments.model or not (folder or arguments.ollama):
        reference = arguments.model or "smollm2"
        with download_progress() as tell:
            open_model(reference, tell)
        fixed = dict.fromkeys(names, reference)
    options = model_options(arguments)
    template, n_sequences = arguments.chat_template, arguments.max_sequences
    return CatalogPool(
        Catalog(fixed, folder, arguments.ollama),
        lambda files: LLM(files, max_sequences=n_sequences, chat_template=template, **options),
        max_loaded=most,
        keep_alive_s=keep_alive_s,
    )


def _addresses(arguments: argparse.Namespace) -> list[tuple[str, int]]:
    if not arguments.ollama:
        return [(arguments.host, 8080 if arguments.port is None else arguments.port)]
    own = [] if arguments.port is None else [(arguments.host, arguments.port)]
    return [*own, ollama_address(os.environ.get("OLLAMA_HOST", ""), arguments.host)]


def ollama_address(text: str, host: str) -> tuple[str, int]:
    """What OLLAMA_HOST says: host, host:port, :port or an address with a scheme; without one, `host`, port 11434."""
    found = urlsplit(text if "://" in text else f"//{text}")
    try:
        return found.hostname or host, 11434 if found.port is None else found.port
    except ValueError:
        raise UsageError(f"OLLAMA_HOST is {text!r}; host:port was expected.") from None


def _run_on_ray(arguments: argparse.Namespace, name: str, address: tuple[str, int], config: ServerConfig) -> int:
    try:
        from halfbyte.server.ray_app import RayModel, serve_with_ray
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"--ray needs the package {error.name}.", hint="Install it with: pip install 'halfbyte[ray]'"
        ) from None
    if arguments.ollama or arguments.models_dir:
        raise UsageError(
            "--ray serves one model: --ollama and --models-dir do not go with it.",
            hint="For several models write a Serve config; halfbyte.server.ray_app shows one.",
        )
    if address[1] == 0:
        raise UsageError("--ray listens on a port that is named.", hint="Give one with --port.")
    asked = re.fullmatch(r"([1-9]\d*)(?::([1-9]\d*))?", arguments.replicas)
    n_fewest, n_most = (int(asked[1]), int(asked[2] or asked[1])) if asked else (1, 0)
    if n_most < n_fewest:
        raise UsageError(f"--replicas {arguments.replicas}: N or MIN:MAX was expected, from 1 on.")
    options = model_options(arguments)
    n_threads = options.pop("n_threads") or max(1, _core.cpu_info()["cores"] // n_most)
    model = RayModel(
        model=arguments.model or "smollm2",
        name=name,
        n_threads=n_threads,
        max_sequences=arguments.max_sequences,
        min_replicas=n_fewest,
        max_replicas=n_most,
        options=options | {"chat_template": arguments.chat_template},
    )
    serve_with_ray([model], config, *address, lambda url: _say(f"Serving {name} at {url}"))
    return 0


def _config(arguments: argparse.Namespace, is_local: bool) -> ServerConfig:
    keys = [*arguments.api_key, *os.environ.get("HALFBYTE_API_KEY", "").split()]
    if arguments.api_key_file:
        lines = [line.strip() for line in read_text(arguments.api_key_file).splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise UsageError(f"{arguments.api_key_file} holds no key.", hint="Put one on each line.")
        keys += found
    if arguments.max_sequences < 1:
        raise UsageError(f"-np {arguments.max_sequences}: at least 1 was expected.")
    if arguments.port is not None and not 0 <= arguments.port < 1 << 16:
        raise UsageError(f"--port {arguments.port}: 0 to 65535 was expected.")
    for name in (
        "max_body",
        "max_prompt",
        "max_output",
        "max_queue",
        "timeout",
        "rate",
        "token_rate",
        "max_concurrent",
        "shutdown_timeout",
    ):
        if getattr(arguments, name) < 0:
            raise UsageError(f"--{name.replace('_', '-')} takes a number from 0 on.")
    ollama_origins: tuple[str, ...] = ()
    if arguments.ollama:
        named = os.environ.get("OLLAMA_ORIGINS", "").split(",")
        ollama_origins = (*_OLLAMA_ORIGINS, *(origin.strip() for origin in named if origin.strip()))
    return ServerConfig(
        api_keys=tuple(keys),
        allowed_origins=(*arguments.allow_origin, *ollama_origins),
        allowed_hosts=(*_LOOPBACK, *arguments.allow_host) if is_local or arguments.allow_host else (),
        max_body_bytes=arguments.max_body,
        max_prompt_tokens=arguments.max_prompt,
        max_output_tokens=arguments.max_output,
        max_queue=arguments.max_queue,
        request_timeout_s=arguments.timeout,
        requests_per_minute=arguments.rate,
        tokens_per_minute=arguments.token_rate,
        max_concurrent=arguments.max_concurrent,
        shutdown_timeout_s=arguments.shutdown_timeout,
        log_prompts=arguments.log_prompts,
    )


def _name_of(model: str) -> str:
    return Path(model).stem if model.endswith(".gguf") else model
