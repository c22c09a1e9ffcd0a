"""OpenAI's protocol, through OpenAI's own SDK."""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any

import numpy as np
import openai
import pytest
from pydantic import BaseModel

from halfbyte import SamplingParams

from .conftest import Live

HI: list[Any] = [{"role": "user", "content": "hi"}]


def greedy(live: Live, prompt: Any, n: int = 8) -> str:
    text: str = live.llm.generate(prompt, SamplingParams(temperature=0, max_tokens=n)).text
    return text


# Completions ----------------------------------------------------------------------------------------------------------


def test_completion_is_what_the_library_gives(live: Live) -> None:
    answer = live.openai().completions.create(model="tiny", prompt="abc", max_tokens=8, temperature=0)
    assert answer.choices[0].text == greedy(live, "abc")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(live.llm.tokenize("abc")), 8)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_prompts_of_a_batch_answer_in_order(live: Live, n: int, stream: bool) -> None:
    prompts = ["abc", "xyz", "123"]
    ask = {"model": "tiny", "prompt": prompts, "max_tokens": 6, "temperature": 0, "n": n}
    texts = [""] * (3 * n)
    if stream:
        for chunk in live.openai().completions.create(**ask, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
    else:
        for choice in live.openai().completions.create(**ask).choices:
            texts[choice.index] += choice.text
    assert texts == [greedy(live, prompt, 6) for prompt in prompts for _ in range(n)]


def test_token_ids_are_prompts(live: Live) -> None:
    ids = live.llm.tokenize("abc")
    client = live.openai()
    for prompt, texts in ((ids, ["abc"]), ([ids, live.llm.tokenize("xyz")], ["abc", "xyz"])):
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=5, temperature=0)
        assert [c.text for c in answer.choices] == [greedy(live, text, 5) for text in texts]


def test_seeds_repeat_and_n_gives_different_answers(live: Live) -> None:
    def ask(**more: Any) -> list[str]:
        answer = live.openai().completions.create(model="tiny", prompt="abc", max_tokens=8, **more)
        return [c.text for c in answer.choices]

    first = ask(seed=5, n=4, temperature=1.5)
    assert first == ask(seed=5, n=4, temperature=1.5)
    assert len(set(first)) > 1
    assert ask(seed=6, temperature=1.5)[0] == first[1]


def test_stop_ends_the_answer_and_stays_out(live: Live) -> None:
    whole = greedy(live, "abc", 12)
    stop = whole[4:6]
    answer = live.openai().completions.create(model="tiny", prompt="abc", max_tokens=12, temperature=0, stop=[stop])
    assert answer.choices[0].text == whole[: whole.find(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_echo_puts_the_prompt_first(live: Live) -> None:
    client = live.openai()
    ask = {"model": "tiny", "prompt": "abc", "max_tokens": 5, "temperature": 0, "echo": True}
    whole = client.completions.create(**ask)
    assert whole.choices[0].text == "abc" + greedy(live, "abc", 5)
    assert "".join(c.choices[0].text for c in client.completions.create(**ask, stream=True)) == whole.choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_echoed_logprobs_are_the_models(live: Live, stream: bool) -> None:
    ask = {"model": "tiny", "prompt": "abcd", "max_tokens": 2, "temperature": 0, "echo": True, "logprobs": 2}
    if stream:
        found = [c.choices[0].logprobs for c in live.openai().completions.create(**ask, stream=True)]
        tokens = [t for one in found if one for t in one.tokens or []]
        logprobs = [p for one in found if one for p in one.token_logprobs or []]
        offsets = [o for one in found if one for o in one.text_offset or []]
    else:
        one = live.openai().completions.create(**ask).choices[0].logprobs
        assert one is not None
        tokens, logprobs, offsets = one.tokens or [], one.token_logprobs or [], one.text_offset or []
    assert tokens[:4] == list("abcd")
    assert offsets == list(np.cumsum([0, *map(len, tokens[:-1])]))
    expected = live.llm.logprobs(live.llm.tokenize("abcd"))
    assert np.allclose([p for p in logprobs if p is not None][: len(expected)], expected, atol=1e-4)


def test_a_prompt_can_be_scored_without_an_answer(live: Live) -> None:
    answer = live.openai().completions.create(model="tiny", prompt="abcd", max_tokens=0, echo=True, logprobs=1)
    assert answer.choices[0].text == "abcd"
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    rows = live.llm.forward(live.llm.tokenize("abcd"))[:-1]  # what is likely after each token
    best = rows.max(axis=1) - np.log(np.exp(rows).sum(axis=1))
    tops = (logprobs.top_logprobs or [])[4 - len(best) :]
    assert [max(top.values()) for top in tops] == pytest.approx(best.tolist(), abs=1e-4)
    assert len(logprobs.token_logprobs or []) == 4


def test_beam_search_is_that_of_the_library(live: Live) -> None:
    with live.http() as http:
        ask: dict[str, Any] = {"prompt": "abc", "max_tokens": 8, "n": 2, "best_of": 4, "use_beam_search": True}
        for more in ({}, {"guided_regex": "(yes|no)+x"}, {"stop": ["e", "a"]}, {"length_penalty": -1.0, "logprobs": 2}):
            answer = http.post("/v1/completions", json={**ask, **more}).json()
            wanted = re.compile(more["guided_regex"]) if "guided_regex" in more else None
            kept = {name: value for name, value in more.items() if name in ("stop", "length_penalty")}
            found = live.llm.generate("abc", beam_width=4, n=2, max_tokens=8, response_format=wanted, **kept)
            assert [choice["text"] for choice in answer["choices"]] == [found.text, found.others[0].text]
            assert [choice["index"] for choice in answer["choices"]] == [0, 1]
            n_tokens = sum(len(output.token_ids) for output in (found, *found.others))
            assert answer["usage"]["completion_tokens"] == n_tokens
        assert all(1 <= len(tops) <= 2 for tops in answer["choices"][0]["logprobs"]["top_logprobs"])

        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "use_beam_search": True}
        wanted = {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [1, 22, 33]}}}}
        answer = http.post("/v1/chat/completions", json={**chat, **wanted, "n": 3}).json()
        assert len(answer["choices"]) == 3
        assert {choice["message"]["content"] for choice in answer["choices"]} <= {"1", "22", "33"}
        best = http.post("/v1/chat/completions", json={**chat, "use_beam_search": False, "n": 2, "best_of": 5}).json()
        assert len(best["choices"]) == 2
        greedy = http.post("/v1/completions", json={"prompt": "abc", "max_tokens": 8, "use_beam_search": True}).json()
        assert greedy["choices"][0]["text"] == live.llm.generate("abc", temperature=0, max_tokens=8).text
        refused = http.post("/v1/chat/completions", json={**chat, "best_of": 2, "stream": True})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "use_beam_search")


