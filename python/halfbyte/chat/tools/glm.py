"""GLM 4.5 and later, Ling 3, Laguna, Spark 2.5: the name, then a pair of tags for each argument's key and value."""

from __future__ import annotations

from halfbyte.chat.tools.base import Dialect
from halfbyte.chat.tools.tagged_parameters import TaggedParameters


class Glm(TaggedParameters):
    """<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>, each on a line (4.5, 4.6)."""

    name = "glm"
    markers = ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    openers = triggers = ("<tool_call>",)
    call = ("<tool_call>NAME\n", "</tool_call>")
    argument = ("<arg_key>KEY</arg_key>\n<arg_value>", "</arg_value>\n")
    name_marks = ("", "")
    key_marks = ("<arg_key>", "</arg_key>")
    value_marks = ("<arg_value>",)
    value_end = "</arg_value>"
    call_end = "</tool_call>"

    def detects(self, template: str) -> bool:
        return "<arg_key>" in template


class NewGlm(Glm):
    """All on one line (4.7)."""

    name = "glm-4.7"
    call = ("<tool_call>NAME", "</tool_call>")
    argument = ("<arg_key>KEY</arg_key><arg_value>", "</arg_value>")
    between = ""

    def detects(self, template: str) -> bool:
        return "</arg_key><arg_value>" in template


DIALECT: Dialect = Glm()
NEW_DIALECT: Dialect = NewGlm()
