"""Runs a parsed Go template on data, in bounds: templates come from strangers."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from halfbyte.chat.budget import MAX_TEXT, Budget
from halfbyte.chat.gotemplate.parse import (
    Action,
    Branch,
    Call,
    Function,
    Jump,
    Literal,
    Node,
    Operand,
    Pipeline,
    Text,
    Tree,
)
from halfbyte.errors import TemplateError

_MAX_DEPTH = 60
# A function's text is at most so many times as long as its arguments: JSON writes a control character as six.
_GROWTH = 6


def run(tree: Tree, nodes: tuple[Node, ...], data: Any) -> str:
    """The text that nodes of a tree give. Raises TemplateError."""
    machine = _Machine(tree, data)
    try:
        machine.nodes(nodes, data, 0)
    except RecursionError:
        raise TemplateError("The Go template writes a value that nests too deep.") from None
    return "".join(machine.out)


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class _Machine:
    def __init__(self, tree: Tree, data: Any) -> None:
        self._tree = tree
        self._variables: list[tuple[str, Any]] = [("$", data)]
        self._budget = Budget()
        self._size = 0
        self.out: list[str] = []

    def nodes(self, nodes: tuple[Node, ...], dot: Any, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise TemplateError(f"The Go template nests more than {_MAX_DEPTH} deep.")
        for node in nodes:
            self._budget.spend()
            if isinstance(node, Text):
                self._write(node.text)
            elif isinstance(node, Action):
                value = self._pipeline(node.pipeline, dot)
                if not node.pipeline.names:
                    self._write(printed(value))
            elif isinstance(node, Branch):
                mark = len(self._variables)
                if node.kind == "range":
                    self._range(node, dot, depth)
                else:
                    value = self._pipeline(node.pipeline, dot)
                    inner = value if node.kind == "with" and truth(value) else dot
                    self.nodes(node.body if truth(value) else node.otherwise, inner, depth + 1)
                del self._variables[mark:]
            elif isinstance(node, Call):
                self._call(node, dot, depth)
            elif isinstance(node, Jump):
                raise _Break if node.kind == "break" else _Continue

    def _range(self, node: Branch, dot: Any, depth: int) -> None:
        pipeline = node.pipeline
        value = self._pipeline(Pipeline(pipeline.commands), dot)
        items: Iterator[tuple[Any, Any]] = iter(())
        if isinstance(value, Mapping):
            items = iter(value.items())
        elif isinstance(value, (list, tuple)):
            items = enumerate(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            items = ((i, i) for i in range(value))
        elif value is not None:
            raise TemplateError(f"The Go template cannot range over {type(value).__name__}.")
        if value is None or (value <= 0 if isinstance(value, int) else not value):
            return self.nodes(node.otherwise, dot, depth + 1)
        mark = len(self._variables)
        for key, item in items:
            self._budget.spend()
            values = (item,) if len(pipeline.names) == 1 else (key, item)
            for name, one in zip(pipeline.names, values, strict=False):
                if pipeline.declares:
                    self._variables.append((name, one))
                else:
                    self._set(name, one)
            try:
                self.nodes(node.body, item, depth + 1)
            except _Continue:
                pass
            except _Break:
                del self._variables[mark:]
                return
            del self._variables[mark:]

    def _call(self, node: Call, dot: Any, depth: int) -> None:
        if node.name not in self._tree.defined:
            raise TemplateError(f'The Go template calls "{node.name}", which it does not define.')
        value = self._pipeline(node.pipeline, dot) if node.pipeline else None
        saved, self._variables = self._variables, [("$", value)]
        self.nodes(self._tree.defined[node.name], value, depth + 1)
        self._variables = saved

    def _pipeline(self, pipeline: Pipeline, dot: Any) -> Any:
        value: Any = None
        for i, command in enumerate(pipeline.commands):
            value = self._command(command, dot, [value] if i else [])
        if pipeline.names:
            if pipeline.declares:
                self._variables.append((pipeline.names[0], value))
            else:
                self._set(pipeline.names[0], value)
        return value

    def _command(self, command: tuple[Operand, ...], dot: Any, piped: list[Any]) -> Any:
        self._budget.spend()
        first, rest = command[0], command[1:]
        if isinstance(first, Function):
            if first.name in ("and", "or") and not piped:
                return self._short_circuit(first.name, rest, dot)
            function = FUNCTIONS.get(first.name)
            if function is None:
                raise TemplateError(f"The Go template calls {first.name}, which is no function known here.")
            arguments = [self._operand(o, dot) for o in rest] + piped
            if first.name in _WRITING:
                self._budget.make(_GROWTH * self._budget.weight(arguments))
            try:
                return function(*arguments)
            except TemplateError:
                raise
            except (
                RecursionError,
                TypeError,
                ValueError,
                IndexError,
                KeyError,
                OverflowError,
                AttributeError,
            ) as error:
                raise TemplateError(f"The Go template's call of {first.name} failed: {str(error)[:200]}") from None
        if rest or piped:
            raise TemplateError("The Go template calls something that is no function.")
        return self._operand(first, dot)

    def _short_circuit(self, name: str, operands: tuple[Operand, ...], dot: Any) -> Any:
        value: Any = None
        for operand in operands:
            value = self._operand(operand, dot)
            if truth(value) == (name == "or"):
                break
        return value

    def _operand(self, operand: Operand, dot: Any) -> Any:
        if isinstance(operand, Literal):
            return operand.value
        if isinstance(operand, Function):
            return self._command((operand,), dot, [])
        if operand.start is None:
            value = dot
        elif isinstance(operand.start, Pipeline):
            value = self._pipeline(operand.start, dot)
        else:
            value = self._get(operand.start)
        for name in operand.fields:
            value = field_of(value, name)
        return value

    def _get(self, name: str) -> Any:
        for known, value in reversed(self._variables):
            if known == name:
                return value
        raise TemplateError(f"The Go template names the variable {name}, which it does not declare.")

    def _set(self, name: str, value: Any) -> None:
        for i in range(len(self._variables) - 1, -1, -1):
            if self._variables[i][0] == name:
                self._variables[i] = (name, value)
                return
        raise TemplateError(f"The Go template sets the variable {name}, which it does not declare.")

    def _write(self, text: str) -> None:
        self._size += len(text)
        if self._size > MAX_TEXT:
            raise TemplateError(f"The Go template writes more than {MAX_TEXT >> 20} MiB.")
        self.out.append(text)


# Values -----------------------------------------------------------------------------------------------------------


def field_of(value: Any, name: str) -> Any:
    """value.Name: a key spelled so, or as JSON spells it (ToolCalls: tool_calls); None where there is none."""
    if not isinstance(value, Mapping):
        return type_script(value) if name == "ToTypeScriptType" else None
    if name in value:
        return value[name]
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    if snake in value:
        return value[snake]
    return type_script(value) if name == "ToTypeScriptType" else None


def truth(value: Any) -> bool:
    """Go's truth: false, 0, nil and what is empty are not."""
    return bool(value)


