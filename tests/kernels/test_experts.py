"""Mixtures of experts, at every CPU level that this machine has, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from halfbyte import _core
from halfbyte._core import testing

from .test_linear import DECODED, FLOATS, FORMATS, LEVELS, PACKED, random_blocks, rounded

N_EXPERTS, N_USED = 5, 3


def numpy_route(logits, n_used, sigmoid, normalize, scale, bias):
    x = logits.astype(np.float64)
    scores = 1 / (1 + np.exp(-x)) if sigmoid else np.exp(x - x.max(-1, keepdims=True))
    if not sigmoid:
        scores /= scores.sum(-1, keepdims=True)
    chosen = np.argsort(-(scores + (0 if bias is None else bias)), axis=-1, kind="stable")[:, :n_used]
    weights = np.take_along_axis(scores, chosen, -1)
    if normalize:
        weights = weights / weights.sum(-1, keepdims=True)
    return chosen, weights * scale


@pytest.mark.parametrize("level", ["reference", LEVELS[-1]])
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_routing(level: str, sigmoid: bool, normalize: bool, biased: bool) -> None:
    draw = np.random.default_rng(3)
    logits = (3 * draw.normal(size=(100, 37))).astype(np.float32)
    bias = draw.normal(size=37).astype(np.float32) if biased else None
    for n_used in (1, 4, 37):
        found = testing.route(level, logits, n_used, sigmoid, normalize, 2.5, bias)
        chosen, weights = numpy_route(logits, n_used, sigmoid, normalize, 2.5, bias)
        assert np.array_equal(found[0], chosen)
        assert np.allclose(found[1], weights, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("level", ["reference", LEVELS[-1]])
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_routing_within_groups(level: str, sigmoid: bool, biased: bool) -> None:
    draw = np.random.default_rng(4)
    logits = (2 * draw.normal(size=(90, 24))).astype(np.float32)
    bias = draw.normal(size=24).astype(np.float32) if biased else np.zeros(24, np.float32)
    scores = 1 / (1 + np.exp(-logits.astype(np.float64))) if sigmoid else np.exp(logits.astype(np.float64))
    scores /= 1 if sigmoid else scores.sum(-1, keepdims=True)
    for n_groups, n_groups_used in ((4, 2), (12, 4), (8, 8)):
        keys = (scores + bias).reshape(90, n_groups, -1)
        best = np.sort(keys, -1)[:, :, -2 if sigmoid else -1 :].sum(-1)
        left_out = np.argsort(-best, -1, kind="stable")[:, n_groups_used:]
        np.put_along_axis(keys, left_out[..., None], -np.inf, 1)
        expected = np.argsort(-keys.reshape(90, 24), -1, kind="stable")[:, :5]
        found, weights = testing.route(level, logits, 5, sigmoid, False, 1.0, bias, n_groups, n_groups_used)
        assert np.array_equal(found, expected)
        assert np.allclose(weights, np.take_along_axis(scores, expected, -1), rtol=1e-5)


def test_strengths_multiply_what_the_chosen_count() -> None:
    draw = np.random.default_rng(6)
    logits, strengths = draw.normal(size=(9, 12)).astype(np.float32), draw.uniform(0.5, 2, 12).astype(np.float32)
    chosen, plain = testing.route(LEVELS[-1], logits, 3)
    again, weights = testing.route(LEVELS[-1], logits, 3, strengths=strengths)
    assert np.array_equal(again, chosen)
    assert np.allclose(weights, plain * strengths[chosen], rtol=1e-6)


def test_equal_scores_choose_the_first_and_no_number_chooses_something() -> None:
    logits = np.zeros((2, 8), np.float32)
    logits[1] = np.nan
    experts, weights = testing.route(LEVELS[-1], logits, 3)
    assert experts[0].tolist() == [0, 1, 2]
    assert np.allclose(weights[0], 1 / 3)
    assert len(set(experts[1].tolist())) == 3
    assert experts[1].min() >= 0
    assert experts[1].max() < 8


def make(name: str, n_cols: int, n_ff: int, n_tokens: int, seed: int = 0):
    draw = np.random.default_rng(seed)
    stacks = [random_blocks(name, N_EXPERTS * n_ff, n_cols, seed), random_blocks(name, N_EXPERTS * n_ff, n_cols, seed + 1),
              random_blocks(name, N_EXPERTS * n_cols, n_ff, seed + 2)]  # fmt: skip
    x = draw.normal(size=(n_tokens, n_cols)).astype(np.float32)
    chosen = np.argsort(draw.normal(size=(n_tokens, N_EXPERTS)), axis=1)[:, :N_USED].astype(np.int32)
    weights = draw.uniform(0.1, 1, (n_tokens, N_USED)).astype(np.float32)
    return stacks, x, chosen, weights


@pytest.mark.parametrize("level", ["reference", *LEVELS])
@pytest.mark.parametrize("name", PACKED + FLOATS + DECODED)
def test_experts_of_every_format(name: str, level: str) -> None:
    step = FORMATS[name]["block_weights"]
    n_cols, n_ff = (40, 27) if name in FLOATS else (3 * step if step < 64 else step, 2 * step)
    draw = np.random.default_rng(8)
    biases = [draw.normal(size=(N_EXPERTS, n)).astype(np.float32) for n in (n_ff, n_ff, n_cols)]
    is_integer = level != "reference" and name in PACKED
    for n_tokens in (1, 19):
        stacks, x, chosen, weights = make(name, n_cols, n_ff, n_tokens)
        gate, up = (_core.decode(name, s).reshape(N_EXPERTS, n_ff, n_cols).astype(np.float64) for s in stacks[:2])
        down = _core.decode(name, stacks[2]).reshape(N_EXPERTS, n_cols, n_ff).astype(np.float64)
        hidden, out, _ = testing.experts(
            level, name, stacks, n_ff, x, chosen, weights, biases, activation=4, limit=1.5, shift=1.0
        )
        seen = rounded(x) if is_integer else x
        g = np.einsum("tjfc,tc->tjf", gate[chosen], seen) + biases[0][chosen]
        u = np.einsum("tjfc,tc->tjf", up[chosen], seen) + biases[1][chosen]
        g, u = np.minimum(g, 1.5), np.clip(u, -1.5, 1.5)
        with np.errstate(over="ignore"):
            expected = g / (1 + np.exp(-1.702 * g)) * (u + 1)
        assert np.allclose(hidden, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        seen = rounded(hidden) if is_integer else hidden
        each = np.einsum("tjcf,tjf->tjc", down[chosen], seen) + biases[2][chosen]
        expected = (weights[..., None] * each).sum(1)
        assert np.allclose(out, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["Q4_K", "MXFP4", "F32"])
def test_same_bits_for_any_level_batch_and_threads(name: str) -> None:
    stacks, x, chosen, weights = make(name, 512, 256, 40, seed=4)
    reference = testing.experts(LEVELS[-1], name, stacks, 256, x, chosen, weights)
    for level in LEVELS:
        for n_threads in (1, 3):
            found = testing.experts(level, name, stacks, 256, x, chosen, weights, n_threads=n_threads)
            assert np.array_equal(found[0], reference[0])
            assert np.array_equal(found[1], reference[1])
        for part in (slice(0, 1), slice(7, 9), slice(3, 20)):
            found = testing.experts(level, name, stacks, 256, x[part], chosen[part], weights[part])
            assert np.array_equal(found[0], reference[0][part])
            assert np.array_equal(found[1], reference[1][part])


def test_raw_stacks_equal_packed_ones() -> None:
    stacks, x, chosen, weights = make("Q8_0", 64, 32, 6)
    packed = testing.experts(LEVELS[-1], "Q8_0", stacks, 32, x, chosen, weights)[1]
    raw = testing.experts(LEVELS[-1], "Q8_0", stacks, 32, x, chosen, weights, keep_raw=True)[1]
    assert np.allclose(raw, packed, rtol=0.05, atol=0.05 * np.abs(packed).max())
