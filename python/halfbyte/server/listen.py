"""Runs the app on a port until the process is told to stop."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import uvicorn

from halfbyte.errors import FileError, InvalidArgumentError
from halfbyte.server.config import ServerConfig


class _Server(uvicorn.Server):
    """uvicorn that tells when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Who presses Ctrl-C wants the prompt back; services are stopped by SIGTERM.
        if sig == signal.SIGINT:
            self.config.timeout_graceful_shutdown = 0
            # That answers were cut off is what was asked for, no error to tell.
            logging.getLogger("uvicorn.error").addFilter(lambda r: not str(r.msg).startswith("Cancel %s running"))
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()


def listen(
    app: Any, config: ServerConfig, addresses: Sequence[tuple[str, int]], on_ready: Callable[[list[str]], Any]
) -> None:
    """Serves at (host, port) pairs until Ctrl-C, which stops what runs, or SIGTERM, which lets it finish
    (config.shutdown_timeout_s).

    on_ready is called with the URLs once requests are answered. Raises FileError when a port cannot be had.
    """
    settings = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(config.shutdown_timeout_s) or None,
        timeout_keep_alive=75,
    )
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(_bind(host, port)) for host, port in addresses]
        urls = [_url(host, bound) for (host, _), bound in zip(addresses, sockets, strict=True)]
        server = _Server(settings, lambda: on_ready(urls))
        # uvicorn raises the signal that stopped it once more when all is done: a stop on request is no failure.
        previous = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            server.run(sockets=sockets)
        finally:
            signal.signal(signal.SIGTERM, previous)


def _url(host: str, bound: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"


def _bind(host: str, port: int) -> socket.socket:
    if not 0 <= port < 1 << 16:
        raise InvalidArgumentError(f"Port {port} is out of range; 0 to 65535 was expected.")
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        raise FileError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}.", hint="Choose another --host or --port."
        ) from None
