"""OpenAI's /v1/completions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from halfbyte.outputs import Output, Piece
from halfbyte.params import SamplingParams
from halfbyte.server.bridge import Job, Prompt
from halfbyte.server.call import Call
from halfbyte.server.constraints import ConstraintFields, constrained
from halfbyte.server.errors import ApiError
from halfbyte.server.fim import infill_ids
from halfbyte.server.models import LoadedModel
from halfbyte.server.protocols.openai_chat import StreamOptions
from halfbyte.server.responses import DONE, EventStream, Json, event
from halfbyte.server.sampling import NoLimit, SamplingFields, Texts, as_texts
from halfbyte.server.shapes import completion_logprobs, mean_logprob, usage_of, without_end

router = APIRouter(tags=["openai"])

Choices = Annotated[int, Field(ge=1, le=128)]


class CompletionRequest(SamplingFields, ConstraintFields):
    model: str | None = None
    prompt: Texts = ""
    suffix: str | None = None
    max_tokens: Annotated[Annotated[int, Field(ge=0, le=1 << 30)] | None, NoLimit] = 16
    n: Choices | None = None
    best_of: Choices | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


@dataclasses.dataclass
class _Run:
    """The answers of all prompts under way: n to each, of which best_of were computed."""

    job: Job
    model: LoadedModel
    body: CompletionRequest
    prompts: list[list[int]]
    n: int
    best_of: int

    @property
    def n_prompt(self) -> int:
        return sum(map(len, self.prompts))

    @property
    def n_cached(self) -> int:
        return sum(answer.usage.cached_tokens for answer in self.job.answers[:: self.best_of])

    @property
    def n_generated(self) -> int:
        return sum(answer.usage.completion_tokens for answer in self.job.answers)

    n_reasoning = 0

    def echoed(self, index: int) -> str:
        """The text that the answer's prompt puts before it."""
        if not self.body.echo:
            return ""
        return self.model.llm.tokenizer.decode(self.prompts[index // self.best_of], skip_special=True)


@router.post("/v1/completions")
async def complete(request: Request, body: CompletionRequest) -> Response:
    """Continues texts."""
    call = Call.of(request)
    n = body.n or 1
    best_of = body.best_of or n
    if best_of < n:
        raise ApiError(400, f"best_of is {best_of}, less than n, which is {n}.", param="best_of")
    if body.stream and best_of > n:
        raise ApiError(400, "best_of needs all answers before it can choose: it cannot stream.", param="best_of")
    model = await call.model(body.model)
    params = _params(call, model, body, best_of)
    prompts = await call.work("suffix" if body.suffix else "prompt", _prompt_ids, model, body)
    wanted = await call.work("response_format", body.constraint)
    jobs: list[Prompt] = []
    for ids in prompts:
        call.check_length(len(ids), "prompt")
        jobs += await call.work(wanted[0] if wanted else "prompt", constrained, ids, params, wanted, model.llm)
    run = _Run(call.submit(model, jobs), model, body, prompts, n, best_of)
    frame = {"id": f"cmpl-{call.id}", "object": "text_completion", "created": int(time.time()), "model": model.name}
    if body.stream:
        return EventStream(_stream(run, frame))
    outputs = await run.job.outputs()
    choices: list[dict[str, Any]] = []
    for first in range(0, len(outputs), best_of):
        found = outputs[first : first + best_of]
        if best_of > n:
            found = sorted(found, key=mean_logprob, reverse=True)[:n]
        choices += [_choice(run, len(choices) + i, first, output) for i, output in enumerate(found)]
    return Json({**frame, "choices": choices, "usage": usage_of(run)})


def _params(call: Call, model: LoadedModel, body: CompletionRequest, best_of: int) -> SamplingParams:
    logprobs = body.logprobs if body.logprobs is not None or best_of == (body.n or 1) else 0
    params = body.to_params(model, call.server.config, max_tokens=body.max_tokens, n=best_of, logprobs=logprobs)
    return dataclasses.replace(params, prompt_logprobs=bool(body.echo) and body.logprobs is not None)


def _prompt_ids(model: LoadedModel, body: CompletionRequest) -> list[list[int]]:
    llm = model.llm
    texts = as_texts(body.prompt)
    if body.suffix:
        return [
            infill_ids(llm.tokenizer, text if isinstance(text, str) else llm.detokenize(text), body.suffix)
            for text in texts
        ]
    return [llm.tokenize(text) if isinstance(text, str) else text for text in texts]


def _choice(run: _Run, index: int, answer: int, output: Output) -> dict[str, Any]:
    echoed = run.echoed(answer)
    logprobs = None
    if run.body.logprobs is not None:
        entries = [(e.token, e.logprob, e.top) for e in _entries(run, output.logprobs or [], output.finish_reason)]
        before = _prompt_entries(run, answer) if run.body.echo else []
        logprobs = completion_logprobs(run.model.llm.tokenizer, [*before, *entries], 0)
    return {
        "index": index,
        "text": echoed + output.text,
        "logprobs": logprobs,
        "finish_reason": output.finish_reason,
        "stop_reason": output.stop_reason if isinstance(output.stop_reason, str) else None,
    }


def _entries(run: _Run, entries: list[Any], reason: str | None) -> list[Any]:
    return without_end(run.model.llm.tokenizer, entries, ended=reason == "stop")


def _prompt_entries(run: _Run, index: int) -> list[Any]:
    """Token, log probability and likeliest tokens of each place in an answer's prompt; the first has none."""
    answer, tokenizer = run.job.answers[index], run.model.llm.tokenizer
    ids, tops = run.prompts[index // run.best_of], answer.prompt_top_logprobs or [[]] * len(answer.prompt_logprobs)
    places = zip(ids, [None, *answer.prompt_logprobs], [None, *tops], strict=True)
    return [place for place in places if not tokenizer.is_control(place[0])]


async def _stream(run: _Run, frame: dict[str, Any]) -> AsyncIterator[bytes]:
    wants_usage = run.body.stream_options is not None and bool(run.body.stream_options.include_usage)
    if wants_usage:
        frame["usage"] = None
    tokenizer = run.model.llm.tokenizer
    offsets: dict[int, int] = {}
    async for index, piece in run.job:
        text = piece.text
        entries: list[Any] = [(e.token, e.logprob, e.top) for e in _entries(run, piece.logprobs, piece.finish_reason)]
        if index not in offsets:
            offsets[index] = 0
            text = run.echoed(index) + text
            if run.body.echo and run.body.logprobs is not None:
                entries = [*_prompt_entries(run, index), *entries]
        logprobs = None
        if run.body.logprobs is not None:
            logprobs = completion_logprobs(tokenizer, entries, offsets[index])
            offsets[index] += sum(map(len, logprobs["tokens"]))
        yield event({**frame, "choices": [_stream_choice(index, text, logprobs, piece)]})
    if wants_usage:
        yield event({**frame, "choices": [], "usage": usage_of(run)})
    yield DONE


def _stream_choice(index: int, text: str, logprobs: dict[str, Any] | None, piece: Piece) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": piece.finish_reason}
