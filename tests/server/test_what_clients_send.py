"""Requests as editors, agents and chat interfaces send them: unknown and null fields, other servers' names, old forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Live

HI: list[Any] = [{"role": "user", "content": "hi"}]
FLAG = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}
TOOL: Any = {"type": "function", "function": {"name": "f", "description": "d", "strict": True, "parameters": FLAG}}
OTHER: Any = {"type": "function", "function": {"name": "g", "description": None, "parameters": None, "strict": None}}


@pytest.fixture(scope="module")
def live(serve: Callable[..., Live]) -> Live:
    """A server whose model takes long prompts: a byte is a token."""
    return serve(model={"n_ctx": 8192})


def chat(live: Live, **body: Any) -> dict[str, Any]:
    with live.http() as http:
        answer = http.post("/v1/chat/completions", json={"messages": HI, "max_tokens": 4, "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def test_null_is_the_default_and_unknown_fields_say_nothing(live: Live) -> None:
    nulls = (
        "stop", "seed", "n", "stream", "stream_options", "tools", "tool_choice", "response_format", "logit_bias",
        "logprobs", "top_logprobs", "top_p", "presence_penalty", "frequency_penalty", "max_completion_tokens",
        "reasoning_effort", "parallel_tool_calls", "audio", "chat_template_kwargs", "lora", "structured_outputs",
    )  # fmt: skip
    unknown = {
        "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "user": "u", "safety_identifier": "s",
        "prompt_cache_key": "k", "modalities": ["text"], "verbosity": "low", "prediction": None, "options": {"x": 1},
        "cache_prompt": True, "id_slot": -1, "timings_per_token": True, "return_progress": True, "provider": {},
    }  # fmt: skip
    assert chat(live, **dict.fromkeys(nulls), **unknown)["message"] == chat(live)["message"]


def test_max_completion_tokens_come_before_max_tokens(live: Live) -> None:
    assert len(chat(live, max_tokens=9, max_completion_tokens=2)["message"]["content"]) == 2


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_minus_one_is_no_limit(live: Live, field: str) -> None:
    whole = chat(live, max_tokens=None, stop=["e"])
    assert chat(live, **{"max_tokens": None, field: -1, "stop": ["e"]}) == whole


def test_top_p_of_nothing_is_the_likeliest_token(live: Live) -> None:
    assert chat(live, temperature=1, top_p=0) == chat(live)


def test_contents_come_in_parts(live: Live) -> None:
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i", "cache_control": {"type": "ephemeral"}}]
    assert chat(live, messages=[{"role": "user", "content": parts}]) == chat(
        live, messages=[{"role": "user", "content": "h\ni"}]
    )


def test_images_are_refused_by_name(live: Live) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    with live.http() as http:
        body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, image]}]}
        answer = http.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
        assert "image_url" in answer.json()["error"]["message"]
        source = {"type": "base64", "media_type": "image/png", "data": "AA=="}
        message = {"role": "user", "content": [{"type": "image", "source": source}]}
        answer = http.post("/v1/messages", json={"max_tokens": 1, "messages": [message]})
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
        answer = http.post("/api/chat", json={"model": "tiny", "messages": [{**HI[0], "images": ["AA=="]}]})
        assert answer.status_code == 400
        assert "images" in answer.json()["error"]


def test_developers_speak_as_the_system(live: Live) -> None:
    joined = chat(live, messages=[{"role": "system", "content": "a\n\nb"}, *HI])
    assert (
        chat(live, messages=[{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, *HI]) == joined
    )
    later = [*HI, {"role": "assistant", "content": "x"}, {"role": "system", "content": "b"}, *HI]
    assert chat(live, messages=later)["finish_reason"] == "length"


def test_turns_of_other_servers_are_understood(live: Live) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    turns: list[dict[str, Any]] = [
        {"content": "x", "reasoning": "r", "reasoning_details": [], "refusal": None, "annotations": [], "name": None},
        {"content": None, "tool_calls": [call], "function_call": None},
        {"content": ""},
        {},
    ]
    for turn in turns:
        result = [{"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "r"}]}]
        messages = [*HI, {"role": "assistant", **turn}, *(result if turn.get("tool_calls") else []), *HI]
        assert chat(live, messages=messages)["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("auto", None),
        ("none", None),
        ({"type": "auto"}, None),
        ("required", {"f", "g"}),
        ("any", {"f", "g"}),
        ({"type": "required"}, {"f", "g"}),
        ({"type": "function", "function": {"name": "f"}}, {"f"}),
        ({"type": "function", "name": "f"}, {"f"}),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}}, {"f"}),
    ],
)
def test_every_form_of_tool_choice(live: Live, choice: Any, names: set[str] | None) -> None:
    found = chat(live, tools=[TOOL, OTHER], tool_choice=choice, max_tokens=60, parallel_tool_calls=False)
    if names is None:
        assert "tool_calls" not in found["message"]
    else:
        assert {call["function"]["name"] for call in found["message"]["tool_calls"]} <= names


def test_constraints_by_vllms_names(live: Live) -> None:
    words = {"choice": ["aa", "bb"]}
    for body in ({"structured_outputs": words}, {"guided_choice": words["choice"]}, {"guided_regex": "aa|bb"}):
        assert chat(live, **body, max_tokens=9)["message"]["content"] in words["choice"]
    for body in ({"guided_json": '{"type": "boolean"}'}, {"structured_outputs": {"json": {"type": "boolean"}}}):
        assert chat(live, **body, max_tokens=9)["message"]["content"] in ("true", "false")


def test_claude_code(live: Live) -> None:
    cached = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    bash = {"name": "Bash", "description": "d", "input_schema": FLAG, **cached}
    use = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"on": True}}
    result = {"type": "tool_result", "tool_use_id": "t1", "is_error": False, **cached}
    thought = {"type": "thinking", "thinking": "t", "signature": ""}
    body = {
        "model": "tiny",
        "system": [{"type": "text", "text": "You are", **cached}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi", **cached}]},
            {"role": "assistant", "content": [thought, {"type": "text", "text": "x"}, use]},
            {"role": "user", "content": [{**result, "content": [{"type": "text", "text": "out"}]}]},
        ],
        "tools": [bash],
        "thinking": {"type": "adaptive"},
    }
    more = {
        "max_tokens": 32_000, "metadata": {"user_id": "u"}, "temperature": 1, "context_management": {"edits": []},
        "output_config": {"effort": "high"}, "stop_sequences": ["e"], "tool_choice": None, "service_tier": "auto",
    }  # fmt: skip
    with live.http(headers={"anthropic-version": "2023-06-01", "anthropic-beta": "a,b"}) as http:
        counted = http.post("/v1/messages/count_tokens?beta=true", json=body).json()["input_tokens"]
        answer = http.post("/v1/messages?beta=true", json={**body, **more}).json()
        assert answer["usage"]["input_tokens"] + answer["usage"]["cache_read_input_tokens"] == counted
        with http.stream("POST", "/v1/messages?beta=true", json={**body, **more, "stream": True}) as stream:
            events = [line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: ")]
        assert (events[0], events[-1]) == ("message_start", "message_stop")
        form = {"output_config": {"format": {"type": "json_schema", "schema": FLAG}}, "max_tokens": 200}
        text = http.post("/v1/messages", json={"messages": HI, "temperature": 0, **form}).json()["content"][0]["text"]
        assert set(text) & set("{}") == set("{}")


def test_interfaces_look_around(live: Live) -> None:
    with live.http() as http:
        for path in ("/", "/health", "/v1/models", "/api/version", "/api/tags"):
            assert http.head(path).status_code == 200, path
        assert http.get("/api/ps").json()["models"][0]["context_length"] == live.llm.n_ctx
        props = http.get("/props").json()
        assert props["default_generation_settings"]["n_ctx"] == live.llm.n_ctx
        slots = http.get("/slots").json()
        assert len(slots) == props["total_slots"]
        assert not any(slot["is_processing"] for slot in slots)
        assert http.get("/props?model=none").status_code == 404


def test_llama_cpps_own_completions(live: Live) -> None:
    said = live.llm.generate("abc", max_tokens=6, temperature=0)
    with live.http() as http:
        ask = {"prompt": "abc", "n_predict": 6, "temperature": 0, "cache_prompt": True, "return_tokens": True}
        answer = http.post("/completion", json=ask).json()
        assert (answer["content"], answer["tokens"], answer["stop_type"]) == (said.text, said.token_ids, "limit")
        both = http.post("/completion", json={**ask, "prompt": ["abc", live.llm.tokenize("abc")]}).status_code
        assert both == 400  # texts or ids
        assert [a["content"] for a in http.post("/completion", json={**ask, "prompt": ["abc"]}).json()] == [said.text]
        with http.stream("POST", "/completion", json={**ask, "stream": True}) as stream:
            assert sum(line.startswith("data: ") for line in stream.iter_lines()) >= 6
        held = http.post("/completion", json={**ask, "grammar": 'root ::= "yes"'}).json()
        assert (held["content"], held["stop_type"]) == ("yes", "eos")


def test_ollama_cuts_what_is_too_long(live: Live) -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"{i:03}" * 40} for i in range(21)]
    system = {"role": "system", "content": "be brief"}
    options = {"num_ctx": 1000, "num_predict": 4, "temperature": 0}
    body = {"model": "tiny", "messages": [system, *turns], "stream": False, "options": options}
    with live.http() as http:
        answer = http.post("/api/chat", json=body).json()
        kept = next(turns[i:] for i in range(2, 21, 2) if len(live.llm.chat_ids([system, *turns[i:]])) <= 1000 - 5)
        assert answer["message"]["content"] == live.llm.chat([system, *kept], max_tokens=4, temperature=0).text
        body["options"] = {**options, "num_ctx": 500, "num_predict": -1}
        body["messages"] = HI
        whole = http.post("/api/chat", json=body).json()
        assert whole["prompt_eval_count"] + whole["eval_count"] <= 500
        body["messages"] = [{"role": "user", "content": "x" * 9000}]
        assert http.post("/api/chat", json=body).status_code == 400  # the last turn alone is too long
        long = {"model": "tiny", "prompt": "abc" * 4000, "raw": True, "stream": False, "options": options}
        ids = live.llm.tokenize(long["prompt"], parse_special=True)
        answer = http.post("/api/generate", json=long).json()
        assert answer["response"] == live.llm.generate([*ids[:4], *ids[-991:]], max_tokens=4, temperature=0).text
        assert http.post("/api/generate", json={**long, "truncate": False}).status_code == 400
