"""Calls written as Python: [f(x=1), g(y="two")], with or without the brackets."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming, NotACallError, mapped
from halfbyte.chat.tools import lark
from halfbyte.chat.tools.base import Wanted
from halfbyte.chat.tools.calls import Calls
from halfbyte.chat.tools.declare import Tool
from halfbyte.chat.tools.json_calls import WORDS, begin, read_call, read_value

_NAME = re.compile(r"[\w.:/-]+")
_WORD = re.compile(r"\w+")
_MAX_NAME = 256
# What Gemini's own examples put before a tool's name.
_PREFIXES = ("default_api.", "functions.", "tools.")


def read_listed_calls(source: Incoming, calls: Calls) -> Generator[Delta | None, None, None]:
    """Reads a call, or a bracketed list of calls: each f(x=1), or an object that names a tool and its arguments."""
    yield from source.skip_space()
    in_list = yield from source.accept("[")
    while True:
        yield from source.skip_space()
        read = read_call if (yield from source.peek()) == "{" else read_python_call
        yield from read(source, calls)
        if not in_list:
            return
        yield from source.skip_space()
        if (yield from source.expect(",", "]")) == "]":
            return
        source.pin()


def read_python_call(source: Incoming, calls: Calls) -> Generator[Delta | None, None, None]:
    """Reads one call and gives its arguments as JSON; arguments without a name are those the schema lists first."""
    yield from source.skip_space()
    name = yield from source.take_while(_NAME, _MAX_NAME)
    is_printed = name == "print"
    if is_printed:
        yield from source.expect("(")
        name = yield from source.take_while(_NAME, _MAX_NAME)
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix) if name not in calls.tools else name
    if name not in calls.tools:
        raise NotACallError
    yield from source.expect("(")
    yield from begin(source, calls, name)
    yield from _read_arguments(source, calls, list(calls.tools[name].parameters["properties"]))
    if is_printed:
        yield from source.skip_space()
        yield from source.expect(")")


def _read_arguments(source: Incoming, calls: Calls, names: list[str]) -> Generator[Delta | None, None, None]:
    yield calls.fragment("{")
    n_read = 0
    while True:
        yield from source.skip_space()
        if (yield from source.accept(")")):
            break
        if n_read:
            yield from source.expect(",")
            yield from source.skip_space()
            if (yield from source.accept(")")):
                break
            yield calls.fragment(", ")
        yield from _read_argument(source, calls, names[n_read] if n_read < len(names) else None)
        n_read += 1
    yield calls.fragment("}")


def _read_argument(source: Incoming, calls: Calls, name_by_place: str | None) -> Generator[Delta | None, None, None]:
    """Reads name=value, or a value alone, which is then called name_by_place."""
    first = yield from source.peek()
    word = (yield from source.take_while(_WORD, _MAX_NAME)) if first.isalpha() or first == "_" else ""
    yield from source.skip_space()
    has_name = bool(word) and (yield from source.accept("="))
    key = word if has_name else name_by_place
    if key is None:
        raise NotACallError
    yield calls.fragment(json.dumps(key, ensure_ascii=False) + ": ")
    if has_name or not word:
        yield from mapped(read_value(source), calls.fragment)
    elif word in WORDS:
        yield calls.fragment(WORDS[word])
    else:
        raise NotACallError


def python_call(name: str, arguments: Any) -> str:
    """A call, its arguments by name."""
    given = arguments if isinstance(arguments, dict) else {}
    inside = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items())
    return f"{name}({inside})"


def python_call_grammar(wanted: Wanted) -> str:
    """Lark of one call of any of the tools; the values are JSON, which is Python but for true, false and null."""
    return lark.one_of([_call(tool) for tool in wanted.tools])


def _call(tool: Tool) -> str:
    properties, required = tool.parameters["properties"], set(tool.parameters.get("required", ()))
    shared = lark.shared(tool.parameters)
    # Optional ones come last, as in Python: then every argument but the first can bring its comma along.
    names = sorted(properties, key=lambda name: name not in required)
    values = [f"{lark.text(n + '=')} {lark.schema(lark.with_shared(properties[n], shared))}" for n in names]
    rest = [
        f'", " {value}' if name in required else f'(", " {value})?' for name, value in zip(names, values, strict=True)
    ]
    if not names:
        inside = ""
    elif required:
        inside = " ".join([values[0], *rest[1:]])
    else:
        starts = [" ".join([value, *rest[i + 1 :]]) for i, value in enumerate(values)]
        inside = f"({lark.one_of(starts)})?"
    return f"{lark.text(tool.name + '(')} {inside} {lark.text(')')}"
