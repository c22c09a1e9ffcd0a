"""Ollama's protocol through its own Python client: answers, models, the store, several models in one server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import ollama
import pytest
import uvicorn

from halfbyte import LLM
from halfbyte.chat.tools import Message, ToolCall
from halfbyte.cli.main import main
from halfbyte.cli.serve import ollama_address
from halfbyte.hub import find_stored, list_stored
from halfbyte.server.app import create_app
from halfbyte.server.catalog import Catalog
from halfbyte.server.config import ServerConfig
from halfbyte.server.ollama_shapes import duration
from halfbyte.server.pool import CatalogPool
from halfbyte.server.protocols.ollama import _said

from ..hub.server import World, serving

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
CALL = {"function": {"name": "add", "arguments": {"a": 1}}}
GREEDY = {"temperature": 0, "num_predict": 12}


@pytest.fixture(scope="module")
def pool(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> CatalogPool:
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("one", 1), ("two", 2), ("three", 3)):
        (folder / f"{name}.gguf").symlink_to(tiny_model(seed=seed))
    catalog = Catalog({}, folder, with_store=True)
    return CatalogPool(catalog, lambda files: LLM(files, n_threads=2, n_ctx=512), max_loaded=2, keep_alive_s=600)


@pytest.fixture(scope="module")
def url(pool: CatalogPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HALFBYTE_MODELS", str(tmp_path_factory.mktemp("store")))
        patch.setenv("OLLAMA_MODELS", str(tmp_path_factory.mktemp("no-ollama")))
        bound = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(create_app(pool, ServerConfig()), log_config=None, access_log=False, timeout_keep_alive=600)
        )
        ready = threading.Event()

        async def main() -> None:
            task = asyncio.create_task(server.serve(sockets=[bound]))
            while not server.started:
                await asyncio.sleep(0.005)
            ready.set()
            await task

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        assert ready.wait(120)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = True
        thread.join(120)
        bound.close()
        assert not thread.is_alive()


@pytest.fixture
def client(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(host=url) as client:
        yield client


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=600) as client:
        yield client


def test_generate(client: ollama.Client) -> None:
    whole = client.generate("one", "Hello", options=GREEDY)
    assert whole.done
    assert whole.done_reason in ("stop", "length")
    assert whole.model == "one"
    assert whole.eval_count == 12
    assert whole.prompt_eval_count
    assert whole.prompt_eval_count > 5
    assert whole.total_duration
    assert whole.total_duration >= whole.eval_duration > 0
    parts = list(client.generate("one", "Hello", options=GREEDY, stream=True))
    assert "".join(p.response for p in parts) == whole.response
    assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].context == whole.context
    assert client.generate("one:latest", "Hello", options=GREEDY).response == whole.response


def test_the_lines_have_ollamas_names(http: httpx.Client) -> None:
    response = http.post("/api/generate", json={"model": "one", "prompt": "Hello", "options": GREEDY})
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert all(set(line) == {"model", "created_at", "response", "done"} for line in lines[:-1])
    figures = {
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    }
    assert set(lines[-1]) == {"model", "created_at", "response", "done", "done_reason", "context"} | figures
    assert all(isinstance(lines[-1][name], int) for name in figures)
    response = http.post(
        "/api/chat", json={"model": "one", "messages": [{"role": "user", "content": "Hi"}], "options": GREEDY}
    )
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert all(line["message"]["role"] == "assistant" for line in lines)
    assert set(lines[-1]) == {"model", "created_at", "message", "done", "done_reason"} | figures


def test_raw_context_system_and_template(client: ollama.Client, pool: CatalogPool) -> None:
    raw = client.generate("one", "abc", raw=True, options=GREEDY)
    assert raw.context is None
    assert raw.prompt_eval_count == 3
    first = client.generate("one", "Hello", options=GREEDY)
    second = client.generate("one", "And?", context=first.context, options=GREEDY)
    assert second.context[: len(first.context)] == first.context
    template = "<|im_start|>{{ .System }}|{{ .Prompt }}"
    made = client.generate("one", "P", system="S", template=template, options=GREEDY)
    same = client.generate("one", "<|im_start|>S|P", raw=True, options=GREEDY)
    assert made.response == same.response
    assert made.prompt_eval_count == same.prompt_eval_count
    with pytest.raises(ollama.ResponseError, match="raw mode"):
        client.generate("one", "abc", raw=True, system="x")


def test_suffixes(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="filling in the middle"):
        client.generate("one", "def f(", suffix="return x")
    client.create(
        "filler",
        from_="one",
        template="{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ else }}{{ .Prompt }}{{ end }}",
    )
    filled = client.generate("filler", "a", suffix="b", options=GREEDY)
    assert filled.response == client.generate("one", "<PRE>a<SUF>b<MID>", raw=True, options=GREEDY).response
    assert "insert" in (client.show("filler").capabilities or [])


def test_formats(client: ollama.Client) -> None:
    schema = {"enum": ["red", "green"]}
    answer = client.generate("one", "A colour", format=schema, options={"num_predict": 20})
    assert json.loads(answer.response) in ("red", "green")
    chat = client.chat("one", [{"role": "user", "content": "A colour"}], format=schema, options={"num_predict": 20})
    assert json.loads(chat.message.content or "") in ("red", "green")
    assert client.generate("one", "An object", format="json", options={"num_predict": 5}).response.lstrip()[:1] in (
        "",
        "{",
    )
    with pytest.raises(ollama.ResponseError, match="not") as caught:
        client.generate("one", "x", format={"type": "no such type"})
    assert caught.value.status_code == 400


def test_chat(client: ollama.Client) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    whole = client.chat("one", messages, options=GREEDY)
    assert whole.message.role == "assistant"
    parts = list(client.chat("one", messages, options=GREEDY, stream=True))
    assert "".join(p.message.content or "" for p in parts) == whole.message.content
    assert parts[-1].done
    logprobs = client.chat("one", messages, options=GREEDY, logprobs=True, top_logprobs=2)
    assert len(logprobs.logprobs or []) == 12
    assert all(len(entry.top_logprobs or []) == 2 for entry in logprobs.logprobs or [])


def test_tools_and_thinking(client: ollama.Client) -> None:
    hermes = (
        "{{ .Tools }}{{ range .Messages }}{{ .Content }}{{ .ToolCalls }}{{ end }}<tool_call></tool_call>"
        "{{ if .Think }}<think>{{ end }}"
    )
    client.create("hermes", from_="one", template=hermes)
    assert {"tools", "thinking"} <= set(client.show("hermes").capabilities or [])
    messages = [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "2", "tool_name": "add"},
    ]
    answer = client.chat("hermes", messages, tools=[TOOL], think=True, options=GREEDY)
    assert answer.message.thinking
    assert answer.message.content == ""
    parts = list(client.chat("hermes", messages, tools=[TOOL], think=True, options=GREEDY, stream=True))
    assert "".join(p.message.thinking or "" for p in parts) == answer.message.thinking
    with pytest.raises(ollama.ResponseError, match="does not support thinking"):
        client.chat("two", messages[:1], think=True)


def test_a_call_is_an_object() -> None:
    message = Message(tool_calls=[ToolCall("id", "add", '{"a": 1}'), ToolCall("id", "cut", '{"a": ')])
    said = _said(message, [])["message"]
    cut = {"function": {"name": "cut", "arguments": {}}}
    assert said == {"role": "assistant", "content": "", "tool_calls": [CALL, cut]}
    assert ollama.Message(**said).tool_calls[0].function.arguments == {"a": 1}  # type: ignore[index]


def test_refusals(client: ollama.Client, http: httpx.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nothing' not found") as caught:
        client.chat("nothing", [{"role": "user", "content": "Hi"}])
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="images"):
        client.generate("one", "What is it?", images=["aGk="])
    with pytest.raises(ollama.ResponseError, match="temperature"):
        client.generate("one", "x", options={"temperature": "hot"})
    for path, body in {
        "/api/generate": {"prompt": "x"},
        "/api/chat": {"model": "one", "messages": "x"},
        "/api/embed": {"model": "one", "input": 3},
        "/api/show": {},
        "/api/pull": {},
        "/api/create": {"model": "x"},
        "/api/copy": {"source": "one"},
    }.items():
        response = http.post(path, json=body)
        assert response.status_code == 400, path
        assert set(response.json()) == {"error"}
    assert http.post("/api/generate", content=b"{").json()["error"]
    assert http.post("/api/push", json={"model": "one"}).status_code == 403
    assert http.post("/api/generate", json={"model": "one", "prompt": "x", "keep_alive": "soon"}).status_code == 400
    assert http.post("/api/generate", json={"model": "one", "prompt": "x", "context": [99999]}).status_code == 400


def test_embeddings(client: ollama.Client) -> None:
    one = client.embed("one", "Hello")
    two = client.embed("one", ["Hello", "World"])
    assert two.embeddings[0] == pytest.approx(one.embeddings[0], abs=1e-6)
    assert sum(x * x for x in two.embeddings[1]) == pytest.approx(1, abs=1e-4)
    assert two.prompt_eval_count == 10
    assert len(client.embed("one", "Hello", dimensions=8).embeddings[0]) == 8
    assert client.embeddings("one", "Hello").embedding == pytest.approx(one.embeddings[0], abs=1e-6)
    assert client.embed("one", "x" * 5000).prompt_eval_count == 512
    with pytest.raises(ollama.ResponseError, match="context"):
        client.embed("one", "x" * 5000, truncate=False)
    assert client.embed("one", []).embeddings == []


def test_lists(client: ollama.Client, http: httpx.Client) -> None:
    names = {m.model for m in client.list().models}
    assert {"one:latest", "two:latest", "three:latest"} <= names
    entry = next(m for m in client.list().models if m.model == "one:latest")
    assert entry.details
    assert entry.details.family == "llama"
    assert entry.details.format == "gguf"
    assert entry.size
    assert entry.size > 10_000
    assert len(entry.digest or "") == 64
    shown = client.show("one")
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["tokenizer.ggml.tokens"] is None
    assert shown.modelinfo["general.parameter_count"] > 10_000
    assert (
        len(http.post("/api/show", json={"name": "one", "verbose": True}).json()["model_info"]["tokenizer.ggml.tokens"])
        == 260
    )
    assert shown.capabilities == ["completion"]
    assert http.get("/api/version").json()["version"].count(".") == 2
    with pytest.raises(ollama.ResponseError, match="not found"):
        client.show("nothing")


def test_create_copy_delete(client: ollama.Client) -> None:
    steps = [
        s.status
        for s in client.create(
            "me/pirate:1",
            from_="one",
            system="Arr.",
            parameters={"temperature": 0, "stop": ["x"]},
            messages=[{"role": "user", "content": "Ahoy"}, {"role": "assistant", "content": "Arr"}],
            license=["MIT"],
            stream=True,
        )
    ]
    assert steps[-1] == "success"
    shown = client.show("me/pirate:1")
    assert "SYSTEM Arr." in (shown.modelfile or "")
    assert (shown.parameters or "").splitlines() == ["temperature 0.0", "stop x"]
    assert shown.license == "MIT"
    client.copy("me/pirate:1", "parrot")
    assert {"me/pirate:1", "parrot:latest"} <= {m.model for m in client.list().models}
    mine = client.chat("parrot", [{"role": "user", "content": "Hi"}], options={"num_predict": 6})
    assert mine.prompt_eval_count
    assert mine.prompt_eval_count > 40
    client.delete("me/pirate:1")
    client.delete("parrot")
    assert not {"me/pirate:1", "parrot"} & {m.name for m in list_stored()}
    for call in (lambda: client.delete("parrot"), lambda: client.copy("parrot", "x")):
        with pytest.raises(ollama.ResponseError, match="not found") as caught:
            call()
        assert caught.value.status_code == 404
    for wrong in (
        {"from_": "/etc/passwd"},
        {"from_": "nothing-of-the-kind"},
        {"from_": "one", "parameters": {"hotness": 1}},
        {"from_": "one", "quantize": "q4_0"},
    ):
        with pytest.raises(ollama.ResponseError):
            client.create("wrong", **wrong)  # type: ignore[arg-type]
    assert find_stored("wrong") is None


def test_blobs(client: ollama.Client, tiny_model: Callable[..., Path], http: httpx.Client) -> None:
    digest = client.create_blob(tiny_model(seed=9))
    assert http.head(f"/api/blobs/{digest}").status_code == 200
    assert http.head(f"/api/blobs/sha256:{'0' * 64}").status_code == 404
    client.create("uploaded", files={"m.gguf": digest})
    assert client.generate("uploaded", "Hi", options=GREEDY).eval_count == 12
    assert http.post(f"/api/blobs/sha256:{'0' * 64}", content=b"x").status_code == 400
    assert http.post("/api/blobs/sha256:..", content=b"x").status_code == 400


def test_blobs_are_larger_than_other_bodies(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"GGUF" * (9 << 20)
    path = f"/api/blobs/sha256:{hashlib.sha256(content).hexdigest()}"
    assert http.post(path, content=content).status_code == 201
    monkeypatch.setattr("halfbyte.server.protocols.ollama_models._DISK_RESERVE", 1 << 60)
    refused = http.post(path, content=content)
    assert refused.status_code == 507
    assert "left" in refused.json()["error"]


def test_pull(client: ollama.Client, tiny_model: Callable[..., Path]) -> None:
    content = tiny_model(seed=5).read_bytes()
    world = World(
        registry={"library/pulled:1b": [("model", content), ("system", b"Be kind."), ("params", b'{"temperature": 0}')]}
    )
    with serving(world) as server:
        steps = list(client.pull(f"ollama:{server}/library/pulled:1b", stream=True))
        assert steps[0].status == "pulling manifest"
        assert steps[-1].status == "success"
        layers = [s for s in steps if s.digest]
        assert layers[-1].completed == layers[-1].total == len(content)
        assert client.pull(f"ollama:{server}/library/pulled:1b").status == "success"
        with pytest.raises(ollama.ResponseError, match="404"):
            client.pull(f"ollama:{server}/library/missing")
        with pytest.raises(ollama.ResponseError, match="404"):
            list(client.pull(f"ollama:{server}/library/missing", stream=True))
    assert "SYSTEM" in (client.show("pulled:1b").modelfile or "")
    assert client.generate("pulled:1b", "Hi", options={"num_predict": 3}).eval_count == 3


def test_models_come_and_go(client: ollama.Client, pool: CatalogPool) -> None:
    assert client.generate("one").done_reason == "load"
    client.generate("two", "x", options=GREEDY)
    client.generate("three", "x", options=GREEDY)
    running = {p.model: p for p in client.ps().models}
    assert set(running) == {"two:latest", "three:latest"}, "two at once, the least recently used went"
    assert running["two:latest"].context_length == 512
    assert running["two:latest"].expires_at
    assert running["two:latest"].size
    assert client.generate("three", keep_alive=0).done_reason == "unload"
    client.generate("two", "x", keep_alive="1h30m", options=GREEDY)
    assert [p.model for p in client.ps().models] == ["two:latest"]
    assert pool.loaded()[0].keep_alive_s == 5400
    client.generate("two", "x", keep_alive=-1, options=GREEDY)
    assert pool.loaded()[0].keep_alive_s is None


def test_idle_models_are_dropped_and_come_back(client: ollama.Client, pool: CatalogPool) -> None:
    first = client.generate("one", "Hello", options=GREEDY, keep_alive=0.01).response
    deadline = time.monotonic() + 120
    while "one" in [m.name for m in pool.loaded()]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    again = client.generate("one", "Hello", options=GREEDY)
    assert again.response == first
    assert again.load_duration
    assert again.load_duration > 100_000


def test_a_damaged_file_fails_alone(client: ollama.Client, pool: CatalogPool) -> None:
    assert pool.catalog.folder is not None
    damaged = pool.catalog.folder / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ollama.ResponseError, match="damaged"):
        client.generate("damaged", "Hello")
    assert "damaged:latest" not in [m.model for m in client.list().models]
    assert client.generate("one", "Hello", options=GREEDY).done
    damaged.unlink()


def test_ps(url: str, client: ollama.Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.generate("one", keep_alive=600)
    assert main(["ps", "--url", url, "--json"]) == 0
    assert "one:latest" in [m["name"] for m in json.loads(capsys.readouterr().out)]
    assert main(["ps", "--url", url]) == 0
    assert "one:latest" in capsys.readouterr().out
    assert main(["ps", "--url", "http://127.0.0.1:9"]) == 1
    assert "no server answers there" in capsys.readouterr().err
    assert main(["ps", "--url", f"{url}/nowhere"]) == 1
    assert "answered 404" in capsys.readouterr().err


def test_many_clients_and_more_models_than_places(url: str) -> None:
    async def ask(client: ollama.AsyncClient, i: int) -> str:
        name = ("one", "two", "three")[i % 3]
        if i % 2:
            parts = [p async for p in await client.generate(name, f"Say {i // 6}", options=GREEDY, stream=True)]
            return "".join(p.response for p in parts)
        return (await client.generate(name, f"Say {i // 6}", options=GREEDY)).response

    async def main() -> list[str]:
        client = ollama.AsyncClient(host=url)
        try:
            return list(await asyncio.gather(*(ask(client, i) for i in range(24))))
        finally:
            await client._client.aclose()

    answers = asyncio.run(main())
    assert all(answers[i] == answers[i + 3] for i in range(0, 24) if i % 6 < 3), "the same of the same, streamed or not"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", ("127.0.0.1", 11434)),
        ("0.0.0.0", ("0.0.0.0", 11434)),
        ("localhost:5000", ("localhost", 5000)),
        (":5000", ("127.0.0.1", 5000)),
        ("http://10.0.0.1:80", ("10.0.0.1", 80)),
        ("[::1]:7", ("::1", 7)),
    ],
)
def test_ollama_host(text: str, address: tuple[str, int]) -> None:
    assert ollama_address(text, "127.0.0.1") == address


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300.0), ("1h30m", 5400.0), ("90", 90.0), (0, 0.0), ("500ms", 0.5), (-1, None), ("-1s", None), ("0", 0.0)],
)
def test_durations(text: str | float, seconds: float | None) -> None:
    assert duration(text) == seconds


def test_the_command_serves_both_protocols(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.gguf").symlink_to(tiny_model())
    environment = {**os.environ, "HALFBYTE_MODELS": str(tmp_path / "store"), "OLLAMA_HOST": "127.0.0.1:0"}
    command = [
        sys.executable,
        "-m",
        "halfbyte",
        "serve",
        "--ollama",
        "--port",
        "0",
        "--models-dir",
        str(tmp_path / "models"),
    ]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        own, ollamas = re.findall(r"http://\S+", server.stdout.readline())
        with ollama.Client(host=ollamas) as client:
            assert [m.model for m in client.list().models] == ["mine:latest"]
            answer = client.generate("mine", "Hi", options=GREEDY)
        body = {"model": "mine", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 12}
        same = httpx.post(f"{own}/v1/chat/completions", json=body, timeout=600).json()
        assert same["choices"][0]["message"]["content"] == answer.response
        server.terminate()
        assert server.wait(120) == 0


@pytest.mark.clients
def test_the_npm_client(url: str, tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    assert node, "needs node"
    assert npm, "needs npm"
    install = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(tmp_path), "ollama@0.6"]
    subprocess.run(install, check=True, timeout=900)
    script = Path(__file__).with_name("ollama_npm.mjs")
    package = tmp_path / "node_modules" / "ollama" / "dist" / "index.mjs"
    result = subprocess.run([node, script, url, package], capture_output=True, text=True, check=False, timeout=900)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    whole, streamed, done, n_tokens, same_context = found["generate"]
    assert (whole, done, n_tokens, same_context) == (streamed, True, 12, True)
    assert found["chat"][0] == found["chat"][1]
    assert found["format"] in ("red", "green")
    assert found["embed"] == [2, 64]
    assert {"npm:latest", "npm2:latest"} <= set(found["list"])
    assert found["show"] == "Be brief."
    assert found["create"] == "success"
    assert found["ps"]
    assert found["error"] == "404 model 'nothing' not found"
