"""OpenAI's /v1/responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from halfbyte.server.call import Call
from halfbyte.server.chat_stream import ChatAsk, start_chat
from halfbyte.server.constraints import ConstraintFields
from halfbyte.server.errors import ApiError
from halfbyte.server.models import LoadedModel
from halfbyte.server.response_items import ItemStream, Shell, items_of
from halfbyte.server.response_request import ResponsesRequest
from halfbyte.server.responses import EventStream, Json
from halfbyte.server.stored import Stored

router = APIRouter(tags=["openai"])


@router.post("/v1/responses")
async def respond(request: Request, body: ResponsesRequest) -> Response:
    """The assistant's answer, as a list of items."""
    call = Call.of(request)
    for name in ("conversation", "background"):
        if getattr(body, name):
            text = f"{name} is not supported. Go on from a response with previous_response_id, or send all as input."
            raise ApiError(400, text, param=name, code="unsupported_parameter")
    before = _find(call, body.previous_response_id).messages if body.previous_response_id else []
    model = await call.model(body.model)
    ask = await call.work("input", _ask, call, model, body, before)
    run = await start_chat(call, model, ask, param="input")
    shell = Shell(call, model.name, body, ask)
    if body.stream:
        stream = ItemStream(run, shell)
        return EventStream(stream.events(), on_error=stream.failed)
    (answer,) = await run.wait()
    return Json(shell.finished(answer, run, list(items_of(call.id, answer))))


@router.get("/v1/responses/{name}")
async def show_response(request: Request, name: str) -> Json:
    """A response that is still kept."""
    return Json(_find(Call.of(request), name, "response_id").response)


@router.get("/v1/responses/{name}/input_items")
async def show_input(request: Request, name: str) -> Json:
    """The items that a response answered, the last one first."""
    asked = _find(Call.of(request), name, "response_id").asked[::-1]
    ends = {"first_id": asked[0]["id"], "last_id": asked[-1]["id"]} if asked else {"first_id": None, "last_id": None}
    return Json({"object": "list", "data": asked, "has_more": False, **ends})


@router.delete("/v1/responses/{name}")
async def forget_response(request: Request, name: str) -> Json:
    """Forgets a response."""
    call = Call.of(request)
    _find(call, name, "response_id")
    call.server.responses.remove(call.client, name)
    return Json({"id": name, "object": "response", "deleted": True})


def _find(call: Call, name: str, param: str = "previous_response_id") -> Stored:
    found = call.server.responses.get(call.client, name)
    if found is None:
        text = f'There is no response "{name[:120]}" here: it was not stored, or has made room for later ones.'
        raise ApiError(404, text, param=param, code="response_not_found")
    return found


# From items to messages -----------------------------------------------------------------------------------------------


def _ask(call: Call, model: LoadedModel, body: ResponsesRequest, before: Sequence[Mapping[str, Any]]) -> ChatAsk:
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
        _messages(body, before),
        body.to_params(model, call.server.config, max_tokens=body.max_output_tokens),
        constraint=("text.format", constraint[1]) if constraint else None,
        tools=[tool for given in body.tools or [] for tool in _tools(given)] or None,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        variables=variables,
    )


def _tools(tool: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A function, or those of a namespace. Agents offer tools of OpenAI's own with them (web_search, ...): no other
    model knows these, so they are left out."""
    if tool.get("type") == "namespace":
        for inner in tool.get("tools") or ():
            yield from _tools(inner) if isinstance(inner, dict) and inner.get("type") != "namespace" else ()
    if tool.get("type") == "function":
        names = ("name", "description", "parameters")
        yield {"type": "function", "function": {key: tool[key] for key in names if tool.get(key) is not None}}


def _messages(body: ResponsesRequest, before: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The instructions of this request, the conversation before it, and its input."""
    messages = [{"role": "system", "content": body.instructions}] if body.instructions else []
    if isinstance(body.input, str):
        return [*messages, *before, {"role": "user", "content": body.input}]
    asked: list[dict[str, Any]] = []
    for i, item in enumerate(body.input):
        made = _message(item, f"input[{i}]", asked[-1] if asked else {})
        asked += [made] if made else []
    if not (messages or before or asked):
        raise ApiError(400, "input is empty.", param="input")
    return [*messages, *before, *asked]


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
    if kind in ("reasoning", "web_search_call", "compaction"):
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
