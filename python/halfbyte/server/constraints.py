"""What an answer must look like: OpenAI's response_format, and the fields of llama.cpp and vLLM."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, Literal

from pydantic import Field

from halfbyte.errors import HalfbyteError
from halfbyte.grammar import (
    Constraint,
    choice_constraint,
    grammar_constraint,
    json_schema_constraint,
    regex_constraint,
)
from halfbyte.llm import LLM
from halfbyte.params import SamplingParams
from halfbyte.server.bridge import Prompt
from halfbyte.server.errors import ApiError
from halfbyte.server.sampling import Body

Schema = dict[str, Any] | bool
Choices = Annotated[list[str], Field(min_length=1, max_length=4096)]


class NamedSchema(Body):
    """A JSON schema with a name; strict is always kept to."""

    name: Annotated[str, Field(max_length=256)] = ""
    schema_: Annotated[Schema, Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's response_format; `schema` beside json_object is llama.cpp's."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None


class StructuredOutputs(Body):
    """vLLM's structured_outputs."""

    json_: Annotated[Schema | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None


class ConstraintFields(Body):
    """At most one of these may be given."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | str | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    json_schema: Schema | None = None
    grammar: str | None = None

    def constraint(self) -> tuple[str, Constraint] | None:
        """The field that constrains the answer, and the constraint. Raises ApiError. Slow: compiles."""
        found = [(field, kind, value) for field, kind, value in self._wishes() if value not in (None, "")]
        if not found:
            return None
        if len(found) > 1:
            names = " and ".join(sorted({field for field, _, _ in found}))
            raise ApiError(400, f"Only one constraint can be kept to: {names} were given.", param=found[1][0])
        field, kind, value = found[0]
        try:
            return field, _MAKERS[kind](value)
        except HalfbyteError as error:
            raise ApiError.of(error, param=field) from error

    def _wishes(self) -> list[tuple[str, str, Any]]:
        wishes: list[tuple[str, str, Any]] = [
            ("guided_json", "json", self.guided_json),
            ("guided_regex", "regex", self.guided_regex),
            ("guided_choice", "choice", self.guided_choice),
            ("guided_grammar", "grammar", self.guided_grammar),
            ("json_schema", "json", self.json_schema),
            ("grammar", "grammar", self.grammar),
        ]
        if self.response_format is not None:
            wishes.append(("response_format", "json", _schema_of(self.response_format)))
        if self.structured_outputs is not None:
            s, field = self.structured_outputs, "structured_outputs"
            wishes += [(field, "json", s.json_), (field, "regex", s.regex), (field, "choice", s.choice)]
            wishes += [(field, "grammar", s.grammar), (field, "json", _ANY_OBJECT if s.json_object else None)]
        return wishes


_ANY_OBJECT: Schema = {"type": "object"}


def _schema_of(wanted: ResponseFormat) -> Schema | None:
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return wanted.schema_ if wanted.schema_ is not None else _ANY_OBJECT
    if wanted.json_schema is None:
        raise ApiError(400, "response_format.json_schema is missing.", param="response_format")
    return wanted.json_schema.schema_


def _json(value: Schema | str) -> Constraint:
    return json_schema_constraint(value if isinstance(value, str) else json.dumps(value))


_MAKERS: dict[str, Any] = {
    "json": _json,
    "regex": regex_constraint,
    "choice": choice_constraint,
    "grammar": grammar_constraint,
}


def constrained(
    ids: list[int], params: SamplingParams, wanted: tuple[str, Constraint] | None, llm: LLM
) -> list[Prompt]:
    """A raw prompt whose answers keep to a constraint. Raises InvalidArgumentError. Slow: compiles."""
    if wanted is None:
        return [Prompt(ids, params)]
    params = dataclasses.replace(params, response_format=wanted[1])
    return [Prompt(ids, params, llm.plain_form(params), wanted[0])]
