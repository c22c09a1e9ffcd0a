"""What a parser of answers gives: pieces of content, of reasoning and of tool calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from halfbyte.outputs import ToolCall, ToolCallDelta


@dataclass(frozen=True)
class Delta:
    """New text of one kind; exactly one field is set."""

    content: str | None = None
    reasoning: str | None = None
    tool_call: ToolCallDelta | None = None


@dataclass
class Message:
    """An answer in its parts."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)

    def add(self, deltas: Iterable[Delta]) -> None:
        """Appends what arrived."""
        for delta in deltas:
            self.content += delta.content or ""
            self.reasoning += delta.reasoning or ""
            call = delta.tool_call
            if call is None:
                continue
            if call.name is not None:
                self.tool_calls.append(ToolCall(call.id or "", call.name))
            self.tool_calls[call.index].arguments += call.arguments_fragment


def merged(deltas: Iterable[Delta]) -> list[Delta]:
    """The same news in fewer pieces: neighbours of one kind joined."""
    out: list[Delta] = []
    for delta in deltas:
        last = out[-1] if out else Delta()
        if delta.content and last.content:
            out[-1] = Delta(content=last.content + delta.content)
        elif delta.reasoning and last.reasoning:
            out[-1] = Delta(reasoning=last.reasoning + delta.reasoning)
        elif delta.tool_call and last.tool_call and delta.tool_call.name is None:
            first, more = last.tool_call, delta.tool_call.arguments_fragment
            out[-1] = Delta(tool_call=ToolCallDelta(first.index, first.id, first.name, first.arguments_fragment + more))
        else:
            out.append(delta)
    return out
