"""Granite 3: <|tool_call|> and a JSON list that nothing closes. (Granite 4 writes as Hermes does.)"""

from __future__ import annotations

from halfbyte.chat.tools.base import Dialect, Wanted
from halfbyte.chat.tools.phi4 import Phi4


class Granite(Phi4):
    """<|tool_call|>[{"name": ..., "arguments": {...}}]"""

    name = "granite"
    openers = ("<|tool_call|>", "<tool_call>")

    def detects(self, template: str) -> bool:
        return "<|start_of_role|>" in template and "<|tool_call|>" in template

    def grammar(self, wanted: Wanted) -> str:
        return self.list_grammar(wanted, self.marked("<|tool_call|>", wanted), "")


DIALECT: Dialect = Granite()
