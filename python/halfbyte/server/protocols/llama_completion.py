"""llama.cpp's own /completion, and /infill: what stands between two texts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from halfbyte.outputs import Output
from halfbyte.server.bridge import Job
from halfbyte.server.call import Call
from halfbyte.server.constraints import ConstraintFields, constrained
from halfbyte.server.errors import ApiError
from halfbyte.server.fim import infill_ids
from halfbyte.server.responses import EventStream, Json, event
from halfbyte.server.sampling import Body, SamplingFields, Texts, as_texts

router = APIRouter(tags=["llama.cpp"])


class ExtraFile(Body):
    filename: str = ""
    text: str


class CompletionRequest(SamplingFields, ConstraintFields):
    model: str | None = None
    prompt: Texts
    n_predict: Annotated[int, Field(ge=-1, le=1 << 30)] | None = None
    stream: bool | None = None
    return_tokens: bool | None = None


@router.post("/completion")
async def complete(request: Request, body: CompletionRequest) -> Response:
    """Continues a text; a list of texts is answered with a list."""
    call = Call.of(request)
    model = await call.model(body.model)
    params = body.to_params(model, call.server.config, max_tokens=body.n_predict)
    texts = as_texts(body.prompt)
    if body.stream and len(texts) > 1:
        raise ApiError(400, "One prompt at a time is streamed.", param="prompt")
    wanted = await call.work("grammar", body.constraint)
    prompts = []
    for text in texts:
        ids = await call.work("prompt", model.llm.tokenize, text) if isinstance(text, str) else text
        prompts += await call.work("grammar", constrained, ids, params, wanted, model.llm)
    job = call.submit(model, prompts)
    if body.stream:
        return EventStream(_stream(job, model.name))
    tokens = bool(body.return_tokens)
    answers = [
        {"content": out.text, "tokens": out.token_ids if tokens else [], **_end(out, model.name)}
        for out in await job.outputs()
    ]
    return Json(answers if isinstance(body.prompt, list) and not isinstance(body.prompt[0], int) else answers[0])


class InfillRequest(SamplingFields, ConstraintFields):
    model: str | None = None
    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: Annotated[list[ExtraFile], Field(max_length=1024)] | None = None
    prompt: str = ""
    n_predict: Annotated[int, Field(ge=-1, le=1 << 30)] | None = None
    stream: bool | None = None


@router.post("/infill")
async def infill(request: Request, body: InfillRequest) -> Response:
    """Fills the gap between input_prefix and input_suffix; prompt is how the middle begins."""
    call = Call.of(request)
    model = await call.model(body.model)
    params = body.to_params(model, call.server.config, max_tokens=body.n_predict)
    ids = await call.work(
        "input_prefix",
        infill_ids,
        model.llm.tokenizer,
        body.input_prefix,
        body.input_suffix,
        started=body.prompt,
        files=[(extra.filename, extra.text) for extra in body.input_extra or []],
    )
    wanted = await call.work("grammar", body.constraint)
    prompts = await call.work("grammar", constrained, ids, params, wanted, model.llm)
    job = call.submit(model, prompts, param="input_prefix")
    if body.stream:
        return EventStream(_stream(job, model.name))
    (output,) = await job.outputs()
    return Json({"content": output.text, **_end(output, model.name)})


async def _stream(job: Job, model: str) -> AsyncIterator[bytes]:
    async for _, piece in job:
        last = {"stop": False} if piece.output is None else _end(piece.output, model)
        yield event({"content": piece.text, **last})


def _end(output: Output, model: str) -> dict[str, Any]:
    word = isinstance(output.stop_reason, str)
    return {
        "model": model,
        "stop": True,
        "stop_type": "limit" if output.finish_reason == "length" else "word" if word else "eos",
        "stopping_word": output.stop_reason if word else "",
        "tokens_evaluated": output.usage.prompt_tokens,
        "tokens_predicted": output.usage.completion_tokens,
        "tokens_cached": output.usage.cached_tokens,
    }
