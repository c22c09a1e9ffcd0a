"""Answers held to a form on a tiny random model: types, schemas, expressions, choices, grammars, tool calls, budgets."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import pytest

from halfbyte import LLM, SamplingParams
from halfbyte.chat.answer import chat_form
from halfbyte.chat.tools import DIALECTS
from halfbyte.errors import FormatError, InvalidArgumentError, UnsupportedError
from halfbyte.grammar import Grammar, Guide, constraint_of

from ..conftest import write_tiny_llama
from .examples import EXAMPLES, TOOLS, Example

CONTROL = sorted({m for d in DIALECTS for m in d.markers} | {"<think>", "</think>", "[THINK]", "[/THINK]"})
USER = {"role": "user", "content": "Hello"}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """A tiny model whose vocabulary has every dialect's markers as control tokens."""
    path = write_tiny_llama(
        tmp_path_factory.mktemp("tools") / "tools.gguf",
        **{"extra_tokens": CONTROL, "n_ctx": 4096, "seed": 3},
    )
    with LLM(path, n_threads=1, n_ctx=4096) as loaded:
        yield loaded
        loaded._engine.check_integrity()


def with_template(llm: LLM, template: str) -> LLM:
    from halfbyte.chat import ChatTemplate

    llm.chat_template = ChatTemplate(
        template + "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ opened }}"
    )
    return llm


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(TypedDict):
    x: int
    y: int


@dataclass
class Shape:
    name: Literal["disc", "square"]
    colour: Colour
    centre: Point
    size: Annotated[float, "in metres"] = 1.0
    inner: list[Shape] = field(default_factory=list)


def test_python_types_come_back_as_values(llm: LLM) -> None:
    for seed in range(3):
        shape = llm.generate("x", response_format=Shape, max_tokens=900, seed=seed, temperature=0.3).parsed
        assert isinstance(shape, Shape)
        assert isinstance(shape.colour, Colour)
        assert set(shape.centre) == {"x", "y"}
    for kind, check in {
        bool: lambda v: isinstance(v, bool),
        Colour: lambda v: v in Colour,
        tuple[bool, Literal[3]]: lambda v: v[1] == 3 and isinstance(v, tuple),
        Literal["a"] | None: lambda v: v in ("a", None),
    }.items():
        assert check(llm.generate("x", response_format=kind, max_tokens=900, temperature=0.3, seed=1).parsed), kind


def test_pydantic_models(llm: LLM) -> None:
    pydantic = pytest.importorskip("pydantic")

    class Step(pydantic.BaseModel):
        text: Annotated[str, pydantic.Field(max_length=5)]
        done: bool

    class Work(pydantic.BaseModel):
        steps: Annotated[list[Step], pydantic.Field(max_length=2)]
        tags: set[Literal["a", "b"]]
        kind: Literal["plan"] = "plan"

    work = llm.generate("x", response_format=Work, max_tokens=1500, seed=2, temperature=0.3).parsed
    assert isinstance(work, Work)
    nested = llm.generate("x", response_format=list[Step], max_tokens=1500, seed=2, temperature=0.3).parsed
    assert all(isinstance(step, Step) for step in nested)


@pytest.mark.parametrize(
    ("wanted", "pattern"),
    [
        (re.compile(r"[ab]{3}-\d"), r"[ab]{3}-\d"),
        (["yes", 'no "really"\n', "."], r'yes|no "really"\n|\.'),
        (Grammar('root ::= "ab" [0-9]'), r"ab\d"),
        (Grammar('start: "ab" /[0-9]/'), r"ab\d"),
        ({"enum": [1, "b"]}, r'1|"b"'),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": 7}}}, "7"),
        ({"type": "json_schema", "name": "n", "schema": {"const": 7}}, "7"),
    ],
)
def test_forms(llm: LLM, wanted: Any, pattern: str) -> None:
    for seed in range(4):
        output = llm.generate("x", response_format=wanted, max_tokens=60, seed=seed)
        assert re.fullmatch(pattern, output.text), output.text
        assert output.finish_reason == "stop"


