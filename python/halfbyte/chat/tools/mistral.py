"""Mistral: [TOOL_CALLS] and a JSON list with ids (to Small 3.1), or name[ARGS]{...} (since Small 3.2 and Magistral)."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming, NotACallError
from halfbyte.chat.tools import lark
from halfbyte.chat.tools.base import Dialect, Wanted, json_call
from halfbyte.chat.tools.calls import Calls
from halfbyte.chat.tools.json_calls import read_arguments, read_calls

_NAME = re.compile(r"[\w.:/-]+")
_MAX_NAME = 256


class Mistral(Dialect):
    """[TOOL_CALLS] [{"name": ..., "arguments": {...}, "id": ...}]"""

    name = "mistral"
    markers = ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")
    openers = triggers = ("[TOOL_CALLS]",)

    def detects(self, template: str) -> bool:
        return "[TOOL_CALLS]" in template and "[ARGS]" not in template

    def read(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        yield from source.skip_space()
        if (yield from source.peek()) in ("[", "{"):
            yield from read_calls(source, calls)
            return
        name = yield from source.take_while(_NAME, _MAX_NAME)
        if name not in calls.tools:
            raise NotACallError
        if (yield from source.accept("[CALL_ID]")):
            yield from source.take_while(_NAME, _MAX_NAME)
        yield from source.accept("[ARGS]")
        yield from read_arguments(source, calls, name)

    def grammar(self, wanted: Wanted) -> str:
        call = self.any_call(wanted, '{"name": "NAME", "arguments": ', "}")
        more = ' (", " call)*' if wanted.parallel else ""
        return lark.rules(f'{self.marked("[TOOL_CALLS]", wanted)} "[" call{more} "]"', call=call)

    def call_text(self, name: str, arguments: Any) -> str:
        return f"[TOOL_CALLS] [{json_call(name, arguments)}]"


class NewMistral(Mistral):
    """[TOOL_CALLS]name[ARGS]{...}, once more for each call."""

    name = "mistral-args"

    def detects(self, template: str) -> bool:
        return "[TOOL_CALLS]" in template and "[ARGS]" in template

    def grammar(self, wanted: Wanted) -> str:
        call = self.any_call(wanted, "[TOOL_CALLS]NAME[ARGS]", "")
        return lark.rules("call+" if wanted.parallel else "call", call=call)

    def call_text(self, name: str, arguments: Any) -> str:
        return f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments, ensure_ascii=False)}"


DIALECT: Dialect = Mistral()
NEW_DIALECT: Dialect = NewMistral()
