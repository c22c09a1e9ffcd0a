"""Turns a stream of bytes into text without ever splitting a character."""

from __future__ import annotations

import codecs


class TextStream:
    """Feeds bytes, gives text. Incomplete characters wait; bytes that are no UTF-8 become U+FFFD."""

    def __init__(self, *, strip_first_space: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = strip_first_space

    def feed(self, data: bytes) -> str:
        """Text that is complete with these bytes."""
        return self._stripped(self._decoder.decode(data))

    def flush(self) -> str:
        """What an unfinished character at the end leaves (U+FFFD), or nothing."""
        return self._stripped(self._decoder.decode(b"", final=True))

    def _stripped(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text
