"""n, best_of and beam search: blocks are shared, and the results are those of a plain search over all logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfbyte import LLM, SamplingParams
from halfbyte.errors import InvalidArgumentError, OutOfMemoryError

PROMPTS = [[70, 80, 90], list(range(40, 90)), [65] * 33]


@pytest.fixture(scope="module")
def llm(tiny_model: Callable[..., Path]) -> Iterator[LLM]:
    with LLM(tiny_model(format_name="F32"), n_threads=1, n_ctx=128, kv_type="f32") as loaded:
        yield loaded
        loaded._engine.check_integrity()


def plain_search(
    llm: LLM, prompt: list[int], width: int, n: int, penalty: float, early: bool, ends: list[int]
) -> list[tuple[list[int], float]]:
    """Beam search by the book, every beam computed from its beginning."""
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    ended: list[tuple[list[int], float]] = []
    for length in range(1, n + 1):
        found = []
        for tokens, score in beams:
            logits = llm.forward(prompt + tokens)[-1].astype(np.float64)
            logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
            found += [([*tokens, int(t)], score + logprobs[t]) for t in np.argsort(-logprobs)[: 2 * width]]
        found = sorted(found, key=lambda f: -f[1])[: 2 * width]
        beams = []
        for rank, (tokens, score) in enumerate(found):
            if len(beams) == width:
                break
            if tokens[-1] in ends:
                if rank < width:
                    ended.append((tokens, score / length**penalty))
            else:
                beams.append((tokens, score))
        ended = sorted(ended, key=lambda e: -e[1])[:width]
        if len(ended) == width and (early or ended[-1][1] >= found[0][1] / length**penalty):
            return ended
    ended += [(tokens, score / n**penalty) for tokens, score in beams]
    return sorted(ended, key=lambda e: -e[1])[:width]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    ("width", "penalty", "early"), [(2, 1.0, False), (4, 0.0, True), (3, 2.0, False), (4, -1.0, False)]
)
def test_beams_are_those_of_a_plain_search(
    llm: LLM, prompt: list[int], width: int, penalty: float, early: bool
) -> None:
    for n, ends in ((1, []), (21, []), (12, list(range(0, 260, 9)))):
        expected = plain_search(llm, prompt, width, n, penalty, early, ends)
        found = llm.generate(
            prompt, beam_width=width, n=width, max_tokens=n, length_penalty=penalty, early_stopping=early,
            stop_token_ids=ends, ignore_eos=True,
        )  # fmt: skip
        outputs = [found, *found.others]
        assert [o.token_ids for o in outputs] == [tokens for tokens, _ in expected]
        assert [o.score for o in outputs] == pytest.approx([score for _, score in expected], abs=1e-3)
        assert all(o.finish_reason == ("stop" if o.token_ids[-1] in ends else "length") for o in outputs)


def test_beams_live_with_other_requests_and_little_memory(tiny_model: Callable[..., Path]) -> None:
    params = [
        SamplingParams(beam_width=3, n=2, max_tokens=25, ignore_eos=True),
        SamplingParams(temperature=0, max_tokens=40, ignore_eos=True),
        SamplingParams(beam_width=2, max_tokens=25, ignore_eos=True),
        SamplingParams(temperature=0, max_tokens=60, ignore_eos=True),
    ]
    prompts = [list(range(30, 60)), [70] * 20, list(range(30, 60)), [80] * 20]

    def run(**options: Any) -> list[list[int]]:
        with LLM(tiny_model(format_name="Q4_0"), n_threads=1, n_ctx=100, **options) as llm:
            outputs = llm.generate(prompts, params)
            llm._engine.check_integrity()
            return [each.token_ids for o in outputs for each in (o, *o.others)]

    alone = run(max_sequences=4)
    assert run() == alone
    assert run(prefix_cache=False, n_batch=7) == alone


def test_a_cancelled_search_gives_its_blocks_back(llm: LLM) -> None:
    (running,) = llm.submit([70] * 20, SamplingParams(beam_width=4, max_tokens=60, ignore_eos=True))
    running.cancel()
    llm._engine.check_integrity()
    assert llm.generate([70] * 20, max_tokens=2, ignore_eos=True).usage.completion_tokens == 2


def test_samples_share_their_prompt(llm: LLM) -> None:
    prompt = [int(i) for i in np.random.default_rng(0).integers(33, 120, 70)]
    output = llm.generate(prompt, n=4, seed=1, temperature=1.0, max_tokens=5, ignore_eos=True)
    assert sorted(o.usage.cached_tokens for o in (output, *output.others)) == [0, 64, 64, 64]


def test_best_of_keeps_the_likeliest(llm: LLM) -> None:
    params = {"seed": 1, "temperature": 1.5, "max_tokens": 6, "ignore_eos": True, "logprobs": 0}
    drawn = llm.generate([70, 71], n=6, **params)
    means = sorted(
        (float(np.mean([p.logprob for p in o.logprobs or []])) for o in (drawn, *drawn.others)), reverse=True
    )
    best = llm.generate([70, 71], n=2, best_of=6, **params)
    assert [best.score, *(o.score for o in best.others)] == pytest.approx(means[:2], abs=1e-5)


def test_refusals(llm: LLM) -> None:
    for bad in (
        {"beam_width": 0},
        {"beam_width": 2, "n": 3},
        {"beam_width": 2, "best_of": 4},
        {"n": 3, "best_of": 2},
        {"beam_width": 2, "stop": "x"},
        {"beam_width": 2, "max_tokens": 0},
        {"beam_width": 65},
        {"beam_width": 2, "logits_processors": [print]},
    ):
        with pytest.raises(InvalidArgumentError):
            llm.generate([70], **{"max_tokens": 3, **bad})
    with pytest.raises(OutOfMemoryError, match="beams"):
        llm.generate([70], beam_width=20)
    with pytest.raises(InvalidArgumentError, match="stream"):
        next(llm.stream([70], beam_width=2))
