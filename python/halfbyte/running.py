"""An answer under way: the engine's events in, pieces and at last an Output out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from halfbyte import _core
from halfbyte.chat.answer import AnswerForm, shown_text
from halfbyte.chat.delta import Delta, Message
from halfbyte.errors import CancelledError, HalfbyteError
from halfbyte.grammar import Guide
from halfbyte.outputs import Logprob, Output, Piece, Timing, Usage
from halfbyte.params import SamplingParams
from halfbyte.tokenizer import Tokenizer

# How long one wait for the engine may last: Ctrl-C is seen between waits.
_WAIT_S = 0.1


class Mask:
    """A mask function that remembers why it failed: the engine tells the text of an error only."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self.error: HalfbyteError | None = None
        if isinstance(function, Guide):  # which can tell more cheaply whether a token may come
            self.follow, self.admits = function.follow, function.admits

    def __call__(self, generated: Any) -> Any:
        try:
            return self._function(generated)
        except HalfbyteError as error:
            self.error = error
            raise


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
        form: AnswerForm,
        mask: Mask | None,
    ) -> None:
        self._mask = mask
        self._engine, self.id, self._mailbox, self._seed = engine, request, mailbox, seed
        self._params, self._tokenizer, self._form = params, tokenizer, form
        self._text, self._done = tokenizer.stream(), False
        self._with_shown = shown_text(form, tokenizer) if form.shown else None
        self._parser = form.new_parser() if form.new_parser is not None else None
        self.message = Message()
        self._ids: list[int] = []
        self._others: list[Mapping[str, Any]] = []  # of beam search
        self._score: float | None = None
        self._sum_logprobs = 0.0
        self._logprobs: list[Logprob] = []
        self.prompt_logprobs: list[float] = []
        self.prompt_top_logprobs: list[list[tuple[int, float]]] = []
        self.usage = Usage(prompt_tokens=n_prompt)
        self._start = time.perf_counter()
        self._first = self._last = self._start

    @classmethod
    def start(
        cls,
        engine: Any,
        ids: list[int],
        core: _core.SamplingParams,
        mailbox: _core.Mailbox,
        params: SamplingParams,
        tokenizer: Tokenizer,
        form: AnswerForm,
        *,
        stop_ids: list[int],
        adapters: Any,
        client: str,
    ) -> Running:
        """Queues one answer. core: params as the engine takes them, with this answer's seed."""
        is_search = params.beam_width > 1
        mask = Mask(form.plan.begin()) if form.plan is not None else None
        request, seed = engine.submit(
            ids,
            core,
            mailbox,
            max_tokens=-1 if params.max_tokens is None else params.max_tokens,
            min_tokens=params.min_tokens,
            stop_tokens=stop_ids,
            stop_strings=[s.encode() for s in params.stop_list],
            include_stop=params.include_stop,
            overflow=params.overflow,
            n_keep=params.n_keep,
            priority=params.priority,
            client=client,
            prompt_logprobs=params.prompt_logprobs,
            beam_width=params.beam_width,
            n_hypotheses=params.n if is_search else 1,
            length_penalty=params.length_penalty,
            early_stopping=params.early_stopping,
            processors=list(params.logits_processors),
            adapters=adapters,
            mask_function=mask,
        )
        return cls(engine, request, mailbox, seed, len(ids), params, tokenizer, form, mask)

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
            raise self._mask.error if self._mask is not None and self._mask.error is not None else event["error"]
        n_known = len(self._logprobs)
        if event["hypotheses"]:
            self._others = event["hypotheses"][1:]
            event = {**event, **event["hypotheses"][0]}
            self._score = event["score"]
        new_ids = self._take(event)
        data = event["bytes"] if self._with_shown is None else self._with_shown(new_ids, event["bytes"])
        text = self._text.feed(data) + (self._text.flush() if finish else "")
        deltas = self._deltas(text, is_last=bool(finish))
        self.message.add(deltas)
        if not (deltas or new_ids or finish):
            return None
        return Piece(
            text="".join(d.content for d in deltas if d.content),
            reasoning="".join(d.reasoning for d in deltas if d.reasoning),
            tool_calls=[d.tool_call for d in deltas if d.tool_call],
            token_ids=new_ids,
            finish_reason=self._finish_reason(event) or None,
            output=self._output(event) if finish else None,
            logprobs=self._logprobs[n_known:],
        )

    def _deltas(self, text: str, *, is_last: bool) -> list[Delta]:
        if self._parser is None:
            return [Delta(content=text)] if text else []
        return self._parser.feed(text) + (self._parser.finish() if is_last else [])

    def _finish_reason(self, event: Mapping[str, Any]) -> str:
        return "tool_calls" if event["finish"] == "stop" and self.message.tool_calls else str(event["finish"])

    def _take(self, event: Mapping[str, Any]) -> list[int]:
        now = time.perf_counter()
        self.usage.cached_tokens = max(self.usage.cached_tokens, event["n_prompt_cached"])
        self.usage.dropped_tokens = event["dropped"]
        self.prompt_logprobs += event["prompt_logprobs"]
        self.prompt_top_logprobs += event["prompt_top_logprobs"]
        new_ids = [sample["token"] for sample in event["samples"]]
        if new_ids:
            self._first = now if not self._ids else self._first
            self._last = now
        self._logprobs += self._logprobs_of(event)
        self._ids += new_ids
        self._sum_logprobs += sum(sample["logprob"] for sample in event["samples"])
        self.usage.completion_tokens = len(self._ids)
        return new_ids

    def _logprobs_of(self, event: Mapping[str, Any]) -> list[Logprob]:
        if self._params.logprobs is None:
            return []
        return [Logprob(s["token"], s["logprob"], s["top_logprobs"]) for s in event["samples"]]

    @property
    def n_generated(self) -> int:
        """Tokens of the answer so far, and of the others that beam search found."""
        return self.usage.completion_tokens + sum(len(other["samples"]) for other in self._others)

    def _output(self, event: Mapping[str, Any]) -> Output:
        ids = self._ids
        if self._params.best_of is not None:
            self._score = self._sum_logprobs / max(1, len(ids))
        n_new = self.usage.prompt_tokens - self.usage.cached_tokens
        output = Output(
            text=self.message.content,
            reasoning=self.message.reasoning,
            tool_calls=self.message.tool_calls,
            parse=self._form.parse,
            token_ids=ids,
            finish_reason=self._finish_reason(event),
            stop_reason=_stop_reason(event),
            seed=self._seed,
            usage=self.usage,
            timing=Timing(self._first - self._start, self._last - self._first, n_new, len(ids)),
            params=self._params,
            logprobs=self._logprobs if self._params.logprobs is not None else None,
            prompt_logprobs=self.prompt_logprobs if self._params.prompt_logprobs else None,
            prompt_top_logprobs=self.prompt_top_logprobs or None,
            score=self._score,
        )
        output.others = [self._other(output, each) for each in self._others]
        return output

    def _other(self, output: Output, hypothesis: Mapping[str, Any]) -> Output:
        """A further result of beam search, beside the first."""
        ids = [sample["token"] for sample in hypothesis["samples"]]
        data = hypothesis["bytes"]
        if self._form.shown:
            data = shown_text(self._form, self._tokenizer)(ids, data)
        text, message = data.decode("utf-8", "replace"), Message()
        if self._form.new_parser is None:
            message.add([Delta(content=text)])
        else:
            parser = self._form.new_parser()
            message.add(parser.feed(text) + parser.finish())
        is_call = hypothesis["finish"] == "stop" and bool(message.tool_calls)
        return replace(
            output,
            text=message.content,
            reasoning=message.reasoning,
            tool_calls=message.tool_calls,
            token_ids=ids,
            finish_reason="tool_calls" if is_call else hypothesis["finish"],
            stop_reason=_stop_reason(hypothesis),
            usage=replace(self.usage, completion_tokens=len(ids)),
            logprobs=self._logprobs_of(hypothesis) if self._params.logprobs is not None else None,
            others=[],
            score=hypothesis["score"],
        )


def _stop_reason(event: Mapping[str, Any]) -> str | int | None:
    if event["finish"] != "stop":
        return None
    return event["stop_string"].decode("utf-8", "replace") if event["stop_string"] else int(event["stop_token"])


def cancel_all(requests: list[list[Running]]) -> None:
    """Stops the answers of several requests."""
    for running in requests:
        for answer in running:
            answer.cancel()


def finish_all(requests: list[list[Running]]) -> list[Output]:
    """Each request's answer, with its others; when one fails, or Ctrl-C comes, all are stopped."""
    try:
        outputs = []
        for running in requests:
            best, *others = Output.chosen([r.wait() for r in running])
            best.others = others
            outputs.append(best)
        return outputs
    except BaseException:
        cancel_all(requests)
        raise
