"""Ollama's /api/generate, /api/chat, /api/embed and /api/embeddings."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from halfbyte.chat import ChatTemplate, GoChatTemplate, is_go_template
from halfbyte.chat.tools import Delta, Message
from halfbyte.grammar import Constraint, json_schema_constraint
from halfbyte.hub.parameters import PARAMETERS, checked_parameters, sampling_overrides
from halfbyte.outputs import Output, Piece
from halfbyte.params import SamplingParams
from halfbyte.server.bridge import Prompt
from halfbyte.server.call import Call
from halfbyte.server.chat_stream import ChatAnswer, ChatAsk, ChatRun, submit_chat
from halfbyte.server.embed import embed, embed_ids
from halfbyte.server.errors import ApiError
from halfbyte.server.fim import infill_ids
from halfbyte.server.models import LoadedModel
from halfbyte.server.ollama_context import Window
from halfbyte.server.ollama_shapes import blaming, error_body, named_model, now, ns, streamed
from halfbyte.server.responses import Json
from halfbyte.server.sampling import Body
from halfbyte.server.shapes import chat_logprobs, without_end

__all__ = ["ERROR_PREFIX", "error_body", "router"]

ERROR_PREFIX = "/api/"
router = APIRouter(tags=["ollama"])

KeepAlive = float | str | None


class AnswerRequest(Body):
    """What generate and chat share."""

    model: str = ""
    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    keep_alive: KeepAlive = None
    think: bool | Literal["", "low", "medium", "high"] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncate: bool | None = None

    def known_options(self) -> dict[str, Any]:
        """The options with values of their types. Those nobody knows are ignored. Raises ApiError."""
        known = {name: value for name, value in (self.options or {}).items() if name in PARAMETERS}
        return blaming("options", partial(checked_parameters, known))

    def window(self, model: LoadedModel) -> Window:
        """The context that the request may use. Raises ApiError."""
        return Window.of(model, self.known_options(), self.truncate)

    def params(self, call: Call, model: LoadedModel) -> SamplingParams:
        """The model's defaults under the request's options. Raises ApiError."""
        found = sampling_overrides(self.known_options())
        limit = call.server.config.max_output_tokens
        if limit:
            wanted = found.get("max_tokens")
            found["max_tokens"] = limit if wanted is None else min(wanted, limit)
        if self.logprobs:
            found["logprobs"] = self.top_logprobs or 0
        return blaming("options", partial(model.defaults.replace, **found))

    def constraint(self) -> Constraint | None:
        """What `format` holds the answer to. Raises ApiError."""
        if not self.format:
            return None
        schema = {"type": "object"} if self.format == "json" else self.format
        return blaming("format", partial(json_schema_constraint, json.dumps(schema)))

    def thinking(self, model: LoadedModel) -> dict[str, Any]:
        """Variables of the chat template. Raises ApiError when a model that cannot think shall."""
        if self.think is None or self.think == "":
            return {}
        if self.think is not False and not can_think(model.llm.chat_template.source):
            raise ApiError(400, f'"{self.model}" does not support thinking')
        effort = {"reasoning_effort": self.think} if isinstance(self.think, str) else {}
        return {"enable_thinking": bool(self.think), **effort}


class GenerateRequest(AnswerRequest):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=1 << 20)] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class ChatRequest(AnswerRequest):
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None


def can_think(template: str) -> bool:
    """Whether a model with this chat template can be asked to think."""
    return any(sign in template for sign in ("enable_thinking", ".Think", "<think>", "reasoning_effort", "<|channel|>"))


# Answers ----------------------------------------------------------------------------------------------------------


@router.post("/api/generate")
async def generate(request: Request, body: GenerateRequest) -> Response:
    """Continues a prompt, or answers it through the model's template."""
    call = Call.of(request)
    _refuse_images(body.images)
    model, load_ns = await named_model(call, body.model, body.keep_alive)
    if not body.prompt and not body.suffix:
        return _loaded(body, {"response": ""})
    prompt, window = await _prompt(call, model, body), body.window(model)
    ids = window.cut(prompt.ids, prompt.params)
    prompt = replace(prompt, ids=ids, params=window.params(prompt.params, len(ids)))
    job = call.submit(model, [prompt])
    run = ChatRun(job, [ChatAnswer()])
    return await streamed(_generate_lines(call, model, body, run, prompt.ids, load_ns), stream=body.stream)


