"""OpenAI's /v1/responses. Nothing is stored: a conversation comes whole with each request."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from halfbyte.chat.tools import Delta
from halfbyte.server.call import Call
from halfbyte.server.chat_stream import ChatAnswer, ChatAsk, ChatRun, start_chat
from halfbyte.server.constraints import ConstraintFields, ResponseFormat, Schema
from halfbyte.server.errors import ApiError
from halfbyte.server.models import LoadedModel
from halfbyte.server.responses import EventStream, Json, event
from halfbyte.server.sampling import Body, SamplingFields

router = APIRouter(tags=["openai"])


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
    conversation: str | dict[str, Any] | None = None
    background: bool | None = None
    metadata: dict[str, Any] | None = None
    stream: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


@router.post("/v1/responses")
async def respond(request: Request, body: ResponsesRequest) -> Response:
    """The assistant's answer, as a list of items."""
    call = Call.of(request)
    for name in ("previous_response_id", "conversation", "background"):
        if getattr(body, name):
            text = f"{name} is not supported: this server stores no responses. Send the whole conversation as input."
            raise ApiError(400, text, param=name, code="unsupported_parameter")
    model = await call.model(body.model)
    ask = _ask(call, model, body)
    run = await start_chat(call, model, ask, param="input")
    shell = _Shell(call.id, model.name, body, ask)
    if body.stream:
        stream = _Stream(run, shell)
        return EventStream(stream.events(), on_error=stream.failed)
    (answer,) = await run.wait()
    return Json(shell.finished(answer, run, list(_items(call.id, answer))))


# From items to messages -----------------------------------------------------------------------------------------------


def _ask(call: Call, model: LoadedModel, body: ResponsesRequest) -> ChatAsk:
    variables = dict(body.chat_template_kwargs or {})
    if body.reasoning is not None and body.reasoning.effort is not None:
        variables.setdefault("reasoning_effort", body.reasoning.effort)
    wanted = body.text.format if body.text is not None else None
    fields = ConstraintFields(response_format=wanted.as_response_format() if wanted is not None else None)
    constraint = fields.constraint()
    choice = body.tool_choice
    if isinstance(choice, dict) and choice.get("type") == "function" and "function" not in choice:
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    return ChatAsk(
        _messages(body),
        body.to_params(model.llm.defaults, call.server.config, max_tokens=body.max_output_tokens),
        constraint=("text.format", constraint[1]) if constraint else None,
        tools=[_tool(tool, i) for i, tool in enumerate(body.tools or [])] or None,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        variables=variables,
    )


def _tool(tool: dict[str, Any], i: int) -> dict[str, Any]:
    if tool.get("type") != "function":
        kind = str(tool.get("type"))[:64]
        raise ApiError(400, f"tools[{i}] has type {kind}; only function is known.", param="tools")
    names = ("name", "description", "parameters")
    return {"type": "function", "function": {key: tool[key] for key in names if tool.get(key) is not None}}


def _messages(body: ResponsesRequest) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    for i, item in enumerate(body.input):
        messages.append(_message(item, f"input[{i}]", messages[-1] if messages else {}))
    kept = [message for message in messages if message]
    if not kept:
        raise ApiError(400, "input is empty.", param="input")
    return kept


def _message(item: dict[str, Any], where: str, last: dict[str, Any]) -> dict[str, Any]:
    """The message that an item becomes; {} when it became part of the last one, or says nothing to the model."""
    kind = item.get("type", "message")
    if kind == "message":
        role = {"developer": "system"}.get(str(item.get("role")), item.get("role"))
        return {"role": role, "content": _text(item.get("content"), where)}
    if kind == "function_call":
        function = {"name": str(item.get("name")), "arguments": str(item.get("arguments") or "{}")}
        made = {"id": str(item.get("call_id")), "type": "function", "function": function}
        if last.get("role") == "assistant" and "tool_calls" in last:
            last["tool_calls"].append(made)
            return {}
        return {"role": "assistant", "content": "", "tool_calls": [made]}
    if kind == "function_call_output":
        text = _text(item.get("output"), where)
        return {"role": "tool", "tool_call_id": str(item.get("call_id")), "content": text}
    if kind == "reasoning":
        return {}
    raise ApiError(400, f"{where} has type {str(kind)[:64]}; messages and function calls are known.", param="input")


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    parts = []
    for part in content if isinstance(content, list) else [None]:
        text = None
        if isinstance(part, dict) and part.get("type") in ("input_text", "output_text", "text", "refusal"):
            text = part.get("text") or part.get("refusal") or ""
        if not isinstance(text, str):
            raise ApiError(400, f"{where} has content that is no text.", param="input")
        parts.append(text)
    return "\n".join(parts)


# From an answer to items ----------------------------------------------------------------------------------------------


