"""Text that arrives in pieces, read as if it were whole.

Readers are generators: they yield what they found and yield None where they must wait for more text. How the text was cut
into pieces therefore cannot matter to them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

T = TypeVar("T")
D = TypeVar("D")
#: Finds nothing but its result; yields None while it waits.
Waiting = Generator[None, None, T]


class NotACallError(Exception):
    """What was read is no tool call after all; it goes out as content."""


class Incoming:
    """The text and how far it was read."""

    def __init__(self) -> None:
        self._text, self._at, self._has_ended = "", 0, False
        self._pin: int | None = None

    def add(self, text: str) -> None:
        """More text has arrived."""
        start = self._at if self._pin is None else self._pin
        self._text = self._text[start:] + text
        self._at -= start
        self._pin = None if self._pin is None else 0

    def end(self) -> None:
        """No more will come."""
        self._has_ended = True

    # What was read since pin() can be had back: an attempt that fails gives its text to content.
    def pin(self) -> None:
        """Remembers this place."""
        self._pin = self._at

    def unpin(self) -> None:
        """Forgets the place."""
        self._pin = None

    def rewind(self) -> None:
        """Goes back to the place of pin(), which is forgotten."""
        assert self._pin is not None
        self._at, self._pin = self._pin, None

    def since_pin(self) -> str:
        """The text read since pin(), which is forgotten; nothing when there is no pin."""
        text = "" if self._pin is None else self._text[self._pin : self._at]
        self._pin = None
        return text

    # Reading ------------------------------------------------------------------------------------------------------

    def wait(self) -> Waiting[bool]:
        """Waits for text after this place; False at the end."""
        while self._at >= len(self._text):
            if self._has_ended:
                return False
            yield None
        return True

    def _wait_for(self, n: int) -> Waiting[bool]:
        while len(self._text) - self._at < n:
            if self._has_ended:
                return False
            yield None
        return True

    def peek(self) -> Waiting[str]:
        """The next character, or "" at the end."""
        yield from self.wait()
        return self._text[self._at : self._at + 1]

    def skip(self, n: int = 1) -> None:
        """Steps over characters that were peeked at."""
        self._at += n

    def skip_space(self) -> Waiting[None]:
        """Steps over white space."""
        while (yield from self.wait()) and self._text[self._at].isspace():
            self._at += 1

    def starts_with(self, wanted: str) -> Waiting[bool]:
        """Whether `wanted` comes next; waits only while it still may."""
        while True:
            have = self._text[self._at : self._at + len(wanted)]
            if len(have) == len(wanted) or not wanted.startswith(have) or self._has_ended:
                return have == wanted
            yield None

    def accept(self, wanted: str) -> Waiting[bool]:
        """Steps over `wanted` if it comes next."""
        found = yield from self.starts_with(wanted)
        if found:
            self._at += len(wanted)
        return found

    def expect(self, *alternatives: str) -> Waiting[str]:
        """Steps over the first of the alternatives that comes next. Raises NotACallError when none does."""
        for wanted in alternatives:
            if (yield from self.accept(wanted)):
                return wanted
        raise NotACallError

    def take_while(self, pattern: re.Pattern[str], limit: int) -> Waiting[str]:
        """What comes next and matches the pattern, a run of characters. Raises NotACallError past the limit."""
        found = ""
        while (yield from self.wait()):
            match = pattern.match(self._text, self._at)
            run = match.group() if match else ""
            found += run
            self._at += len(run)
            if len(found) > limit:
                raise NotACallError
            if self._at < len(self._text):
                break
        return found

    def run(self, pattern: re.Pattern[str]) -> str:
        """What matches the pattern in the text that is here already; never waits."""
        match = pattern.match(self._text, self._at)
        found = match.group() if match else ""
        self._at += len(found)
        return found

    def until(
        self, markers: Sequence[str], *, keep_space: bool = True, pin: bool = False
    ) -> Generator[str | None, None, str | None]:
        """Yields text up to the first of the markers, steps over that one and returns it; None at the end.

        keep_space False holds the white space just before a marker back: it is dropped, or with pin True is where the
        pin is set. Text that may be a marker's beginning waits.
        """
        marker = re.compile("|".join(re.escape(m) for m in sorted(markers, key=len, reverse=True)) or r"(?!)")
        while True:
            found = marker.search(self._text, self._at)
            if found is not None and self._is_settled(found, markers):
                text = self._text[self._at : found.start()]
                text = text if keep_space else text.rstrip()
                if pin:
                    self._pin = self._at + len(text)
                self._at = found.end()
                if text:
                    yield text
                return found.group()
            stop = found.start() if found is not None else self._safe_end(markers)
            if markers and not keep_space:
                stop = self._at + len(self._text[self._at : stop].rstrip())
            if stop > self._at:
                text, self._at = self._text[self._at : stop], stop
                yield text
            if self._has_ended:
                if self._at < len(self._text):
                    text, self._at = self._text[self._at :], len(self._text)
                    yield text
                return None
            yield None

    def _is_settled(self, found: re.Match[str], markers: Sequence[str]) -> bool:
        """False while a longer marker that begins like the one found may still come."""
        rest = self._text[found.start() :]
        return self._has_ended or not any(len(m) > len(found.group()) and m.startswith(rest) for m in markers)

    def _safe_end(self, markers: Sequence[str]) -> int:
        """Where the text ends that cannot be the beginning of a marker."""
        longest = max((len(m) for m in markers), default=1) - 1
        for start in range(max(self._at, len(self._text) - longest), len(self._text)):
            if any(m.startswith(self._text[start:]) for m in markers):
                return start
        return len(self._text)


def mapped(reader: Generator[str | None, None, T], make: Callable[[str], D]) -> Generator[D | None, None, T]:
    """A reader whose findings are turned into something else."""
    try:
        found = next(reader)
        while True:
            yield None if found is None else make(found)
            found = next(reader)
    except StopIteration as stop:
        value: T = stop.value
        return value


def collected(reader: Generator[str | None, None, object]) -> Waiting[str]:
    """Everything that a reader finds, as one text."""
    found: list[str] = []
    for piece in reader:
        if piece is None:
            yield None
        else:
            found.append(piece)
    return "".join(found)
