"""`halfbyte serve` as a process: its ready line, its log, its end."""

from __future__ import annotations

import asyncio
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
    assert httpx.get(f"{url}/health", timeout=200).status_code == 200
    for key, status in (("alpha", 200), ("beta", 200), ("# ours", 401), ("", 401)):
        assert httpx.get(f"{url}/v1/models", headers={"x-api-key": key}, timeout=200).status_code == status
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k1") as client:
        client.completions.create(model="mine", prompt="secret words", max_tokens=3)
    process.send_signal(signal.SIGTERM)
    out, log = process.communicate(timeout=200)
    assert process.returncode == 0
    assert out == ""
    lines = [json.loads(line) for line in log.splitlines()]
    (request,) = [line for line in lines if line.get("path") == "/v1/completions"]
    assert (request["status"], request["client"], request["completion_tokens"]) == (200, "key 1", 3)
    assert "secret" not in log


def test_a_stop_finishes_what_runs(start: Start) -> None:
    process, url = start("-c", "20000", "--shutdown-timeout", "600", n_ctx=20_000)
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
    process.communicate(timeout=200)
    assert process.returncode == 0


def test_a_stop_loses_nothing_that_was_accepted(start: Start) -> None:
    """Twenty requests for four places: streams and whole answers, running and waiting, when the stop comes."""
    process, url = start("-c", "4096", "-np", "4", "--shutdown-timeout", "600", n_ctx=4096)
    ask = {"prompt": "abc", "max_tokens": 1500, "logit_bias": {"257": -100, "259": -100}}

    async def stream(client: openai.AsyncOpenAI, begun: asyncio.Event) -> str | None:
        reason = None
        async for chunk in await client.completions.create(model="", **ask, stream=True):
            begun.set()
            reason = chunk.choices[0].finish_reason or reason
        return reason

    async def whole(client: openai.AsyncOpenAI) -> str | None:
        answer = await client.completions.create(model="", **ask)
        assert answer.usage
        assert answer.usage.completion_tokens == 1500
        return answer.choices[0].finish_reason

    async def load() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0, timeout=600) as client:
            begun = asyncio.Event()
            tasks = [asyncio.create_task(stream(client, begun) if i % 2 else whole(client)) for i in range(20)]
            await begun.wait()
            while await _n_accepted(url) < 20:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*tasks)
        return answers

    assert asyncio.run(load()) == ["length"] * 20
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health", timeout=200)
    process.communicate(timeout=200)
    assert process.returncode == 0


async def _n_accepted(url: str) -> int:
    """Answers that run, wait or are done."""
    async with httpx.AsyncClient(timeout=200) as http:
        lines = (await http.get(f"{url}/metrics")).text.splitlines()
    names = ("vllm:num_requests_running{", "vllm:num_requests_waiting{", "vllm:request_success_total{")
    return int(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(names)))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--port", "99999"], "--port"),
        (["--rate", "-1"], "--rate"),
        (["-np", "0"], "-np"),
        (["-c", "-5"], "-c"),
        (["--max-loaded", "0", "--keep-alive", "soon"], "--keep-alive"),
        (["--models-dir", "/nowhere"], "--models-dir"),
        (["--keep-alive", "soon"], "--keep-alive"),
    ],
)
def test_wrong_flags_are_usage(tiny_model: Callable[..., Path], flags: list[str], named: str) -> None:
    command = [sys.executable, "-m", "halfbyte", "serve", "-m", str(tiny_model()), *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 2, result.stderr
    assert named in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_port_in_use_is_a_sentence(tiny_model: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "halfbyte", "serve", "-m", str(tiny_model()), "--port", port]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "--port" in result.stderr
