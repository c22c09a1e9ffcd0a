"""The calls of one answer while it is read."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable

from halfbyte.chat.delta import Delta
from halfbyte.chat.tools.declare import Tool
from halfbyte.outputs import ToolCallDelta

# Nine letters and digits: the one form that Mistral's templates accept, and that all others take as well.
ID_LENGTH = 9
ID_ALPHABET = string.ascii_letters + string.digits


class Calls:
    """Numbers the calls of one answer and knows which tools may be called."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.n_begun = 0

    def begin(self, name: str) -> Delta:
        """The first piece of the next call."""
        self.n_begun += 1
        new_id = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))
        return Delta(tool_call=ToolCallDelta(self.n_begun - 1, new_id, name))

    def fragment(self, text: str) -> Delta:
        """More of the arguments of the call begun last."""
        return Delta(tool_call=ToolCallDelta(self.n_begun - 1, arguments_fragment=text))
