"""The door: keys, hosts, origins, limits, and errors as OpenAI's SDK expects them."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from halfbyte.cli.main import main
from halfbyte.server.config import ServerConfig

from .conftest import Live

HI: list[Any] = [{"role": "user", "content": "hi"}]
Serve = Callable[..., Live]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams stay unread here while a test looks at something else."""
    monkeypatch.setattr("halfbyte.server.responses._STALL_S", 1000.0)


@pytest.fixture(scope="module")
def locked(serve: Serve) -> Live:
    config = ServerConfig(api_keys=("first-key", "second-key", "schlüssel"), allowed_hosts=("127.0.0.1", "localhost"))
    return serve(config)


def test_only_keys_open(locked: Live) -> None:
    for key in ("first-key", "second-key"):
        assert locked.openai(key).models.list().data
    for key in ("first-ke", "first-keyy", "", "first-key second-key"):
        with pytest.raises(openai.AuthenticationError) as caught:
            locked.openai(key or "-").models.list()
        assert caught.value.code == "invalid_api_key"
    with locked.http() as http:
        assert http.get("/health").status_code == 200
        assert http.get("/metrics").status_code == 401
        assert http.get("/v1/models", headers={"x-api-key": "second-key"}).status_code == 200
        assert http.get("/v1/models", headers={b"x-api-key": "schlüssel".encode()}).status_code == 200


def test_ps_needs_a_key_where_others_do(locked: Live, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ps", "--url", locked.url]) == 1
    assert "answered 401 Unauthorized. Name its key with --api-key." in capsys.readouterr().err
    assert main(["ps", "--url", locked.url, "--api-key", "second-key"]) == 0
    assert "tiny" in capsys.readouterr().out


def test_other_host_names_are_refused(locked: Live) -> None:
    with locked.http(headers={"x-api-key": "first-key"}) as http:
        assert http.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
        assert http.get("/v1/models", headers={"host": "LOCALHOST:1"}).status_code == 200


def test_other_origins_are_refused(live: Live) -> None:
    with live.http() as http:
        assert http.get("/v1/models", headers={"origin": live.url}).status_code == 200
        for origin in ("https://evil.example", "null", "http://[", ""):
            answer = http.post("/v1/completions", json={"prompt": "a"}, headers={"origin": origin})
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers


def test_allowed_origins_get_their_headers(serve: Serve) -> None:
    page = "https://page.example"
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    with serve(ServerConfig(allowed_origins=(page,), api_keys=("k",))).http() as http:
        ahead = http.options("/v1/completions", headers={"origin": page, **asked})
        assert ahead.status_code == 200
        assert ahead.headers["access-control-allow-origin"] == page
        answer = http.get("/v1/models", headers={"origin": page, "authorization": "Bearer k"})
        assert answer.headers["access-control-allow-origin"] == page
        assert http.get("/v1/models", headers={"origin": "https://evil.example", "x-api-key": "k"}).status_code == 403


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 99}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages"),
        ({"response_format": {"type": "poem"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_object", "schema": {"type": "nothing"}}}, "response_format"),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"999999999": 1}}, None),
        ({"tools": [{"type": "function", "function": {}}]}, "tools"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "messages"),
        ({"seed": 1 << 70}, "seed"),
    ],
)
def test_what_is_wrong_is_named(live: Live, change: dict[str, Any], param: str | None) -> None:
    body: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 4, **change}
    with live.http() as http:
        answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    if param is not None:
        assert error["param"] == param


def test_context_overflow_has_openais_code(live: Live) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        live.openai().completions.create(model="tiny", prompt="x" * 5000)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "prompt"


def test_unknown_models_are_not_found(live: Live) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        live.openai().chat.completions.create(model="none", messages=HI)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        live.openai().models.retrieve("none")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"messages": [' * 50_000,
        b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 1}',
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "a"}]}',
        b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "a"}], "seed": ' + b"9" * 5000 + b"}",
        b'{"messages": [{"role": "user", "content": "a"}], "logit_bias": {"1": 1e999}}',
    ],
    ids=lambda body: body[:30].decode("latin-1"),
)
def test_broken_bodies_are_the_clients_fault(live: Live, body: bytes) -> None:
    with live.http() as http:
        answer = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_curls_bodies_need_no_content_type(live: Live) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain"):
        with live.http() as http:
            answer = http.post(
                "/v1/completions", content=b'{"prompt": "a", "max_tokens": 1}', headers={"content-type": kind}
            )
        assert answer.status_code == 200, answer.text


def test_wrong_paths_and_methods(live: Live) -> None:
    with live.http() as http:
        assert http.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
        missed = http.post("/chat/completions", json={}).json()["error"]["message"]
        assert "Did you mean /v1/chat/completions?" in missed
        answer = http.get("/v1/completions")
        assert answer.status_code == 405
        assert "error" in answer.json()


