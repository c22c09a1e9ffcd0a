"""`halfbyte serve` as a process: its ready line, its log, its end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start(tiny_model: Callable[..., Path]) -> Iterator[Start]:
    """start(*flags) -> a process that is ready, and its URL."""
    processes = []

    def run(*flags: str, **changes: Any) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "halfbyte", "serve", "-m", str(tiny_model(**changes)), "--port", "0", *flags]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"}
        )
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"Serving \S+ at (http://127\.0\.0\.1:\d+)\n", line)
        assert found, line + (process.stderr.read() if process.stderr and process.poll() is not None else "")
        return process, found[1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_ready_means_ready_and_logs_tell_no_words(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# ours\nalpha\n\nbeta\n")
    flags = ("--log-format", "json", "--api-key", "k1", "--api-key-file", str(keys), "--alias", "mine")
    process, url = start(*flags)
    assert httpx.get(f"{url}/health").status_code == 200
    for key, status in (("alpha", 200), ("beta", 200), ("# ours", 401), ("", 401)):
        assert httpx.get(f"{url}/v1/models", headers={"x-api-key": key}).status_code == status
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k1") as client:
        client.completions.create(model="mine", prompt="secret words", max_tokens=3)
    process.send_signal(signal.SIGTERM)
    out, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == ""
    lines = [json.loads(line) for line in log.splitlines()]
    (request,) = [line for line in lines if line.get("path") == "/v1/completions"]
    assert (request["status"], request["client"], request["completion_tokens"]) == (200, "key 1", 3)
    assert "secret" not in log


def test_a_stop_finishes_what_runs(start: Start) -> None:
    process, url = start("-c", "20000", n_ctx=20_000)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        bias = {"257": -100, "259": -100}
        ask: dict[str, Any] = {
            "model": client.models.list().data[0].id,
            "prompt": "abc",
            "max_tokens": 4000,
            "logit_bias": bias,
            "stream_options": {"include_usage": True},
        }
        streams = [client.completions.create(**ask, stream=True) for _ in range(4)]
        iterators = [iter(stream) for stream in streams]
        seen = [[next(chunks)] for chunks in iterators]
        process.send_signal(signal.SIGTERM)
        for chunks, mine in zip(iterators, seen, strict=True):
            mine += list(chunks)
    assert [mine[-2].choices[0].finish_reason for mine in seen] == ["length"] * 4
    assert [mine[-1].usage.completion_tokens for mine in seen if mine[-1].usage] == [4000] * 4
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_port_in_use_is_a_sentence(tiny_model: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "halfbyte", "serve", "-m", str(tiny_model()), "--port", port]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "--port" in result.stderr
