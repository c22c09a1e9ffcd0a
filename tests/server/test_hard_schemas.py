"""Constraints meant to hang or crash a server: each is a 400 that names its field, or is kept to; others go on meanwhile."""

from __future__ import annotations

import concurrent.futures
import json
from typing import Any

import pytest

from .conftest import Live

HI: list[Any] = [{"role": "user", "content": "hi"}]


def nested(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def pattern(text: str) -> Any:
    return {"type": "string", "pattern": text}


LOOP = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
DOUBLING = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(60)} | {"d60": {"type": "object"}}

# Refused, with what the message must name.
REFUSED: dict[str, tuple[Any, str]] = {
    "deep": (nested(400), "#"),
    "wide": ({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(20_000)}}, "schema"),
    "a fault in a wide one": ({"properties": {f"p{i}": {} for i in range(2000)} | {"bad": {"type": "no"}}}, "#"),
    "a large enum": ({"enum": [f"value {i}" for i in range(50_000)]}, "letters"),
    "a long value": ({"const": "x" * 600_000}, "letters"),
    "references in a circle": (LOOP, "constraint"),
    "a reference to itself": ({"$ref": "#"}, "constraint"),
    "a reference elsewhere": ({"$ref": "http://example.com/schema"}, "#"),
    "a reference that is none": ({"$ref": 5}, "#"),
    "an open group": (pattern("("), "unclosed"),
    "look-around": (pattern("^(?!a)b$"), "look"),
    "a back reference": (pattern(r"(a)\1"), "backreference"),
    "nothing to choose": ({"enum": []}, "#"),
    "no type": ({"type": []}, "#"),
    "a type that is none": ({"type": 5}, "#"),
    "negation": ({"not": {"type": "string"}}, "not"),
    "a format nobody knows": ({"type": "string", "format": "nothing"}, "format"),
    "tiny steps": ({"type": "number", "multipleOf": 1e-300}, "multipleOf"),
    "settings that are none": ({"x-guidance": 5}, "schema"),
}
# What is said of those that cost too much: the second is seen to only on the way.
COSTLY = {
    "repeats a part 1000000000 times": pattern("^((a{1000}){1000}){1000}$"),
    "No answer satisfies the constraint": pattern("^" + "(a{1000}){199}" * 20 + "$"),
}
# Kept to, as far as the answer goes.
KEPT: dict[str, Any] = {
    "recursive": {"$defs": {"a": {"properties": {"a": {"$ref": "#/$defs/a"}}}}, "$ref": "#/$defs/a"},
    "without an end": {"$defs": {"a": {"properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}}, "$ref": "#/$defs/a"},
    "doubling references": {"$defs": DOUBLING, "$ref": "#/$defs/d0"},
    "nested quantifiers": pattern("^(a+)+$"),
    "counted backwards": pattern("^.*a.{300}$"),
    "a billion items": {"type": "array", "minItems": 10**9, "items": {"type": "string"}},
    "a billion letters": {"type": "string", "minLength": 10**9},
    "huge numbers": {"type": "integer", "minimum": 1, "maximum": 10**300},
}  # fmt: skip


def ask(live: Live, schema: Any, **more: Any) -> Any:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = {"messages": HI, "max_tokens": 6, "response_format": wanted, **more}
    with live.http() as http:
        return http.post("/v1/chat/completions", content=json.dumps(body))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_to_is_named(live: Live, name: str) -> None:
    schema, named = REFUSED[name]
    answer = ask(live, schema)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == "response_format"
    assert named in error["message"]
    assert len(error["message"]) < 2000


@pytest.mark.parametrize("sentence", COSTLY)
def test_what_costs_too_much_ends_there(live: Live, sentence: str) -> None:
    answer = ask(live, COSTLY[sentence], max_tokens=500)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == "response_format"
    assert sentence in answer.json()["error"]["message"]
    with live.http() as http:
        answer = http.post("/v1/completions", json={"prompt": "x", "max_tokens": 500, "guided_json": COSTLY[sentence]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "guided_json")


@pytest.mark.parametrize("name", KEPT)
def test_what_is_endless_ends_with_max_tokens(live: Live, name: str) -> None:
    answer = ask(live, KEPT[name])
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] <= 6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guided_regex", "(" * 5000 + ")" * 5000),
        ("guided_regex", "|".join(f"w{i}" for i in range(100_000))),
        ("grammar", "root ::= root"),
        ("grammar", 'root ::= root "a"'),
        ("grammar", "root ::= foo"),
        ("grammar", "root ::= " + "(" * 3000 + '"a"' + ")" * 3000),
        ("grammar", "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(40)) + '\nr40 ::= "a"'),
        ("grammar", "start: start"),
        ("grammar", 'start: %json {"type":"nothing"}'),
        ("grammar", "\ud800"),
        ("guided_choice", ["y" * 600_000]),
        ("guided_choice", [f"choice {i}" for i in range(5000)]),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_expressions_and_grammars_that_cannot_be_used(live: Live, field: str, value: Any) -> None:
    with live.http() as http:
        body = json.dumps({"prompt": "x", "max_tokens": 6, field: value})
        answer = http.post("/v1/completions", content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field


def test_others_go_on_beside_hard_schemas(live: Live) -> None:
    hard = [COSTLY, REFUSED["deep"][0], KEPT["counted backwards"], REFUSED["wide"][0]]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        under_way = [pool.submit(ask, live, schema) for schema in hard]
        good = [ask(live, {"enum": ["yes"]}, max_tokens=20) for _ in range(4)]
        assert {answer.json()["choices"][0]["message"]["content"] for answer in good} == {'"yes"'}
        assert {one.result().status_code for one in under_way} <= {200, 400}
    live.llm.engine.check_integrity()
