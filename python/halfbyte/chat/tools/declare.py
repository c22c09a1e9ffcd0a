"""Tools as callers declare them: OpenAI's dictionaries, JSON schemas, or plain Python functions."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from halfbyte.errors import InvalidArgumentError
from halfbyte.grammar.schema import closed, schema_of

# What OpenAI allows, and the dots, slashes and colons that MCP servers put between their name and the tool's.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]{0,127}")


@dataclass(frozen=True)
class Tool:
    """A function that a model may call. parameters: JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]
    function: Callable[..., Any] | None = None

    def to_openai(self) -> dict[str, Any]:
        """The dictionary that chat templates expect."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


def tools_from(declared: Sequence[Any] | None) -> list[Tool]:
    """Tools from OpenAI dictionaries ({"type": "function", "function": {...}} or the function alone) or functions.

    Raises InvalidArgumentError that names the tool and the field.
    """
    tools = [_tool(one, f"tools[{i}]") for i, one in enumerate(declared or ())]
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise InvalidArgumentError(f'Two tools are called "{name}".')
    return tools


def _tool(declared: Any, where: str) -> Tool:
    if isinstance(declared, Tool):
        return declared
    if callable(declared):
        return _from_function(declared, where)
    if not isinstance(declared, Mapping):
        raise InvalidArgumentError(f"{where} is {type(declared).__name__}; a function or a dictionary was expected.")
    kind = declared.get("type", "function")
    if kind != "function":
        raise InvalidArgumentError(f'{where}.type is "{kind}"; only "function" is known.')
    function = declared.get("function", declared)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidArgumentError(f"{where}.function needs a name.")
    name = function["name"]
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"{where}.function.name is {name[:64]!r}; up to 128 letters, digits and _ - . : / were expected."
        )
    parameters = function.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise InvalidArgumentError(f"{where}.function.parameters is no JSON schema.")
    kind = parameters.get("type", "object")
    if kind != "object":
        raise InvalidArgumentError(f'{where}.function.parameters.type is {json.dumps(kind)}; "object" was expected.')
    schema = {"type": "object", "properties": {}, **parameters}
    return Tool(name, str(function.get("description") or ""), closed(schema))


def _from_function(function: Callable[..., Any], where: str) -> Tool:
    name = getattr(function, "__name__", "")
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(f"{where} has no usable name ({name!r}); give a function with a name.")
    try:
        signature = inspect.signature(function)
        hints = get_type_hints(function, include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise InvalidArgumentError(f"{where} ({name}) cannot be described: {error}") from error
    described, about = _docstring(inspect.getdoc(function) or "")
    properties, required = {}, []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InvalidArgumentError(f"{where} ({name}) takes *{parameter.name}; name its parameters.")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise InvalidArgumentError(f"{where} ({name}): {parameter.name} is positional only; calls go by name.")
        entry = schema_of(hints.get(parameter.name, Any), f"{where} ({name}), parameter {parameter.name}")
        if parameter.name in about:
            entry = {"description": about[parameter.name], **entry}
        properties[parameter.name] = entry
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    definitions: dict[str, Any] = {}
    for entry in properties.values():
        definitions |= entry.pop("$defs", {})
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    if definitions:
        schema["$defs"] = definitions
    return Tool(name, described, closed(schema), function)


_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Example|Examples):\s*$")
_ABOUT = re.compile(r"^\s*(?::param\s+)?(?:\w+\s+)?(\w+)(?:\s*\([^)]*\))?\s*:\s*(\S.*)$")


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """What a docstring says about the function, and about each parameter (Google's style, or :param name: ...)."""
    described: list[str] = []
    about: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        heading = _SECTION.match(line.strip())
        if heading:
            section = heading.group(1)
            continue
        match = _ABOUT.match(line)
        if match and (section in ("Args", "Arguments", "Parameters") or line.strip().startswith(":param")):
            about[match.group(1)] = match.group(2).strip()
        elif not section and not line.strip().startswith(":"):
            described.append(line)
    return "\n".join(described).strip(), about
