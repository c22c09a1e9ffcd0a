"""Qwen3-Coder and Seed-OSS: <function=name> with a <parameter=...> tag for each argument."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming, NotACallError, collected
from halfbyte.chat.tools import lark
from halfbyte.chat.tools.base import Dialect, Wanted
from halfbyte.chat.tools.calls import Calls
from halfbyte.chat.tools.declare import Tool
from halfbyte.chat.tools.json_calls import begin

_NAME = re.compile(r"[^<>\n]+")
_MAX_NAME = 256


class FunctionXml(Dialect):
    """<tool_call><function=name><parameter=key>value</parameter></function></tool_call>"""

    name = "function-xml"
    markers = ("<tool_call>", "</tool_call>", "<seed:tool_call>", "</seed:tool_call>")
    openers = ("<tool_call>", "<seed:tool_call>", "<function=")
    triggers = ("<tool_call>",)
    _tag = "tool_call"

    def detects(self, template: str) -> bool:
        return "<function=" in template and "<parameter=" in template

    def read(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        if opener != "<function=":
            yield from source.skip_space()
            yield from source.expect("<function=")
        name = yield from source.take_while(_NAME, _MAX_NAME)
        yield from source.expect(">")
        if name not in calls.tools:
            raise NotACallError
        yield from begin(source, calls, name)
        yield from self._read_parameters(source, calls, calls.tools[name].parameters["properties"])
        yield from source.skip_space()
        if not (yield from source.accept("</tool_call>")):
            yield from source.accept("</seed:tool_call>")

    def _read_parameters(
        self, source: Incoming, calls: Calls, schemas: dict[str, Any]
    ) -> Generator[Delta | None, None, None]:
        yield calls.fragment("{")
        n_read = 0
        while True:
            yield from source.skip_space()
            if not (yield from source.accept("<parameter=")):
                yield calls.fragment("}")
                yield from source.accept("</function>")
                return
            key = yield from source.take_while(_NAME, _MAX_NAME)
            yield from source.expect(">")
            text = yield from collected(source.until(("</parameter>", "</function>")))
            text = text.removeprefix("\n").removesuffix("\n")
            comma = ", " if n_read else ""
            yield calls.fragment(f"{comma}{json.dumps(key, ensure_ascii=False)}: {_value(text, schemas.get(key))}")
            n_read += 1

    def grammar(self, wanted: Wanted) -> str:
        call = lark.one_of([self._call_grammar(tool, wanted) for tool in wanted.tools])
        calls = 'call ("\\n" call)*' if wanted.parallel else "call"
        texts = {
            _text_rule(s): s for tool in wanted.tools for s in tool.parameters["properties"].values() if _is_text(s)
        }
        return lark.rules(calls, call=call) + "".join(
            f"{rule}[suffix={lark.text(_CLOSE)}]: /(.|\\n){_length(schema)}/\n" for rule, schema in texts.items()
        )

    def _call_grammar(self, tool: Tool, wanted: Wanted) -> str:
        opener, closer = (self.marked(f"<{s}{self._tag}>", wanted) for s in ("", "/"))
        required = tool.parameters.get("required", ())
        shared = lark.shared(tool.parameters)
        parts = [opener, lark.text(f"\n<function={tool.name}>\n")]
        for name, schema in tool.parameters["properties"].items():
            value = f"{lark.text(f'<parameter={name}>' + chr(10))} {_value_grammar(schema, shared)}"
            parts.append(value if name in required else f"({value})?")
        return " ".join([*parts, lark.text("</function>\n"), closer])

    def call_text(self, name: str, arguments: Any) -> str:
        given = arguments if isinstance(arguments, dict) else {}
        texts = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in given.items()}
        parameters = "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in texts.items())
        return f"<{self._tag}>\n<function={name}>\n{parameters}</function>\n</{self._tag}>"


_CLOSE = "\n</parameter>\n"


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
    """The JSON of a parameter that was written as text: by its schema a string, or else JSON if it is some."""
    if not _is_text(schema):
        try:
            json.loads(text)
            return text.strip()
        except (ValueError, RecursionError):
            if text.strip() in ("True", "False", "None"):
                return {"True": "true", "False": "false", "None": "null"}[text.strip()]
    return json.dumps(text, ensure_ascii=False)


def _value_grammar(schema: Any, shared: dict[str, Any]) -> str:
    if _is_text(schema) and "enum" in schema:
        return f"{lark.one_of([lark.text(str(v)) for v in schema['enum']])} {lark.text(_CLOSE)}"
    if _is_text(schema):
        return _text_rule(schema)
    return f"{lark.schema(lark.with_shared(schema, shared))} {lark.text(_CLOSE)}"


class SeedXml(FunctionXml):
    """The same between <seed:tool_call> tags."""

    name = "seed-xml"
    triggers = ("<seed:tool_call>",)
    _tag = "seed:tool_call"

    def detects(self, template: str) -> bool:
        return "<seed:tool_call>" in template


DIALECT: Dialect = FunctionXml()
SEED: Dialect = SeedXml()
