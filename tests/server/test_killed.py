"""A server that is killed while it changes the model store leaves a store that works."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import ollama
import pytest

from ..hub.server import World, serving

GREEDY = {"temperature": 0, "num_predict": 6}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], str]]]:
    """start() -> a server of one store, again and again, and its URL."""
    processes = []

    def run() -> tuple[subprocess.Popen[str], str]:
        environment = {**os.environ, "HALFBYTE_MODELS": str(tmp_path / "store"), "OLLAMA_HOST": "127.0.0.1:0"}
        command = [sys.executable, "-m", "halfbyte", "serve", "--ollama", "--log-level", "error"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        (url,) = re.findall(r"http://\S+", process.stdout.readline())
        return process, url

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_kill_and_restart(
    start: Callable[[], tuple[subprocess.Popen[str], str]], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    content = tiny_model(seed=5, n_ctx=512).read_bytes()
    world = World(registry={"library/base:1b": [("model", content), ("system", b"Be kind.")]})
    half = World(registry={"library/half:1b": [("model", content + bytes(1000))]}, hold_after=len(content) // 2)
    clients: list[ollama.Client] = []
    with serving(world) as registry, serving(half) as stalled:
        process, url = start()
        clients.append(client := ollama.Client(host=url))
        client.pull(f"ollama:{registry}/library/base:1b")
        said = client.generate("base:1b", "Hi", options=GREEDY).response

        def pulls_for_ever() -> None:
            with contextlib.suppress(Exception):
                client.pull(f"ollama:{stalled}/library/half:1b")

        pulling = threading.Thread(target=pulls_for_ever)
        pulling.start()
        for n_changes in (1, 4, 9):
            changed = threading.Semaphore(0)

            def changes(url: str, changed: threading.Semaphore) -> None:
                """Makes, copies and deletes models until the server is gone."""
                with ollama.Client(host=url) as own, contextlib.suppress(Exception):
                    for i in range(1_000_000):
                        own.create(model=f"made-{i % 3}", from_="base:1b", system=f"You are {i}.")
                        changed.release()
                        own.copy(f"made-{i % 3}", "copied")
                        changed.release()
                        own.delete("copied")
                        changed.release()

            changing = threading.Thread(target=changes, args=(url, changed))
            changing.start()
            for _ in range(n_changes):
                assert changed.acquire(timeout=200)
            process.kill()
            process.wait()
            changing.join(200)
            pulling.join(200)
            process, url = start()
            clients.append(client := ollama.Client(host=url))
            names = {model.model for model in client.list().models}
            assert "base:1b" in names
            assert names <= {"base:1b", "copied:latest", *(f"made-{i}:latest" for i in range(3))}
            for name in names:
                assert client.generate(name or "", "Hi", options=GREEDY).eval_count == 6
            assert client.generate("base:1b", "Hi", options=GREEDY).response == said
        half.let_go()
        with pytest.raises(ollama.ResponseError, match="not found"):
            client.show("half:1b")
        for name in names:
            client.delete(name or "")
        assert client.list().models == []
    for one in clients:
        one.close()
