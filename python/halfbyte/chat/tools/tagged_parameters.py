"""Calls written as tags, one around each argument: what Qwen3-Coder, GLM, MiniMax and others have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable
from typing import Any, ClassVar

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming, NotACallError, collected
from halfbyte.chat.tools import lark
from halfbyte.chat.tools.base import Dialect, Wanted
from halfbyte.chat.tools.calls import Calls
from halfbyte.chat.tools.declare import Tool
from halfbyte.chat.tools.json_calls import begin

_NAME = re.compile(r"[^<>\"\n]+")
_MAX_NAME = 256


class TaggedParameters(Dialect):
    """A dialect is how its texts are spelled: as they are written, and the parts by which they are read.

    NAME, KEY and KIND stand for the tool, the argument, and whether its value is text ("true") or JSON ("false").
    """

    #: Around all calls, around one, around an argument's value, and between two calls.
    block: ClassVar[tuple[str, str]] = ("", "")
    call: ClassVar[tuple[str, str]]
    argument: ClassVar[tuple[str, str]]
    between: ClassVar[str] = "\n"
    #: What comes before and after a call's name and an argument's, what may begin a value, and what ends it.
    name_marks: ClassVar[tuple[str, str]]
    key_marks: ClassVar[tuple[str, str]]
    value_marks: ClassVar[tuple[str, ...]] = ("",)
    value_end: ClassVar[str]
    call_end: ClassVar[str]
    #: What may be left after a call.
    closers: ClassVar[tuple[str, ...]] = ()

    # Reading ------------------------------------------------------------------------------------------------------

    def read(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        before, after = self.name_marks
        if opener == before:
            source.skip(-len(before))
        while True:
            yield from source.skip_space()
            yield from source.expect(before)
            name = (yield from source.take_while(_NAME, _MAX_NAME)).strip()
            yield from source.expect(after)
            if name not in calls.tools:
                raise NotACallError
            yield from begin(source, calls, name)
            yield from self._read_arguments(source, calls, calls.tools[name].parameters["properties"])
            yield from source.skip_space()
            for closer in self.closers:
                if (yield from source.accept(closer)):
                    return
            if not before or opener == before or not (yield from source.starts_with(before)):
                return
            source.pin()

    def _read_arguments(
        self, source: Incoming, calls: Calls, schemas: dict[str, Any]
    ) -> Generator[Delta | None, None, None]:
        yield calls.fragment("{")
        n_read = 0
        while True:
            yield from source.skip_space()
            if not (yield from source.accept(self.key_marks[0])):
                yield calls.fragment("}")
                yield from source.accept(self.call_end)
                return
            key = yield from source.take_while(_NAME, _MAX_NAME)
            yield from source.expect(self.key_marks[1])
            if self.value_marks != ("",):
                yield from source.skip_space()
            yield from source.expect(*self.value_marks)
            text = yield from collected(source.until((self.value_end, self.call_end)))
            text = text.removeprefix("\n").removesuffix("\n")
            comma = ", " if n_read else ""
            yield calls.fragment(f"{comma}{json.dumps(key, ensure_ascii=False)}: {_value(text, schemas.get(key))}")
            n_read += 1

    # Grammars -----------------------------------------------------------------------------------------------------

    def grammar(self, wanted: Wanted) -> str:
        call = lark.one_of([self._call_grammar(tool, wanted) for tool in wanted.tools])
        calls = f"call ({lark.text(self.between)} call)*" if wanted.parallel else "call"
        opener, closer = (self.marked(text, wanted) if text else "" for text in self.block)
        texts = {
            _text_rule(s): s for tool in wanted.tools for s in tool.parameters["properties"].values() if _is_text(s)
        }
        return lark.rules(f"{opener} {calls} {closer}", call=call) + "".join(
            f"{rule}[suffix={lark.text(self.argument[1])}]: /(.|\\n){_length(schema)}/\n"
            for rule, schema in texts.items()
        )

    def _call_grammar(self, tool: Tool, wanted: Wanted) -> str:
        required = tool.parameters.get("required", ())
        shared = lark.shared(tool.parameters)
        parts = [self.marked(self.call[0].replace("NAME", tool.name), wanted)]
        for name, schema in tool.parameters["properties"].items():
            value = f"{self.marked(self._argument(name, _is_text(schema)), wanted)} {self._value(schema, shared)}"
            parts.append(value if name in required else f"({value})?")
        return " ".join([*parts, self.marked(self.call[1], wanted)])

    def _argument(self, name: str, is_text: bool) -> str:
        return self.argument[0].replace("KEY", name).replace("KIND", "true" if is_text else "false")

    def _value(self, schema: Any, shared: dict[str, Any]) -> str:
        end = lark.text(self.argument[1])
        if _is_text(schema) and "enum" in schema:
            return f"{lark.one_of([lark.text(str(v)) for v in schema['enum']])} {end}"
        if _is_text(schema):
            return _text_rule(schema)
        return f"{lark.schema(lark.with_shared(schema, shared))} {end}"

    # Words --------------------------------------------------------------------------------------------------------

    def call_text(self, name: str, arguments: Any) -> str:
        given: Iterable[tuple[str, Any]] = arguments.items() if isinstance(arguments, dict) else ()
        inside = "".join(
            self._argument(key, isinstance(v, str))
            + (v if isinstance(v, str) else json.dumps(v, ensure_ascii=False))
            + self.argument[1]
            for key, v in given
        )
        return self.block[0] + self.call[0].replace("NAME", name) + inside + self.call[1] + self.block[1]


def _is_text(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "string"


def _text_rule(schema: dict[str, Any]) -> str:
    return "text" + _length(schema).translate(_AS_NAME)


_AS_NAME = str.maketrans({"{": "_", ",": "_", "}": None, "*": None})


def _length(schema: dict[str, Any]) -> str:
    """The repetition of a regular expression that keeps to a string's length."""
    least, most = schema.get("minLength"), schema.get("maxLength")
    if not isinstance(least, int) and not isinstance(most, int):
        return "*"
    return f"{{{least or 0},{'' if most is None else most}}}"


def _value(text: str, schema: Any) -> str:
    """The JSON of an argument that was written as text: by its schema a string, or else JSON if it is some."""
    if not _is_text(schema):
        try:
            json.loads(text)
            return text.strip()
        except (ValueError, RecursionError):
            if text.strip() in ("True", "False", "None"):
                return {"True": "true", "False": "false", "None": "null"}[text.strip()]
    return json.dumps(text, ensure_ascii=False)
