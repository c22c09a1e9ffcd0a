"""The body of /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from halfbyte.server.constraints import ResponseFormat, Schema
from halfbyte.server.errors import ApiError
from halfbyte.server.sampling import Body, SamplingFields


class TextFormat(Body):
    """Like response_format of chats, but flat."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Annotated[str, Field(max_length=256)] | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None
    description: str | None = None

    def as_response_format(self) -> ResponseFormat:
        if self.type != "json_schema":
            return ResponseFormat(type=self.type)
        if self.schema_ is None:
            raise ApiError(400, "text.format.schema is missing.", param="text.format.schema")
        named = {"name": self.name or "", "schema": self.schema_}
        return ResponseFormat.model_validate({"type": self.type, "json_schema": named})


class TextOptions(Body):
    format: TextFormat | None = None


class ReasoningOptions(Body):
    effort: Annotated[str, Field(max_length=64)] | None = None
    summary: str | None = None


class ResponsesRequest(SamplingFields):
    model: str | None = None
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=1 << 30)] | None = None
    text: TextOptions | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    conversation: str | dict[str, Any] | None = None
    background: bool | None = None
    metadata: dict[str, Any] | None = None
    stream: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