async def _prompt(call: Call, model: LoadedModel, body: GenerateRequest) -> Prompt:
    llm, text = model.llm, body.prompt or ""
    params, constraint = body.params(call, model), await call.work("format", body.constraint)
    if constraint is not None:
        params = replace(params, response_format=constraint)
    if body.raw:
        if body.template or body.system or body.context or body.suffix:
            raise ApiError(400, "raw mode does not support template, system, suffix, or context")
        ids: list[int] = await call.work("prompt", partial(llm.tokenize, text, parse_special=True))
        return Prompt(ids, params, await call.work("format", llm.plain_form, params))
    template = blaming("template", partial(_template_of, body.template)) if body.template else None
    if body.suffix:
        used = template or llm.chat_template
        if isinstance(used, GoChatTemplate) and used.knows_suffix:
            text = blaming("suffix", partial(used.fill, text, body.suffix))
            ids = await call.work("prompt", partial(llm.tokenize, text, parse_special=True))
        else:
            ids = await call.work("suffix", infill_ids, llm.tokenizer, text, body.suffix)
        return Prompt(ids, params, await call.work("format", llm.plain_form, params))
    messages = [{"role": "system", "content": body.system}] if body.system else []
    messages.append({"role": "user", "content": text})
    work = partial(llm.chat_prompt, messages, params, template=template, **body.thinking(model))
    made = await call.work("format" if constraint else "prompt", work)
    if not body.context:
        return Prompt(made.ids, params, made.form)
    bad = next((i for i in body.context if i >= llm.tokenizer.n_vocab), None)
    if bad is not None:
        raise ApiError(400, f"context holds {bad}, which is no token of this model")
    start = 1 if made.ids[:1] == [llm.tokenizer.bos_id] else 0
    return Prompt([*body.context, *made.ids[start:]], params, made.form)


def _template_of(source: str) -> ChatTemplate | GoChatTemplate:
    return GoChatTemplate(source) if is_go_template(source) else ChatTemplate(source)


async def _generate_lines(
    call: Call, model: LoadedModel, body: GenerateRequest, run: ChatRun, ids: list[int], load_ns: int
) -> AsyncIterator[dict[str, Any]]:
    whole = body.stream is False
    text, thought = "", ""
    logprobs: list[Any] = []
    async for _, deltas, piece in run:
        frame = {"model": body.model, "created_at": now()}
        text += "".join(d.content or "" for d in deltas)
        thought += "".join(d.reasoning or "" for d in deltas)
        logprobs += _logprobs(body, model, piece)
        said = {
            "response": text,
            **({"thinking": thought} if thought else {}),
            **({"logprobs": logprobs} if logprobs else {}),
        }
        if not whole and len(said) + len(text) > 1:
            yield {**frame, **said, "done": False}
            text, thought, logprobs = "", "", []
        if piece.output is not None:
            last = {**frame, **(said if whole else {"response": ""}), "done": True, "done_reason": _reason(piece)}
            if not body.raw:
                last["context"] = [*ids, *piece.output.token_ids]
            yield last | _figures(call, piece.output, load_ns)


@router.post("/api/chat")
async def chat(request: Request, body: ChatRequest) -> Response:
    """The assistant's answer to messages."""
    call = Call.of(request)
    for message in body.messages or []:
        _refuse_images(message.get("images"))
    model, load_ns = await named_model(call, body.model, body.keep_alive)
    if not body.messages:
        return _loaded(body, {"message": {"role": "assistant", "content": ""}})
    constraint = await call.work("format", body.constraint)
    ask = ChatAsk(
        [_message(message) for message in body.messages],
        body.params(call, model),
        constraint=("format", constraint) if constraint else None,
        tools=body.tools or None,
        variables=body.thinking(model),
    )
    window = body.window(model)
    ask, prompt = await window.fitted(call, model, ask)
    ask.params = window.params(ask.params, len(prompt.ids))
    run = submit_chat(call, model, ask, prompt)
    return await streamed(_chat_lines(call, model, body, run, load_ns), stream=body.stream)


async def _chat_lines(
    call: Call, model: LoadedModel, body: ChatRequest, run: ChatRun, load_ns: int
) -> AsyncIterator[dict[str, Any]]:
    whole = body.stream is False
    said = Message()
    logprobs: list[Any] = []
    async for _, deltas, piece in run:
        frame = {"model": body.model, "created_at": now()}
        said.add(Delta(content=d.content, reasoning=d.reasoning) for d in deltas)
        logprobs += _logprobs(body, model, piece)
        if piece.output is not None:
            said.tool_calls = run.answers[0].message.tool_calls
        if not whole and (said.content or said.reasoning or said.tool_calls or logprobs):
            yield {**frame, **_said(said, logprobs), "done": False}
            said, logprobs = Message(), []
        if piece.output is not None:
            end = {**frame, **_said(said, logprobs), "done": True, "done_reason": _reason(piece)}
            yield end | _figures(call, piece.output, load_ns)


