"""OpenAI's /v1/completions."""

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
from halfbyte.server.sampling import SamplingFields

router = APIRouter(tags=["openai"])

Text = str | list[str] | list[int] | list[list[int]]


class CompletionRequest(SamplingFields):
    model: str | None = None
    prompt: Text = ""
    max_tokens: Annotated[int, Field(ge=0, le=1 << 30)] | None = 16
    n: Annotated[int, Field(ge=1, le=128)] | None = 1
    stream: bool | None = False


@router.post("/v1/completions")
async def complete(request: Request, body: CompletionRequest) -> Response:
    """Continues texts."""
    call = Call.of(request)
    model = await call.model(body.model)
    params = body.to_params(model.llm.defaults, call.server.config, max_tokens=body.max_tokens, n=body.n)
    texts: Any = body.prompt
    if isinstance(texts, str) or (texts and isinstance(texts[0], int)):
        texts = [texts]
    ids = [await call.work(model.llm.tokenize, text) if isinstance(text, str) else text for text in texts]
    job = call.submit(model, [Prompt(one, params) for one in ids])
    frame = {"id": f"cmpl-{call.id}", "object": "text_completion", "created": int(time.time()), "model": model.name}
    if body.stream:
        return EventStream(_stream(job, frame))
    outputs = await call.finish(job.outputs())
    choices = [
        {"index": i, "text": output.text, "finish_reason": output.finish_reason, "logprobs": None}
        for i, output in enumerate(outputs)
    ]
    return Json({**frame, "choices": choices})


async def _stream(job: Job, frame: dict[str, Any]) -> AsyncIterator[bytes]:
    async for index, piece in job:
        choice = {"index": index, "text": piece.text, "finish_reason": piece.finish_reason, "logprobs": None}
        yield event({**frame, "choices": [choice]})
    yield DONE
