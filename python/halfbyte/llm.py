"""LLM: text in, text out. Owns a model, its tokenizer, its chat template and an engine."""

from __future__ import annotations

import asyncio
import difflib
import inspect
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from halfbyte import _core
from halfbyte.chat import ChatTemplate, chosen_template
from halfbyte.errors import CancelledError, FormatError, InvalidArgumentError
from halfbyte.outputs import Logprob, Output, Piece, Timing, Usage
from halfbyte.params import SamplingParams
from halfbyte.tokenizer import Tokenizer

if TYPE_CHECKING:
    from halfbyte.hub import ModelFiles

Prompt = str | Sequence[int]
Messages = Sequence[Mapping[str, Any]]
#: Called with bytes done and bytes in all while a model loads; return False to stop.
Progress = Callable[[int, int], Any]

# How long one wait for the engine may last: Ctrl-C is seen between waits.
_WAIT_S = 0.1


class LLM:
    """A language model ready to answer. One object serves all threads: their requests run as one batch.

    model: an alias ("smollm2"), a GGUF file, a Hugging Face model's folder, or a reference as `halfbyte pull` takes it.
    quant: the type that a folder's matrices get on loading (q8_0, q4_0, ...); None leaves them as they are.
    n_ctx: longest prompt and answer together (None: the model's, bounded by memory). n_batch: tokens of a step.
    n_threads: None for all cores. kv_type: f16, bf16, f32, q8_0 or q4_0. seed: default of requests without one.
    mmap: pack nothing; slower, least memory. chat_template: a known name, or Jinja text.
    Raises a HalfbyteError for anything it cannot load.
    """

    def __init__(
        self,
        model: str | Path | ModelFiles = "smollm2",
        *,
        n_ctx: int | None = None,
        n_batch: int = 512,
        n_threads: int | None = None,
        n_gpu_layers: int | str = "auto",
        kv_type: str = "f16",
        max_sequences: int = 64,
        prefix_cache: bool = True,
        seed: int | None = None,
        mmap: bool = False,
        quant: str | None = None,
        chat_template: str | None = None,
        progress: Progress | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            _refuse_unknown(next(iter(unknown)))
        if n_gpu_layers not in ("auto", 0) and not (isinstance(n_gpu_layers, int) and n_gpu_layers <= 0):
            raise InvalidArgumentError(
                f"n_gpu_layers is {n_gpu_layers}; this build computes on the CPU only.", hint='Use "auto" or 0.'
            )
        if seed is not None and not 0 <= seed < 1 << 64:
            raise InvalidArgumentError(f"seed is {seed}; 0 to 2**64 - 1, or None, was expected.")
        from halfbyte.hub import ModelFiles, open_model
        from halfbyte.hub.parameters import sampling_overrides

        files = model if isinstance(model, ModelFiles) else open_model(str(model))
        self.path, self.card = files.path, files.card
        self.seed = seed
        self._weights, self.tokenizer = _open(self.path, quant, n_threads=n_threads or 0, mmap=mmap, progress=progress)
        metadata = self._weights.metadata
        self.metadata: dict[str, Any] = {k: v for k, v in metadata.items() if not k.startswith("tokenizer.ggml.")}
        if self.tokenizer.n_vocab > self._weights.n_vocab:
            raise InvalidArgumentError(
                f"{self.path} names {self.tokenizer.n_vocab} tokens but has embeddings for {self._weights.n_vocab}."
            )
        self.chat_template = chosen_template(chat_template or self.card.template or None, metadata)
        self.defaults = _defaults_of(
            self.metadata, (self.path if self.path.is_dir() else self.path.parent) / "generation_config.json"
        ).replace(**sampling_overrides(self.card.parameters))
        self._engine: Any = _core.Engine(
            self._weights,
            n_threads=n_threads or 0,
            n_ctx=n_ctx or self.card.parameters.get("num_ctx", 0),
            n_batch=n_batch,
            max_sequences=max_sequences,
            prefix_cache=prefix_cache,
            k_type=kv_type,
            v_type=kv_type,
            token_bytes=self.tokenizer.output_bytes,
        )

    # Facts --------------------------------------------------------------------------------------------------------

    @property
    def n_ctx(self) -> int:
        """Longest prompt and answer together, in tokens."""
        return int(self.engine.options["n_ctx"])

    @property
    def config(self) -> dict[str, Any]:
        """The model's numbers: architecture, n_layers, n_embd, n_vocab, ..."""
        return dict(self._weights.config)

    def stats(self) -> dict[str, Any]:
        """What the engine did and holds: steps, tokens, KV blocks, seconds."""
        return dict(self.engine.stats())

    # Text ---------------------------------------------------------------------------------------------------------

    @overload
    def generate(self, prompt: str | list[int], params: SamplingParams | None = None, **overrides: Any) -> Output: ...
    @overload
    def generate(self, prompt: list[str] | list[list[int]], params: Any = None, **overrides: Any) -> list[Output]: ...
    def generate(self, prompt: Any, params: Any = None, **overrides: Any) -> Any:
        """Continues a prompt (text or token ids). A list of prompts runs as one batch and gives a list, in order.

        params may be a list too, one for each prompt; keywords override its fields (temperature=0, max_tokens=64).
        """
        if not _is_batch(prompt):
            return self._finish(self.submit(self._prompt_ids(prompt), self._params(params, overrides)))
        each = list(params) if isinstance(params, (list, tuple)) else [params] * len(prompt)
        if len(each) != len(prompt):
            raise InvalidArgumentError(f"{len(prompt)} prompts, but {len(each)} parameter sets.")
        jobs = [(self._prompt_ids(p), self._params(q, overrides)) for p, q in zip(prompt, each, strict=True)]
        return self._finish_all([self.submit(ids, q) for ids, q in jobs])

    def stream(self, prompt: Prompt, params: SamplingParams | None = None, **overrides: Any) -> Iterator[Piece]:
        """Like generate(), piece by piece. Closing the iterator stops the computation at once."""
        return self._stream(self._prompt_ids(prompt), self._params(params, overrides))

    def chat(self, messages: Messages, params: SamplingParams | None = None, **overrides: Any) -> Output:
        """The assistant's answer to messages ({"role": ..., "content": ...}). tools=, documents= reach the template."""
        ids, overrides = self._chat_ids(messages, overrides)
        return self._finish(self.submit(ids, self._params(params, overrides)))

    def chat_stream(
        self, messages: Messages, params: SamplingParams | None = None, **overrides: Any
    ) -> Iterator[Piece]:
        """Like chat(), piece by piece."""
        ids, overrides = self._chat_ids(messages, overrides)
        return self._stream(ids, self._params(params, overrides))

    async def agenerate(self, prompt: Any, params: Any = None, **overrides: Any) -> Any:
        """generate() for asyncio."""
        return await asyncio.to_thread(lambda: self.generate(prompt, params, **overrides))

    async def astream(
        self, prompt: Prompt, params: SamplingParams | None = None, **overrides: Any
    ) -> AsyncIterator[Piece]:
        """stream() for asyncio."""
        pieces = self.stream(prompt, params, **overrides)
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
        finally:
            await asyncio.to_thread(pieces.close)  # type: ignore[attr-defined]

    # Numbers ------------------------------------------------------------------------------------------------------

    def forward(self, tokens: Prompt) -> npt.NDArray[np.float32]:
        """Logits of every token: float32, shape (n_tokens, n_vocab)."""
        return np.asarray(self.engine.forward(self._prompt_ids(tokens), output="logits"))

    def logprobs(self, tokens: Prompt) -> npt.NDArray[np.float32]:
        """log p of each token after the first, given those before: float32, shape (n_tokens - 1)."""
        return np.asarray(self.engine.forward(self._prompt_ids(tokens), output="next_logprobs"))

    def embed(self, texts: str | Sequence[Prompt], *, normalize: bool = True) -> npt.NDArray[np.float32]:
        """Mean of the final hidden states of each text, of length 1 unless normalize is False: (n_texts, n_embd)."""
        many: list[Prompt] = [texts] if isinstance(texts, str) else list(texts)
        rows = []
        for text in many:
            vector = np.asarray(self.engine.forward(self._prompt_ids(text), output="hidden")).mean(axis=0)
            length = float(np.linalg.norm(vector))
            rows.append(vector / length if normalize and length > 0 else vector)
        return np.stack(rows).astype(np.float32)

    def tokenize(self, text: str, *, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text."""
        return self.tokenizer.encode(text, add_bos=add_bos, parse_special=parse_special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        return self.tokenizer.decode(tokens)

    # Life ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stops what runs and gives the memory back. Idempotent."""
        self._engine = None
        self._weights = None

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Inside -------------------------------------------------------------------------------------------------------

    @property
    def engine(self) -> Any:
        """The core's engine. Raises InvalidArgumentError once closed."""
        if self._engine is None:
            raise InvalidArgumentError("This LLM was closed.")
        return self._engine

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        return [int(i) for i in prompt]

    def _chat_ids(self, messages: Messages, overrides: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
        names = inspect.signature(ChatTemplate.render).parameters
        for_template = {k: overrides.pop(k) for k in list(overrides) if k in names}
        for_template.update(overrides.pop("chat_template_kwargs", {}))
        return self.chat_ids(messages, **for_template), overrides

    def chat_ids(self, messages: Messages, **variables: Any) -> list[int]:
        """Token ids of a rendered conversation. What the template writes may be control tokens; what messages say may
        not: a user cannot forge a turn."""
        marked, contents = _mark_contents([*self.card.opening(messages), *messages], self.tokenizer)
        text = self.chat_template.render(marked, **variables)
        ids: list[int] = []
        for i, part in enumerate(_split_marks(text, contents)):
            if part:
                ids += self.tokenizer.encode(part, add_bos=False, parse_special=i % 2 == 0)
        bos = self.tokenizer.bos_id
        if self.tokenizer.add_bos and bos is not None and (not ids or ids[0] != bos):
            ids.insert(0, bos)
        return ids

    def _params(self, params: SamplingParams | None, overrides: Mapping[str, Any]) -> SamplingParams:
        base = params if params is not None else self.defaults
        if not isinstance(base, SamplingParams):
            raise InvalidArgumentError(f"params must be SamplingParams, not {type(base).__name__}.")
        merged = base.replace(**overrides) if overrides else base
        return replace(merged, seed=self.seed) if merged.seed is None and self.seed is not None else merged

    def check_params(self, params: SamplingParams) -> None:
        """Raises InvalidArgumentError when the core would refuse the parameters."""
        core = params.to_core(lambda text: self.tokenizer.encode(text, add_bos=False))
        core.seed = 0
        _core.Chain(core, self._weights.n_vocab)

    def submit(self, ids: list[int], params: SamplingParams, mailbox: Any = None) -> list[Running]:
        """Queues params.n answers to a prompt. Their events come to the mailbox that is given (one for any number of
        requests), and whoever takes them from it gives each to its answer's feed(); without one, each has its own."""
        stop_ids = (
            list(params.stop_token_ids) if params.ignore_eos else [*self.tokenizer.end_ids, *params.stop_token_ids]
        )
        core = params.to_core(lambda text: self.tokenizer.encode(text, add_bos=False))
        running = []
        for i in range(params.n):
            if params.seed is not None:
                core.seed = (params.seed + i) % (1 << 64)
            box = mailbox if mailbox is not None else _core.Mailbox()
            request, seed = self.engine.submit(
                ids,
                core,
                box,
                max_tokens=-1 if params.max_tokens is None else params.max_tokens,
                min_tokens=params.min_tokens,
                stop_tokens=stop_ids,
                stop_strings=[s.encode() for s in params.stop_list],
                include_stop=params.include_stop,
                overflow=params.overflow,
                n_keep=params.n_keep,
                priority=params.priority,
                prompt_logprobs=params.prompt_logprobs,
                processors=list(params.logits_processors),
            )
            running.append(Running(self.engine, request, box, seed, len(ids), params, self.tokenizer))
        return running

    def _finish(self, running: list[Running]) -> Output:
        return self._finish_all([running])[0]

    def _finish_all(self, requests: list[list[Running]]) -> list[Output]:
        try:
            outputs = []
            for running in requests:
                answers = [r.wait() for r in running]
                answers[0].others = answers[1:]
                outputs.append(answers[0])
            return outputs
        except BaseException:
            for running in requests:
                for r in running:
                    r.cancel()
            raise

    def _stream(self, ids: list[int], params: SamplingParams) -> Iterator[Piece]:
        if params.n != 1:
            raise InvalidArgumentError("A stream gives one answer: n must be 1.")
        (running,) = self.submit(ids, params)
        try:
            yield from running.pieces()
        finally:
            running.cancel()


class Running:
    """One answer under way: its request in the engine (id), and what came and was used of it so far."""

    def __init__(
        self,
        engine: Any,
        request: int,
        mailbox: _core.Mailbox,
        seed: int,
        n_prompt: int,
        params: SamplingParams,
        tokenizer: Tokenizer,
    ) -> None:
        self._engine, self.id, self._mailbox, self._seed = engine, request, mailbox, seed
        self._params = params
        self._text, self._done = tokenizer.stream(), False
        self._pieces: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[Logprob] = []
        self.prompt_logprobs: list[float] = []
        self.usage = Usage(prompt_tokens=n_prompt)
        self._start = time.perf_counter()
        self._first = self._last = self._start

    def cancel(self) -> None:
        if not self._done:
            self._done = True
            self._engine.cancel(self.id)

    def wait(self) -> Output:
        for piece in self.pieces():
            if piece.output is not None:
                return piece.output
        raise CancelledError("The request was cancelled.")

    def pieces(self) -> Iterator[Piece]:
        while not self._done:
            for event in self._mailbox.take(_WAIT_S):
                piece = self.feed(event)
                if piece is not None:
                    yield piece

    def feed(self, event: Mapping[str, Any]) -> Piece | None:
        """What an event of the engine adds to the answer; None for mere progress. Raises what made the request fail."""
        finish = event["finish"]
        self._done = self._done or bool(finish)
        if event["error"] is not None:
            raise event["error"]
        n_known = len(self._logprobs)
        new_ids = self._take(event)
        text = self._text.feed(event["bytes"])
        if finish:
            text += self._text.flush()
        self._pieces.append(text)
        if not (text or new_ids or finish):
            return None
        return Piece(text, new_ids, finish or None, self._output(event) if finish else None, self._logprobs[n_known:])

    def _take(self, event: Mapping[str, Any]) -> list[int]:
        now = time.perf_counter()
        self.usage.cached_tokens = max(self.usage.cached_tokens, event["n_prompt_cached"])
        self.usage.dropped_tokens = event["dropped"]
        self.prompt_logprobs += event["prompt_logprobs"]
        new_ids = [sample["token"] for sample in event["samples"]]
        if new_ids:
            self._first = now if not self._ids else self._first
            self._last = now
        if self._params.logprobs is not None:
            self._logprobs += [Logprob(s["token"], s["logprob"], s["top_logprobs"]) for s in event["samples"]]
        self._ids += new_ids
        self.usage.completion_tokens = len(self._ids)
        return new_ids

    def _output(self, event: Mapping[str, Any]) -> Output:
        ids, reason = self._ids, None
        if event["finish"] == "stop":
            reason = event["stop_string"].decode("utf-8", "replace") if event["stop_string"] else event["stop_token"]
        n_new = self.usage.prompt_tokens - self.usage.cached_tokens
        return Output(
            text="".join(self._pieces),
            token_ids=ids,
            finish_reason=event["finish"],
            stop_reason=reason,
            seed=self._seed,
            usage=self.usage,
            timing=Timing(self._first - self._start, self._last - self._first, n_new, len(ids)),
            params=self._params,
            logprobs=self._logprobs if self._params.logprobs is not None else None,
            prompt_logprobs=self.prompt_logprobs if self._params.prompt_logprobs else None,
        )


def _open(path: Path, quant: str | None, **options: Any) -> tuple[Any, Tokenizer]:
    """The packed weights and the tokenizer of a GGUF file or a model folder."""
    if path.is_dir():
        from halfbyte.convert import load_folder

        return load_folder(path, type_name=quant, **options), Tokenizer.from_hf(path)
    if quant is not None:
        raise InvalidArgumentError(
            f"quant is {quant}, but {path} is a GGUF file.",
            hint="Its weights run as they are stored; see halfbyte quantize.",
        )
    weights = _core.Model.load(str(path), **options)
    return weights, Tokenizer.from_metadata(weights.metadata)


def _is_batch(prompt: Any) -> bool:
    if isinstance(prompt, str):
        return False
    items = list(prompt)
    return not items or isinstance(items[0], str) or not isinstance(items[0], (int, np.integer))


def _refuse_unknown(name: str) -> None:
    known = [p for p in inspect.signature(LLM.__init__).parameters if p not in ("self", "unknown")]
    close = difflib.get_close_matches(name, known, n=1)
    raise InvalidArgumentError(
        f"LLM() has no argument {name}.",
        hint=f"Did you mean {close[0]}?" if close else f"Known are {', '.join(known)}.",
    )


def _defaults_of(metadata: Mapping[str, Any], config: Path) -> SamplingParams:
    """Defaults the model's makers recommend (general.sampling.*, or generation_config.json beside the file), else ours."""
    if config.is_file():
        try:
            return SamplingParams.from_generation_config(json.loads(config.read_text(encoding="utf-8")))
        except (ValueError, AttributeError):
            raise FormatError(f"{config} is no JSON object.") from None
    names = {
        "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repeat_penalty",
    }  # fmt: skip
    keys = {f"general.sampling.{theirs}": ours for theirs, ours in names.items()}
    return SamplingParams(**{ours: metadata[key] for key, ours in keys.items() if key in metadata})


# Contents are put between marks that no text contains: private-use characters that are taken out of messages first.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"


def _mark_contents(messages: Messages, tokenizer: Tokenizer) -> tuple[list[dict[str, Any]], bool]:
    """Messages whose contents are marked when they spell a control token; else as they are."""
    texts = [m["content"] for m in messages if isinstance(m, Mapping) and isinstance(m.get("content"), str)]
    forged = any(
        tokenizer.encode(t, add_bos=False, parse_special=True) != tokenizer.encode(t, add_bos=False) for t in texts
    )
    if not forged:
        return [dict(m) if isinstance(m, Mapping) else m for m in messages], False
    marked = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            content = _OPEN + content.replace(_OPEN, "").replace(_CLOSE, "").strip() + _CLOSE
        marked.append({**message, "content": content})
    return marked, True


def _split_marks(text: str, is_marked: bool) -> list[str]:
    """Template text and message contents in turn: even entries are the template's."""
    if not is_marked:
        return [text]
    parts: list[str] = []
    for chunk in text.split(_OPEN):
        if not parts:
            parts.append(chunk)
            continue
        content, _, rest = chunk.partition(_CLOSE)
        parts += [content, rest]
    return parts
