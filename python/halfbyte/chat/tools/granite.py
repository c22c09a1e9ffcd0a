"""Granite 3: <|tool_call|> and a JSON list that nothing closes. (Granite 4 writes as Hermes does.)"""

from __future__ import annotations

from typing import Any

from halfbyte.chat.tools.base import Dialect, Wanted, json_call
from halfbyte.chat.tools.phi4 import Phi4


class Granite(Phi4):
    """<|tool_call|>[{"name": ..., "arguments": {...}}]"""

    name = "granite"
    openers = ("<|tool_call|>", "<tool_call>")

    def detects(self, template: str) -> bool:
        return "<|start_of_role|>" in template and "<|tool_call|>" in template

    def grammar(self, wanted: Wanted) -> str:
        return self.list_grammar(wanted, self.marked("<|tool_call|>", wanted), "")

    def call_text(self, name: str, arguments: Any) -> str:
        return f"<|tool_call|>[{json_call(name, arguments)}]"


DIALECT: Dialect = Granite()
