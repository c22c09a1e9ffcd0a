"""Answer over HTTP: the OpenAI protocol and others."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from halfbyte.cli.common import add_model_arguments, load_model, read_text
from halfbyte.errors import InvalidArgumentError, UnsupportedError
from halfbyte.server.config import ServerConfig

# Host names that mean this machine, for servers that listen on nothing else.
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--alias", action="append", metavar="NAME", help="name that clients use (may be repeated)")
    parser.add_argument("-np", "--max-sequences", type=int, default=64, metavar="N", help="answers at once (64)")
    parser.add_argument("--chat-template", metavar="NAME", help="a known template's name, Jinja text, or a file of it")
    doors = parser.add_argument_group("doors")
    doors.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    doors.add_argument("--port", type=int, default=8080, help="port to listen on (8080; 0: any free one)")
    doors.add_argument("--api-key", action="append", default=[], metavar="KEY", help="ask for it (may be repeated)")
    doors.add_argument("--api-key-file", metavar="FILE", help="keys, one a line")
    doors.add_argument(
        "--allow-origin", action="append", default=[], metavar="ORIGIN", help="web pages that may call (*)"
    )
    doors.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="names the server answers to")
    limits = parser.add_argument_group("limits (0: none)")
    limits.add_argument("--max-body", type=int, default=32 << 20, metavar="BYTES", help="largest request (32 MiB)")
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

    config = _config(arguments)
    set_up(arguments.log_format, arguments.log_level.upper())
    if not config.api_keys and arguments.host not in ("127.0.0.1", "localhost", "::1"):
        print("halfbyte: no --api-key: everyone who reaches this port may use it.", file=sys.stderr)
    with load_model(arguments, max_sequences=arguments.max_sequences, chat_template=arguments.chat_template) as llm:
        names = tuple(arguments.alias or [_name_of(arguments.model or "smollm2")])
        app = create_app(SingleModelPool(llm, names), config)
        listen(
            app, config, arguments.host, arguments.port, lambda url: print(f"Serving {names[0]} at {url}", flush=True)
        )
    return 0


def _config(arguments: argparse.Namespace) -> ServerConfig:
    keys = [*arguments.api_key, *os.environ.get("HALFBYTE_API_KEY", "").split()]
    if arguments.api_key_file:
        lines = [line.strip() for line in read_text(arguments.api_key_file).splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise InvalidArgumentError(f"{arguments.api_key_file} holds no key.", hint="Put one on each line.")
        keys += found
    is_local = arguments.host in ("127.0.0.1", "localhost", "::1")
    for name in (
        "max_body",
        "max_prompt",
        "max_output",
        "max_queue",
        "timeout",
        "rate",
        "token_rate",
        "max_concurrent",
    ):
        if getattr(arguments, name) < 0:
            raise InvalidArgumentError(f"--{name.replace('_', '-')} takes a number from 0 on.")
    return ServerConfig(
        api_keys=tuple(keys),
        allowed_origins=tuple(arguments.allow_origin),
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
