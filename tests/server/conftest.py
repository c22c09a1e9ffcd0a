"""A live server on a loopback port, with a tiny model."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
import uvicorn

from halfbyte import LLM
from halfbyte.server.app import create_app
from halfbyte.server.config import ServerConfig
from halfbyte.server.models import SingleModelPool

from ..conftest import toy_vocabulary


def toy_id(letter: str) -> int:
    """The id of a letter in the tiny models' vocabulary."""
    return toy_vocabulary()[0].index(letter)


@dataclass
class Live:
    """A server that answers, and ways to talk to it."""

    url: str
    llm: LLM
    clients: list[openai.OpenAI] = field(default_factory=list)

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=600, **options)

    def openai(self, key: str = "none") -> openai.OpenAI:
        """A client that is closed with the server."""
        self.clients.append(openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=600))
        return self.clients[-1]

    def async_openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=600)


@pytest.fixture(scope="session")
def serve_llm() -> Iterator[Callable[..., Live]]:
    """serve_llm(llm, config) -> a running server of an LLM; all are stopped, and their LLMs closed, at the end.

    send_buffer: how many bytes the system takes for a client that reads nothing (0: megabytes, in the end)."""
    stops = []

    def start(llm: LLM, config: ServerConfig | None = None, *, send_buffer: int = 0) -> Live:
        app = create_app(SingleModelPool(llm, ("tiny", "also-tiny")), config or ServerConfig())
        bound = socket.create_server(("127.0.0.1", 0))
        if send_buffer:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # connections inherit it
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_keep_alive=600))
        ready = threading.Event()

        async def main() -> None:
            task = asyncio.create_task(server.serve(sockets=[bound]))
            while not server.started:
                await asyncio.sleep(0.005)
            ready.set()
            await task

        thread = threading.Thread(target=lambda: asyncio.run(main()), name="server")
        thread.start()
        assert ready.wait(120)

        live = Live(f"http://127.0.0.1:{bound.getsockname()[1]}", llm)

        def stop() -> None:
            for client in live.clients:
                client.close()
            server.should_exit = True
            thread.join(120)
            bound.close()
            assert not thread.is_alive()
            llm.close()

        stops.append(stop)
        return live

    yield start
    for stop in stops:
        stop()


@pytest.fixture(scope="session")
def serve(tiny_model: Callable[..., Path], serve_llm: Callable[..., Live]) -> Callable[..., Live]:
    """serve(config, model={...}, **LLM options) -> a running server of a tiny model."""

    def start(
        config: ServerConfig | None = None, *, model: dict[str, Any] | None = None, send_buffer: int = 0, **options: Any
    ) -> Live:
        llm = LLM(str(tiny_model(**{"n_ctx": 1024, **(model or {})})), n_threads=2, **options)
        return serve_llm(llm, config, send_buffer=send_buffer)

    return start


@pytest.fixture(scope="session")
def live(serve: Callable[..., Live]) -> Live:
    """A server with default settings, for tests that change none."""
    return serve()
