"""n, best_of and beam search: blocks are shared, and the results are those of a plain search over all logits."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfbyte import LLM, SamplingParams, _core
from halfbyte.errors import InvalidArgumentError, OutOfMemoryError
from halfbyte.grammar import Plan, Rules, regex_constraint

PROMPTS = [[70, 80, 90], list(range(40, 90)), [65] * 33]


@pytest.fixture(scope="module")
def llm(tiny_model: Callable[..., Path]) -> Iterator[LLM]:
    with LLM(tiny_model(format_name="F32"), n_threads=1, n_ctx=128, kv_type="f32") as loaded:
        yield loaded
        loaded._engine.check_integrity()


def plain_search(
    llm: LLM,
    prompt: list[int],
    width: int,
    n: int,
    penalty: float,
    early: bool,
    ends: Callable[[list[int]], bool],
    may_come: Callable[[list[int]], bool] = lambda tokens: True,
) -> list[tuple[list[int], float]]:
    """Beam search by the book, every beam computed from its beginning. ends: whether these tokens are a whole answer.
    may_come: whether the last of them may follow the others."""
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    ended: list[tuple[list[int], float]] = []
    for length in range(1, n + 1):
        found = []
        for tokens, score in beams:
            logits = llm.forward(prompt + tokens)[-1].astype(np.float64)
            logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
            nexts = [int(t) for t in np.argsort(-logprobs, kind="stable") if may_come([*tokens, int(t)])]
            found += [([*tokens, t], score + logprobs[t]) for t in nexts[: 2 * width]]
        found = sorted(found, key=lambda f: -f[1])[: 2 * width]
        beams = []
        for rank, (tokens, score) in enumerate(found):
            if len(beams) == width:
                break
            if ends(tokens):
                if rank < width:
                    ended.append((tokens, score / length**penalty))
            else:
                beams.append((tokens, score))
        ended = sorted(ended, key=lambda e: -e[1])[:width]
        if not found or (len(ended) == width and (early or ended[-1][1] >= found[0][1] / length**penalty)):
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
        expected = plain_search(llm, prompt, width, n, penalty, early, lambda tokens: tokens[-1] in ends)  # noqa: B023
        found = llm.generate(
            prompt, beam_width=width, n=width, max_tokens=n, length_penalty=penalty, early_stopping=early,
            stop_token_ids=ends, ignore_eos=True,
        )  # fmt: skip
        outputs = [found, *found.others]
        assert [o.token_ids for o in outputs] == [tokens for tokens, _ in expected]
        assert [o.score for o in outputs] == pytest.approx([score for _, score in expected], abs=1e-3)
        assert all(o.finish_reason == ("stop" if o.token_ids[-1] in ends else "length") for o in outputs)


@pytest.mark.parametrize("prompt", PROMPTS[:2])
@pytest.mark.parametrize(
    "pattern",
    ["[a-f]{2,6}", "(yes|no|maybe)( [0-9]+)?", "(ab|cd)*x", '\\{"a":[0-9]{1,3},"b":"[xyz]*"\\}', "a(b|c(d|e)){3}"],
)
def test_beams_keep_to_an_expression(llm: LLM, prompt: list[int], pattern: str) -> None:
    """Each beam has its own place in the grammar; the reference asks llguidance anew for every continuation."""
    plan = Plan(Rules(regex_constraint(pattern).grammar()), llm.tokenizer, 260)
    ends = llm.tokenizer.end_ids

    def may_come(tokens: list[int]) -> bool:
        mask = plan.begin()(np.array(tokens[:-1], np.int32))
        assert mask is not None
        return bool(mask[tokens[-1] // 32] >> np.uint32(tokens[-1] % 32) & 1)

    expected = plain_search(llm, prompt, 3, 14, 1.0, False, lambda tokens: tokens[-1] in ends, may_come)
    found = llm.generate(prompt, beam_width=3, n=3, max_tokens=14, response_format=re.compile(pattern), logprobs=2)
    outputs = [found, *found.others]
    assert [o.token_ids for o in outputs] == [tokens for tokens, _ in expected]
    assert [o.score for o in outputs] == pytest.approx([score for _, score in expected], abs=1e-3)
    for output in outputs:
        assert output.finish_reason == "length" or re.fullmatch(pattern, output.text)
        logprobs = [entry.logprob for entry in output.logprobs or []]
        assert sum(logprobs) / len(output.token_ids) == pytest.approx(output.score, abs=1e-4)
        assert [entry.token for entry in output.logprobs or []] == output.token_ids
        assert all(len(entry.top) == 2 for entry in output.logprobs or [])


@pytest.mark.parametrize("stops", [["e"], ["e", "ab", " t"], ["no such text"], ["\n", "s", "Q", "1", "%%"]])
@pytest.mark.parametrize("include", [False, True])
def test_beams_end_with_stop_strings(llm: LLM, stops: list[str], include: bool) -> None:
    def text_of(tokens: list[int]) -> bytes:
        return b"".join(llm.tokenizer.output_bytes[token] for token in tokens)

    def ends(tokens: list[int]) -> bool:
        return any(stop.encode() in text_of(tokens) for stop in stops)

    for prompt in PROMPTS:
        expected = plain_search(llm, prompt, 4, 12, 1.0, False, ends)
        found = llm.generate(
            prompt, beam_width=4, n=4, max_tokens=12, stop=stops, include_stop=include, ignore_eos=True
        )
        outputs = [found, *found.others]
        assert [o.token_ids for o in outputs] == [tokens for tokens, _ in expected]
        assert [o.score for o in outputs] == pytest.approx([score for _, score in expected], abs=1e-3)
        for output in outputs:
            data = text_of(output.token_ids)
            if output.finish_reason == "stop":
                assert output.stop_reason in stops
                end = data.index(str(output.stop_reason).encode()) + (len(str(output.stop_reason)) if include else 0)
                data = data[:end]
            assert output.text == data.decode("utf-8", "replace")


def test_beams_of_a_chat_are_taken_apart(llm: LLM) -> None:
    wanted = {"enum": [10, 25, 35, 36]}
    ask: list[Any] = [{"role": "user", "content": "hi"}]
    found = llm.chat(ask, use_beam_search=True, best_of=4, n=3, max_tokens=9, response_format=wanted)
    outputs = [found, *found.others]
    assert len({tuple(output.token_ids) for output in outputs}) == 3
    assert {output.parsed for output in outputs} <= {10, 25, 35, 36}


def test_a_search_that_nothing_can_follow_fails_alone(llm: LLM) -> None:
    """A rule that ends in nothing, one that fails, and one that is late: no other request notices."""

    def run(function: Any) -> list[Any]:
        mailbox = _core.Mailbox()
        params = _core.SamplingParams(temperature=0)
        llm._engine.submit([65], params, mailbox, max_tokens=5, beam_width=3, mask_function=function)
        while True:
            for event in mailbox.take(30):
                if event["error"] is not None:
                    raise event["error"]
                if event["finish"]:
                    return event["hypotheses"]

    nothing = np.zeros((260 + 31) // 32, np.uint32)
    with pytest.raises(InvalidArgumentError, match="masked"):
        run(lambda generated: nothing if len(generated) == 2 else None)
    with pytest.raises(InvalidArgumentError, match="division"):
        run(lambda generated: None if len(generated) < 3 else 1 / 0)
    assert len(run(lambda generated: time.sleep(0.02))[0]["samples"]) == 5


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
        {"beam_width": 2, "overflow": "slide"},
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
