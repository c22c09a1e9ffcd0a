"""Qwen3-Coder, Qwen 3.5, Nemotron 3 and Seed-OSS: <function=name> with a <parameter=...> tag for each argument."""

from __future__ import annotations

from halfbyte.chat.tools.base import Dialect
from halfbyte.chat.tools.tagged_parameters import TaggedParameters


class FunctionXml(TaggedParameters):
    """<tool_call><function=name><parameter=key>value</parameter></function></tool_call>"""

    name = "function-xml"
    markers = ("<tool_call>", "</tool_call>", "<seed:tool_call>", "</seed:tool_call>")
    openers = ("<tool_call>", "<seed:tool_call>", "<function=")
    triggers = ("<tool_call>",)
    call = ("<tool_call>\n<function=NAME>\n", "</function>\n</tool_call>")
    argument = ("<parameter=KEY>\n", "\n</parameter>\n")
    name_marks = ("<function=", ">")
    key_marks = ("<parameter=", ">")
    value_end, call_end = "</parameter>", "</function>"
    closers = ("</tool_call>", "</seed:tool_call>")

    def detects(self, template: str) -> bool:
        return "<function=" in template and "<parameter=" in template


class SeedXml(FunctionXml):
    """The same between <seed:tool_call> tags."""

    name = "seed-xml"
    triggers = ("<seed:tool_call>",)
    call = ("<seed:tool_call>\n<function=NAME>\n", "</function>\n</seed:tool_call>")

    def detects(self, template: str) -> bool:
        return "<seed:tool_call>" in template


DIALECT: Dialect = FunctionXml()
SEED: Dialect = SeedXml()