def test_json_mode(llm: LLM) -> None:
    answers = llm.generate("x", response_format="json", n=3, max_tokens=400, seed=5, temperature=0.2)
    for output in (answers, *answers.others):
        if output.finish_reason == "stop":
            assert isinstance(output.parsed, dict)
        else:
            with pytest.raises(FormatError, match="incomplete"):
                _ = output.parsed
    assert llm.generate("x", response_format={"type": "text"}, max_tokens=3).parsed is None


def test_each_prompt_may_have_its_own_form(llm: LLM) -> None:
    params = [
        SamplingParams(response_format=["one"]),
        SamplingParams(response_format=["two"]),
        SamplingParams(max_tokens=1),
    ]
    assert [o.text for o in llm.generate(["a", "b", "c"], params)][:2] == ["one", "two"]


@pytest.mark.parametrize(
    ("schema", "pointer", "reason"),
    [
        (
            {"properties": {"a": {"items": {"type": "string", "uniqueItems": True}}}},
            "#/properties/a/items",
            "uniqueItems",
        ),
        ({"type": "object", "properties": {"a/b": {"not": {}}}}, "#/properties/a~1b", "not"),
        ({"anyOf": [{"type": "string"}, {"type": "string", "format": "foo"}]}, "#/anyOf/1", "Unknown format: foo"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "#", "minimum (5) is greater"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "#", "unsatisfiable"),
        ({"$defs": {"p": {"pattern": "(?=a)", "type": "string"}}, "$ref": "#/$defs/p"}, "#/$defs/p", "look-around"),
        ({"$ref": "http://example.org/s"}, "#", "http://example.org/s"),
        (False, "#", "Unsatisfiable"),
        (5, "#", "object, true or false"),
    ],
)
def test_schemas_that_cannot_be_used_are_named(schema: Any, pointer: str, reason: str) -> None:
    from halfbyte.grammar import json_schema_constraint

    with pytest.raises(UnsupportedError) as caught:
        json_schema_constraint(schema)
    assert f"at {pointer}: " in str(caught.value)
    assert reason in str(caught.value)


def test_forms_that_cannot_be_used(llm: LLM) -> None:
    for wanted in (
        re.compile("(?=a)"),
        re.compile(r"(a)\1"),
        [],
        [""],
        Grammar("root ::= ("),
        Grammar("start: foo"),
        3,
        object(),
    ):
        with pytest.raises(InvalidArgumentError):
            constraint_of(wanted)
    with pytest.raises(InvalidArgumentError, match="No answer satisfies"):
        llm.generate("x", response_format=Grammar(r"start: /[^\s\S]/"))
    with pytest.raises(InvalidArgumentError, match="no JSON schema"):
        llm.generate("x", response_format=list[object])
    deep: Any = {"type": "string"}
    for _ in range(5000):
        deep = {"type": "array", "items": deep}
    with pytest.raises((InvalidArgumentError, UnsupportedError)):
        constraint_of(deep)


# Chats --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.dialect)
def test_a_required_call_is_one(llm: LLM, example: Example) -> None:
    with_template(llm, example.template.replace("{{ tools }}", "").replace("<think></think>", ""))
    schemas = {t["function"]["name"]: t["function"].get("parameters", {}) for t in TOOLS}
    for seed in range(2):
        output = llm.chat(
            [USER],
            tools=TOOLS,
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=900,
            reasoning_budget=50,  # a random model may not come to its end
            seed=seed,
            temperature=0.5,
        )
        assert output.finish_reason == "tool_calls", output
        (call,) = output.tool_calls
        assert output.text == ""
        assert set(call.kwargs) >= set(schemas[call.name].get("required", ()))
        assert set(call.kwargs) <= set(schemas[call.name].get("properties", ()))
    choice = {"function": {"name": "now"}}
    named = llm.chat([USER], tools=TOOLS, tool_choice=choice, max_tokens=400, reasoning_budget=50, seed=1)
    assert {c.name for c in named.tool_calls} == {"now"}


def test_python_functions_are_tools(llm: LLM) -> None:
    def book(seats: int, *, when: Literal["now", "later"] = "now") -> str:
        """Books a table.

        Args:
            seats: how many
        """
        return f"{seats} {when}"

    with_template(llm, "")
    pieces = list(llm.chat_stream([USER], tools=[book], tool_choice="book", max_tokens=200, seed=4, temperature=0.2))
    output = pieces[-1].output
    assert output is not None
    assert [d.name for p in pieces for d in p.tool_calls if d.name] == [c.name for c in output.tool_calls]
    assert (
        "".join(d.arguments_fragment for p in pieces for d in p.tool_calls if d.index == 0)
        == output.tool_calls[0].arguments
    )
    assert book(**output.tool_calls[0].kwargs).endswith(("now", "later"))