def test_best_of_gives_the_likeliest(live: Live) -> None:
    client = live.openai()
    ask = {"model": "tiny", "prompt": "abc", "max_tokens": 6, "seed": 11, "logprobs": 0, "temperature": 2.0}

    def score(choice: Any) -> float:
        return float(np.mean(choice.logprobs.token_logprobs))

    every = sorted((score(c) for c in client.completions.create(**ask, n=6).choices), reverse=True)
    best = client.completions.create(**ask, n=2, best_of=6)
    assert [score(c) for c in best.choices] == pytest.approx(every[:2], abs=1e-5)
    assert best.usage is not None
    assert best.usage.completion_tokens == 36


def test_logit_bias_decides(live: Live) -> None:
    token = live.llm.tokenize("Q", add_bos=False)[0]
    answer = live.openai().completions.create(model="tiny", prompt="abc", max_tokens=4, logit_bias={str(token): 100})
    assert answer.choices[0].text == "QQQQ"


def test_sampling_fields_of_other_servers_count(live: Live) -> None:
    answer = live.openai().completions.create(
        model="tiny", prompt="abc", max_tokens=8, temperature=2.0, extra_body={"top_k": 1, "min_p": 0.0}
    )
    assert answer.choices[0].text == greedy(live, "abc")


# Chat -----------------------------------------------------------------------------------------------------------------


def test_chat_is_what_the_library_gives(live: Live) -> None:
    answer = live.openai().chat.completions.create(model="tiny", messages=HI, max_completion_tokens=8, temperature=0)
    assert answer.choices[0].message.content == live.llm.chat(HI, max_tokens=8, temperature=0).text
    assert answer.choices[0].message.role == "assistant"


def test_streamed_chat_is_the_whole_one(live: Live) -> None:
    client = live.openai()
    ask: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 8, "seed": 3, "n": 2}
    whole = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    texts, reasons, roles = ["", ""], [None, None], [None, None]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = reasons[choice.index] or choice.finish_reason
            roles[choice.index] = roles[choice.index] or choice.delta.role
    assert texts == [c.message.content for c in whole.choices]
    assert reasons == [c.finish_reason for c in whole.choices]
    assert roles == ["assistant"] * 2
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert whole.usage is not None
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_logprobs_of_chat(live: Live) -> None:
    client = live.openai()
    ask: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 4, "temperature": 0, "logprobs": True}
    whole = client.chat.completions.create(**ask, top_logprobs=3).choices[0]
    assert whole.logprobs is not None
    content = whole.logprobs.content or []
    assert [len(entry.top_logprobs) for entry in content] == [3] * 4
    assert all(entry.logprob == max(t.logprob for t in entry.top_logprobs) for entry in content)
    assert bytes(b for entry in content for b in entry.bytes or []).decode("utf-8", "replace") == whole.message.content
    assert sum(math.exp(t.logprob) for t in content[0].top_logprobs) <= 1.0001
    streamed = [
        entry
        for chunk in client.chat.completions.create(**ask, top_logprobs=3, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == content


def test_a_second_turn_reuses_the_first(live: Live) -> None:
    client = live.openai()
    messages: list[Any] = [{"role": "system", "content": "s" * 100}, *HI]
    client.chat.completions.create(model="tiny", messages=messages, max_tokens=2)
    usage = client.chat.completions.create(model="tiny", messages=messages, max_tokens=2).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    cached = usage.prompt_tokens_details.cached_tokens or 0
    assert usage.prompt_tokens - 32 < cached < usage.prompt_tokens


class Point(BaseModel):
    x: int
    label: bool


def test_parse_gives_an_object_of_the_schema(live: Live) -> None:
    answer = live.openai().chat.completions.parse(
        model="tiny", messages=HI, response_format=Point, max_tokens=200, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, Point)


def test_every_answer_keeps_to_the_schema(live: Live) -> None:
    schema = {**Point.model_json_schema(), "additionalProperties": False}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "p", "schema": schema}}
    answer = live.openai().chat.completions.create(
        model="tiny", messages=HI, response_format=wanted, n=3, seed=4, max_tokens=200
    )
    texts = [c.message.content or "" for c in answer.choices]
    assert all(Point.model_validate_json(text) for text in texts)
    assert len(set(texts)) > 1


