"""Qwen 2.5 and 3, Hermes and their kin: <tool_call> tags around one JSON object each."""

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
from halfbyte.chat.tools.json_calls import read_calls


class Hermes(Dialect):
    """<tool_call>{"name": ..., "arguments": {...}}</tool_call>"""

    name = "hermes"
    markers = ("<tool_call>", "</tool_call>")
    openers = triggers = ("<tool_call>",)

    def detects(self, template: str) -> bool:
        return "<tool_call>" in template

    def read(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        yield from read_calls(source, calls)
        yield from source.skip_space()
        yield from source.accept("</tool_call>")

    def grammar(self, wanted: Wanted) -> str:
        call = self.any_call(wanted, '<tool_call>\n{"name": "NAME", "arguments": ', "}\n</tool_call>")
        return lark.rules('call ("\\n" call)*' if wanted.parallel else "call", call=call)

    def instructions(self, tools: Sequence[Tool]) -> str:
        listed = "\n".join(json.dumps(tool.to_openai(), ensure_ascii=False) for tool in tools)
        return (
            f"You may call these functions, given as JSON schemas:\n<tools>\n{listed}\n</tools>\n"
            "To call a function, answer with its name and arguments as JSON, like this:\n"
            '<tool_call>\n{"name": "function-name", "arguments": {"key": "value"}}\n</tool_call>\n'
            "Its result then comes in <tool_response> tags. Answer in plain text when no function is needed."
        )

    def call_text(self, name: str, arguments: Any) -> str:
        call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
        return f"<tool_call>\n{call}\n</tool_call>"

    def result_text(self, name: str, content: str) -> str:
        return f"<tool_response>\n{content}\n</tool_response>"


DIALECT: Dialect = Hermes()