def printed(value: Any) -> str:
    """As Go prints it; objects, and lists of them, as JSON (Ollama's types print themselves so)."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return to_json(value)
    if isinstance(value, (list, tuple)):
        if any(isinstance(v, Mapping) for v in value):
            return to_json(value)
        return f"[{' '.join(printed(v) for v in value)}]"
    return str(value)


def to_json(value: Any) -> str:
    """Compact JSON with <, > and & escaped, as Go writes it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def type_script(value: Any) -> str:
    """A JSON schema's type in TypeScript's words."""
    if isinstance(value, Mapping):
        if isinstance(value.get("anyOf"), list):
            return " | ".join(type_script(v) for v in value["anyOf"])
        inner = type_script(value["items"]) if value.get("type") == "array" and value.get("items") else "any"
        return f"{inner}[]" if value.get("type") == "array" else type_script(value.get("type"))
    if isinstance(value, (list, tuple)):
        return " | ".join(type_script(v) for v in value)
    known = {
        "string": "string", "number": "number", "integer": "number", "boolean": "boolean", "array": "any[]",
        "object": "Record<string, any>", "null": "null",
    }  # fmt: skip
    return known.get(value, "any") if isinstance(value, str) else "any"


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        else:
            raise IndexError(f"index {key!r} is out of range")
    return value


def _slice(value: Any, begin: int = 0, end: int | None = None) -> Any:
    end = len(value) if end is None else end
    if not 0 <= begin <= end <= len(value):
        raise IndexError(f"slice {begin}:{end} is out of range")
    return value[begin:end]


def _printf(form: str, *values: Any) -> str:
    left = list(values)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        value = left.pop(0)
        if verb == "q":
            text = to_json(str(value))
        elif verb in "dxXobc":
            text = format(int(value), verb)
        elif verb in "feEgG":
            text = format(float(value), (precision or "")[:4] + verb)
        else:
            text = printed(value)
        n = min(int(width or 0), 1000)
        return text.ljust(n) if "-" in flags else text.rjust(n, "0" if "0" in flags else " ")

    return re.sub(r"%([-+# 0]*)(\d*)(\.\d+)?([a-zA-Z%])", one, form)


def _print(*values: Any) -> str:
    """Go puts a space between two operands when neither is a string."""
    out = ""
    for i, value in enumerate(values):
        space = i and not isinstance(value, str) and not isinstance(values[i - 1], str)
        out += (" " if space else "") + printed(value)
    return out


def _day(offset: int) -> str:
    return (datetime.date.today() - datetime.timedelta(days=offset)).isoformat()


_WRITING = ("print", "println", "printf", "json", "toTypeScriptType")

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": lambda *v: next((x for x in v if not truth(x)), v[-1]),
    "or": lambda *v: next((x for x in v if truth(x)), v[-1]),
    "not": lambda v: not truth(v),
    "eq": lambda a, *others: any((a or None) == (b or None) if a in ("", None) else a == b for b in others),
    "ne": lambda a, b: not FUNCTIONS["eq"](a, b),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "len": lambda v: 0 if v is None else len(v),
    "index": _index,
    "slice": _slice,
    "print": _print,
    "println": lambda *v: " ".join(printed(x) for x in v) + "\n",
    "printf": _printf,
    "json": to_json,
    "currentDate": lambda *_: _day(0),
    "yesterdayDate": lambda *_: _day(1),
    "toTypeScriptType": type_script,
}
