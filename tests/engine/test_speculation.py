"""Guessing ahead changes the pace, never the text: greedy and seeded answers with and without are the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfbyte import _core
from halfbyte.errors import InvalidArgumentError

from .. import conftest

Answers = list[tuple[list[int], bytes, str]]


def answers(engine: _core.Engine, jobs: list[tuple[list[int], dict[str, Any], dict[str, Any]]]) -> Answers:
    mailbox = _core.Mailbox()
    ids = [engine.submit(p, _core.SamplingParams(**s), mailbox, **o)[0] for p, s, o in jobs]
    out: dict[int, tuple[list[int], bytes, str]] = {i: ([], b"", "") for i in ids}
    while any(not finish for _, _, finish in out.values()):
        for event in mailbox.take(30):
            tokens, text, _ = out[event["id"]]
            out[event["id"]] = (
                tokens + [s["token"] for s in event["samples"]],
                text + event["bytes"],
                event["finish"],
            )
    engine.check_integrity()
    return [out[i] for i in ids]


def random_jobs(seed: int) -> list[tuple[list[int], dict[str, Any], dict[str, Any]]]:
    draw = random.Random(seed)
    jobs = []
    for _ in range(6):
        phrase = [draw.randrange(32, 120) for _ in range(draw.randint(3, 20))]
        prompt = (phrase * 4)[: draw.randint(4, 60)]
        sampling: dict[str, Any] = {"seed": draw.randrange(1 << 30), "temperature": draw.choice([0, 0, 0.7, 1.5])}
        sampling |= draw.choice(
            [
                {},
                {"top_k": 3},
                {"repeat_penalty": 1.3, "frequency_penalty": 0.4},
                {"mirostat": 2},
                {"dry_multiplier": 0.8},
                {"xtc_probability": 0.5, "xtc_threshold": 0.05},
                {"n_logprobs": 2, "min_p": 0.2},
                {"allowed_token_ids": phrase[:3], "temperature": 1.0},
            ]
        )
        options: dict[str, Any] = {"max_tokens": draw.randint(1, 70), "min_tokens": draw.choice([0, 30])}
        options |= draw.choice(
            [{}, {"stop_tokens": phrase[:1]}, {"stop_strings": [bytes(phrase[:2])]}, {"overflow": "slide", "n_keep": 2}]
        )
        jobs.append((prompt, sampling, options))
    return jobs


@pytest.fixture(scope="module")
def weights(tiny_model: Callable[..., Path]) -> _core.Model:
    return _core.Model.load(str(tiny_model(format_name="Q4_0")))


def open_engine(weights: _core.Model, **options: Any) -> _core.Engine:
    return _core.Engine(
        weights, **{"n_ctx": 100, "n_threads": 1, "token_bytes": [bytes([i % 256]) for i in range(260)], **options}
    )


@pytest.mark.parametrize("seed", range(12))
def test_prompt_lookup_changes_no_token(weights: _core.Model, seed: int) -> None:
    jobs = random_jobs(seed)
    expected = answers(open_engine(weights, prompt_lookup=False), jobs)
    for options in ({}, {"max_drafts": 40}, {"n_batch": 5, "kv_tokens": 200}, {"prefix_cache": False}):
        assert answers(open_engine(weights, **options), jobs) == expected


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("draft_format", ["Q8_0", "Q4_0"])
def test_a_draft_model_changes_no_token(
    weights: _core.Model, tiny_model: Callable[..., Path], draft_format: str, seed: int
) -> None:
    jobs = random_jobs(100 + seed)
    draft = _core.Model.load(str(tiny_model(format_name=draft_format)))
    expected = answers(open_engine(weights, prompt_lookup=False), jobs)
    for options in ({}, {"n_batch": 7, "kv_tokens": 200}, {"max_drafts": 1}):
        assert answers(open_engine(weights, draft_model=draft, **options), jobs) == expected


def test_repeated_text_is_guessed_right(weights: _core.Model) -> None:
    engine, mailbox = open_engine(weights, n_ctx=300), _core.Mailbox()

    def cycle(generated: Any, logits: Any) -> None:
        logits[64 + len(generated) % 3] += 1000

    greedy = _core.SamplingParams(temperature=0)
    engine.submit([64, 65, 66] * 10, greedy, mailbox, max_tokens=200, processors=[cycle])
    samples: list[int] = []
    while len(samples) < 200:
        samples += [s["token"] for e in mailbox.take(30) for s in e["samples"]]
    assert samples == [64 + i % 3 for i in range(200)]
    stats = engine.stats()
    assert stats["n_generated_tokens"] == 200
    # How many are guessed follows from what steps cost on this machine at this moment; that they are right does not.
    assert stats["n_accepted_tokens"] > 0
    assert stats["n_accepted_tokens"] >= 0.9 * stats["n_drafted_tokens"]
    assert stats["n_steps"] < 205 - stats["n_accepted_tokens"]


def test_a_draft_of_the_same_model_is_right(weights: _core.Model) -> None:
    engine = open_engine(weights, draft_model=weights)
    answers(engine, [([40, 50, 60], {"temperature": 0}, {"max_tokens": 80})])
    stats = engine.stats()
    assert stats["n_drafted_tokens"] > 0
    assert stats["n_accepted_tokens"] >= 0.9 * stats["n_drafted_tokens"]


def test_vocabularies_must_agree(weights: _core.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, kinds = conftest.toy_vocabulary()
    monkeypatch.setattr(conftest, "toy_vocabulary", lambda: ([*tokens, "more"], [*kinds, kinds[0]]))
    other = _core.Model.load(str(conftest.write_tiny_llama(tmp_path / "other.gguf")))
    with pytest.raises(InvalidArgumentError, match="vocabular"):
        open_engine(weights, draft_model=other)
