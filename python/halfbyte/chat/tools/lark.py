"""Writing llguidance's Lark: the few forms that grammars of tool calls are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

#: The id of a control token, or None where the vocabulary spells it as text.
ControlTokenId = Callable[[str], "int | None"]

# Calls are written as json.dumps writes them, which is how models saw them in training.
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def text(literal: str) -> str:
    """A fixed text."""
    return json.dumps(literal, ensure_ascii=False) if literal else '""'


def schema(document: Any) -> str:
    """JSON of a schema, on one line."""
    if isinstance(document, dict):
        document = {"x-guidance": _COMPACT, **document}
    return f"%json {json.dumps(document)}"


def shared(document: dict[str, Any]) -> dict[str, Any]:
    """The definitions that parts of a schema may refer to."""
    return {key: part for key, part in document.items() if key in ("$defs", "definitions")}


def with_shared(document: Any, definitions: dict[str, Any]) -> Any:
    """A part of a schema together with the definitions it may refer to."""
    return {**definitions, **document} if isinstance(document, dict) else document


def marked(literal: str, markers: Sequence[str], token_id: ControlTokenId) -> str:
    """A fixed text in which markers that are control tokens stand as those tokens."""
    parts, rest = [], literal
    while rest:
        at, marker = min(
            ((rest.find(m), m) for m in markers if m in rest and token_id(m) is not None), default=(len(rest), "")
        )
        if at:
            parts.append(text(rest[:at]))
        if marker:
            parts.append(f"<[{token_id(marker)}]>")
        rest = rest[at + len(marker) :]
    return " ".join(parts) or '""'


def rules(calls: str, **others: str) -> str:
    """The rules of a grammar fragment; `calls` is the one that others refer to."""
    return "".join(f"{name}: {body}\n" for name, body in {"calls": calls, **others}.items())


def one_of(alternatives: Sequence[str]) -> str:
    """A choice."""
    return alternatives[0] if len(alternatives) == 1 else "(" + " | ".join(f"({a})" for a in alternatives) + ")"
