"""Kimi K2: calls between special tokens, functions.name:0 and the JSON of the arguments apart."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming, NotACallError
from halfbyte.chat.tools import lark
from halfbyte.chat.tools.base import Dialect, Wanted
from halfbyte.chat.tools.calls import Calls
from halfbyte.chat.tools.json_calls import read_arguments

_ID = re.compile(r"[\w.:/ -]+")
_MAX_ID = 256
_CALLS, _CALLS_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _ARGUMENTS, _CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"


class Kimi(Dialect):
    """<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{...}<|tool_call_end|>"""

    name = "kimi"
    markers = (_CALLS, _CALLS_END, _CALL, _ARGUMENTS, _CALL_END)
    openers = (_CALLS, _CALL)
    triggers = (_CALLS,)

    def detects(self, template: str) -> bool:
        return _CALL in template

    def read(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        if opener == _CALL:
            source.skip(-len(_CALL))
        while True:
            yield from source.skip_space()
            if (yield from source.accept(_CALLS_END)) or not (yield from source.peek()):
                return
            yield from source.expect(_CALL)
            identity = (yield from source.take_while(_ID, _MAX_ID)).strip()
            name = identity.rpartition(":")[0].removeprefix("functions.") or identity
            yield from source.expect(_ARGUMENTS)
            if name not in calls.tools:
                raise NotACallError
            yield from read_arguments(source, calls, name)
            yield from source.skip_space()
            yield from source.accept(_CALL_END)
            source.pin()

    def grammar(self, wanted: Wanted) -> str:
        alternatives = [
            f"{self.marked(f'{_CALL}functions.{tool.name}:', wanted)} /[0-9]{{1,3}}/ {self.marked(_ARGUMENTS, wanted)}"
            f" {lark.schema(tool.parameters)} {self.marked(_CALL_END, wanted)}"
            for tool in wanted.tools
        ]
        calls = "call+" if wanted.parallel else "call"
        return lark.rules(
            f"{self.marked(_CALLS, wanted)} {calls} {self.marked(_CALLS_END, wanted)}", call=lark.one_of(alternatives)
        )

    def call_text(self, name: str, arguments: Any) -> str:
        written = json.dumps(arguments, ensure_ascii=False)
        return f"{_CALLS}{_CALL}functions.{name}:0{_ARGUMENTS}{written}{_CALL_END}{_CALLS_END}"


DIALECT: Dialect = Kimi()
