"""From an answer's text to what a chat API tells: content, reasoning and tool calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Delta:
    """A piece of an assistant's message."""

    content: str = ""


class PlainParser:
    """All text is content."""

    def feed(self, text: str) -> list[Delta]:
        """What new text adds."""
        return [Delta(content=text)] if text else []

    def finish(self) -> list[Delta]:
        """What was held back."""
        return []
