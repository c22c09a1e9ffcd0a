"""MiniMax-M2, DeepSeek V3.2 and V4, MiniCPM 5: <invoke name="..."> or its like, an argument's name in its tag."""

from __future__ import annotations

from typing import ClassVar

from halfbyte.chat.tools.base import Dialect
from halfbyte.chat.tools.tagged_parameters import TaggedParameters


class InvokeXml(TaggedParameters):
    """<minimax:tool_call><invoke name="f"><parameter name="key">value</parameter></invoke></minimax:tool_call>"""

    name = "minimax"
    markers: ClassVar[tuple[str, ...]] = ("<minimax:tool_call>", "</minimax:tool_call>")
    openers = triggers = ("<minimax:tool_call>",)
    block = ("<minimax:tool_call>\n", "</minimax:tool_call>")
    call = ('<invoke name="NAME">\n', "</invoke>\n")
    between = ""
    argument = ('<parameter name="KEY">', "</parameter>\n")
    name_marks = ('<invoke name="', '">')
    key_marks = ('<parameter name="', '">')
    value_end, call_end = "</parameter>", "</invoke>"
    closers: ClassVar[tuple[str, ...]] = ("</minimax:tool_call>",)

    def detects(self, template: str) -> bool:
        return "<minimax:tool_call>" in template


class Dsml(InvokeXml):
    """The same with a mark in every tag, and whether a value is text or JSON."""

    name = "dsml"
    markers = ("｜DSML｜",)
    openers = triggers = ("<｜DSML｜function_calls>",)
    block = ("<｜DSML｜function_calls>\n", "</｜DSML｜function_calls>")
    call = ('<｜DSML｜invoke name="NAME">\n', "</｜DSML｜invoke>\n")
    argument = ('<｜DSML｜parameter name="KEY" string="KIND">', "</｜DSML｜parameter>\n")
    name_marks = ('<｜DSML｜invoke name="', '">')
    key_marks = ('<｜DSML｜parameter name="', '"')
    value_marks = ('string="true">', 'string="false">', ">")
    value_end, call_end = "</｜DSML｜parameter>", "</｜DSML｜invoke>"
    closers = ("</｜DSML｜function_calls>",)

    def detects(self, template: str) -> bool:
        return "DSML｜" in template and "function_calls" in template


class NewDsml(Dsml):
    """The same under another name (V4)."""

    name = "dsml-v4"
    openers = triggers = ("<｜DSML｜tool_calls>",)
    block = ("<｜DSML｜tool_calls>\n", "</｜DSML｜tool_calls>")
    closers = ("</｜DSML｜tool_calls>",)

    def detects(self, template: str) -> bool:
        return "DSML｜" in template and "function_calls" not in template


class MiniCpm(InvokeXml):
    """<function name="f"><param name="key">value</param></function>"""

    name = "minicpm"
    markers = ()
    openers = triggers = ('<function name="',)
    block = ("", "")
    call = ('<function name="NAME">', "</function>")
    between = "\n"
    argument = ('<param name="KEY">', "</param>")
    name_marks = ('<function name="', '">')
    key_marks = ('<param name="', '">')
    value_end, call_end = "</param>", "</function>"
    closers = ()

    def detects(self, template: str) -> bool:
        return '<function name="' in template and '<param name="' in template


DIALECT: Dialect = InvokeXml()
DSML: Dialect = Dsml()
NEW_DSML: Dialect = NewDsml()
MINICPM: Dialect = MiniCpm()
