"""Tool calls: how each family of models writes them, read from a stream and held to the tools' schemas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from halfbyte.chat.delta import Delta, Message
from halfbyte.chat.reasoning import reasoning_of
from halfbyte.chat.tools import (
    deepseek,
    function_xml,
    gemma,
    generic,
    glm,
    granite,
    harmony,
    hermes,
    invoke_xml,
    kimi,
    lark,
    llama3,
    mistral,
    phi4,
    python_list,
    tagged_json,
)
from halfbyte.chat.tools.base import Dialect, Wanted
from halfbyte.chat.tools.declare import Tool, tools_from
from halfbyte.chat.tools.parser import Parser
from halfbyte.errors import InvalidArgumentError
from halfbyte.outputs import ToolCall, ToolCallDelta

#: Every dialect, in the order in which a template is tried against them: the more telling signs first.
DIALECTS: tuple[Dialect, ...] = (
    harmony.DIALECT,
    deepseek.NEW_DIALECT,
    deepseek.DIALECT,
    mistral.NEW_DIALECT,
    mistral.DIALECT,
    function_xml.SEED,
    function_xml.DIALECT,
    invoke_xml.DIALECT,
    invoke_xml.DSML,
    invoke_xml.NEW_DSML,
    invoke_xml.MINICPM,
    glm.NEW_DIALECT,
    glm.DIALECT,
    kimi.DIALECT,
    python_list.DIALECT,
    python_list.OLMO3,
    tagged_json.COMMAND,
    tagged_json.NEMOTRON,
    tagged_json.TOOL_CALLS,
    tagged_json.GIGACHAT,
    tagged_json.FUNCTIONARY,
    granite.DIALECT,
    phi4.FUNCTOOLS,
    phi4.DIALECT,
    hermes.DIALECT,
    llama3.DIALECT,
    gemma.DIALECT,
    generic.DIALECT,
)

#: "auto", "none", "required", the name of a tool, or OpenAI's {"type": "function", "function": {"name": ...}}.
ToolChoice = str | Mapping[str, Any]


def dialect_of(template: str) -> Dialect:
    """The dialect of models with this chat template."""
    return next(dialect for dialect in DIALECTS if dialect.detects(template))


def chosen_tools(tools: Sequence[Tool], choice: ToolChoice | None) -> tuple[list[Tool], bool]:
    """The tools that may be called under a choice, and whether one must be."""
    if choice is None or choice == "auto":
        return list(tools), False
    if choice == "none":
        return [], False
    if choice in ("required", "any"):
        name = None
    elif isinstance(choice, str):
        name = choice
    else:
        function = choice.get("function", choice)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str):
            raise InvalidArgumentError("tool_choice names no function.")
    found = [tool for tool in tools if name is None or tool.name == name]
    if not found:
        known = ", ".join(tool.name for tool in tools) or "none"
        wanted = "a call" if name is None else f'"{name[:64]}"'
        raise InvalidArgumentError(f"tool_choice wants {wanted}, but the tools are: {known}.")
    return found, True


def make_parser(
    template_text: str,
    tools: Sequence[Any] | None = None,
    tool_choice: ToolChoice | None = None,
    *,
    prompt: str = "",
) -> Parser:
    """A parser for one answer. template_text: the model's chat template. prompt: the text that is being answered."""
    allowed, _ = chosen_tools(tools_from(tools), tool_choice)
    return Parser(dialect_of(template_text), allowed, reasoning_of(template_text, prompt))


def make_grammar(
    template_text: str,
    tools: Sequence[Any] | None,
    tool_choice: ToolChoice | None = None,
    *,
    parallel: bool = True,
    token_id: lark.ControlTokenId = lambda piece: None,
) -> str | None:
    """Lark of the calls that the choice allows, or None when it allows none; its first rule is `start`.

    The same grammar serves "auto", where it begins once the model has written one of the dialect's triggers.
    token_id gives the id of a text that is a control token of the vocabulary.
    """
    allowed, _ = chosen_tools(tools_from(tools), tool_choice)
    if not allowed:
        return None
    rules = dialect_of(template_text).grammar(Wanted(allowed, parallel, token_id))
    return f"%llguidance {{}}\nstart: calls\n{rules}"


__all__ = [
    "DIALECTS",
    "Delta",
    "Dialect",
    "Message",
    "Parser",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolChoice",
    "chosen_tools",
    "dialect_of",
    "make_grammar",
    "make_parser",
    "tools_from",
]
