"""Gemma 2 and 3, whose templates know no tools: Python calls in a ```tool_code block, as Google's own examples ask."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from typing import Any

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming
from halfbyte.chat.tools import lark
from halfbyte.chat.tools.base import Dialect, Wanted
from halfbyte.chat.tools.calls import Calls
from halfbyte.chat.tools.declare import Tool
from halfbyte.chat.tools.pythonic import python_call, python_call_grammar, read_listed_calls

_FENCE = "```"


class Gemma(Dialect):
    """```tool_code, one Python call a line, ```; JSON in the fences is understood too."""

    name = "gemma"
    openers = ("```tool_code", "```tool_call", "```tool_calls", "```function_call", "```function_calls")
    # Templates of others ask for a bare Python list.
    first_openers = ("[",)
    triggers = ("```tool_code",)

    def detects(self, template: str) -> bool:
        return "<start_of_turn>" in template

    def read(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        if opener in self.first_openers:
            source.skip(-1)
            yield from read_listed_calls(source, calls)
            return
        while True:
            yield from source.skip_space()
            first = yield from source.peek()
            if not first or (yield from source.accept(_FENCE)):
                return
            yield from read_listed_calls(source, calls)
            source.pin()

    def grammar(self, wanted: Wanted) -> str:
        more = ' ("\\n" call)*' if wanted.parallel else ""
        return lark.rules(f'"```tool_code\\n" call{more} "\\n```"', call=python_call_grammar(wanted))

    def instructions(self, tools: Sequence[Tool]) -> str:
        listed = "\n\n".join(_described(tool) for tool in tools)
        return (
            f"You may call these Python functions:\n```python\n{listed}\n```\n"
            "To call them, write each call on a line of its own, arguments by name, like this:\n"
            '```tool_code\nfunction_name(argument="value")\n```\n'
            "The result then comes in a ```tool_output block. Answer in plain text when no function is needed."
        )

    def call_text(self, name: str, arguments: Any) -> str:
        return f"```tool_code\n{python_call(name, arguments)}\n```"

    def result_text(self, name: str, content: str) -> str:
        return f"```tool_output\n{content}\n```"


def _described(tool: Tool) -> str:
    required = tool.parameters.get("required", ())
    parameters = ", ".join(
        f"{name}: {_type_name(schema)}" + ("" if name in required else " = ...")
        for name, schema in tool.parameters["properties"].items()
    )
    about = [tool.description] if tool.description else []
    for name, schema in tool.parameters["properties"].items():
        if isinstance(schema, dict) and schema.get("description"):
            about.append(f"{name}: {schema['description']}")
    body = "\n    ".join(about) or "..."
    return f'def {tool.name}({parameters}):\n    """{body}"""'


def _type_name(schema: Any) -> str:
    """A schema as a Python annotation; what has no short form is its JSON."""
    if not isinstance(schema, dict):
        return "Any"
    if "enum" in schema:
        return "Literal[" + ", ".join(json.dumps(v, ensure_ascii=False) for v in schema["enum"]) + "]"
    names = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None", "object": "dict"}
    kind = schema.get("type")
    if kind == "array":
        return f"list[{_type_name(schema.get('items', True))}]"
    if isinstance(kind, list):
        return " | ".join(names.get(str(k), "Any") for k in kind)
    return names.get(str(kind), "Any")


DIALECT: Dialect = Gemma()
