"""Llama 3.1 and later: a bare JSON object (or <|python_tag|> before it); Llama 4 and some 3.2 templates: a Python list."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming, NotACallError
from halfbyte.chat.tools import lark
from halfbyte.chat.tools.base import Dialect, Wanted, json_call
from halfbyte.chat.tools.calls import Calls
from halfbyte.chat.tools.json_calls import read_call
from halfbyte.chat.tools.pythonic import read_listed_calls


class Llama3(Dialect):
    """{"name": ..., "parameters": {...}}, alone or several with a semicolon between."""

    name = "llama3"
    markers = ("<|python_tag|>",)
    openers = triggers = ("<|python_tag|>",)
    first_openers = ("{", "[")
    first_triggers = ('{"name": "',)

    def detects(self, template: str) -> bool:
        return (
            "<|python_tag|>" in template
            or "Environment: ipython" in template
            or ("<|start_header_id|>" in template and "tools" in template.lower())
        )

    def read(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        if opener in self.first_openers:
            source.skip(-1)
        yield from source.skip_space()
        if (yield from source.peek()) != "{":
            yield from read_listed_calls(source, calls)
            return
        while True:
            yield from read_call(source, calls)
            source.pin()
            yield from source.skip_space()
            has_more = (yield from source.accept(";")) or (yield from source.accept(","))
            yield from source.skip_space()
            if (yield from source.peek()) != "{":
                if has_more:
                    raise NotACallError
                return

    def grammar(self, wanted: Wanted) -> str:
        opener = f"({self.marked('<|python_tag|>', wanted)})? "
        call = self.any_call(wanted, '{"name": "NAME", "parameters": ', "}")
        return lark.rules(opener + ('call ("; " call)*' if wanted.parallel else "call"), call=call)

    def call_text(self, name: str, arguments: Any) -> str:
        return json_call(name, arguments, "parameters")


DIALECT: Dialect = Llama3()
