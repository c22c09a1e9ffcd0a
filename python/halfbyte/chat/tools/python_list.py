"""Calls as Python between two tags: LFM2 writes a list, Olmo 3 a call a line."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming
from halfbyte.chat.tools import lark
from halfbyte.chat.tools.base import Dialect, Wanted
from halfbyte.chat.tools.calls import Calls
from halfbyte.chat.tools.pythonic import python_call, python_call_grammar, read_listed_calls


class Lfm2(Dialect):
    """<|tool_call_start|>[f(x=1), g()]<|tool_call_end|>"""

    name = "lfm2"
    opener: ClassVar[str] = "<|tool_call_start|>["
    closer: ClassVar[str] = "]<|tool_call_end|>"
    between: ClassVar[str] = ", "
    markers = ("<|tool_call_start|>", "<|tool_call_end|>")
    openers = triggers = ("<|tool_call_start|>",)

    def detects(self, template: str) -> bool:
        return "<|tool_call_start|>" in template or "<|tool_list_start|>" in template

    def read(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        while True:
            yield from read_listed_calls(source, calls)
            yield from source.skip_space()
            if (yield from source.accept(self.closer.lstrip("]\n"))) or not (yield from source.peek()):
                return
            source.pin()

    def grammar(self, wanted: Wanted) -> str:
        more = f" ({lark.text(self.between)} call)*" if wanted.parallel else ""
        opener, closer = (self.marked(text, wanted) for text in (self.opener, self.closer))
        return lark.rules(f"{opener} call{more} {closer}", call=python_call_grammar(wanted))

    def call_text(self, name: str, arguments: Any) -> str:
        return f"{self.opener}{python_call(name, arguments)}{self.closer}"


class Olmo3(Lfm2):
    """<function_calls>, a call a line, </function_calls>"""

    name = "olmo3"
    opener, closer, between = "<function_calls>\n", "\n</function_calls>", "\n"
    markers = ("<function_calls>", "</function_calls>")
    openers = triggers = ("<function_calls>",)

    def detects(self, template: str) -> bool:
        return "<function_calls>" in template


DIALECT: Dialect = Lfm2()
OLMO3: Dialect = Olmo3()
