"""Parser: an answer's text in, pieces of content, reasoning and tool calls out."""

from __future__ import annotations

from halfbyte.chat.delta import Delta, merged
from halfbyte.chat.incoming import Incoming
from halfbyte.chat.tools.base import Dialect
from halfbyte.chat.tools.calls import Calls
from halfbyte.chat.tools.declare import Tool
from halfbyte.grammar import Reasoning


class Parser:
    """Splits one answer as it streams. Any text is accepted; what is no valid call stays content."""

    def __init__(self, dialect: Dialect, tools: list[Tool], reasoning: Reasoning) -> None:
        self._source = Incoming()
        self._calls = Calls(tools)
        self._reader = dialect.parse(self._source, self._calls, reasoning)

    @property
    def n_calls(self) -> int:
        """How many calls have begun."""
        return self._calls.n_begun

    def feed(self, text: str) -> list[Delta]:
        """What is certain with this text; a tag that may have begun waits."""
        self._source.add(text)
        return self._news()

    def finish(self) -> list[Delta]:
        """What waited, now that no more text comes."""
        self._source.end()
        return self._news()

    def _news(self) -> list[Delta]:
        found = []
        for delta in self._reader:
            if delta is None:
                break
            found.append(delta)
        return merged(found)
