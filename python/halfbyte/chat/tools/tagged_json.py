"""Calls as JSON between two tags: Nemotron, Apriel, MiniMax-M1, Command R7B and A, GigaChat, Functionary."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any, ClassVar

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming, NotACallError
from halfbyte.chat.tools import lark
from halfbyte.chat.tools.base import Dialect, Wanted, json_call
from halfbyte.chat.tools.calls import Calls
from halfbyte.chat.tools.json_calls import read_arguments, read_calls

_NAME = re.compile(r"[\w.:/-]+")
_MAX_NAME = 256


class TaggedJson(Dialect):
    """Opener, a list of {"name": ..., "arguments": {...}} (or one object after another), closer."""

    opener: ClassVar[str]
    closer: ClassVar[str] = ""
    #: Around a call's arguments.
    call: ClassVar[tuple[str, str]] = ('{"name": "NAME", "arguments": ', "}")

    def detects(self, template: str) -> bool:
        return self.opener in template

    def read(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        while True:
            yield from read_calls(source, calls)
            yield from source.skip_space()
            if (yield from source.accept(self.closer)) or (yield from source.peek()) != "{":
                return
            source.pin()

    def grammar(self, wanted: Wanted) -> str:
        more = ' (", " call)*' if wanted.parallel else ""
        opener, closer = (self.marked(text, wanted) for text in (self.opener, self.closer))
        return lark.rules(f'{opener} "[" call{more} "]" {closer}', call=self.any_call(wanted, *self.call))

    def call_text(self, name: str, arguments: Any) -> str:
        return f"{self.opener}[{json_call(name, arguments)}]{self.closer}"


class Nemotron(TaggedJson):
    """<TOOLCALL>[...]</TOOLCALL>"""

    name = "nemotron"
    opener, closer = "<TOOLCALL>", "</TOOLCALL>"
    markers = (opener, closer)
    openers = triggers = (opener,)


class ToolCalls(TaggedJson):
    """<tool_calls>[...]</tool_calls>: Apriel, and MiniMax-M1 without the brackets."""

    name = "tool-calls"
    opener, closer = "<tool_calls>", "</tool_calls>"
    markers = (opener, closer)
    openers = triggers = (opener,)


class Command(TaggedJson):
    """<|START_ACTION|>[{"tool_call_id": "0", "tool_name": ..., "parameters": {...}}]<|END_ACTION|>"""

    name = "command"
    opener, closer = "<|START_ACTION|>", "<|END_ACTION|>"
    markers = (opener, closer)
    openers = triggers = (opener,)

    def grammar(self, wanted: Wanted) -> str:
        call = self.any_call(wanted, '", "tool_name": "NAME", "parameters": ', "}")
        more = ' (",\\n    " call)*' if wanted.parallel else ""
        opener, closer = (self.marked(text, wanted) for text in (self.opener, self.closer))
        first = lark.text('{"tool_call_id": "')
        return lark.rules(f'{opener} "[\\n    " call{more} "\\n]" {closer}', call=f"{first} /[0-9]{{1,3}}/ {call}")

    def call_text(self, name: str, arguments: Any) -> str:
        call = {"tool_call_id": "0", "tool_name": name, "parameters": arguments}
        return f"{self.opener}[\n    {json.dumps(call, ensure_ascii=False)}\n]{self.closer}"


class GigaChat(TaggedJson):
    """<|function_call|>{...}, one call to an answer."""

    name = "gigachat"
    opener = "<|function_call|>"
    markers = (opener,)
    openers = triggers = (opener,)

    def grammar(self, wanted: Wanted) -> str:
        return lark.rules(f"{self.marked(self.opener, wanted)} call", call=self.any_call(wanted, *self.call))

    def call_text(self, name: str, arguments: Any) -> str:
        return f"{self.opener}{json_call(name, arguments)}"


class Functionary(Dialect):
    """<function=name>{...}</function>: Functionary 3.1, and Llama 3.1 where it is asked to."""

    name = "functionary"
    markers = ()
    openers = triggers = ("<function=",)

    def detects(self, template: str) -> bool:
        return "<function=" in template

    def read(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        name = yield from source.take_while(_NAME, _MAX_NAME)
        yield from source.expect(">")
        if name not in calls.tools:
            raise NotACallError
        yield from read_arguments(source, calls, name)
        yield from source.skip_space()
        yield from source.accept("</function>")

    def grammar(self, wanted: Wanted) -> str:
        call = self.any_call(wanted, "<function=NAME>", "</function>")
        return lark.rules("call+" if wanted.parallel else "call", call=call)

    def call_text(self, name: str, arguments: Any) -> str:
        return f"<function={name}>{json.dumps(arguments, ensure_ascii=False)}</function>"


NEMOTRON: Dialect = Nemotron()
TOOL_CALLS: Dialect = ToolCalls()
COMMAND: Dialect = Command()
GIGACHAT: Dialect = GigaChat()
FUNCTIONARY: Dialect = Functionary()