def _said(message: Message, logprobs: list[Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"role": "assistant", "content": message.content}
    if message.reasoning:
        out["thinking"] = message.reasoning
    if message.tool_calls:
        out["tool_calls"] = [
            {"function": {"name": call.name, "arguments": _object(call.arguments)}} for call in message.tool_calls
        ]
    return {"message": out, **({"logprobs": logprobs} if logprobs else {})}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A message in OpenAI's terms: thinking is reasoning_content, a tool's name is name, calls have ids and types."""
    out = {
        key: value
        for key, value in message.items()
        if key not in ("images", "thinking", "tool_name") and value is not None
    }
    out.setdefault("content", "")
    if message.get("thinking"):
        out["reasoning_content"] = message["thinking"]
    if message.get("tool_name"):
        out["name"] = out["tool_name"] = message["tool_name"]
    calls = out.get("tool_calls")
    if isinstance(calls, list):
        out["tool_calls"] = [
            {"id": f"call_{i}", "type": "function", **call} if isinstance(call, dict) else call
            for i, call in enumerate(calls)
        ]
    return out


def _object(arguments: str) -> dict[str, Any]:
    """A call's arguments; {} where the answer was cut off within them."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _refuse_images(images: Any) -> None:
    if images:
        raise ApiError(400, "this model does not understand images; only text can be sent", param="images")


def _loaded(body: GenerateRequest | ChatRequest, empty: dict[str, Any]) -> Response:
    """The answer to a request that asks nothing: the model is loaded, or with keep_alive 0 dropped, when it ends."""
    reason = "unload" if body.keep_alive is not None and str(body.keep_alive).strip("0ms.") == "" else "load"
    return Json({"model": body.model, "created_at": now(), **empty, "done": True, "done_reason": reason})


def _reason(piece: Piece) -> str:
    return "length" if piece.finish_reason == "length" else "stop"


def _figures(call: Call, output: Output, load_ns: int) -> dict[str, int]:
    return {
        "total_duration": ns(time.perf_counter() - call.started),
        "load_duration": load_ns,
        "prompt_eval_count": output.usage.prompt_tokens,
        "prompt_eval_duration": ns(output.timing.prefill_s),
        "eval_count": output.usage.completion_tokens,
        "eval_duration": ns(output.timing.decode_s),
    }


def _logprobs(body: AnswerRequest, model: LoadedModel, piece: Piece) -> list[Any]:
    if not body.logprobs:
        return []
    tokenizer = model.llm.tokenizer
    entries = without_end(tokenizer, piece.logprobs, ended=piece.finish_reason == "stop")
    found = chat_logprobs(tokenizer, entries, body.top_logprobs or 0)["content"]
    return [entry if body.top_logprobs else {k: v for k, v in entry.items() if k != "top_logprobs"} for entry in found]


# Embeddings -------------------------------------------------------------------------------------------------------


class EmbedRequest(Body):
    model: str = ""
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    keep_alive: KeepAlive = None


class EmbeddingsRequest(Body):
    model: str = ""
    prompt: str | None = None
    keep_alive: KeepAlive = None


@router.post("/api/embed")
async def embed_many(request: Request, body: EmbedRequest) -> Json:
    """Vectors of texts, each of length 1."""
    call = Call.of(request)
    model, load_ns = await named_model(call, body.model, body.keep_alive)
    texts = [body.input] if isinstance(body.input, str) else body.input or []
    rows, n_tokens = await _rows(call, model, [t for t in texts if t], body.truncate is not False)
    if body.dimensions is not None and len(rows):
        rows = rows[:, : body.dimensions]
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    total = ns(time.perf_counter() - call.started)
    figures = {"total_duration": total, "load_duration": load_ns, "prompt_eval_count": n_tokens}
    return Json({"model": body.model, "embeddings": [[float(x) for x in row] for row in rows], **figures})


@router.post("/api/embeddings")
async def embed_one(request: Request, body: EmbeddingsRequest) -> Json:
    """The vector of a text: the older form of /api/embed."""
    call = Call.of(request)
    model, _ = await named_model(call, body.model, body.keep_alive)
    rows, _ = await _rows(call, model, [body.prompt] if body.prompt else [], True)
    return Json({"embedding": [float(x) for x in rows[0]] if len(rows) else []})


async def _rows(call: Call, model: LoadedModel, texts: list[str], truncate: bool) -> tuple[Any, int]:
    if not texts:
        return [], 0
    ids: list[str | list[int]] = list(texts)
    if truncate:
        n_ctx = model.llm.n_ctx
        ids = await call.work("input", lambda: [model.llm.tokenize(text)[:n_ctx] for text in texts])
    checked = await embed_ids(call, model, ids, "input")
    return await embed(call, model, checked, "input"), sum(len(one) for one in checked)
