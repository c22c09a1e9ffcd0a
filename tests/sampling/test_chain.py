"""Each sampler stage against its definition in numpy."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from halfbyte import _core
from halfbyte.errors import InvalidArgumentError

OFF: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0}
LOGITS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-8, 8, width=32))


def support(logits: np.ndarray, prompt: list[int] | None = None, n: int = 400, **params: Any) -> set[int]:
    """Which tokens can come out, by drawing many times."""
    chain = _core.Chain(_core.SamplingParams(**{**OFF, **params}), len(logits))
    return {chain.sample(logits, prompt or [])["token"] for _ in range(n)}


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits.astype(np.float64) - logits.max())
    return e / e.sum()


def order(logits: np.ndarray) -> np.ndarray:
    return np.lexsort((np.arange(len(logits)), -logits.astype(np.float64)))


@given(LOGITS)
@settings(max_examples=60, deadline=None)
def test_greedy_takes_the_best_and_the_lowest_id_of_equals(logits: np.ndarray) -> None:
    chain = _core.Chain(_core.SamplingParams(temperature=0, seed=1), len(logits))
    assert chain.sample(logits)["token"] == int(np.argmax(logits))


@given(LOGITS, st.integers(1, 10))
@settings(max_examples=40, deadline=None)
def test_top_k(logits: np.ndarray, k: int) -> None:
    assert support(logits, top_k=k, n=100) <= set(order(logits)[:k].tolist())


@given(LOGITS, st.floats(0.05, 0.95))
@settings(max_examples=40, deadline=None)
def test_top_p(logits: np.ndarray, p: float) -> None:
    ranked = order(logits)
    mass = np.cumsum(softmax(logits)[ranked])
    n = int(np.searchsorted(mass, p - 1e-6)) + 2  # one more for rounding at the edge
    assert support(logits, top_p=p, n=100) <= set(ranked[:n].tolist())


@given(LOGITS, st.floats(0.05, 0.9))
@settings(max_examples=40, deadline=None)
def test_min_p(logits: np.ndarray, p: float) -> None:
    probabilities = softmax(logits)
    allowed = np.flatnonzero(probabilities >= p * probabilities.max() * (1 - 1e-4))
    assert support(logits, min_p=p, n=100) <= set(allowed.tolist())


@given(LOGITS, st.floats(0.2, 2.0))
@settings(max_examples=40, deadline=None)
def test_top_n_sigma(logits: np.ndarray, n: float) -> None:
    x = logits.astype(np.float64)
    allowed = np.flatnonzero(x >= x.max() - n * x.std() - 1e-4)
    assert support(logits, top_n_sigma=n, n=100) <= set(allowed.tolist())


@given(LOGITS, st.floats(0.1, 0.9))
@settings(max_examples=40, deadline=None)
def test_typical(logits: np.ndarray, p: float) -> None:
    probabilities = softmax(logits)
    surprise = -np.log(probabilities)
    distance = np.abs(surprise - np.sum(probabilities * surprise))
    ranked = np.argsort(distance, kind="stable")
    n = int(np.searchsorted(np.cumsum(probabilities[ranked]), p)) + 1
    edge = distance[ranked[min(n, len(ranked) - 1)]] + 1e-4
    assert support(logits, typical_p=p, n=100) <= set(np.flatnonzero(distance <= edge).tolist())


def test_xtc_drops_all_but_the_last_top_choice() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.06, 0.04], np.float32))
    assert support(logits, xtc_probability=1.0, xtc_threshold=0.15) == {2, 3, 4}
    assert support(logits, xtc_probability=0.5, xtc_threshold=0.15) == {0, 1, 2, 3, 4}
    assert support(logits, xtc_probability=1.0, xtc_threshold=0.35) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    logits = np.array([2.0, 1.0, 0.0, -1.0, 0.5], np.float32)
    chain = _core.Chain(_core.SamplingParams(**{**OFF, "temperature": temperature, "seed": 3}), 5)
    counts = Counter(chain.sample(logits)["token"] for _ in range(20000))
    expected = softmax(logits / temperature) * 20000
    chi_square = sum((counts[i] - expected[i]) ** 2 / expected[i] for i in range(5))
    assert chi_square < 18.5  # 4 degrees of freedom, p = 0.001; the seed is fixed


@pytest.mark.parametrize(
    "options",
    [
        {}, {"temperature": 0.7}, {"top_p": 0.9}, {"top_p": 0.5, "min_p": 0.01}, {"min_p": 0.02}, {"top_n_sigma": 1.5},
        {"typical_p": 0.3}, {"typical_p": 0.95}, {"xtc_probability": 1.0, "xtc_threshold": 0.01},
        {"mirostat": 2, "mirostat_eta": 0.0, "mirostat_tau": 4.0},
    ],
)  # fmt: skip
def test_a_whole_vocabulary_is_drawn_from_as_its_distribution_says(options: dict[str, float]) -> None:
    """Stages over many tokens pass over them without a list; three tokens in ten are masked."""
    n, draws = 5000, 20000
    rng = np.random.default_rng(5)
    logits = np.where(rng.random(n) < 0.3, -np.inf, rng.normal(0, 2.5, n)).astype(np.float32)
    ranked, probabilities = order(logits), softmax(logits)
    if "top_n_sigma" in options:
        finite = logits[np.isfinite(logits)].astype(np.float64)
        probabilities[logits < finite.max() - options["top_n_sigma"] * finite.std()] = 0
    n_kept = int(np.searchsorted(np.cumsum(probabilities[ranked]), options.get("top_p", 2.0))) + 1
    probabilities[ranked[n_kept:]] = 0
    probabilities[probabilities < options.get("min_p", 0.0) * probabilities.max()] = 0
    if "typical_p" in options:
        surprise = np.where(probabilities > 0, -np.log(np.maximum(probabilities, 1e-300)), np.inf)
        nearest = np.argsort(np.abs(surprise - np.sum(probabilities[probabilities > 0] * surprise[probabilities > 0])))
        n_typical = int(np.searchsorted(np.cumsum(probabilities[nearest]), options["typical_p"])) + 1
        probabilities[nearest[n_typical:]] = 0
    if "xtc_threshold" in options:
        probabilities[ranked[: np.count_nonzero(probabilities >= options["xtc_threshold"]) - 1]] = 0
    if "mirostat" in options:  # mu starts at 2 tau and stays where eta is 0
        probabilities[probabilities < 2.0 ** (-2 * options["mirostat_tau"])] = 0
    probabilities **= 1 / options.get("temperature", 1.0)
    probabilities /= probabilities.sum()
    chain = _core.Chain(_core.SamplingParams(**{**OFF, **options, "seed": 11}), n)
    counts = np.bincount([chain.sample(logits)["token"] for _ in range(draws)], minlength=n)
    assert not np.any(counts[probabilities == 0])
    # Tokens in order of likelihood, in twenty bins of equal mass.
    bins = np.minimum((np.cumsum(probabilities[ranked]) - probabilities[ranked]) * 20, 19).astype(int)
    expected = np.bincount(bins, probabilities[ranked], minlength=20) * draws
    found = np.bincount(bins, counts[ranked], minlength=20)
    full = expected > 5
    chi_square = np.sum((found[full] - expected[full]) ** 2 / expected[full])
    assert chi_square < 43.8  # 19 degrees of freedom, p = 0.001; the seed is fixed


def test_logprobs_of_a_vocabulary_are_exact() -> None:
    logits = np.random.default_rng(3).normal(0, 4, 4099).astype(np.float32)
    logits[17] = -np.inf
    chain = _core.Chain(_core.SamplingParams(temperature=0, seed=0, n_logprobs=5), len(logits))
    sample = chain.sample(logits)
    expected = np.log(softmax(logits)[order(logits)[:5]])
    found = [logprob for _, logprob in sample["top_logprobs"]]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_dynamic_temperature_depends_on_entropy() -> None:
    flat, peaked = np.zeros(8, np.float32), np.array([20.0] + [0.0] * 7, np.float32)
    assert len(support(flat, temperature=1.0, dynatemp_range=0.9)) == 8
    assert support(peaked, temperature=1.0, dynatemp_range=0.9) == {0}


def test_penalties() -> None:
    logits = np.array([2.0, -2.0, 1.9, 0.0], np.float32)
    greedy = {"temperature": 0, "seed": 0}

    def best(prompt: list[int], **params: Any) -> int:
        return _core.Chain(_core.SamplingParams(**greedy, **params), 4).sample(logits, prompt)["token"]

    assert best([0], repeat_penalty=1.0) == 0
    assert best([0], repeat_penalty=1.2) == 2
    assert best([0], presence_penalty=0.2) == 2
    assert best([0] * 3, frequency_penalty=0.04) == 2
    assert best([0] * 2, frequency_penalty=0.04) == 0
    assert best([0, 3, 3], repeat_penalty=1.2, repeat_last_n=2) == 0
    assert best([0, 3, 3], repeat_penalty=1.2, repeat_last_n=-1) == 2


def test_dry_penalizes_the_token_that_would_repeat() -> None:
    logits = np.zeros(10, np.float32)
    logits[5] = 1.0
    repeated = [1, 2, 3, 4, 5, 9, 1, 2, 3, 4]  # 5 would extend a repetition of four tokens

    def best(prompt: list[int], **params: Any) -> int:
        return _core.Chain(_core.SamplingParams(temperature=0, seed=0, **params), 10).sample(logits, prompt)["token"]

    # multiplier * base ** (4 - allowed_length)
    assert best(repeated, dry_multiplier=0.3, dry_base=2.0, dry_allowed_length=2) == 0
    assert best(repeated, dry_multiplier=0.2, dry_base=2.0, dry_allowed_length=2) == 5
    assert best(repeated, dry_multiplier=9.0, dry_allowed_length=5) == 5
    assert best(repeated, dry_multiplier=9.0, dry_sequence_breakers=[[4]]) == 5
    assert best(repeated, dry_multiplier=9.0, dry_penalty_last_n=5) == 5


def test_bias_bans_and_masks() -> None:
    logits = np.array([3.0, 2.0, 1.0, 0.0], np.float32)

    def best(prompt: tuple[int, ...] = (), mask: np.ndarray | None = None, **params: Any) -> int:
        return _core.Chain(_core.SamplingParams(temperature=0, seed=0, **params), 4).sample(
            logits, list(prompt), mask=mask
        )["token"]

    assert best(logit_bias=[(3, 10.0)]) == 3
    assert best(logit_bias=[(0, -math.inf)]) == 1
    assert best(allowed_token_ids=[2, 3]) == 2
    assert best(bad_words=[[0]]) == 1
    assert best((1,), bad_words=[[1, 0]]) == 1
    assert best((2,), bad_words=[[1, 0]]) == 0
    assert best(mask=np.array([0b1100], np.uint32)) == 2
    with pytest.raises(InvalidArgumentError, match="No token can be chosen"):
        best(mask=np.array([0], np.uint32))
    with pytest.raises(InvalidArgumentError, match="No token can be chosen"):
        _core.Chain(_core.SamplingParams(seed=0), 3).sample(np.full(3, np.nan, np.float32))


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_steers_surprise(version: int) -> None:
    logits = np.random.default_rng(1).normal(size=500).astype(np.float32) * 2
    probabilities = softmax(logits)
    chain = _core.Chain(_core.SamplingParams(**{**OFF, "mirostat": version, "mirostat_tau": 4.0}), 500)
    drawn = [chain.sample(logits)["token"] for _ in range(600)][100:]
    assert np.mean(-np.log2(probabilities[drawn])) == pytest.approx(4.0, abs=1.5)


@given(LOGITS)
@settings(max_examples=40, deadline=None)
def test_logprobs(logits: np.ndarray) -> None:
    chain = _core.Chain(_core.SamplingParams(seed=1, n_logprobs=min(3, len(logits))), len(logits))
    sample = chain.sample(logits)
    expected = np.log(softmax(logits))
    assert sample["logprob"] == pytest.approx(expected[sample["token"]], abs=1e-4)
    assert [t for t, _ in sample["top_logprobs"]] == order(logits)[:3].tolist()


@given(st.permutations(list(_core.SAMPLER_STAGES)), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_any_order_works_and_repeats(stages: list[str], seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=300).astype(np.float32)
    params = {
        "top_k": 50, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.9, "top_n_sigma": 2.0, "xtc_probability": 0.5, "temperature": 0.7,
        "repeat_penalty": 1.2, "dry_multiplier": 1.0, "seed": seed, "order": stages,
    }  # fmt: skip
    first, second = (_core.Chain(_core.SamplingParams(**params), 300) for _ in range(2))
    history = [1, 2, 3, 1, 2]
    assert [first.sample(logits, history) for _ in range(5)] == [second.sample(logits, history) for _ in range(5)]


def test_large_vocabulary() -> None:
    logits = np.random.default_rng(2).normal(size=262144).astype(np.float32)
    top = set(order(logits)[:40].tolist())
    assert support(logits, top_k=40, n=200) <= top
    assert support(logits, top_k=0, top_p=0.01, n=50) <= set(order(logits)[:4000].tolist())


def test_bad_parameters() -> None:
    for bad in (
        {"top_p": 0.0},
        {"min_p": 2.0},
        {"min_keep": 0},
        {"mirostat": 7},
        {"logit_bias": [(99, 1.0)]},
        {"temperature": math.inf},
    ):
        with pytest.raises(InvalidArgumentError):
            _core.Chain(_core.SamplingParams(seed=0, **bad), 10)
    with pytest.raises(TypeError, match="no field"):
        _core.SamplingParams(bogus=1)
    with pytest.raises(TypeError):
        _core.SamplingParams(top_k="many")


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "repeat_penalty": 1.3, "repeat_last_n": 9},
        {"temperature": 0.0, "logit_bias": [(token, -math.inf) for token in range(0, 40)]},
        {"top_k": 9, "logit_bias": [(token, -math.inf) for token in range(5, 60)]},
        {},
        {"top_k": 3, "min_keep": 5, "top_p": 1.0},
        {"top_k": 12, "typical_p": 0.8, "xtc_probability": 0.5, "dynatemp_range": 0.4},
        {"top_k": 8, "presence_penalty": 0.7, "frequency_penalty": 0.3, "repeat_penalty": 1.2, "repeat_last_n": 16},
        {"top_k": 8, "frequency_penalty": 0.3, "dry_multiplier": 1.0, "order": ["top_k", "penalties", "dry"]},
    ],
)
def test_few_tokens_decide_as_all_would(options: dict) -> None:
    draw = np.random.default_rng(len(str(options)))
    whole, few = (_core.Chain(_core.SamplingParams(seed=11, **options), 700) for _ in range(2))
    n = few.n_deciding
    assert 0 < n <= 80
    history: list[int] = []
    for step in range(200):
        logits = (2 * draw.normal(size=700)).astype(np.float32)
        if step % 2:
            logits = np.round(logits)  # many equals
            logits[draw.integers(700, size=5)] = -np.inf
        order = sorted(range(700), key=lambda token: (-logits[token], token))[: n + step % 3]
        best = [(token, float(logits[token])) for token in order]
        found = few.sample_among(best, [5, 6], history)["token"]
        assert found == whole.sample(logits, [5, 6], history)["token"], step
        history.append(int(draw.choice([found, *order])))
    with pytest.raises(InvalidArgumentError, match="candidates"):
        few.sample_among(best[: n - 1])


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0},
        {"n_logprobs": 0},
        {"logit_bias": [(3, -1.0), (4, -math.inf)]},
        {"allowed_token_ids": [4]},
        {"bad_words": [[4]]},
        {"mirostat": 2},
        {"repeat_penalty": 0.9},
        {"repeat_penalty": 1.1, "repeat_last_n": -1},
        {"dry_multiplier": 1.0},
        {"temperature": 0.0, "dry_multiplier": 1.0},
        {"order": ["temperature", "top_k"]},
        {"top_n_sigma": 1.0},
    ],
)
def test_chains_that_look_at_all_logits_say_so(options: dict) -> None:
    assert _core.Chain(_core.SamplingParams(seed=1, **options), 100).n_deciding == 0
