"""Anthropic's /v1/messages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from halfbyte.chat.tools import Delta
from halfbyte.grammar import json_schema_constraint
from halfbyte.server.call import Call
from halfbyte.server.chat_stream import ChatAnswer, ChatAsk, ChatRun, chat_prompt, start_chat
from halfbyte.server.errors import ApiError
from halfbyte.server.responses import EventStream, Json, event
from halfbyte.server.sampling import Body, SamplingFields

router = APIRouter(tags=["anthropic"])

ERROR_PREFIX = "/v1/messages"

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(error: ApiError) -> dict[str, Any]:
    """The error object of Anthropic's API."""
    kind = _ERROR_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


Blocks = str | list[dict[str, Any]]


class InputMessage(Body):
    role: Literal["user", "assistant", "system"]
    content: Blocks


class InputTool(Body):
    name: str
    description: str | None = None
    input_schema: dict[str, Any] = Field(default_factory=dict)
    type: str | None = None


class ToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(Body):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputOptions(Body):
    effort: Annotated[str, Field(max_length=64)] | None = None
    format: OutputFormat | None = None


class CountRequest(Body):
    """What a conversation is made of."""

    model: str | None = None
    messages: Annotated[list[InputMessage], Field(min_length=1)]
    system: Blocks | None = None
    tools: list[InputTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: dict[str, Any] | None = None
    output_config: OutputOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def ask(self) -> ChatAsk:
        """The conversation in OpenAI's terms. Raises ApiError. Slow: compiles."""
        messages = [{"role": "system", "content": _text(self.system, "system")}] if self.system else []
        for i, message in enumerate(self.messages):
            messages += _messages(message, f"messages[{i}]")
        ask = ChatAsk(messages, variables=dict(self.chat_template_kwargs or {}))
        if self.thinking is not None:
            ask.variables.setdefault("enable_thinking", self.thinking.get("type") != "disabled")
        if self.output_config is not None and self.output_config.effort is not None:
            ask.variables.setdefault("reasoning_effort", self.output_config.effort)
        if self.output_config is not None and (form := self.output_config.format) is not None:
            ask.constraint = ("output_config.format", json_schema_constraint(form.schema_))
        if self.tools:
            ask.tools = [_tool(tool) for tool in self.tools]
        if self.tool_choice is not None:
            choice = self.tool_choice
            ask.tool_choice = {"any": "required"}.get(choice.type, choice.type)
            if choice.type == "tool":
                ask.tool_choice = {"type": "function", "function": {"name": choice.name}}
            ask.parallel_tool_calls = not choice.disable_parallel_tool_use
        return ask


class MessagesRequest(SamplingFields, CountRequest):
    max_tokens: Annotated[int, Field(ge=1, le=1 << 30)]
    stop_sequences: Annotated[list[str], Field(max_length=64)] | None = None
    stream: bool | None = None


@router.post("/v1/messages")
async def messages(request: Request, body: MessagesRequest) -> Response:
    """The assistant's answer to messages."""
    call = Call.of(request)
    model = await call.model(body.model)
    ask = await call.work("output_config", body.ask)
    ask.params = body.to_params(model, call.server.config, max_tokens=body.max_tokens, stop=body.stop_sequences)
    budget = (body.thinking or {}).get("budget_tokens")
    if isinstance(budget, int) and budget >= 0:
        ask.params = ask.params.replace(reasoning_budget=budget)
    run = await start_chat(call, model, ask)
    frame: dict[str, Any] = {
        "id": f"msg_{call.id}",
        "type": "message",
        "role": "assistant",
        "model": model.name,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
    if body.stream:
        return EventStream(_stream(run, frame), on_error=lambda error: event(error_body(error), "error"))
    (answer,) = await run.wait()
    return Json({**frame, "content": _content(answer), **_end(answer), "usage": _usage(run)})


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request, body: CountRequest) -> Json:
    """How many tokens a conversation has."""
    call = Call.of(request)
    model = await call.model(body.model)
    return Json({"input_tokens": len((await chat_prompt(call, model, await call.work("output_config", body.ask))).ids)})


# From Anthropic's blocks to OpenAI's messages -------------------------------------------------------------------------


def _messages(message: InputMessage, where: str) -> list[dict[str, Any]]:
    """A message; results of tools become messages of their own, before what else the user says."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    texts, calls, results, reasoning = [], [], [], ""
    for i, block in enumerate(message.content):
        place = f"{where}.content[{i}]"
        kind = block.get("type")
        if kind == "text":
            texts.append(_field(block, "text", place))
        elif kind == "thinking":
            reasoning += _field(block, "thinking", place)
        elif kind == "redacted_thinking":
            continue
        elif kind == "tool_use":
            function = {"name": _field(block, "name", place), "arguments": json.dumps(block.get("input") or {})}
            calls.append({"id": _field(block, "id", place), "type": "function", "function": function})
        elif kind == "tool_result":
            text = _text(block.get("content") or "", place)
            results.append({"role": "tool", "tool_call_id": _field(block, "tool_use_id", place), "content": text})
        else:
            raise ApiError(400, f"{place} has type {str(kind)[:64]}; only text and tools are understood.", param=place)
    out: list[dict[str, Any]] = list(results)
    if texts or calls or not results:
        own: dict[str, Any] = {"role": message.role, "content": "\n".join(texts)}
        if reasoning:
            own["reasoning_content"] = reasoning
        if calls:
            own["tool_calls"] = calls
        out.append(own)
    return out


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    parts = []
    for i, block in enumerate(content if isinstance(content, list) else [None]):
        if not isinstance(block, dict) or block.get("type", "text") != "text":
            raise ApiError(400, f"{where}[{i}] is no text block.", param=where)
        parts.append(_field(block, "text", f"{where}[{i}]"))
    return "\n".join(parts)


def _field(block: dict[str, Any], name: str, where: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise ApiError(400, f"{where}.{name} must be text.", param=where)
    return value


def _tool(tool: InputTool) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        raise ApiError(400, f"Tools of type {tool.type[:64]} are not known; only custom ones are.", param="tools")
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
    return {"type": "function", "function": function}


# From an answer to Anthropic's blocks ---------------------------------------------------------------------------------


def _content(answer: ChatAnswer) -> list[dict[str, Any]]:
    said = answer.message
    blocks: list[dict[str, Any]] = []
    if said.reasoning:
        blocks.append({"type": "thinking", "thinking": said.reasoning, "signature": ""})
    if said.content or not said.tool_calls:
        blocks.append({"type": "text", "text": said.content})
    for call in said.tool_calls:
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _object(call.arguments)})
    return blocks


def _object(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except ValueError:  # cut short by max_tokens
        return {}


def _end(answer: ChatAnswer) -> dict[str, Any]:
    matched = answer.output.stop_reason if answer.output is not None else None
    sequence = matched if isinstance(matched, str) else None
    reasons = {"length": "max_tokens", "tool_calls": "tool_use"}
    reason = reasons.get(answer.finish_reason or "", "stop_sequence" if sequence is not None else "end_turn")
    return {"stop_reason": reason, "stop_sequence": sequence}


def _usage(run: ChatRun) -> dict[str, Any]:
    return {
        "input_tokens": run.n_prompt - run.n_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": run.n_cached,
        "output_tokens": run.n_generated,
    }


async def _stream(run: ChatRun, frame: dict[str, Any]) -> AsyncIterator[bytes]:
    def tell(name: str, **data: Any) -> bytes:
        return event({"type": name, **data}, name)

    place, open_key = -1, None
    answer = run.answers[0]
    async for _, deltas, piece in run:
        if place < 0 and open_key is None:
            yield tell("message_start", message={**frame, "usage": {**_usage(run), "output_tokens": 0}})
            open_key = ""
        if piece.output is not None and place < 0 and not deltas:
            deltas = [Delta(content="")]
        for delta in deltas:
            key, block, change = _block(delta)
            if key != open_key:
                if place >= 0:
                    yield tell("content_block_stop", index=place)
                place, open_key = place + 1, key
                yield tell("content_block_start", index=place, content_block=block)
            yield tell("content_block_delta", index=place, delta=change)
    if place >= 0:
        yield tell("content_block_stop", index=place)
    yield tell("message_delta", delta=_end(answer), usage=_usage(run))
    yield tell("message_stop")


def _block(delta: Delta) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What a delta belongs to (by a key), the block as it begins, and the change to it."""
    if delta.tool_call is not None:
        call = delta.tool_call
        block: dict[str, Any] = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        return f"call {call.index}", block, {"type": "input_json_delta", "partial_json": call.arguments_fragment}
    if delta.reasoning is not None:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        return "thinking", block, {"type": "thinking_delta", "thinking": delta.reasoning}
    return "text", {"type": "text", "text": ""}, {"type": "text_delta", "text": delta.content or ""}
