"""Dialects of tool calls: what they read, that no cut of the text changes it, and what their grammars allow."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

from halfbyte.chat.delta import Message
from halfbyte.chat.tools import DIALECTS, make_grammar, make_parser
from halfbyte.errors import InvalidArgumentError
from halfbyte.grammar import vocabulary_of
from halfbyte.tokenizer import Tokenizer

from ..conftest import toy_vocabulary
from .examples import EXAMPLES, TOOLS, Example

by_name = pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.dialect)


def read(template: str, pieces: list[str], tools: Any = TOOLS, **options: Any) -> Message:
    parser = make_parser(template, tools, **options)
    message = Message()
    for piece in pieces:
        message.add(parser.feed(piece))
    message.add(parser.finish())
    assert parser.feed("") == []
    return message


def parts(message: Message) -> tuple[str, str, list[tuple[str, str]]]:
    return message.content, message.reasoning, [(c.name, c.arguments) for c in message.tool_calls]


def test_every_dialect_has_an_example() -> None:
    assert [e.dialect for e in EXAMPLES if e.dialect not in {d.name for d in DIALECTS}] == []
    assert {e.dialect for e in EXAMPLES} == {d.name for d in DIALECTS}


@by_name
def test_examples(example: Example) -> None:
    assert next(d.name for d in DIALECTS if d.detects(example.template)) == example.dialect
    message = read(example.template, [example.answer])
    assert (message.content, message.reasoning) == (example.content, example.reasoning)
    assert [(c.name, json.loads(c.arguments)) for c in message.tool_calls] == list(example.calls)
    assert len({c.id for c in message.tool_calls}) == len(example.calls)


@by_name
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_cut_gives_the_same(example: Example, data: st.DataObject) -> None:
    whole = parts(read(example.template, [example.answer]))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(example.answer)))))
    ends = [0, *cuts, len(example.answer)]
    pieces = [example.answer[a:b] for a, b in pairwise(ends)]
    assert parts(read(example.template, pieces)) == whole


_WORDS = sorted(
    {w for d in DIALECTS for w in (*d.markers, *d.openers, *d.first_openers)}
    | {"<think>", "</think>", "get_weather", "mail.send", '{"name": "', '"arguments": ', "{", "}", "[", "]", '"', "'"}
    | {"\\", "\\u00e", ",", ":", " ", "\n", "1e", "-", "true", "None", "(", ")", "=", "print(", "```", "x", "é", "\x00"}
    | {"function", "<function=", "<parameter=", "</parameter>", "to=functions.now", "[ARGS]", "json", ";", "<", ">"}
)


@by_name
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_text_is_read_the_same_however_it_is_cut(example: Example, data: st.DataObject) -> None:
    words = data.draw(st.lists(st.sampled_from(_WORDS) | st.text(max_size=3), max_size=25))
    damaged = example.answer[: data.draw(st.integers(0, len(example.answer)))] + "".join(words)
    pieces = [example.answer[:3], *words] if data.draw(st.booleans()) else list(damaged)
    assert parts(read(example.template, pieces)) == parts(read(example.template, ["".join(pieces)]))


@by_name
def test_a_tag_never_shows_before_it_is_whole(example: Example) -> None:
    parser = make_parser(example.template, TOOLS)
    shown = "".join(d.content or "" for c in example.answer for d in parser.feed(c))
    assert shown == example.content


@by_name
def test_arguments_stream(example: Example) -> None:
    parser = make_parser(example.template, TOOLS)
    fragments = [
        d.tool_call.arguments_fragment
        for c in example.answer
        for d in parser.feed(c)
        if d.tool_call and not d.tool_call.name
    ]
    assert len(fragments) >= 2 * len(example.calls)


@by_name
def test_unknown_tools_and_broken_calls_stay_content(example: Example) -> None:
    unknown = example.answer.replace("get_weather", "drop_table").replace("mail.send", "drop_table")
    message = read(example.template, [unknown])
    assert message.tool_calls == []
    assert "drop_table" in message.content or example.dialect == "harmony"
    assert read(example.template, [example.answer], tool_choice="none").tool_calls == []


def test_text_without_calls_is_left_alone() -> None:
    text = ' {"name": "Ann"} [1, 2] <b>x</b>\n```python\nf()\n``` <tool_calls> \n'
    for example in EXAMPLES:
        assert read(example.template, list(text)).content == text
        assert read(example.template, list(text), tools=None).content == text


def test_slips_of_models_are_put_right() -> None:
    template = "<tool_call>"
    for text, expected in {
        """{'name': 'get_weather', 'arguments': {'city': 'a"b', 'days': None}}""": {"city": 'a"b', "days": None},
        '{"function": {"name": "get_weather", "arguments": "{\\"city\\": 1}"}}': {"city": 1},
        '{"type": "function", "function": {"name": "get_weather", "parameters": {"city": true}}}': {"city": True},
        '{"arguments": {"city": "x"}, "name": "get_weather"}': {"city": "x"},
        '{"name": "get_weather", "arguments": {"city": "two\nlines"}}': {"city": "two\nlines"},
        '{"name": "get_weather"}': {},
        '{"name": "get_weather", "arguments": null}': {},
    }.items():
        message = read(template, [f"<tool_call>{text}</tool_call>"])
        assert message.content == ""
        assert [json.loads(c.arguments) for c in message.tool_calls] == [expected]


def test_python_calls() -> None:
    text = "```tool_code\nprint(default_api.get_weather('it\\'s', 2))\nnow()\nmail.send(('Ann',), urgent=False,)\n```"
    message = read("<start_of_turn>", [text])
    assert message.content == ""
    assert [(c.name, json.loads(c.arguments)) for c in message.tool_calls] == [
        ("get_weather", {"city": "it's", "days": 2}),
        ("now", {}),
        ("mail.send", {"to": ["Ann"], "urgent": False}),
    ]


def test_reasoning_that_the_prompt_opened() -> None:
    template = "<think></think><tool_call>"
    text = 'Because.</think>\n\n<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    message = read(template, list(text), prompt="<|im_start|>assistant\n<think>\n")
    assert (message.content, message.reasoning) == ("", "Because.")
    assert [c.name for c in message.tool_calls] == ["now"]
    closed = read(template, ["Yes."], prompt="<think>\n\n</think>\n\n")
    assert (closed.content, closed.reasoning) == ("Yes.", "")
    unclosed = read(template, ["Still at it"], prompt="<think>")
    assert (unclosed.content, unclosed.reasoning) == ("", "Still at it")


# Grammars -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokens, kinds = toy_vocabulary()
    special = ["[TOOL_CALLS]", "<|channel|>", "<|message|>", "<|constrain|>", "<|python_tag|>", "<|tool_call|>"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens + special,
        "tokenizer.ggml.token_type": kinds + [3] * len(special),
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
    }
    return Tokenizer.from_metadata(metadata)


def control_id(tokenizer: Tokenizer, piece: str) -> int | None:
    token = tokenizer.id_of(piece)
    return token if token is not None and tokenizer.is_control(token) else None


def accepts(tokenizer: Tokenizer, grammar: str, text: str) -> bool:
    """Whether the grammar takes the whole text and may end there."""
    matcher = LLMatcher(vocabulary_of(tokenizer), LLMatcher.grammar_from_lark(grammar))
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.encode(text, add_bos=False, parse_special=True)
    return matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting()


@by_name
def test_grammars(example: Example, tokenizer: Tokenizer) -> None:
    def grammar(choice: Any = "required", **options: Any) -> str:
        made = make_grammar(example.template, TOOLS, choice, token_id=lambda p: control_id(tokenizer, p), **options)
        assert made is not None
        return made

    calls = example.answer.removeprefix(example.before)
    assert accepts(tokenizer, grammar(), calls)
    assert accepts(tokenizer, grammar(parallel=False), calls) == (len(example.calls) == 1)
    for wrong in (
        calls.replace("get_weather", "drop_table"),
        calls.replace("city", "town"),
        calls.replace("2", "10"),
        calls.replace("2", '"2"'),
        calls[:-1],
        "I would rather talk",
    ):
        assert not accepts(tokenizer, grammar(), wrong), wrong
    assert not accepts(tokenizer, grammar("now"), calls)
    assert make_grammar(example.template, TOOLS, "none") is None


def test_tool_choice_is_checked() -> None:
    assert make_grammar("<tool_call>", TOOLS, {"type": "function", "function": {"name": "now"}})
    for tools, choice in (
        ([], "required"),
        (TOOLS, "nonesuch"),
        (TOOLS, {"function": {"name": "nonesuch"}}),
        (TOOLS, {}),
    ):
        with pytest.raises(InvalidArgumentError, match="tool_choice"):
            make_grammar("<tool_call>", tools, choice)
