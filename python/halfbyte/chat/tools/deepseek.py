"""DeepSeek V3, R1 and V3.1: calls between special tokens, the name and the JSON of the arguments apart."""

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

_NAME = re.compile(r"[\w.:/-]+")
_MAX_NAME = 256
_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END, _SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"


class DeepSeek(Dialect):
    """function<sep>name and the arguments in ```json fences (V3, R1)."""

    name = "deepseek"
    markers = (_CALLS, _CALLS_END, _CALL, _CALL_END, _SEPARATOR)
    openers = triggers = (_CALLS,)
    _before, _between, _after = f"{_CALL}function{_SEPARATOR}NAME\n```json\n", "\n", f"\n```{_CALL_END}"

    def detects(self, template: str) -> bool:
        return _CALLS in template

    def read(self, source: Incoming, calls: Calls, opener: str) -> Generator[Delta | None, None, None]:
        while True:
            yield from source.skip_space()
            if (yield from source.accept(_CALLS_END)) or not (yield from source.peek()):
                return
            yield from self._read_call(source, calls)
            source.pin()

    def _read_call(self, source: Incoming, calls: Calls) -> Generator[Delta | None, None, None]:
        yield from source.expect(_CALL)
        name = yield from source.take_while(_NAME, _MAX_NAME)
        yield from source.expect(_SEPARATOR)
        if name == "function" and name not in calls.tools:
            name = yield from source.take_while(_NAME, _MAX_NAME)
        if name not in calls.tools:
            raise NotACallError
        yield from source.skip_space()
        is_fenced = yield from source.accept("```json")
        yield from read_arguments(source, calls, name)
        yield from source.skip_space()
        if is_fenced:
            yield from source.accept("```")
        yield from source.accept(_CALL_END)

    def grammar(self, wanted: Wanted) -> str:
        call = self.any_call(wanted, self._before, self._after)
        more = f" ({lark.text(self._between)} call)*" if wanted.parallel else ""
        return lark.rules(f"{self.marked(_CALLS, wanted)} call{more} {self.marked(_CALLS_END, wanted)}", call=call)

    def call_text(self, name: str, arguments: Any) -> str:
        written = json.dumps(arguments, ensure_ascii=False)
        return _CALLS + self._before.replace("NAME", name) + written + self._after + _CALLS_END

    def result_text(self, name: str, content: str) -> str:
        return f"<｜tool▁output▁begin｜>{content}<｜tool▁output▁end｜>"


class NewDeepSeek(DeepSeek):
    """name<sep>{...} without fences (V3.1)."""

    name = "deepseek-v3.1"
    _before, _between, _after = f"{_CALL}NAME{_SEPARATOR}", "", _CALL_END

    def detects(self, template: str) -> bool:
        return _CALLS in template and "```json" not in template


DIALECT: Dialect = DeepSeek()
NEW_DIALECT: Dialect = NewDeepSeek()
