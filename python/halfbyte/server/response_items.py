"""The answers of /v1/responses: the response object, and its items whole or as events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from halfbyte.chat.tools import Delta
from halfbyte.server.call import Call
from halfbyte.server.chat_stream import ChatAnswer, ChatAsk, ChatRun
from halfbyte.server.errors import ApiError
from halfbyte.server.response_request import ResponsesRequest
from halfbyte.server.responses import event


def _asked(body: ResponsesRequest, response_id: str) -> list[dict[str, Any]]:
    """The input as items with ids."""
    items = body.input
    if isinstance(items, str):
        items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": items}]}]
    return [{"id": f"in_{response_id}_{i}", **item} for i, item in enumerate(items)]


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


def items_of(response_id: str, answer: ChatAnswer) -> Iterator[dict[str, Any]]:
    """What a finished answer consists of: reasoning, a message, calls."""
    said, status = answer.message, "incomplete" if answer.finish_reason == "length" else "completed"
    if said.reasoning:
        yield _reasoning_item(f"rs_{response_id}", said.reasoning, status)
    if said.content or not said.tool_calls:
        yield _message_item(f"msg_{response_id}", said.content, status)
    for i, call in enumerate(said.tool_calls):
        yield _call_item(f"fc_{response_id}_{i}", call.id, call.name, call.arguments, status)


def _as_message(answer: ChatAnswer) -> dict[str, Any]:
    """The answer as a message of the conversation that goes on."""
    said = answer.message
    message: dict[str, Any] = {"role": "assistant", "content": said.content}
    if said.reasoning:
        message["reasoning_content"] = said.reasoning
    if said.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in said.tool_calls
        ]
    return message


class Shell:
    """The response object around the items."""

    def __init__(self, call: Call, model: str, body: ResponsesRequest, ask: ChatAsk) -> None:
        wanted = body.text.format if body.text is not None else None
        self.response_id = call.id
        self._call, self._body, self._ask = call, body, ask
        self._fields = {
            "id": f"resp_{call.id}",
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
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "store": body.store is not False and call.server.config.max_stored_bytes > 0,
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
        """The whole response, which is kept unless the client wants otherwise."""
        cut = answer.finish_reason == "length"
        response = {
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
        if response["store"]:
            skipped = 1 if self._body.instructions else 0  # they hold for one response
            messages = [*self._ask.messages[skipped:], _as_message(answer)]
            asked = _asked(self._body, self.response_id)
            self._call.server.responses.put(self._call.client, response, asked, messages)
        return response

    def failed(self, error: ApiError) -> dict[str, Any]:
        return {**self._fields, "status": "failed", "error": {"code": "server_error", "message": error.message}}


class ItemStream:
    """The same as events: each item is opened, filled and closed."""

    def __init__(self, run: ChatRun, shell: Shell) -> None:
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