def test_json_mode_gives_an_object(live: Live) -> None:
    bias = {str(live.llm.tokenize("}", add_bos=False)[0]): 20}
    answer = live.openai().chat.completions.create(
        model="tiny", messages=HI, response_format={"type": "json_object"}, max_tokens=300, logit_bias=bias
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


def test_choices_of_vllm(live: Live) -> None:
    answer = live.openai().chat.completions.create(
        model="tiny", messages=HI, extra_body={"structured_outputs": {"choice": ["red", "green"]}}
    )
    assert answer.choices[0].message.content in ("red", "green")


NOW: Any = {
    "type": "function",
    "function": {
        "name": "now",
        "description": "the time",
        "parameters": {"type": "object", "properties": {"zone": {"type": "boolean"}}, "required": ["zone"]},
    },
}


def test_a_required_tool_is_called(live: Live) -> None:
    client = live.openai()
    ask: dict[str, Any] = {
        "model": "tiny", "messages": HI, "tools": [NOW], "tool_choice": "required", "max_tokens": 200, "seed": 2,
        "parallel_tool_calls": False,
    }  # fmt: skip
    whole = client.chat.completions.create(**ask).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "now"
    assert isinstance(json.loads(call.function.arguments)["zone"], bool)
    with client.chat.completions.stream(**ask) as stream:
        last = stream.get_final_completion().choices[0]
    assert last.finish_reason == "tool_calls"
    assert last.message.tool_calls is not None
    assert last.message.tool_calls[0].function.arguments == call.function.arguments


def test_many_async_clients_at_once(live: Live) -> None:
    async def one(client: openai.AsyncOpenAI, i: int) -> str:
        stream = await client.completions.create(
            model="tiny", prompt=f"prompt {i}", max_tokens=16, temperature=0, stream=True
        )
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def every() -> list[str]:
        async with live.async_openai() as client:
            return await asyncio.gather(*(one(client, i) for i in range(24)))

    assert asyncio.run(every()) == [greedy(live, f"prompt {i}", 16) for i in range(24)]


# Other endpoints ------------------------------------------------------------------------------------------------------


def test_models_are_listed(live: Live) -> None:
    client = live.openai()
    assert [m.id for m in client.models.list()] == ["tiny", "also-tiny"]
    assert client.models.retrieve("also-tiny").owned_by == "halfbyte"


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings_are_the_librarys(live: Live, encoding: Any) -> None:
    more = {} if encoding is None else {"encoding_format": encoding}
    answer = live.openai().embeddings.create(model="tiny", input=["abc", "xyz"], **more)
    vectors = [e.embedding for e in answer.data]
    if encoding == "base64":
        import base64

        vectors = [np.frombuffer(base64.b64decode(v), np.float32) for v in vectors]
    assert np.allclose(vectors, live.llm.embed(["abc", "xyz"]), atol=1e-6)
    assert answer.usage.prompt_tokens == 2 * len(live.llm.tokenize("abc"))


def test_embeddings_can_be_shortened(live: Live) -> None:
    (one,) = live.openai().embeddings.create(model="tiny", input=live.llm.tokenize("abc"), dimensions=10).data
    full = live.llm.embed("abc")[0, :10]
    assert np.allclose(one.embedding, full / np.linalg.norm(full), atol=1e-5)


def test_reasoning_has_a_budget_in_chats_only(live: Live) -> None:
    client = live.openai()
    common: dict[str, Any] = {"model": "tiny", "max_tokens": 4, "extra_body": {"reasoning_budget": 2}}
    assert client.chat.completions.create(messages=HI, **common).choices
    with pytest.raises(openai.BadRequestError, match="needs a chat"):
        client.completions.create(prompt="x", **common)
