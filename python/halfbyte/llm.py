"""LLM: text in, text out. Owns a model, its tokenizer, its chat template and an engine."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from halfbyte import _core
from halfbyte.adapters import Adapters, LoraChoice
from halfbyte.chat import chosen_template
from halfbyte.chat.answer import AnswerForm, chat_form, plain_form
from halfbyte.chat.prompt import AnyTemplate, prompt_ids
from halfbyte.chat.tools import ToolChoice, tools_from
from halfbyte.errors import InvalidArgumentError, UnsupportedError
from halfbyte.opening import (
    check_draft,
    check_fixed,
    checked_experts,
    checked_layers,
    default_params,
    open_draft,
    open_weights,
    refuse_unknown,
    strengths_of,
    tool_template,
)
from halfbyte.outputs import Output, Piece
from halfbyte.params import SamplingParams
from halfbyte.running import Running, cancel_all, finish_all

if TYPE_CHECKING:
    from halfbyte.hub import ModelFiles

_log = logging.getLogger("halfbyte")
Prompt = str | Sequence[int]
Messages = Sequence[Mapping[str, Any]]
_Request = tuple[list[int], SamplingParams, AnswerForm]
#: Texts that embed() has the engine read at the same time.
EMBEDDED_AT_ONCE = 16
#: Called with bytes done and bytes in all while a model loads; return False to stop.
Progress = Callable[[int, int], Any]


class LLM:
    """A language model ready to answer. One object serves all threads: their requests run as one batch.

    model: an alias ("smollm2"), a GGUF file, a Hugging Face model's folder, or a reference as `halfbyte pull` takes it.
    quant: what a folder's matrices become on loading (q8_0, q4_k_m, ...); None leaves them as they are.
    n_ctx: longest prompt and answer together (None: the model's, bounded by memory). n_batch: tokens of a step.
    n_threads: None for all cores. n_gpu_layers: how many of the last layers, "auto": as many as fit the GPUs, if any.
    gpu_memory_utilization: the share of each GPU's memory that weights, KV blocks and work buffers may take; what weights
    and buffers leave of it holds KV blocks.
    cpu_moe: True keeps the experts of all layers on the CPU, a number those of the first so many layers.
    kv_type: f16, bf16, f32, q8_0 or q4_0. seed: default of requests without one.
    lora: adapters (PEFT folders or GGUF files) with their strengths, which answers have unless they choose others.
    mmap: pack nothing; slower, least memory. chat_template: a known name, or Jinja text.
    max_sequences run at once, others wait their turn; above max_waiting (0: any number) they raise BusyError.
    prompt_lookup guesses tokens that the text so far suggests, where that pays; a draft_model (a small model with the
    same vocabulary) guesses instead. Neither changes an answer.
    deterministic: "strict": results depend on the request alone, to the bit, on every CPU level; it costs nothing.
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
        cpu_moe: bool | int = False,
        gpu_memory_utilization: float = 0.9,
        kv_type: str = "f16",
        max_sequences: int = 64,
        max_waiting: int = 0,
        prefix_cache: bool = True,
        prompt_lookup: bool = True,
        draft_model: str | Path | None = None,
        seed: int | None = None,
        mmap: bool = False,
        quant: str | None = None,
        lora: Mapping[str, float] | Sequence[str | Path] | None = None,
        chat_template: str | None = None,
        deterministic: str = "strict",
        progress: Progress | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown(unknown, inspect.signature(LLM.__init__).parameters)
        layers, n_cpu_moe = checked_layers(n_gpu_layers), checked_experts(cpu_moe)
        check_fixed(deterministic, seed)
        from halfbyte.hub import ModelFiles, open_model
        from halfbyte.hub.parameters import sampling_overrides

        files = model if isinstance(model, ModelFiles) else open_model(str(model))
        self.path, self.card = files.path, files.card
        context = n_ctx or self.card.parameters.get("num_ctx", 0)
        self.seed = seed
        budget: dict[str, Any] = {
            "utilization": gpu_memory_utilization,
            "n_ctx": context,
            "n_batch": n_batch,
            "max_sequences": max_sequences,
            "kv_type": kv_type,
        }
        # The draft model comes first: it is small, and the model takes what GPU memory it leaves.
        draft = draft_tokenizer = None
        if draft_model is not None:
            draft, draft_tokenizer = open_draft(
                draft_model,
                n_threads=n_threads or 0,
                n_gpu_layers=0 if layers == 0 else -1,
                gpu_budget=_core.GpuBudget(**budget),
            )
        self._weights, self.tokenizer = open_weights(
            self.path,
            quant,
            n_threads=n_threads or 0,
            mmap=mmap,
            n_gpu_layers=layers,
            n_cpu_moe=n_cpu_moe,
            gpu_budget=_core.GpuBudget(**budget, beside=draft),
            progress=progress,
        )
        if draft_model is not None and draft_tokenizer is not None:
            check_draft(draft_model, draft_tokenizer, self.tokenizer)
        metadata, self._n_logits = self._weights.metadata, int(self._weights.n_vocab)
        #: Adapters that are loaded; generate(..., lora=) chooses among them.
        self.adapters = Adapters(self._weights, metadata)
        for path, strength in {**dict.fromkeys(map(str, files.adapters), 1.0), **strengths_of(lora)}.items():
            self.adapters.default[self.adapters.load(path)] = strength
        self.metadata: dict[str, Any] = {k: v for k, v in metadata.items() if not k.startswith("tokenizer.ggml.")}
        if self.tokenizer.n_vocab > self._weights.n_vocab:
            raise InvalidArgumentError(
                f"{self.path} names {self.tokenizer.n_vocab} tokens but has embeddings for {self._weights.n_vocab}."
            )
        wanted_template = chat_template or self.card.template or None
        metadata = {**metadata, "tokenizer.ggml.tokens": self.tokenizer.pieces}  # loading let go of its copy
        self.chat_template = chosen_template(wanted_template, metadata)
        self._tool_template = tool_template(wanted_template, metadata)
        self.defaults = default_params(
            self.metadata, (self.path if self.path.is_dir() else self.path.parent) / "generation_config.json"
        ).replace(**sampling_overrides(self.card.parameters))
        self._engine: Any = _core.Engine(
            self._weights,
            n_threads=n_threads or 0,
            n_ctx=context,
            n_batch=n_batch,
            max_sequences=max_sequences,
            max_waiting=max_waiting,
            prefix_cache=prefix_cache,
            prompt_lookup=prompt_lookup,
            draft_model=draft,
            k_type=kv_type,
            v_type=kv_type,
            token_bytes=self.tokenizer.output_bytes,
        )
        _core.return_freed_memory()  # what reading the vocabulary took
        if self.n_ctx > (trained := self.config["n_ctx_train"]):
            _log.warning(
                "%s: n_ctx is %d, and the model was trained on %d tokens: what is further back may be misread.",
                self.path.name,
                self.n_ctx,
                trained,
            )
        # Also before the interpreter ends: the engine's threads may call Python (processors, masks).
        self._stop = weakref.finalize(self, self._engine.close)

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
        outputs = finish_all(self._submit_all(self._prepared(prompt, params, overrides)))
        return outputs if _is_batch(prompt) else outputs[0]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None, **overrides: Any) -> Iterator[Piece]:
        """Like generate(), piece by piece. Closing the iterator stops the computation at once."""
        return self._stream(self._prompt_ids(prompt), self._params(params, overrides))

    def chat(self, messages: Messages, params: SamplingParams | None = None, **overrides: Any) -> Output:
        """The assistant's answer to messages ({"role": ..., "content": ...}).

        tools: functions, or OpenAI's dictionaries; tool_choice: "auto", "none", "required" or a tool's name;
        parallel_tool_calls: False for one call at most. The answer's tool_calls and reasoning come apart from its text.
        documents= and chat_template_kwargs= reach the template.
        """
        ids, merged, form = self._chat(messages, params, overrides)
        return finish_all([self.submit(ids, merged, form=form)])[0]

    def chat_stream(
        self, messages: Messages, params: SamplingParams | None = None, **overrides: Any
    ) -> Iterator[Piece]:
        """Like chat(), piece by piece."""
        return self._stream(*self._chat(messages, params, overrides))

    async def agenerate(self, prompt: Any, params: Any = None, **overrides: Any) -> Any:
        """generate() for asyncio. Cancelling the task stops the computation at once."""
        jobs = await asyncio.to_thread(self._prepared, prompt, params, overrides)
        requests = self._submit_all(jobs)  # here: a thread would go on when the task is cancelled meanwhile
        try:
            outputs = await asyncio.to_thread(finish_all, requests)
        finally:
            cancel_all(requests)
        return outputs if _is_batch(prompt) else outputs[0]

    async def astream(
        self, prompt: Prompt, params: SamplingParams | None = None, **overrides: Any
    ) -> AsyncIterator[Piece]:
        """stream() for asyncio. Cancelling the task stops the computation at once."""
        ((ids, merged, form),) = await asyncio.to_thread(self._prepared, [prompt], params, overrides)
        answer = self._submit_one(ids, merged, form)
        pieces = answer.pieces()
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield piece
        finally:
            answer.cancel()  # a thread may still be in `pieces`: it ends with the answer

    # Numbers ------------------------------------------------------------------------------------------------------

    def forward(self, tokens: Prompt, *, lora: LoraChoice | None = None) -> npt.NDArray[np.float32]:
        """Logits of every token: float32, shape (n_tokens, n_vocab)."""
        adapters = self.adapters.chosen(lora)
        return np.asarray(self.engine.forward(self._prompt_ids(tokens), output="logits", adapters=adapters))

    def logprobs(self, tokens: Prompt) -> npt.NDArray[np.float32]:
        """log p of each token after the first, given those before: float32, shape (n_tokens - 1)."""
        return np.asarray(self.engine.forward(self._prompt_ids(tokens), output="next_logprobs"))

    def embed(self, texts: str | Sequence[Prompt], *, normalize: bool = True) -> npt.NDArray[np.float32]:
        """Mean of the final hidden states of each text, of length 1 unless normalize is False: (n_texts, n_embd)."""
        many: list[Prompt] = [texts] if isinstance(texts, str) else list(texts)

        def one(text: Prompt) -> npt.NDArray[np.float32]:
            vector = np.asarray(self.engine.forward(self._prompt_ids(text), output="hidden")).mean(axis=0)
            length = float(np.linalg.norm(vector))
            return np.asarray(vector / length if normalize and length > 0 else vector, dtype=np.float32)

        with ThreadPoolExecutor(EMBEDDED_AT_ONCE) as pool:  # texts that wait for the engine together share its steps
            rows = list(pool.map(one, many))
        return np.stack(rows) if rows else np.zeros((0, int(self.config["n_embd"])), np.float32)

    def tokenize(self, text: str, *, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text."""
        return self.tokenizer.encode(text, add_bos=add_bos, parse_special=parse_special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        return self.tokenizer.decode(tokens)

    # Life ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stops what runs and gives the memory back. Idempotent."""
        self._stop()
        self._engine = None
        self._weights = None
        self.adapters = Adapters(None, {})

    def __reduce__(self) -> Any:
        raise UnsupportedError(
            "An LLM cannot be pickled: its weights and threads belong to this process.",
            hint="Open the model in the process that is to use it.",
        )

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

    def _chat(
        self, messages: Messages, params: SamplingParams | None, overrides: dict[str, Any]
    ) -> tuple[list[int], SamplingParams, AnswerForm]:
        names = inspect.signature(self.chat_prompt).parameters
        known = {k: overrides.pop(k) for k in list(overrides) if k in names}
        variables = {k: overrides.pop(k) for k in list(overrides) if k in _TEMPLATE_VARIABLES}
        variables |= overrides.pop("chat_template_kwargs", {})
        merged = self._params(params, overrides)
        prompt = self.chat_prompt(messages, merged, **known, **variables)
        return prompt.ids, merged, prompt.form

    def chat_prompt(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Any] | None = None,
        tool_choice: ToolChoice | None = None,
        parallel_tool_calls: bool = True,
        template: AnyTemplate | None = None,
        **variables: Any,
    ) -> ChatPrompt:
        """A conversation as token ids, and the form of its answer, for submit(). template: another than the model's;
        variables reach it."""
        declared = tools_from(tools)
        # Tools that may not be called stay in the prompt: the conversation so far may speak of them, and is cached.
        own = self._tool_template if declared and self._tool_template is not None else self.chat_template
        template = template or own
        ids, text = prompt_ids(
            template, self.tokenizer, [*self.card.opening(messages), *messages], declared, **variables
        )
        form = chat_form(
            template.source,
            text,
            params or self.defaults,
            self.tokenizer,
            self._n_logits,
            tools=declared,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
        )
        return ChatPrompt(ids, text, form)

    def chat_ids(self, messages: Messages, **variables: Any) -> list[int]:
        """Token ids of a rendered conversation."""
        return self.chat_prompt(messages, **variables).ids

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
        _core.Chain(core, self._n_logits)

    def plain_form(self, params: SamplingParams) -> AnswerForm:
        """The form that params ask of a raw prompt's answer, for submit()."""
        return plain_form(params, self.tokenizer, self._n_logits)

    def submit(
        self,
        ids: list[int],
        params: SamplingParams,
        mailbox: Any = None,
        *,
        form: AnswerForm | None = None,
        client: str = "",
    ) -> list[Running]:
        """Queues params.n answers to a prompt, held to a form (None: that of params.response_format).

        Their events come to the mailbox that is given (one for any number of requests), and whoever takes them from it
        gives each to its answer's feed(); without one, each has its own. Requests of one client share its turn.
        """
        stop_ids = (
            list(params.stop_token_ids) if params.ignore_eos else [*self.tokenizer.end_ids, *params.stop_token_ids]
        )
        core = params.to_core(lambda text: self.tokenizer.encode(text, add_bos=False))
        core.logit_bias = [*core.logit_bias, *((i, -math.inf) for i in self.tokenizer.suppressed_ids)]
        engine, adapters = self.engine, self.adapters.chosen(params.lora)
        form = form if form is not None else self.plain_form(params)
        running: list[Running] = []
        if params.best_of is not None and params.logprobs is None:
            core.n_logprobs = 0
        is_search = params.beam_width > 1
        for i in range(1 if is_search else params.n_sequences):
            if params.seed is not None:
                core.seed = (params.seed + i) % (1 << 64)
            box = mailbox if mailbox is not None else _core.Mailbox()
            try:
                answer = Running.start(
                    engine,
                    ids,
                    core,
                    box,
                    params,
                    self.tokenizer,
                    form,
                    stop_ids=stop_ids,
                    adapters=adapters,
                    client=client,
                )
            except BaseException:
                cancel_all([running])  # all answers or none
                raise
            running.append(answer)
        return running

    def _prepared(self, prompt: Any, params: Any, overrides: Mapping[str, Any]) -> list[_Request]:
        """What is asked by a prompt, or by each of a list."""
        prompts = list(prompt) if _is_batch(prompt) else [prompt]
        each = list(params) if isinstance(params, (list, tuple)) else [params] * len(prompts)
        if len(each) != len(prompts):
            raise InvalidArgumentError(f"{len(prompts)} prompts, but {len(each)} parameter sets.")
        jobs = [(self._prompt_ids(p), self._params(q, overrides)) for p, q in zip(prompts, each, strict=True)]
        return [(ids, merged, self.plain_form(merged)) for ids, merged in jobs]

    def _submit_all(self, jobs: list[_Request]) -> list[list[Running]]:
        requests: list[list[Running]] = []
        try:
            for ids, params, form in jobs:
                requests.append(self.submit(ids, params, form=form))
        except BaseException:
            cancel_all(requests)
            raise
        return requests

    def _submit_one(self, ids: list[int], params: SamplingParams, form: AnswerForm | None = None) -> Running:
        if params.n != 1 or params.best_of is not None or params.beam_width > 1:
            raise InvalidArgumentError("A stream gives one answer, as it is drawn: no n, best_of or beam_width.")
        return self.submit(ids, params, form=form)[0]

    def _stream(self, ids: list[int], params: SamplingParams, form: AnswerForm | None = None) -> Iterator[Piece]:
        answer = self._submit_one(ids, params, form)
        try:
            yield from answer.pieces()
        finally:
            answer.cancel()


_TEMPLATE_VARIABLES = ("documents", "add_generation_prompt", "continue_final_message")


@dataclass(frozen=True)
class ChatPrompt:
    """A rendered conversation: its token ids and text, and the form of the answer to it."""

    ids: list[int]
    text: str
    form: AnswerForm


def _is_batch(prompt: Any) -> bool:
    if isinstance(prompt, str):
        return False
    items = list(prompt)
    return not items or isinstance(items[0], str) or not isinstance(items[0], (int, np.integer))
