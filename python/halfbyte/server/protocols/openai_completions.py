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
from halfbyte.server.bridge import Job, Prompt
from halfbyte.server.call import Call
from halfbyte.server.constraints import ConstraintFields, constrained
from halfbyte.server.fim import infill_ids
from halfbyte.server.models import LoadedModel
from halfbyte.server.protocols.openai_chat import StreamOptions
from halfbyte.server.responses import DONE, EventStream, Json, event
from halfbyte.server.sampling import ChoiceFields, NoLimit, SamplingFields, Texts, as_texts
from halfbyte.server.shapes import completion_logprobs, usage_of, without_end

router = APIRouter(tags=["openai"])


class CompletionRequest(SamplingFields, ChoiceFields, ConstraintFields):
    model: str | None = None
    prompt: Texts = ""
    suffix: str | None = None
    max_tokens: Annotated[Annotated[int, Field(ge=0, le=1 << 30)] | None, NoLimit] = 16
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


@dataclasses.dataclass
class _Run:
    """The answers of all prompts under way."""

    job: Job
    model: LoadedModel
    body: CompletionRequest
    prompts: list[list[int]]

    @property
    def n_prompt(self) -> int:
        return sum(map(len, self.prompts))

    @property
    def n_cached(self) -> int:
        return sum(answer.usage.cached_tokens for answer in self.job.answers[:: self.job.n_each])

    @property
    def n_generated(self) -> int:
        return sum(answer.n_generated for answer in self.job.answers)

    n_reasoning = 0

    def echoed(self, index: int) -> str:
        """The text that a prompt puts before its answers."""
        return self.model.llm.tokenizer.decode(self.prompts[index], skip_special=True) if self.body.echo else ""


@router.post("/v1/completions")
async def complete(request: Request, body: CompletionRequest) -> Response:
    """Continues texts."""
    call = Call.of(request)
    choice = body.choice(stream=bool(body.stream))
    model = await call.model(body.model)
    params = body.to_params(model, call.server.config, max_tokens=body.max_tokens, logprobs=body.logprobs, **choice)
    params = dataclasses.replace(params, prompt_logprobs=bool(body.echo) and body.logprobs is not None)
    prompts = await call.work("suffix" if body.suffix else "prompt", _prompt_ids, model, body)
    wanted = await call.work("response_format", body.constraint)
    jobs: list[Prompt] = []
    for ids in prompts:
        call.check_length(len(ids), "prompt")
        jobs += await call.work(wanted[0] if wanted else "prompt", constrained, ids, params, wanted, model.llm)
    run = _Run(call.submit(model, jobs), model, body, prompts)
    frame = {"id": f"cmpl-{call.id}", "object": "text_completion", "created": int(time.time()), "model": model.name}
    if body.stream:
        return EventStream(_stream(run, frame))
    outputs = await run.job.outputs()
    n = len(outputs) // len(prompts)
    choices = [_choice(run, i, i // n, output) for i, output in enumerate(outputs)]
    return Json({**frame, "choices": choices, "usage": usage_of(run)})


def _prompt_ids(model: LoadedModel, body: CompletionRequest) -> list[list[int]]:
    llm = model.llm
    texts = as_texts(body.prompt)
    if body.suffix:
        return [
            infill_ids(llm.tokenizer, text if isinstance(text, str) else llm.detokenize(text), body.suffix)
            for text in texts
        ]
    return [llm.tokenize(text) if isinstance(text, str) else text for text in texts]


def _choice(run: _Run, index: int, prompt: int, output: Output) -> dict[str, Any]:
    echoed = run.echoed(prompt)
    logprobs = None
    if run.body.logprobs is not None:
        entries = [(e.token, e.logprob, e.top) for e in _entries(run, output.logprobs or [], output.finish_reason)]
        before = _prompt_entries(run, prompt * run.job.n_each) if run.body.echo else []
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
    ids, tops = run.prompts[index // run.job.n_each], answer.prompt_top_logprobs or [[]] * len(answer.prompt_logprobs)
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
            text = run.echoed(index // run.job.n_each) + text
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
