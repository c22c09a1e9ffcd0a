"""Parts that OpenAI's answers share: usage, reasons to end, log probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from halfbyte.outputs import Logprob
from halfbyte.tokenizer import Tokenizer

#: What stands for a probability of zero: JSON has no infinity.
_LEAST = -9999.0


class Counts(Protocol):
    """Token counts of a request. n_prompt counts every prompt once, however many answers it has."""

    @property
    def n_prompt(self) -> int: ...
    @property
    def n_cached(self) -> int: ...
    @property
    def n_generated(self) -> int: ...
    @property
    def n_reasoning(self) -> int: ...


def usage_of(counts: Counts) -> dict[str, Any]:
    """The usage object."""
    return {
        "prompt_tokens": counts.n_prompt,
        "completion_tokens": counts.n_generated,
        "total_tokens": counts.n_prompt + counts.n_generated,
        "prompt_tokens_details": {"cached_tokens": counts.n_cached},
        "completion_tokens_details": {"reasoning_tokens": counts.n_reasoning},
    }


def without_end(tokenizer: Tokenizer, entries: Sequence[Logprob], *, ended: bool) -> list[Logprob]:
    """The entries of tokens that are text: the token that ended the answer (ended: it stopped) is not."""
    if ended and entries and entries[-1].token in tokenizer.end_ids:
        return list(entries[:-1])
    return list(entries)


def chat_logprobs(tokenizer: Tokenizer, entries: Iterable[Logprob], n_top: int) -> dict[str, Any]:
    """The logprobs object of chat answers."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        data = tokenizer.token_bytes(token)
        return {"token": data.decode("utf-8", "replace"), "logprob": max(logprob, _LEAST), "bytes": list(data)}

    content = [{**one(e.token, e.logprob), "top_logprobs": [one(t, p) for t, p in e.top[:n_top]]} for e in entries]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokenizer: Tokenizer, entries: Iterable[tuple[int, float | None, list[tuple[int, float]] | None]], offset: int
) -> dict[str, Any]:
    """The logprobs object of text completions. entries: token, its log probability, the most likely ones (None where
    none was computed). offset: where the first token begins in the text."""
    tokens, logprobs, tops, offsets = [], [], [], []
    for token, logprob, top in entries:
        text = tokenizer.token_bytes(token).decode("utf-8", "replace")
        tokens.append(text)
        logprobs.append(None if logprob is None else max(logprob, _LEAST))
        tops.append(None if top is None else {_text(tokenizer, t): max(p, _LEAST) for t, p in top})
        offsets.append(offset)
        offset += len(text)
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}


def _text(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.token_bytes(token).decode("utf-8", "replace")
