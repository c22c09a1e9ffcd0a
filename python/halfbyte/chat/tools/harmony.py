"""gpt-oss: the whole answer is messages in channels; analysis is reasoning, final is content, calls name a recipient."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Generator
from typing import Any

from halfbyte.chat.delta import Delta
from halfbyte.chat.incoming import Incoming, NotACallError, collected, mapped
from halfbyte.chat.tools import lark
from halfbyte.chat.tools.base import Dialect, Wanted
from halfbyte.chat.tools.calls import Calls
from halfbyte.chat.tools.json_calls import begin, read_value
from halfbyte.grammar import Reasoning

_START, _CHANNEL, _CONSTRAIN, _MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_RECIPIENT = re.compile(r"to=(?:functions\.)?([\w./:-]+)")


class Harmony(Dialect):
    """<|channel|>commentary to=functions.name <|constrain|>json<|message|>{...}<|call|>"""

    name = "harmony"
    triggers = (f"{_CHANNEL}commentary to=",)
    markers = (_START, _CHANNEL, _CONSTRAIN, _MESSAGE, *_ENDS)

    def detects(self, template: str) -> bool:
        return _CHANNEL in template

    def parse(self, source: Incoming, calls: Calls, reasoning: Reasoning) -> Generator[Delta | None, None, None]:
        if reasoning.is_open:
            yield from self._text(source, is_reasoning=True)
        while (yield from source.wait()):
            source.pin()
            yield from source.skip_space()
            if not (yield from self._has_header(source)):
                text = source.since_pin()
                if text:
                    yield Delta(content=text)
                yield from self._text(source, is_reasoning=False)
                continue
            header = yield from collected(source.until((_MESSAGE, *_ENDS)))
            source.unpin()
            recipient = _RECIPIENT.search(header)
            if recipient and recipient.group(1) in calls.tools:
                yield from self._call(source, calls, recipient.group(1))
            else:
                yield from self._text(source, is_reasoning="analysis" in header)

    def _has_header(self, source: Incoming) -> Generator[None, None, bool]:
        """Whether a message's header comes next: the prompt has written its beginning, so it may start inside."""
        for opening in (_START, _CHANNEL, "to="):
            if (yield from source.starts_with(opening)):
                return True
        return False

    def _text(self, source: Incoming, *, is_reasoning: bool) -> Generator[Delta | None, None, None]:
        make = (lambda text: Delta(reasoning=text)) if is_reasoning else (lambda text: Delta(content=text))
        stop = yield from mapped(source.until((*_ENDS, _START, _CHANNEL)), make)
        if stop in (_START, _CHANNEL):
            source.skip(-len(stop))

    def _call(self, source: Incoming, calls: Calls, name: str) -> Generator[Delta | None, None, None]:
        yield from begin(source, calls, name)
        with contextlib.suppress(NotACallError):  # then what was said so far stands
            yield from mapped(read_value(source), calls.fragment)
        yield from collected(source.until(_ENDS))

    def grammar(self, wanted: Wanted) -> str:
        # The prompt ends in <|start|>assistant; after reasoning the model writes that itself.
        opening = f"({self.marked(_START + 'assistant', wanted)})?"
        before = f"{_CHANNEL}commentary to=functions.NAME {_CONSTRAIN}json{_MESSAGE}"
        return lark.rules(f"{opening} call", call=self.any_call(wanted, before, ""))

    def answer(self, wanted: Wanted) -> str:
        start = self.marked(f"{_START}assistant", wanted)
        return f"({start})? {self.marked(f'{_CHANNEL}final{_MESSAGE}', wanted)} @answer"

    def call_text(self, name: str, arguments: Any) -> str:
        header = f"{_CHANNEL}commentary to=functions.{name} {_CONSTRAIN}json{_MESSAGE}"
        return header + json.dumps(arguments, ensure_ascii=False)


DIALECT: Dialect = Harmony()
