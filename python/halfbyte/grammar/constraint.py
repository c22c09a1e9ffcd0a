"""What an answer must look like, in every form in which callers say it: types, schemas, expressions, choices, grammars."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_origin

from halfbyte.errors import InvalidArgumentError, UnsupportedError
from halfbyte.grammar.matcher import limits, short
from halfbyte.grammar.schema import closed, is_pydantic, is_record, schema_of, value_of


@dataclass(frozen=True)
class Constraint:
    """entry: the grammar as llguidance's JSON names it, {"json_schema": ...} or {"lark_grammar": ...}.

    parse turns an answer that satisfies it into a value.
    """

    entry: Mapping[str, Any]
    parse: Callable[[str], Any] = str

    def grammar(self) -> str:
        """The grammar alone, for llguidance."""
        return json.dumps({"grammars": [dict(self.entry)]})

    def within(self, lark: str) -> str:
        """A grammar in Lark that calls this one @answer."""
        return json.dumps({"grammars": [{"name": "whole", "lark_grammar": lark}, {"name": "answer", **self.entry}]})


@dataclass(frozen=True)
class Grammar:
    """A grammar as text, GBNF (llama.cpp's notation) or llguidance's Lark; which one shows from the text."""

    text: str


def constraint_of(wanted: Any) -> Constraint | None:
    """A constraint from what callers give as response_format.

    A pydantic model, dataclass, TypedDict, Enum, or type such as list[int]; a JSON schema (dict), or OpenAI's
    {"type": "json_schema", "json_schema": {"schema": ...}}, {"type": "json_object"}, {"type": "text"}; "json"; a
    compiled regular expression; a list of strings to choose from; a Grammar. None (and "text") is no constraint.
    Raises InvalidArgumentError or UnsupportedError naming the part that cannot be used.
    """
    if wanted is None or wanted == "text" or isinstance(wanted, Constraint):
        return wanted if isinstance(wanted, Constraint) else None
    if wanted == "json":
        return json_schema_constraint(_ANY_OBJECT)
    if isinstance(wanted, Grammar):
        return grammar_constraint(wanted.text)
    if isinstance(wanted, re.Pattern):
        return regex_constraint(wanted.pattern)
    if isinstance(wanted, Mapping):
        return _from_mapping(wanted)
    if isinstance(wanted, (list, tuple)):
        return choice_constraint(wanted)
    if isinstance(wanted, type) or get_origin(wanted) is not None:
        return type_constraint(wanted)
    raise InvalidArgumentError(
        f"response_format is {type(wanted).__name__}.",
        hint="Give a type, a JSON schema, a compiled regular expression, a list of choices or a Grammar.",
    )


_ANY_OBJECT = {"type": "object"}


def _from_mapping(wanted: Mapping[str, Any]) -> Constraint | None:
    kind = wanted.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return json_schema_constraint(wanted.get("schema") or _ANY_OBJECT)
    if kind != "json_schema":
        return json_schema_constraint(dict(wanted))
    named = wanted.get("json_schema", wanted)  # chat's form nests the schema, that of /v1/responses does not
    if not isinstance(named, Mapping) or "schema" not in named:
        raise InvalidArgumentError("response_format.json_schema.schema is missing.")
    return json_schema_constraint(named["schema"])


def type_constraint(kind: Any) -> Constraint:
    """Answers are JSON of a Python type; parse gives a value of it."""
    if is_pydantic(kind):
        schema, parse = kind.model_json_schema(), kind.model_validate_json
    else:
        schema = schema_of(kind)
        parse = lambda text: value_of(kind, json.loads(text))  # noqa: E731
    # What JSON schema says beyond what a grammar can hold is checked when the value is made.
    schema = {"x-guidance": {"coerce_one_of": True}, **_without_unique_items(schema)}
    is_named = is_record(kind) or (isinstance(kind, type) and issubclass(kind, enum.Enum))
    return json_schema_constraint(schema, parse, name=kind.__name__ if is_named else "the type")


def _without_unique_items(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_unique_items(part) for part in schema]
    if isinstance(schema, dict):
        return {k: _without_unique_items(v) for k, v in schema.items() if not (k == "uniqueItems" and v is True)}
    return schema


def json_schema_constraint(
    schema: str | dict[str, Any] | bool, parse: Callable[[str], Any] = json.loads, name: str = "the schema"
) -> Constraint:
    """Answers are JSON of a schema. Objects that list properties have no others unless the schema says so.

    Raises UnsupportedError with a JSON pointer to the part that cannot be used.
    """
    if isinstance(schema, str):
        _require_small(schema, "The schema")
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise InvalidArgumentError(f"The schema is no JSON: {error}") from error
    try:
        document = closed(schema)
        if isinstance(document, dict):
            document = {**document, "x-guidance": {**_SPACING, **document.get("x-guidance", {})}}
        _require_small(json.dumps(document), "The schema")
        problem = schema_problem(document)
        if problem:
            pointer, reason = _blame(document, problem)
            raise UnsupportedError(f"{name[:1].upper()}{name[1:]} cannot be used, at {pointer}: {reason}")
    except (RecursionError, TypeError, ValueError) as error:
        raise InvalidArgumentError(f"The schema is no JSON schema: {error}") from error
    return Constraint({"json_schema": document}, parse)


# Room for indentation, but no endless blank: some models would not stop.
_SPACING = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}"}


def schema_problem(document: Any) -> str:
    """Why a schema cannot be used; nothing if it can."""
    from llguidance import LLMatcher

    if not isinstance(document, (dict, bool)):
        return "a schema is an object, true or false."
    return short(LLMatcher.validate_grammar(json.dumps({"grammars": [{"json_schema": document}]}), limits=limits()))


_SUBSCHEMAS = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
_SUBSCHEMA_LISTS = ("prefixItems", "anyOf", "oneOf", "allOf")
_SUBSCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")


# Letters of all the parts that are tried in search of the one at fault: enough for any schema that people write.
_BLAME_LENGTH = 1 << 20


def _blame(document: Any, problem: str) -> tuple[str, str]:
    """JSON pointer of the innermost part that has the problem by itself, and the problem; of large schemas, of as deep a
    part as was found in good time."""
    pointer, n_left = "#", _BLAME_LENGTH
    part = document if isinstance(document, dict) else {}
    shared = {key: part[key] for key in ("$defs", "definitions", "x-guidance") if key in part}
    while True:
        for step, inner in _parts(part):
            tried = {**shared, **inner}
            n_left -= len(json.dumps(tried))
            if n_left < 0:
                return pointer, problem
            found = schema_problem(tried)
            if found:
                pointer, part, problem = f"{pointer}/{step}", inner, found
                break
        else:
            return pointer, problem


def _parts(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The schemas in a schema, with the steps of a JSON pointer to them."""
    found: list[tuple[str, Any]] = [(key, schema.get(key)) for key in _SUBSCHEMAS]
    for key in _SUBSCHEMA_LISTS:
        if isinstance(schema.get(key), list):
            found += [(f"{key}/{i}", part) for i, part in enumerate(schema[key])]
    for key in _SUBSCHEMA_MAPS:
        if isinstance(schema.get(key), dict):
            steps = {str(name): str(name).replace("~", "~0").replace("/", "~1") for name in schema[key]}
            found += [(f"{key}/{steps[str(name)]}", part) for name, part in schema[key].items()]
    return [(step, part) for step, part in found if isinstance(part, dict)]


def regex_constraint(pattern: str) -> Constraint:
    """The whole answer matches a regular expression (Rust's syntax: no look-around, no back references)."""
    from llguidance import LLMatcher

    _require_small(pattern, "The regular expression")
    entry = json.loads(LLMatcher.grammar_from_regex(pattern))["grammars"][0]
    constraint = Constraint({"lark_grammar": entry["lark_grammar"]})
    _require_valid(constraint, "The regular expression")
    return constraint


def choice_constraint(choices: Sequence[str]) -> Constraint:
    """The answer is one of the choices."""
    if not choices or not all(isinstance(choice, str) and choice for choice in choices):
        raise InvalidArgumentError("The choices must be texts, at least one, and none empty.")
    listed = " | ".join(json.dumps(choice) for choice in dict.fromkeys(choices))
    _require_small(listed, "The list of choices")
    return Constraint({"lark_grammar": f"start: {listed}"})


_LARK = re.compile(r"(?m)^\s*(%llguidance\b|start\s*(\[[^\]]*\])?\s*:(?!:=))")


def grammar_constraint(text: str) -> Constraint:
    """The answer follows a grammar: Lark where it has a rule `start:` or says %llguidance, else GBNF."""
    _require_small(text, "The grammar")
    if not _LARK.search(text):
        from llguidance.gbnf_to_lark import gbnf_to_lark

        try:
            text = gbnf_to_lark(text)
        except Exception as error:  # the converter raises plain exceptions
            raise InvalidArgumentError(f"The grammar does not parse: {short(error)}") from error
    constraint = Constraint({"lark_grammar": text})
    _require_valid(constraint, "The grammar")
    return constraint


# Longer texts take seconds to compile.
_MOST_LETTERS = 1 << 19
# So does a text that more repetitions force.
_MOST_REPETITIONS = 200_000


def _require_small(text: str, what: str) -> None:
    if len(text) > _MOST_LETTERS:
        raise InvalidArgumentError(f"{what} is {len(text)} letters long; {_MOST_LETTERS} are allowed.")
    n = _repetitions(text)
    if n > _MOST_REPETITIONS:
        raise InvalidArgumentError(f"{what} repeats a part {n} times; {_MOST_REPETITIONS} are allowed.")


_REPEATED = re.compile(r"\\.|[()]|\{(\d{1,18})(?:,(\d{0,18}))?\}", re.DOTALL)


def _repetitions(text: str) -> int:
    """How often the counts of a regular expression, or of those in a grammar, repeat a part, counts of groups in groups
    multiplied."""
    groups, last, end = [1], 1, 0  # the most within each open group; within the one that was closed last, and where
    for found in _REPEATED.finditer(text):
        if found[0] == "(":
            groups.append(1)
        elif found[0] == ")":
            last, end = (groups.pop() if len(groups) > 1 else groups[0]), found.end()
            groups[-1] = max(groups[-1], last)
        elif found[1]:
            last = int(found[2] or found[1]) * (last if end == found.start() else 1)
            end = found.end()
            groups[-1] = max(groups[-1], last)
    return max(groups)


def _require_valid(constraint: Constraint, what: str) -> None:
    from llguidance import LLMatcher

    problem = LLMatcher.validate_grammar(constraint.grammar(), limits=limits())
    # A grammar may name tokens of a vocabulary that is not known yet; the matcher checks those.
    if problem and "special token" not in problem:
        raise InvalidArgumentError(f"{what} cannot be used: {short(problem)}")
