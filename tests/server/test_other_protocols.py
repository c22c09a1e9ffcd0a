"""Responses and Anthropic's messages through their makers' SDKs; tokens, rerank and infill over plain HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import openai
import pytest
from pydantic import BaseModel

from halfbyte.server.config import ServerConfig
from halfbyte.server.stored import ResponseStore

from .conftest import Live, toy_id

HI: list[Any] = [{"role": "user", "content": "hi"}]


class Point(BaseModel):
    x: bool
    y: bool


TOOL: Any = {
    "type": "function",
    "name": "now",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"zone": {"type": "boolean"}},
        "required": ["zone"],
        "additionalProperties": False,
    },
}


# Responses ------------------------------------------------------------------------------------------------------------


def test_response_is_the_chats_answer(live: Live) -> None:
    answer = live.openai().responses.create(model="tiny", input="hi", max_output_tokens=8, temperature=0)
    assert answer.output_text == live.llm.chat(HI, max_tokens=8, temperature=0).text
    assert answer.status == "incomplete"
    assert answer.usage is not None
    assert answer.usage.output_tokens == 8


def test_streamed_response_adds_up(live: Live) -> None:
    with live.openai().responses.stream(model="tiny", input="hi", max_output_tokens=8, temperature=0) as stream:
        events = list(stream)
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert [e.type for e in events[:4]] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == live.llm.chat(HI, max_tokens=8, temperature=0).text
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output[0].content[0].text == text


def test_response_is_parsed(live: Live) -> None:
    answer = live.openai().responses.parse(
        model="tiny", input="hi", text_format=Point, max_output_tokens=400, temperature=0
    )
    assert isinstance(answer.output_parsed, Point)


def test_response_calls_a_tool_and_reads_its_result(live: Live) -> None:
    client = live.openai()
    ask: dict[str, Any] = {
        "model": "tiny", "tools": [TOOL], "tool_choice": {"type": "function", "name": "now"}, "temperature": 0,
        "max_output_tokens": 200, "parallel_tool_calls": False,
    }  # fmt: skip
    answer = client.responses.create(input="hi", **ask)
    call = next(item for item in answer.output if item.type == "function_call")
    assert set(json.loads(call.arguments)) == {"zone"}
    with client.responses.stream(input="hi", **ask) as stream:
        found = stream.get_final_response().output
    assert [item.arguments for item in found if item.type == "function_call"] == [call.arguments]
    again: list[Any] = [
        *HI,
        call.model_dump(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "noon"},
    ]
    assert client.responses.create(model="tiny", input=again, max_output_tokens=4).usage is not None


def test_a_response_goes_on_from_another(live: Live) -> None:
    client, ask = live.openai(), {"model": "tiny", "max_output_tokens": 8, "extra_body": {"temperature": 0}}
    first = client.responses.create(**ask, input="hi", instructions="be brief")
    with client.responses.stream(
        **{"model": "tiny", "max_output_tokens": 8, "temperature": 0}, input="why?", previous_response_id=first.id
    ) as stream:
        second = next(event for event in stream if event.type == "response.incomplete").response
    conversation = [*HI, {"role": "assistant", "content": first.output_text}, {"role": "user", "content": "why?"}]
    said = live.llm.chat(conversation, max_tokens=8, temperature=0).text  # the first one's instructions were its own
    assert second.output_text == said
    assert second.previous_response_id == first.id
    kept = client.responses.retrieve(second.id)
    assert kept.output_text == said
    (item,) = client.responses.input_items.list(second.id).data
    assert item.content[0].text == "why?"  # type: ignore[union-attr]
    third = client.responses.create(**ask, input=[{"role": "user", "content": "so?"}], previous_response_id=second.id)
    assert third.usage is not None
    assert third.usage.input_tokens > second.usage.input_tokens  # type: ignore[union-attr]


def test_responses_are_forgotten(live: Live) -> None:
    client, ask = live.openai(), {"model": "tiny", "input": "hi", "max_output_tokens": 2}
    client.responses.delete((kept := client.responses.create(**ask)).id)
    for gone in (kept.id, client.responses.create(**ask, store=False).id, "resp_1"):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(gone)
        with pytest.raises(openai.NotFoundError) as caught:
            client.responses.create(**ask, previous_response_id=gone)
        assert caught.value.param == "previous_response_id"


def test_a_server_may_keep_nothing(serve: Callable[..., Live]) -> None:
    client = serve(ServerConfig(max_stored_bytes=0)).openai()
    answer = client.responses.create(model="tiny", input="hi", max_output_tokens=2)
    assert answer.store is False  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_stored_responses_are_bounded_and_each_clients_own() -> None:
    store = ResponseStore(1000)
    for i in range(20):
        store.put("a", {"id": str(i), "text": "x" * 200}, [], [])
    assert [i for i in range(20) if store.get("a", str(i))] == [16, 17, 18, 19]
    assert store.get("b", "19") is None
    store.get("a", "16")
    store.put("a", {"id": "20", "text": "x" * 200}, [], [])
    assert store.get("a", "16")
    assert store.get("a", "17") is None
    store.put("a", {"id": "21", "text": "x" * 2000}, [], [])
    assert store.get("a", "21") is None
    assert store.get("a", "16")


def test_agents_offer_tools_that_no_other_model_knows(live: Live) -> None:
    """What Codex sends besides functions."""
    flag = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    names = ["shell", "inner"]
    shell, inner = ({"type": "function", "name": name, "strict": False, "parameters": flag} for name in names)
    offered = [
        shell,
        {"type": "namespace", "name": "mcp", "tools": [inner]},
        {"type": "web_search", "external_web_access": True},
        {"type": "image_generation"},
        {"type": "local_shell"},
    ]
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "rules"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": None},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "function_call", "name": "shell", "arguments": '{"on": true}', "call_id": "c1"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "done"}]},
    ]
    body = {
        "model": "tiny", "instructions": "be brief", "input": items, "tools": offered, "tool_choice": "required",
        "parallel_tool_calls": False, "reasoning": {"effort": "medium", "summary": "auto"}, "store": False,
        "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k", "text": {"verbosity": "low"},
        "max_output_tokens": 200, "temperature": 0,
    }  # fmt: skip
    with live.http() as http:
        answer = http.post("/v1/responses", json=body)
        assert answer.status_code == 200, answer.text
        (call,) = answer.json()["output"]
        assert call["name"] in names
        body["tools"] = [{"type": "web_search"}]
        assert "tool_choice" in http.post("/v1/responses", json=body).json()["error"]["message"]


# Anthropic ------------------------------------------------------------------------------------------------------------


def test_message_is_the_chats_answer(live: Live) -> None:
    body = {"model": "tiny", "max_tokens": 8, "messages": HI, "temperature": 0, "system": "be brief"}
    with live.http() as http:
        answer = http.post("/v1/messages", json=body).json()
    said = live.llm.chat([{"role": "system", "content": "be brief"}, *HI], max_tokens=8, temperature=0).text
    assert answer["content"] == [{"type": "text", "text": said}]
    assert answer["stop_reason"] == "max_tokens"
    assert answer["usage"]["output_tokens"] == 8


def events_of(text: str) -> list[dict[str, Any]]:
    found = []
    for block in text.strip().split("\n\n"):
        name, _, data = block.partition("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_streamed_message_adds_up(live: Live) -> None:
    body = {"model": "tiny", "max_tokens": 8, "messages": HI, "temperature": 0, "stream": True}
    with live.http() as http:
        events = events_of(http.post("/v1/messages", json=body).text)
    assert [e["type"] for e in events[:2]] == ["message_start", "content_block_start"]
    assert [e["type"] for e in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    text = "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta")
    assert text == live.llm.chat(HI, max_tokens=8, temperature=0).text
    assert events[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}


def test_message_uses_tools(live: Live) -> None:
    tool = {"name": "now", "description": "the time", "input_schema": TOOL["parameters"]}
    body = {
        "model": "tiny", "max_tokens": 200, "messages": HI, "tools": [tool], "temperature": 0,
        "tool_choice": {"type": "tool", "name": "now", "disable_parallel_tool_use": True},
    }  # fmt: skip
    with live.http() as http:
        answer = http.post("/v1/messages", json=body).json()
        assert answer["stop_reason"] == "tool_use"
        (use,) = [block for block in answer["content"] if block["type"] == "tool_use"]
        assert set(use["input"]) == {"zone"}
        events = events_of(http.post("/v1/messages", json={**body, "stream": True}).text)
        fragments = [e["delta"]["partial_json"] for e in events if e.get("delta", {}).get("type") == "input_json_delta"]
        assert json.loads("".join(fragments)) == use["input"]
        result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use["id"], "content": "noon"}]}
        turns = [*HI, {"role": "assistant", "content": answer["content"]}, result]
        again = http.post("/v1/messages", json={**body, "messages": turns, "tool_choice": {"type": "none"}})
        assert again.status_code == 200
        count = http.post("/v1/messages/count_tokens", json={"messages": turns, "tools": [tool]}).json()
        assert count["input_tokens"] == sum(
            again.json()["usage"][key] for key in ("input_tokens", "cache_read_input_tokens")
        )


def test_errors_are_anthropics(live: Live) -> None:
    with live.http() as http:
        answer = http.post("/v1/messages", json={"model": "tiny", "messages": HI})
        assert answer.status_code == 400
        assert answer.json()["type"] == "error"
        assert answer.json()["error"]["type"] == "invalid_request_error"
        missing = http.post("/v1/messages", json={"model": "none", "messages": HI, "max_tokens": 1})
        assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")


# Tokens ---------------------------------------------------------------------------------------------------------------


def test_tokens_come_and_go(live: Live) -> None:
    with live.http() as http:
        plain = http.post("/tokenize", json={"content": "abc"}).json()["tokens"]
        assert plain == live.llm.tokenize("abc", add_bos=False)
        vllm = http.post("/tokenize", json={"model": "tiny", "prompt": "abc"}).json()
        assert (vllm["tokens"], vllm["count"]) == (live.llm.tokenize("abc"), len(live.llm.tokenize("abc")))
        pieces = http.post("/tokenize", json={"content": "é", "with_pieces": True}).json()["tokens"]
        assert [p["piece"] for p in pieces] == [[0xC3], [0xA9]]
        assert http.post("/detokenize", json={"tokens": plain}).json()["content"] == "abc"


def test_template_is_applied(live: Live) -> None:
    with live.http() as http:
        text = http.post("/apply-template", json={"messages": HI}).json()["prompt"]
        assert text == live.llm.chat_template.render(HI)
        ids = http.post("/tokenize", json={"messages": HI}).json()["tokens"]
        assert ids == live.llm.chat_ids(HI)


def test_documents_are_ranked_by_likeness(live: Live) -> None:
    documents = ["xyz", "abc", "abd"]
    body = {"query": "abc", "documents": documents, "top_n": 2, "return_documents": True}
    with live.http() as http:
        answer = http.post("/v1/rerank", json=body).json()
    vectors = live.llm.embed(["abc", *documents])
    scores = vectors[1:] @ vectors[0]
    assert [r["index"] for r in answer["results"]] == list(np.argsort(-scores)[:2])
    assert answer["results"][0]["document"] == {"text": "abc"}
    assert answer["results"][0]["relevance_score"] == pytest.approx(1.0, abs=1e-5)


# Infill ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coder(serve: Callable[..., Live]) -> Live:
    """A model with tokens for the middle: letters stand for them."""
    ids = {"fim_pre": toy_id("P"), "fim_suf": toy_id("S"), "fim_mid": toy_id("M")}
    return serve(model={f"tokenizer.ggml.{name}_token_id": i for name, i in ids.items()})


def test_the_middle_is_what_follows_its_prompt(coder: Live) -> None:
    text = coder.llm.generate("PbeforeSafterM", max_tokens=6, temperature=0).text
    answer = coder.openai().completions.create(
        model="tiny", prompt="before", suffix="after", max_tokens=6, temperature=0
    )
    assert answer.choices[0].text == text
    body = {"input_prefix": "before", "input_suffix": "after", "n_predict": 6, "temperature": 0}
    with coder.http() as http:
        assert http.post("/infill", json=body).json()["content"] == text
        streamed = http.post("/infill", json={**body, "stream": True}).text.strip().split("\n\n")
        pieces = [json.loads(line.removeprefix("data: ")) for line in streamed]
        assert "".join(p["content"] for p in pieces) == text
        assert [p["stop"] for p in pieces] == [False] * (len(pieces) - 1) + [True]


def test_models_without_such_tokens_say_so(live: Live) -> None:
    with pytest.raises(openai.BadRequestError, match="middle") as caught:
        live.openai().completions.create(model="tiny", prompt="a", suffix="b")
    assert caught.value.param == "suffix"