def _message_item(item_id: str, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [_part("output_text", text)]
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def _reasoning_item(item_id: str, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [_part("reasoning_text", text)]
    return {"id": item_id, "type": "reasoning", "status": status, "summary": [], "content": content}


def _call_item(item_id: str, call_id: str, name: str, arguments: str, status: str) -> dict[str, Any]:
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def _part(kind: str, text: str) -> dict[str, Any]:
    return {"type": kind, "text": text, **({"annotations": [], "logprobs": []} if kind == "output_text" else {})}


def _items(response_id: str, answer: ChatAnswer) -> Iterator[dict[str, Any]]:
    said, status = answer.message, "incomplete" if answer.finish_reason == "length" else "completed"
    if said.reasoning:
        yield _reasoning_item(f"rs_{response_id}", said.reasoning, status)
    if said.content or not said.tool_calls:
        yield _message_item(f"msg_{response_id}", said.content, status)
    for i, call in enumerate(said.tool_calls):
        yield _call_item(f"fc_{response_id}_{i}", call.id, call.name, call.arguments, status)


class _Shell:
    """The response object around the items."""

    def __init__(self, response_id: str, model: str, body: ResponsesRequest, ask: ChatAsk) -> None:
        wanted = body.text.format if body.text is not None else None
        self.response_id = response_id
        self._fields = {
            "id": f"resp_{response_id}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": model,
            "output": [],
            "parallel_tool_calls": ask.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "store": False,
            "temperature": ask.params.temperature,
            "text": {"format": wanted.model_dump(by_alias=True, exclude_none=True) if wanted else {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_p": ask.params.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def begun(self) -> dict[str, Any]:
        return self._fields

    def finished(self, answer: ChatAnswer, run: ChatRun, items: list[dict[str, Any]]) -> dict[str, Any]:
        cut = answer.finish_reason == "length"
        return {
            **self._fields,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": items,
            "usage": {
                "input_tokens": run.n_prompt,
                "input_tokens_details": {"cached_tokens": run.n_cached},
                "output_tokens": run.n_generated,
                "output_tokens_details": {"reasoning_tokens": run.n_reasoning},
                "total_tokens": run.n_prompt + run.n_generated,
            },
        }

    def failed(self, error: ApiError) -> dict[str, Any]:
        return {**self._fields, "status": "failed", "error": {"code": "server_error", "message": error.message}}


class _Stream:
    """The same as events: each item is opened, filled and closed."""

    def __init__(self, run: ChatRun, shell: _Shell) -> None:
        self._run, self._shell = run, shell
        self._n_events = 0
        self._items: list[dict[str, Any]] = []  # finished
        self._open: dict[str, Any] | None = None
        self._key = ""
        self._text = ""

    def failed(self, error: ApiError) -> bytes:
        """The last event of a stream that fails."""
        return self._event("response.failed", response=self._shell.failed(error))

    async def events(self) -> AsyncIterator[bytes]:
        yield self._event("response.created", response=self._shell.begun())
        yield self._event("response.in_progress", response=self._shell.begun())
        answer = self._run.answers[0]
        async for _, deltas, piece in self._run:
            if piece.output is not None and self._open is None and not deltas:
                deltas = [Delta(content="")]  # an answer without a word is a message without a word
            for delta in deltas:
                for chunk in self._tell(delta):
                    yield chunk
        status = "incomplete" if answer.finish_reason == "length" else "completed"
        for chunk in self._close(status):
            yield chunk
        name = "response.incomplete" if answer.finish_reason == "length" else "response.completed"
        yield self._event(name, response=self._shell.finished(answer, self._run, self._items))

    def _event(self, kind: str, **data: Any) -> bytes:
        self._n_events += 1
        return event({"type": kind, "sequence_number": self._n_events - 1, **data}, kind)

    def _at(self, *, part: bool = True) -> dict[str, Any]:
        assert self._open is not None
        place = {"item_id": self._open["id"], "output_index": len(self._items)}
        return {**place, "content_index": 0} if part else place

    def _tell(self, delta: Delta) -> Iterator[bytes]:
        call = delta.tool_call
        key = f"call {call.index}" if call else "reasoning" if delta.reasoning is not None else "message"
        if key != self._key or self._open is None:
            yield from self._close("completed")
            yield from self._begin(key, delta)
        if call is not None:
            text, name = call.arguments_fragment, "response.function_call_arguments.delta"
        elif delta.reasoning is not None:
            text, name = delta.reasoning, "response.reasoning_text.delta"
        else:
            text, name = delta.content or "", "response.output_text.delta"
        self._text += text
        more: dict[str, Any] = {"logprobs": []} if key == "message" else {}
        if text:
            yield self._event(name, **self._at(part=call is None), delta=text, **more)

    def _begin(self, key: str, delta: Delta) -> Iterator[bytes]:
        response_id, status = self._shell.response_id, "in_progress"
        self._key, self._text = key, ""
        if delta.tool_call is not None:
            call = delta.tool_call
            item = _call_item(f"fc_{response_id}_{call.index}", call.id or "", call.name or "", "", status)
        elif key == "reasoning":
            item = _reasoning_item(f"rs_{response_id}_{len(self._items)}", None, status)
        else:
            item = _message_item(f"msg_{response_id}_{len(self._items)}", None, status)
        self._open = item
        yield self._event("response.output_item.added", output_index=len(self._items), item=item)
        if delta.tool_call is None:
            part = _part("reasoning_text" if key == "reasoning" else "output_text", "")
            yield self._event("response.content_part.added", **self._at(), part=part)

    def _close(self, status: str) -> Iterator[bytes]:
        if self._open is None:
            return
        item, text = self._open, self._text
        if item["type"] == "function_call":
            yield self._event(
                "response.function_call_arguments.done", **self._at(part=False), name=item["name"], arguments=text
            )
            item = {**item, "status": status, "arguments": text}
        else:
            kind = "output_text" if item["type"] == "message" else "reasoning_text"
            more: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
            yield self._event(f"response.{kind}.done", **self._at(), text=text, **more)
            yield self._event("response.content_part.done", **self._at(), part=_part(kind, text))
            item = {**item, "status": status, "content": [_part(kind, text)]}
        yield self._event("response.output_item.done", output_index=len(self._items), item=item)
        self._items.append(item)
        self._open = None
