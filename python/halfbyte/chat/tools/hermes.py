"""Qwen 2.5 and 3, Hermes and their kin: <tool_call> tags around one JSON object each."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming
from halfbyte.chat.tools import lark
from halfbyte.chat.tools.base import Dialect, Wanted, json_call
from halfbyte.chat.tools.calls import Calls
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

    def call_text(self, name: str, arguments: Any) -> str:
        return f"<tool_call>\n{json_call(name, arguments)}\n</tool_call>"


DIALECT: Dialect = Hermes()
