"""OpenAI's /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from halfbyte.server.bridge import Job, Prompt
from halfbyte.server.call import Call
from halfbyte.server.responses import DONE, EventStream, Json, event
from halfbyte.server.sampling import SamplingFields, first

router = APIRouter(tags=["openai"])


class ChatRequest(SamplingFields):
    model: str | None = None
    messages: list[dict[str, Any]]
    max_tokens: Annotated[int, Field(ge=0, le=1 << 30)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=0, le=1 << 30)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = 1
    stream: bool | None = False


@router.post("/v1/chat/completions")
async def chat(request: Request, body: ChatRequest) -> Response:
    """The assistant's answer to messages."""
    call = Call.of(request)
    model = await call.model(body.model)
    params = body.to_params(
        model.llm.defaults, call.server.config, max_tokens=first(body.max_completion_tokens, body.max_tokens), n=body.n
    )
    ids = await call.work(model.llm.chat_ids, body.messages)
    job = call.submit(model, [Prompt(ids, params)], param="messages")
    frame = {"id": f"chatcmpl-{call.id}", "created": int(time.time()), "model": model.name}
    if body.stream:
        return EventStream(_stream(job, {**frame, "object": "chat.completion.chunk"}))
    outputs = await call.finish(job.outputs())
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": output.text},
            "finish_reason": output.finish_reason,
            "logprobs": None,
        }
        for i, output in enumerate(outputs)
    ]
    return Json({**frame, "object": "chat.completion", "choices": choices})


async def _stream(job: Job, frame: dict[str, Any]) -> AsyncIterator[bytes]:
    async for index, piece in job:
        choice = {
            "index": index,
            "delta": {"content": piece.text},
            "finish_reason": piece.finish_reason,
            "logprobs": None,
        }
        yield event({**frame, "choices": [choice]})
    yield DONE
