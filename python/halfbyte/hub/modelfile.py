"""Modelfiles: FROM, PARAMETER, TEMPLATE, SYSTEM, ADAPTER, MESSAGE and LICENSE; read, written, and made into models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from halfbyte.errors import FormatError, HalfbyteError, ModelNotFoundError
from halfbyte.hub.download import DownloadProgress
from halfbyte.hub.parameters import checked_parameters
from halfbyte.hub.resolve import ModelFiles, open_model
from halfbyte.hub.store import Card, StoredModel, add_stored

_ROLES = ("system", "user", "assistant")
# Instructions that choose parts of Ollama itself.
_WITHOUT_MEANING = ("REQUIRES", "RENDERER", "PARSER")


@dataclass
class Modelfile:
    """What a Modelfile says. None: it says nothing about it, and the model it is from decides."""

    base: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    adapters: list[str] = field(default_factory=list)
    messages: list[dict[str, str]] = field(default_factory=list)
    licenses: list[str] = field(default_factory=list)


def parse_modelfile(text: str) -> Modelfile:
    """Raises FormatError that names the line."""
    out = Modelfile()
    raw: list[tuple[int, str, str]] = []
    for line, name, value in _instructions(text):
        if name == "FROM":
            out.base = value
        elif name == "TEMPLATE":
            out.template = value
        elif name == "SYSTEM":
            out.system = value
        elif name == "ADAPTER":
            out.adapters.append(value)
        elif name == "LICENSE":
            out.licenses.append(value)
        elif name == "MESSAGE":
            out.messages.append(_message(line, value))
        elif name == "PARAMETER":
            key, _, rest = value.partition(" ")
            raw.append((line, key.lower(), rest.strip()))
        elif name not in _WITHOUT_MEANING:
            raise _error(
                line,
                f"{name[:40]} is no instruction",
                "FROM, PARAMETER, TEMPLATE, SYSTEM, ADAPTER, MESSAGE or LICENSE was expected.",
            )
    for line, key, rest in raw:
        try:
            value = checked_parameters({key: _unquoted(line, rest)})[key]
        except HalfbyteError as error:
            raise _error(line, error.message.rstrip("."), error.hint) from None
        out.parameters[key] = [*out.parameters.get(key, []), *value] if isinstance(value, list) else value
    if not out.base:
        raise FormatError("The Modelfile has no FROM.", hint="Begin it with FROM and a model's name or path.")
    return out


def open_base(modelfile: Modelfile, folder: Path, progress: DownloadProgress | None = None) -> ModelFiles:
    """What FROM names: a path relative to `folder`, or a reference; fetched when it is not here."""
    local = folder / Path(modelfile.base).expanduser()
    return open_model(str(local) if local.exists() else modelfile.base, progress)


def create_model(name: str, modelfile: Modelfile, base: ModelFiles, folder: Path) -> StoredModel:
    """Makes what a Modelfile says of a base a model of the store; adapters' paths are relative to `folder`."""
    adapters = [folder / Path(a).expanduser() for a in modelfile.adapters]
    for adapter in adapters:
        if not adapter.exists():
            raise ModelNotFoundError(f"ADAPTER {adapter}: no such file.", hint="Check the path.")
    card = replace(
        base.card,
        model=str(base.path),
        source=modelfile.base,
        template=base.card.template if modelfile.template is None else modelfile.template,
        system=base.card.system if modelfile.system is None else modelfile.system,
        parameters={**base.card.parameters, **modelfile.parameters},
        messages=modelfile.messages or base.card.messages,
        adapters=[*(str(a) for a in base.adapters), *(str(a) for a in adapters)],
        licenses=modelfile.licenses or base.card.licenses,
    )
    return add_stored(name, card)


def write_modelfile(card: Card, base: str) -> str:
    """A card as a Modelfile whose FROM is `base`."""
    lines = [f"FROM {base}"]
    if card.template:
        lines.append(f"TEMPLATE {_quoted(card.template)}")
    if card.system:
        lines.append(f"SYSTEM {_quoted(card.system)}")
    lines += [f"PARAMETER {line}" for line in parameter_lines(card.parameters)]
    lines += [f"ADAPTER {adapter}" for adapter in card.adapters]
    lines += [f"MESSAGE {m['role']} {_quoted(m['content'])}" for m in card.messages]
    lines += [f"LICENSE {_quoted(text)}" for text in card.licenses]
    return "\n".join(lines) + "\n"


def parameter_lines(parameters: Mapping[str, Any]) -> list[str]:
    """Name and value of each parameter, a line each value."""
    lines = []
    for name, value in parameters.items():
        for one in value if isinstance(value, list) else [value]:
            text = str(one).lower() if isinstance(one, bool) else _quoted(one) if isinstance(one, str) else f"{one}"
            lines.append(f"{name} {text}")
    return lines


# Reading ----------------------------------------------------------------------------------------------------------


def _instructions(text: str) -> list[tuple[int, str, str]]:
    """Line, instruction in capitals and value of each."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    out = []
    at = 0
    while at < len(lines):
        number, line = at + 1, lines[at].lstrip()
        at += 1
        if not line.strip() or line.startswith("#"):
            continue
        name, value = _word(line)
        role, value = _word(value) if name.upper() == "MESSAGE" else ("", value)
        if not value:
            raise _error(number, f"{name[:40]} says nothing", "A value must follow on the same line.")
        quote = next((q for q in ('"""', '"') if value.startswith(q)), "")
        while quote and not _is_closed(value, quote):
            if at == len(lines):
                raise _error(number, f"{quote} is not closed", f"End the value with {quote}.")
            value += "\n" + lines[at]
            at += 1
        if name.upper() != "PARAMETER":
            value = _unquoted(number, value.rstrip())
        out.append((number, name.upper(), f"{role} {value}" if role else value))
    return out


def _word(line: str) -> tuple[str, str]:
    """The first word of a line, and what follows the space after it."""
    word, *rest = line.split(maxsplit=1) or [""]
    return word, rest[0] if rest else ""


def _is_closed(text: str, quote: str) -> bool:
    stripped = text.rstrip()
    return len(stripped) >= 2 * len(quote) and stripped.endswith(quote)


def _unquoted(line: int, value: str) -> str:
    for quote in ('"""', '"'):
        if value.startswith(quote):
            if not _is_closed(value, quote):
                raise _error(line, f"{quote} is not closed", f"End the value with {quote}.")
            return value[len(quote) : -len(quote)]
    return value


def _message(line: int, value: str) -> dict[str, str]:
    role, _, content = value.partition(" ")
    if role not in _ROLES:
        raise _error(line, f'"{role[:40]}" is no role', f"One of {', '.join(_ROLES)} was expected.")
    return {"role": role, "content": content}


def _quoted(text: str) -> str:
    if "\n" in text or '"' in text:
        return f'"""{text}"""'
    return f'"{text}"' if not text or text != text.strip() or re.search(r"\s", text) else text


def _error(line: int, what: str, hint: str = "") -> FormatError:
    return FormatError(f"The Modelfile is damaged in line {line}: {what}.", hint=hint)
