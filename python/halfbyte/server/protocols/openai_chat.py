"""OpenAI's /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from halfbyte.chat.tools import Delta
from halfbyte.outputs import Piece
from halfbyte.server.call import Call
from halfbyte.server.chat_stream import ChatAnswer, ChatAsk, ChatRun, start_chat
from halfbyte.server.constraints import ConstraintFields
from halfbyte.server.errors import ApiError
from halfbyte.server.models import LoadedModel
from halfbyte.server.responses import DONE, EventStream, Json, event
from halfbyte.server.sampling import Body, ChoiceFields, NoLimit, SamplingFields, first
from halfbyte.server.shapes import chat_logprobs, usage_of, without_end

router = APIRouter(tags=["openai"])

Count = Annotated[Annotated[int, Field(ge=1, le=1 << 30)] | None, NoLimit]


class StreamOptions(Body):
    include_usage: bool | None = None


class ChatRequest(SamplingFields, ChoiceFields, ConstraintFields):
    model: str | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_tokens: Count = None
    max_completion_tokens: Count = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Annotated[str, Field(max_length=64)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


@router.post("/v1/chat/completions")
async def chat(request: Request, body: ChatRequest) -> Response:
    """The assistant's answer to messages."""
    call = Call.of(request)
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true.", param="top_logprobs")
    model = await call.model(body.model)
    run = await start_chat(call, model, await call.work("messages", _ask, call, model, body))
    frame = {"id": f"chatcmpl-{call.id}", "created": int(time.time()), "model": model.name}
    if body.stream:
        return EventStream(_stream(run, body, model, frame))
    answers = await run.wait()
    choices = [_choice(i, answer, body, model) for i, answer in enumerate(answers)]
    return Json({**frame, "object": "chat.completion", "choices": choices, "usage": usage_of(run)})


def _ask(call: Call, model: LoadedModel, body: ChatRequest) -> ChatAsk:
    params = body.to_params(
        model,
        call.server.config,
        max_tokens=first(body.max_completion_tokens, body.max_tokens),
        **body.choice(stream=bool(body.stream)),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    variables = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", body.reasoning_effort)
    return ChatAsk(
        body.messages,
        params,
        constraint=body.constraint(),
        **_tools(body),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        variables=variables,
        add_generation_prompt=body.add_generation_prompt is not False,
        continue_final_message=body.continue_final_message is True,
    )


def _tools(body: ChatRequest) -> dict[str, Any]:
    """The tools, and the choice of one in its plain form."""
    tools, choice = body.tools, body.tool_choice
    if isinstance(choice, dict) and choice.get("type") in ("auto", "none", "required", "any"):
        choice = str(choice["type"])
    if isinstance(choice, dict) and isinstance(allowed := choice.get("allowed_tools"), dict):
        choice = str(allowed.get("mode", "auto"))
        tools = [tool for tool in allowed.get("tools") or [] if isinstance(tool, dict)]
        names = [tool["function"].get("name") for tool in tools if isinstance(tool.get("function"), dict)]
        tools = [tool for tool in body.tools or [] if (tool.get("function") or {}).get("name") in names]
    return {"tools": tools, "tool_choice": choice}


def _choice(index: int, answer: ChatAnswer, body: ChatRequest, model: LoadedModel) -> dict[str, Any]:
    said, output = answer.message, answer.output
    message: dict[str, Any] = {"role": "assistant", "content": said.content, "refusal": None}
    if said.reasoning:
        message |= _reasoning(said.reasoning)
    if said.tool_calls:
        message["content"] = said.content or None
        message["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in said.tool_calls
        ]
    logprobs = None
    if body.logprobs and output is not None:
        tokenizer = model.llm.tokenizer
        entries = without_end(tokenizer, output.logprobs or [], ended=output.finish_reason in ("stop", "tool_calls"))
        logprobs = chat_logprobs(tokenizer, entries, body.top_logprobs or 0)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer.finish_reason}


async def _stream(run: ChatRun, body: ChatRequest, model: LoadedModel, frame: dict[str, Any]) -> AsyncIterator[bytes]:
    frame["object"] = "chat.completion.chunk"
    wants_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    if wants_usage:
        frame["usage"] = None

    def chunk(index: int, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return event({**frame, "choices": [choice]})

    begun: set[int] = set()
    async for index, deltas, piece in run:
        if index not in begun:
            begun.add(index)
            yield chunk(index, {"role": "assistant", "content": ""})
        logprobs = _logprobs_of(piece, body, model)
        if logprobs and not deltas:
            deltas = [Delta(content="")]
        for delta in deltas:
            yield chunk(index, _delta(delta), logprobs)
            logprobs = None
        if piece.finish_reason is not None:
            yield chunk(index, {}, None, run.answers[index].finish_reason)
    if wants_usage:
        yield event({**frame, "choices": [], "usage": usage_of(run)})
    yield DONE


def _logprobs_of(piece: Piece, body: ChatRequest, model: LoadedModel) -> dict[str, Any] | None:
    if not body.logprobs:
        return None
    tokenizer = model.llm.tokenizer
    entries = without_end(tokenizer, piece.logprobs, ended=piece.finish_reason in ("stop", "tool_calls"))
    return chat_logprobs(tokenizer, entries, body.top_logprobs or 0) if entries else None


def _delta(delta: Delta) -> dict[str, Any]:
    if delta.tool_call is not None:
        call = delta.tool_call
        function: dict[str, Any] = {"arguments": call.arguments_fragment}
        if call.name is None:
            return {"tool_calls": [{"index": call.index, "function": function}]}
        function["name"] = call.name
        return {"tool_calls": [{"index": call.index, "id": call.id, "type": "function", "function": function}]}
    if delta.reasoning is not None:
        return _reasoning(delta.reasoning)
    return {"content": delta.content or ""}


def _reasoning(text: str) -> dict[str, str]:
    """Under DeepSeek's name and under OpenRouter's, to which vLLM went over: clients read the one or the other."""
    return {"reasoning_content": text, "reasoning": text}
