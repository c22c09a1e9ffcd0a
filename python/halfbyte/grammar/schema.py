"""JSON schemas of Python types, and values of those types from JSON."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from halfbyte.errors import InvalidArgumentError

Schema = dict[str, Any]

_SCALARS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable)
_DICTS = (dict, collections.abc.Mapping)


def is_pydantic(kind: Any) -> bool:
    """Whether it is a pydantic model, or a class that offers the same two methods."""
    return isinstance(kind, type) and hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate_json")


def is_record(kind: Any) -> bool:
    """Whether it is a class with named fields: pydantic model, dataclass or TypedDict."""
    return isinstance(kind, type) and (is_pydantic(kind) or dataclasses.is_dataclass(kind) or is_typeddict(kind))


def schema_of(kind: Any, where: str = "The type") -> Schema:
    """The JSON schema of a type: scalars, list, tuple, dict, Literal, Enum, unions, Annotated (a text in it is the
    description), TypedDict, dataclasses, pydantic models. Records land in $defs.

    Raises InvalidArgumentError naming `where` for types that have none.
    """
    definitions: Schema = {}
    schema = _schema(kind, where, definitions)
    return {**schema, "$defs": definitions} if definitions else schema


def _schema(kind: Any, where: str, definitions: Schema) -> Schema:
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return {}
    if kind in _SCALARS:
        return {"type": _SCALARS[kind]}
    if origin is typing.Annotated:
        about = [a for a in arguments[1:] if isinstance(a, str)]
        return {**({"description": about[0]} if about else {}), **_schema(arguments[0], where, definitions)}
    if origin in (typing.Required, typing.NotRequired):
        return _schema(arguments[0], where, definitions)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(a, where, definitions) for a in arguments]}
    if origin is tuple and arguments and arguments[-1] is not ...:
        each = [_schema(a, where, definitions) for a in arguments]
        return {"type": "array", "prefixItems": each, "items": False, "minItems": len(each), "maxItems": len(each)}
    if origin in _LISTS:
        return {"type": "array", **({"items": _schema(arguments[0], where, definitions)} if arguments else {})}
    if origin in _DICTS:
        values = {"additionalProperties": _schema(arguments[1], where, definitions)} if arguments else {}
        return {"type": "object", **values}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [member.value for member in kind]}
    if is_record(kind):
        return _reference(kind, definitions)
    raise InvalidArgumentError(f"{where} is {kind!r}, for which there is no JSON schema.")


def _reference(kind: Any, definitions: Schema) -> Schema:
    name = kind.__name__
    if name not in definitions:
        definitions[name] = {}  # there already for a record that holds records of its own kind
        if is_pydantic(kind):
            own: Schema = kind.model_json_schema()
            definitions.update(own.pop("$defs", {}))
            definitions[name] = own
        else:
            definitions[name] = _record_schema(kind, definitions)
    return {"$ref": f"#/$defs/{name}"}


def _record_schema(kind: Any, definitions: Schema) -> Schema:
    hints = get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        fields = [f for f in dataclasses.fields(kind) if f.init]
        required = [f.name for f in fields if f.default is missing and f.default_factory is missing]
        names = [f.name for f in fields]
    else:
        names, required = list(hints), [n for n in hints if n in kind.__required_keys__]
    properties = {name: _schema(hints[name], f"{kind.__name__}.{name}", definitions) for name in names}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def value_of(kind: Any, data: Any) -> Any:
    """A value of a type that schema_of() knows, from decoded JSON of its schema."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is typing.Annotated or origin in (typing.Required, typing.NotRequired):
        return value_of(arguments[0], data)
    if origin in (Union, types.UnionType):
        return _union_value(arguments, data)
    if origin is tuple and arguments and arguments[-1] is not ...:
        return tuple(value_of(a, d) for a, d in zip(arguments, data, strict=True))
    if origin in _LISTS:
        made = origin if origin in (tuple, set, frozenset) else list
        return made(value_of(arguments[0], d) if arguments else d for d in data)
    if origin in _DICTS:
        return {key: value_of(arguments[1], d) if arguments else d for key, d in data.items()}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(data)
    if is_pydantic(kind):
        return kind.model_validate(data)
    if is_record(kind):
        if not isinstance(data, Mapping):
            raise TypeError(f"{kind.__name__} from {type(data).__name__}")
        hints = get_type_hints(kind, include_extras=True)
        return kind(**{name: value_of(hints[name], d) for name, d in data.items()})
    if kind is float:
        return float(data)
    return data


def _union_value(kinds: tuple[Any, ...], data: Any) -> Any:
    for kind in kinds:
        if kind in _SCALARS and type(data) is not kind:
            continue
        try:
            return value_of(kind, data)
        except (TypeError, ValueError, KeyError, AttributeError):
            continue
    return data


# Keywords beside which an object's properties are not the whole story.
_OPEN_KEYWORDS = (
    "additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref", "if",
)  # fmt: skip


def closed(schema: Any) -> Any:
    """A schema whose objects have the properties they list and no others, unless they say otherwise.

    Every value of it is a value of the schema; models that may add properties do not know when to stop.
    """
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out: Schema = {}
    for key, part in schema.items():
        if key in ("properties", "$defs", "definitions", "patternProperties") and isinstance(part, dict):
            out[key] = {name: closed(sub) for name, sub in part.items()}
        elif key in ("items", "prefixItems", "anyOf", "oneOf", "additionalProperties"):
            out[key] = closed(part)
        else:
            out[key] = part
    properties = out.get("properties")
    lists_all = isinstance(properties, dict) and set(out.get("required") or ()) <= set(properties)
    if lists_all and not any(key in out for key in _OPEN_KEYWORDS):
        out["additionalProperties"] = False
    return out
