"""Phi-4-mini: <|tool_call|> (or the word functools) and a JSON list."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming
from halfbyte.chat.tools import lark
from halfbyte.chat.tools.base import Dialect, Wanted, json_call
from halfbyte.chat.tools.calls import Calls
from halfbyte.chat.tools.json_calls import read_calls


class Phi4(Dialect):
    """<|tool_call|>[{"name": ..., "arguments": {...}}]<|/tool_call|>"""

    name = "phi4"
    markers = ("<|tool_call|>", "<|/tool_call|>")
    openers = ("<|tool_call|>", "functools[")
    triggers = ("<|tool_call|>",)

    def detects(self, template: str) -> bool:
        return "<|tool_call|>" in template or "<|tool|>" in template or "functools[" in template

    def read(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        if opener.endswith("["):
            source.skip(-1)
        yield from read_calls(source, calls)
        yield from source.skip_space()
        yield from source.accept("<|/tool_call|>")

    def grammar(self, wanted: Wanted) -> str:
        return self.list_grammar(wanted, self.marked("<|tool_call|>", wanted), self.marked("<|/tool_call|>", wanted))

    def list_grammar(self, wanted: Wanted, opener: str, closer: str) -> str:
        """Lark rules of a JSON list of calls between two texts."""
        call = self.any_call(wanted, '{"name": "NAME", "arguments": ', "}")
        more = ' (", " call)*' if wanted.parallel else ""
        return lark.rules(f'{opener} "[" call{more} "]" {closer}', call=call)

    def call_text(self, name: str, arguments: Any) -> str:
        return f"<|tool_call|>[{json_call(name, arguments)}]<|/tool_call|>"


class Functools(Phi4):
    """functools[{"name": ..., "arguments": {...}}], as other templates for the same model ask."""

    name = "functools"
    triggers = ("functools[",)

    def detects(self, template: str) -> bool:
        return "functools[" in template

    def grammar(self, wanted: Wanted) -> str:
        return self.list_grammar(wanted, '"functools"', "")

    def call_text(self, name: str, arguments: Any) -> str:
        return f"functools[{json_call(name, arguments)}]"


DIALECT: Dialect = Phi4()
FUNCTOOLS: Dialect = Functools()
