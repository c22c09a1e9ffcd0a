"""Calls written as JSON: an incremental reader of values, and of {"name": ..., "arguments": {...}} objects and lists."""

from __future__ import annotations

import json
import re
from collections.abc import Generator

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming, NotACallError, Waiting, collected, mapped
from halfbyte.chat.tools.calls import Calls

_PLAIN = re.compile(r"[^\"'\\\x00-\x1f]+")
_HEX = re.compile(r"[0-9a-fA-F]")
_SCALAR = re.compile(r"[-+.0-9A-Za-z]+")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_MAX_DEPTH = 100
_MAX_NUMBER = 400
_MAX_NAME = 256

_NAME_KEYS = ("name", "function", "tool", "tool_name")
_ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")


def read_value(source: Incoming, depth: int = 0) -> Generator[str | None, None, None]:
    """Reads one JSON value and yields its text in fragments that together are valid JSON.

    Raises NotACallError at the first character that cannot be. What models slip into is put right: bare control
    characters in strings, Python's quotes, tuples, True, False and None.
    """
    yield from source.skip_space()
    first = yield from source.peek()
    if first in ('"', "'"):
        yield from read_string(source)
    elif first in ("{", "[", "("):
        if depth >= _MAX_DEPTH:
            raise NotACallError
        source.skip()
        yield "{" if first == "{" else "["
        yield from _read_items(source, first, depth)
    else:
        word = yield from source.take_while(_SCALAR, _MAX_NUMBER)
        if word not in WORDS and not _NUMBER.fullmatch(word):
            raise NotACallError
        yield WORDS.get(word, word)


def _read_items(source: Incoming, opener: str, depth: int) -> Generator[str | None, None, None]:
    closer, end = {"{": ("}", "}"), "[": ("]", "]"), "(": (")", "]")}[opener]
    yield from source.skip_space()
    if (yield from source.accept(closer)):
        yield end
        return
    while True:
        if opener == "{":
            yield from source.skip_space()
            yield from read_string(source)
            yield from source.skip_space()
            yield from source.expect(":")
            yield ": "
        yield from read_value(source, depth + 1)
        yield from source.skip_space()
        if (yield from source.expect(",", closer)) == ",":
            yield from source.skip_space()
            if not (yield from source.accept(closer)):
                yield ", "
                continue
        yield end
        return


def read_string(source: Incoming) -> Generator[str | None, None, None]:
    """Reads one string, in double or (Python's) single quotes, as JSON with quotes and escapes."""
    quote = yield from source.expect('"', "'")
    yield '"'
    while (yield from source.wait()):
        plain = source.run(_PLAIN)
        if plain:
            yield plain
            continue
        character = yield from source.peek()
        source.skip()
        if character == quote:
            yield '"'
            return
        if character == "\\":
            yield from _read_escape(source)
        else:
            yield "'" if character == "'" else json.dumps(character)[1:-1]
    raise NotACallError


def _read_escape(source: Incoming) -> Generator[str | None, None, None]:
    kind = yield from source.peek()
    source.skip()
    if kind in ("u", "x"):
        digits = ""
        for _ in range(4 if kind == "u" else 2):
            digit = yield from source.peek()
            if not _HEX.fullmatch(digit):
                raise NotACallError
            source.skip()
            digits += digit
        yield "\\u" + digits.rjust(4, "0")
    elif kind == "'":
        yield kind
    elif kind and kind in '"\\/bfnrt':
        yield "\\" + kind
    else:
        raise NotACallError


def read_name(source: Incoming) -> Waiting[str]:
    """Reads a JSON string that is the name of something, and decodes it."""
    text = ""
    for piece in read_string(source):
        if piece is None:
            yield None
        else:
            text += piece
            if len(text) > _MAX_NAME:
                raise NotACallError
    return str(json.loads(text))


def read_call(source: Incoming, calls: Calls) -> Generator[Delta | None, None, None]:
    """Reads one object that names a tool and its arguments. The arguments stream once the name is known.

    Raises NotACallError when it is no object, or names no known tool; before that nothing was yielded for it.
    """
    has_begun = yield from _read_call_object(source, calls, may_nest=True)
    if not has_begun:
        raise NotACallError


def _read_call_object(source: Incoming, calls: Calls, *, may_nest: bool) -> Generator[Delta | None, None, bool]:
    yield from source.skip_space()
    yield from source.expect("{")
    name: str | None = None
    held = "{}"
    has_begun = False
    while True:
        yield from source.skip_space()
        if not has_begun and (yield from source.accept("}")):
            break
        key = yield from read_name(source)
        yield from source.skip_space()
        yield from source.expect(":")
        yield from source.skip_space()
        first = yield from source.peek()
        if key == "function" and first == "{" and name is None and may_nest:
            has_begun = yield from _read_call_object(source, calls, may_nest=False)
        elif key in _NAME_KEYS and first in ('"', "'") and name is None:
            name = yield from read_name(source)
            if name not in calls.tools:
                raise NotACallError
        elif key in _ARGUMENT_KEYS and first == "{" and name is not None and not has_begun:
            has_begun = True
            yield from begin(source, calls, name)
            yield from mapped(read_value(source), calls.fragment)
        elif key in _ARGUMENT_KEYS and not has_begun:
            held = as_object((yield from collected(read_value(source))))
        else:
            yield from collected(read_value(source))
        yield from source.skip_space()
        if (yield from source.expect(",", "}")) == "}":
            break
    if name is not None and not has_begun:
        has_begun = True
        yield from begin(source, calls, name)
        yield calls.fragment(held)
    return has_begun


def begin(source: Incoming, calls: Calls, name: str) -> Generator[Delta | None, None, None]:
    """The first piece of a call; from here on nothing goes back to content."""
    source.unpin()
    yield calls.begin(name)


def read_arguments(source: Incoming, calls: Calls, name: str) -> Generator[Delta | None, None, None]:
    """A call whose name has been read: the JSON object that follows is its arguments."""
    yield from source.skip_space()
    if (yield from source.peek()) != "{":
        raise NotACallError
    yield from begin(source, calls, name)
    yield from mapped(read_value(source), calls.fragment)


def as_object(text: str) -> str:
    """The JSON of an object given as itself, or as a string that holds it; null is the empty one."""
    value = json.loads(text)
    if isinstance(value, str):
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            raise NotACallError from None
        value, text = inner, value
    if value is None:
        return "{}"
    if not isinstance(value, dict):
        raise NotACallError
    return text


def read_calls(source: Incoming, calls: Calls) -> Generator[Delta | None, None, None]:
    """Reads one call object, or a list of them."""
    yield from source.skip_space()
    if not (yield from source.accept("[")):
        yield from read_call(source, calls)
        return
    while True:
        yield from read_call(source, calls)
        yield from source.skip_space()
        if (yield from source.expect(",", "]")) == "]":
            return
        source.pin()