def test_request_ids_are_kept_or_made(live: Live) -> None:
    with live.http() as http:
        assert http.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
        for bad in ("a b", "x" * 200):
            made = http.get("/health", headers={"x-request-id": bad}).headers["x-request-id"]
            assert made != bad
            assert len(made) == 32


# Limits ---------------------------------------------------------------------------------------------------------------


def test_large_bodies_are_refused(serve: Serve) -> None:
    live = serve(ServerConfig(max_body_bytes=1000))
    with live.http() as http:
        assert http.post("/v1/completions", content=b"x" * 1001).status_code == 413

        def pieces() -> Any:
            for _ in range(20):
                yield b"x" * 100

        answer = http.post("/v1/completions", content=pieces())
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"
        assert http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200


def test_bodies_that_stand_still_are_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halfbyte.server.gate._BODY_STALL_S", 0.05)
    parts = urlsplit(serve().url)
    with socket.create_connection((parts.hostname, parts.port), timeout=120) as connection:
        connection.sendall(
            f"POST /v1/completions HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-length: 100\r\n\r\n{{".encode()
        )
        assert b" 408 " in connection.recv(1000)


def test_clients_that_read_nothing_are_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halfbyte.server.responses._STALL_S", 0.05)
    live = serve(**ROOM, send_buffer=1 << 16)
    bias = {str(i): -100 for i in live.llm.tokenizer.end_ids}
    body = {"prompt": "abc", "max_tokens": 90_000, "stream": True, "logit_bias": bias}
    with raw_post(live, "/v1/completions", body):
        wait_until(lambda: live.llm.stats()["n_generated_tokens"] > 0)
        wait_until(lambda: live.llm.stats()["n_running"] == 0)
    assert live.llm.stats()["n_generated_tokens"] < 80_000


def test_long_prompts_and_answers_are_limited(serve: Serve) -> None:
    client = serve(ServerConfig(max_prompt_tokens=10, max_output_tokens=3, max_choices=4)).openai()
    with pytest.raises(openai.BadRequestError, match="takes 10"):
        client.completions.create(model="tiny", prompt="x" * 11)
    with pytest.raises(openai.BadRequestError, match="4 are allowed"):
        client.completions.create(model="tiny", prompt="x", n=5)
    usage = client.completions.create(model="tiny", prompt="x", max_tokens=100, extra_body={"ignore_eos": True}).usage
    assert usage is not None
    assert usage.completion_tokens == 3


def test_requests_a_minute_are_counted_for_each_key(serve: Serve) -> None:
    live = serve(ServerConfig(api_keys=("a", "b"), requests_per_minute=2))
    for _ in range(2):
        live.openai("a").models.list()
    with pytest.raises(openai.RateLimitError) as caught:
        live.openai("a").models.list()
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
    assert caught.value.code == "rate_limit_exceeded"
    live.openai("b").models.list()


def test_tokens_a_minute_are_counted(serve: Serve) -> None:
    client = serve(ServerConfig(tokens_per_minute=20)).openai()
    client.completions.create(model="tiny", prompt="abc", max_tokens=30, extra_body={"ignore_eos": True})
    with pytest.raises(openai.RateLimitError, match="20 tokens a minute"):
        client.completions.create(model="tiny", prompt="abc", max_tokens=1)


# A model that has room for answers that do not end while a test looks.
ROOM: dict[str, Any] = {"model": {"n_ctx": 100_000}, "n_ctx": 100_000}


def endless(live: Live) -> Any:
    """A stream that goes on until it is closed."""
    bias = {str(i): -100 for i in live.llm.tokenizer.end_ids}
    return live.openai().completions.create(model="tiny", prompt="abc", max_tokens=90_000, stream=True, logit_bias=bias)


def test_requests_at_once_are_limited(serve: Serve) -> None:
    live = serve(ServerConfig(max_concurrent=1), **ROOM)
    client, stream = live.openai(), endless(live)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError):
        client.models.list()
    stream.close()
    wait_until(lambda: client_can(client.models.list))


def test_a_full_queue_is_503(serve: Serve) -> None:
    live = serve(ServerConfig(max_queue=1), max_sequences=1, **ROOM)
    client, streams = live.openai(), [endless(live) for _ in range(2)]
    next(iter(streams[0]))
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model="tiny", prompt="abc")
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "1"
    for stream in streams:
        stream.close()
    wait_until(lambda: client_can(lambda: client.completions.create(model="tiny", prompt="abc", max_tokens=1)))