def script(llm: LLM, template: str, text: str, **options: Any) -> tuple[Guide, list[int], Callable[[str], bool]]:
    """A guide for a chat's answer that has gone as far as `text`, and whether a token may come next."""
    params = SamplingParams(**{k: options.pop(k) for k in ("response_format", "reasoning_budget") if k in options})
    prompt = options.pop("prompt", "")
    form = chat_form(template, prompt, params, llm.tokenizer, llm.config["n_vocab"], **options)
    assert form.plan is not None
    guide = form.plan.begin()
    ids = llm.tokenizer.encode(text, add_bos=False, parse_special=True)

    def may_come(piece: str) -> bool:
        (token,) = llm.tokenizer.encode(piece, add_bos=False, parse_special=True)
        mask = guide(np.array(ids, dtype=np.int32))
        return mask is None or bool(mask[token // 32] >> (token % 32) & 1)

    return guide, ids, may_come


def test_free_text_is_held_from_a_trigger_on(llm: LLM) -> None:
    from halfbyte.chat.tools import tools_from

    tools = tools_from(TOOLS)
    for example in EXAMPLES:
        if "think" in example.before.lower() or example.dialect == "harmony":
            continue
        calls = example.answer.removeprefix(example.before)
        cut = next(i for i in range(len(calls)) if calls[i:].startswith(("get_weather", "mail.send")))
        _, _, free = script(llm, example.template, example.before, tools=tools)
        assert free("z"), example.dialect
        _, _, held = script(llm, example.template, example.before + calls[:cut], tools=tools)
        assert held("g"), example.dialect
        assert not held("z"), example.dialect


@pytest.mark.parametrize(
    "text", ['<think>ab</think>\n{"a": 1', '<think>ab</think>{"a": 12}</s></s>', '{"a": 7}</s>', "<think>abcdefgh"]
)
def test_a_guide_follows_answers_that_are_taken_back(llm: LLM, text: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    options = {"response_format": schema, "reasoning_budget": 5}
    guide, ids, _ = script(llm, "<think></think>", text, **options)
    arrays = [np.array(ids[:n], dtype=np.int32) for n in range(len(ids) + 1)]

    def fresh(n: int) -> list[int] | None:
        mask = script(llm, "<think></think>", "", **options)[0](arrays[n])
        return None if mask is None else mask.tolist()

    expected = [fresh(n) for n in range(len(arrays))]
    for n in (len(ids), 3, 5, len(ids), len(ids) - 1, len(ids) - 2, 0, len(ids), 1, len(ids)):
        mask = guide(arrays[n])
        assert (None if mask is None else mask.tolist()) == expected[n], n
    before = guide(arrays[-2])
    other = (
        ids[-1] if before is None else int(np.flatnonzero(np.unpackbits(before.view(np.uint8), bitorder="little"))[-1])
    )
    guide(np.array([*ids[:-1], other], dtype=np.int32))
    mask = guide(arrays[-1])
    assert (None if mask is None else mask.tolist()) == expected[-1]


def test_reasoning_comes_before_a_form(llm: LLM) -> None:
    form = {"response_format": ["yes", "no"]}
    template = "<think></think>"
    assert script(llm, template, "", **form)[2]("<think>")
    assert not script(llm, template, "", **form)[2]("x")
    assert script(llm, template, "", **form)[2]("y")
    assert script(llm, template, "<think>so", **form)[2]("x")
    assert not script(llm, template, "<think>so", **form)[2]("</s>")
    assert script(llm, template, "<think>so</think>", **form)[2]("\n")
    assert script(llm, template, "<think>so</think>\n\n", **form)[2]("y")
    assert not script(llm, template, "<think>so</think>\n\n", **form)[2]("x")
    assert script(llm, template, "so</think>", prompt="<think>\n", **form)[2]("y")
    assert not script(llm, template, "", prompt="<think>\n\n</think>\n\n", **form)[2]("<think>")


def test_reasoning_keeps_to_its_budget(llm: LLM) -> None:
    with_template(llm, "{# <think></think> #}")
    for budget in (0, 1, 7):
        output = llm.chat(
            [USER], reasoning_budget=budget, max_tokens=60, seed=1, chat_template_kwargs={"opened": "<think>"}
        )
        assert "</think>" in llm.detokenize(output.token_ids)[: 6 * (budget + 3)]
        assert len(llm.tokenize(output.reasoning, add_bos=False)) <= 3 * (budget + 3)  # no character is cut
    held = llm.chat(
        [USER], reasoning_budget=4, response_format=["yes"], chat_template_kwargs={"opened": "<think>"}, max_tokens=60,
        seed=1,
    )  # fmt: skip
    assert held.text == "yes"
    with pytest.raises(InvalidArgumentError, match="needs a chat"):
        llm.generate("x", reasoning_budget=4)


@pytest.mark.parametrize("budget", [0, 3])
def test_a_budget_may_end_with_the_closing_mark_itself(llm: LLM, budget: int) -> None:
    with_template(llm, "{# [THINK][/THINK] #}")
    options = {"reasoning_budget": budget, "chat_template_kwargs": {"opened": "[THINK]"}, "max_tokens": 60, "seed": 1}
    held = llm.chat([USER], response_format=["yes"], **options)
    assert (held.text, held.finish_reason) == ("yes", "stop")
    assert llm.detokenize(held.token_ids).count("[/THINK]") == 1


def test_harmony_answers_keep_their_channels(llm: LLM) -> None:
    with_template(llm, "{# <|channel|> #}")
    output = llm.chat([USER], response_format=["yes"], max_tokens=40, reasoning_budget=0, seed=1)
    assert output.text == "yes"


def test_tools_and_a_form_leave_both_open(llm: LLM) -> None:
    template = "{{ tools }}<tool_call>"
    from halfbyte.chat.tools import tools_from

    options = {
        "tools": tools_from(TOOLS),
        "response_format": {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]},
    }
    assert script(llm, template, "", **options)[2]("<tool_call>")
    assert script(llm, template, "", **options)[2]("{")
    assert not script(llm, template, "", **options)[2]("x")
    with pytest.raises(InvalidArgumentError, match="response_format too"):
        script(llm, template, "", tool_choice="required", **options)


def test_schemas_that_cannot_be_kept_only_matter_when_forced(llm: LLM) -> None:
    with_template(llm, "")
    odd = {"name": "odd", "parameters": {"type": "object", "properties": {"x": {"not": {}}}}}
    assert llm.chat([USER], tools=[odd], max_tokens=4).usage.completion_tokens <= 4
    with pytest.raises(UnsupportedError, match="schema of odd cannot be used, at #/properties/x"):
        llm.chat([USER], tools=[odd], tool_choice="required", max_tokens=4)


def test_bad_tools_are_named(llm: LLM) -> None:
    for tools, message in (
        ([{"type": "web"}], r"tools\[0\].type"),
        ([{"function": {}}], r"tools\[0\].function needs a name"),
        ([{"name": 'a"b'}], "letters, digits"),
        ([{"name": "a", "parameters": {"type": "array"}}], "parameters.type"),
        ([{"name": "a"}, {"name": "a"}], "Two tools"),
        ([lambda x: x], "no usable name"),
        ([3], "a function or a dictionary"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            llm.chat([USER], tools=tools)


@pytest.mark.parametrize(
    ("wanted", "n"),
    [
        (re.compile("^((a{1000}){1000}){1000}$"), 10**9),
        (re.compile("(?:x(ab{3,900000}c)|y)+"), 900_000),
        ({"type": "string", "pattern": "^(\\(a{600}){400}$"}, 240_000),
        (Grammar('start: ("a"{1000}){300,}'), 300_000),
    ],
)
def test_expressions_that_repeat_for_ever_are_refused(wanted: Any, n: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"repeats a part {n} times"):
        constraint_of(wanted)


def test_expressions_that_repeat_often_are_taken() -> None:
    for wanted in (
        re.compile("(a{1000}){150}b{1000}"),
        {"type": "string", "minLength": 10**6},
        re.compile(r"\({3}[)(]{2}"),
    ):
        assert constraint_of(wanted) is not None
