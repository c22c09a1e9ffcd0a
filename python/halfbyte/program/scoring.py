"""How likely texts are after a prompt, all of them in one batch on the prompt's shared computation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halfbyte.chat.answer import AnswerForm
from halfbyte.grammar.matcher import Mask, only
from halfbyte.llm import LLM
from halfbyte.params import SamplingParams


class _Forced:
    """Lets one sequence of tokens through."""

    def __init__(self, tokens: list[int], n_logits: int) -> None:
        self._tokens, self._n_logits = tokens, n_logits

    def begin(self) -> _Forced:
        return self

    def __call__(self, generated: Any) -> Mask | None:
        n = len(generated)
        return only(self._tokens[n], self._n_logits) if n < len(self._tokens) else None


def likelihoods(llm: LLM, prompt: list[int], continued: Sequence[list[int]], per_token: bool) -> list[float]:
    """log p of what each of `continued` has after the beginning that they share with the prompt.

    The logits are those of generation, so that the prompt is read once. per_token gives means.
    """
    n_shared = min(_n_common(prompt, ids) for ids in continued)
    # The last token of the prompt has to be computed: a choice may change how it is cut.
    n_shared = min(n_shared, *(len(ids) - 1 for ids in continued))
    params = SamplingParams(temperature=0, logprobs=0, ignore_eos=True)
    answers = []
    for ids in continued:
        rest = ids[n_shared:]
        form = AnswerForm(_Forced(rest, llm.config["n_vocab"]))
        answers += llm.submit(ids[:n_shared], params.replace(max_tokens=len(rest)), form=form)
    scores = []
    for answer in answers:
        found = [entry.logprob for entry in answer.wait().logprobs or ()]
        scores.append(sum(found) / (len(found) if per_token else 1))
    return scores


def _n_common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