def served(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Whose requests of 200 tokens have ended, in order."""
    facts = [record.facts for record in caplog.records if hasattr(record, "facts")]
    return [fact["client"] for fact in facts if fact.get("completion_tokens") == 200]


def test_keys_take_turns(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Who asks once is not behind all that another has asked before."""
    live = serve(ServerConfig(api_keys=("a", "b")), max_sequences=1, **ROOM)

    def ask(key: str) -> None:
        more = {"ignore_eos": True}
        live.openai(key).completions.create(model="tiny", prompt=f"abc {key}", max_tokens=200, extra_body=more)

    running = live.openai("a").completions.create(
        model="tiny", prompt="x", max_tokens=90_000, logit_bias={"257": -100, "259": -100}, stream=True
    )
    next(iter(running))
    with concurrent.futures.ThreadPoolExecutor(6) as pool, caplog.at_level("INFO", "halfbyte.server"):
        waiting = []
        for n_waiting, key in enumerate("aaaaab", 1):
            waiting.append(pool.submit(ask, key))
            wait_until(lambda n=n_waiting: live.llm.stats()["n_waiting"] == n)  # type: ignore[misc]
        running.close()
        for one in waiting:
            one.result()
        wait_until(lambda: len(served(caplog)) == len(waiting))  # the last answer is there before its record
    # The server's own order: threads of clients may wake up in any.
    done = served(caplog)
    assert sorted(done) == ["key 1"] * 5 + ["key 2"]
    assert "key 2" in done[:2], done


@pytest.mark.parametrize("stream", [False, True])
def test_long_answers_time_out(serve: Serve, stream: bool) -> None:
    live = serve(ServerConfig(request_timeout_s=0.05), **ROOM)
    bias = {str(i): -100 for i in live.llm.tokenizer.end_ids}
    ask: dict[str, Any] = {"model": "tiny", "prompt": "abc", "max_tokens": 90_000, "logit_bias": bias}
    with pytest.raises(openai.APIError, match="longer than"):
        list(live.openai().completions.create(**ask, stream=stream))
    wait_until(lambda: live.llm.stats()["n_running"] == 0)


@pytest.fixture(scope="module")
def roomy(serve: Serve) -> Live:
    return serve(**ROOM)


# Clients that go ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_clients_that_go_cost_nothing_more(roomy: Live, path: str, stream: bool) -> None:
    llm = roomy.llm
    body = {"prompt": "abc", "messages": HI, "input": "hi", "stream": stream, "max_tokens": 90_000}
    body |= {"max_output_tokens": 90_000, "logit_bias": {str(i): -100 for i in llm.tokenizer.end_ids}}
    before = llm.stats()["n_generated_tokens"]
    with raw_post(roomy, path, body) as connection:
        wait_until(lambda: llm.stats()["n_generated_tokens"] > before)
        connection.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: llm.stats()["n_running"] == 0)
    assert llm.stats()["n_generated_tokens"] - before < 80_000
    llm.engine.check_integrity()


def raw_post(live: Live, path: str, body: dict[str, Any]) -> socket.socket:
    """A connection on which a request was sent and nothing was read."""
    parts = urlsplit(live.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(200)
    connection.connect((parts.hostname, parts.port))
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    connection.sendall(head.encode() + f"content-length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def client_can(ask: Callable[[], Any]) -> bool:
    try:
        ask()
    except openai.APIStatusError:
        return False
    return True


# Metrics --------------------------------------------------------------------------------------------------------------


def test_a_server_knows_its_model_before_the_first_request(serve: Serve) -> None:
    with serve().http() as http:
        assert [model["name"] for model in http.get("/api/tags").json()["models"]] == ["tiny:latest"]
        assert [model["name"] for model in http.get("/api/ps").json()["models"]] == ["tiny:latest"]
        assert 'vllm:num_requests_running{model_name="tiny"} 0.0' in http.get("/metrics").text
        assert http.get("/slots").json()


def test_metrics_count_what_was_done(serve: Serve) -> None:
    live = serve()
    live.openai().completions.create(model="tiny", prompt="a" * 99, max_tokens=5, n=2, temperature=0)
    with live.http() as http:
        text = http.get("/metrics").text
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[:1] != "#"}
    model = 'model_name="tiny"'
    n_prompt = len(live.llm.tokenize("a" * 99))
    assert values[f"vllm:generation_tokens_total{{{model}}}"] == 10
    assert values[f"vllm:prompt_tokens_total{{{model}}}"] == 2 * n_prompt
    assert values[f'vllm:request_success_total{{finished_reason="length",{model}}}'] == 2
    assert values[f"vllm:time_to_first_token_seconds_count{{{model}}}"] == 2
    assert values[f"vllm:inter_token_latency_seconds_count{{{model}}}"] == 8
    assert values[f"vllm:num_requests_running{{{model}}}"] == 0
    assert 0 <= values[f"vllm:kv_cache_usage_perc{{{model}}}"] <= 1
    assert values['halfbyte_http_requests_total{method="POST",path="/v1/completions",status="200"}'] == 1
    assert "a" * 99 not in text
