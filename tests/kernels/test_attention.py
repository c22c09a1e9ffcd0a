"""Attention through block tables against a plain softmax, for every KV type and level."""

from __future__ import annotations

import numpy as np
import pytest

from halfbyte import _core
from halfbyte._core import testing

LEVELS = _core.cpu_info()["supported"]
FAST = [level for level in LEVELS if level != "reference"]
TOLERANCE = {"f32": 2e-6, "f16": 2e-3, "bf16": 1.5e-2, "q8_0": 2e-2, "q4_0": 0.25}


def attention(*arguments, **options):
    return testing.attention(*arguments, **options)[0]


def reference(q, k, v, first, scale, softcap=0.0, window=0, sinks=None, gap=0):
    n_rows, n_heads, _ = q.shape
    group = n_heads // k.shape[1]
    out = np.zeros((n_rows, n_heads, v.shape[2]))
    for r in range(n_rows):
        position = first + r
        start = max(0, position - window + 1) if window else 0
        for h in range(n_heads):
            s = k[start : position + 1, h // group] @ q[r, h] * scale
            if softcap:
                s = softcap * np.tanh(s / softcap)
            logits = np.append(s, sinks[h]) if sinks is not None else s
            e = np.exp(s - logits.max())
            total = np.exp(logits - logits.max()).sum()
            out[r, h] = (e / total) @ v[start : position + 1, h // group]
    return out


def make(n_kv, n_rows, heads=6, kv_heads=2, dim=64, seed=0):
    draw = np.random.default_rng(seed)
    q = draw.normal(size=(n_rows, heads, dim)).astype(np.float32)
    k = draw.normal(size=(n_kv, kv_heads, dim)).astype(np.float32)
    v = draw.normal(size=(n_kv, kv_heads, dim)).astype(np.float32)
    table = draw.permutation((n_kv + 15) // 16 + 3)[: (n_kv + 15) // 16].astype(np.int32)
    return q, k, v, table


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kv_type", list(TOLERANCE))
@pytest.mark.parametrize("options", [{}, {"softcap": 20.0}, {"window": 24}, {"sinks": True}, {"gap": 192}])
def test_attention(level: str, kv_type: str, options: dict) -> None:
    q, k, v, table = make(83, 9)
    options = dict(options)
    if options.pop("sinks", False):
        options["sinks"] = np.linspace(-1, 3, 6).astype(np.float32)
    found = attention(level, kv_type, q, k, v, table, 74, 0.125, **options)
    expected = reference(q, k, v, 74, 0.125, **options)
    assert np.max(np.abs(found - expected)) <= TOLERANCE[kv_type]


@pytest.mark.parametrize("kv_type", list(TOLERANCE))
def test_levels_agree_with_the_reference_on_stored_values(kv_type: str) -> None:
    q, k, v, table = make(40, 5, dim=32)
    expected = attention("reference", kv_type, q, k, v, table, 35, 0.2)
    for level in FAST:
        assert np.max(np.abs(attention(level, kv_type, q, k, v, table, 35, 0.2) - expected)) < 5e-6


@pytest.mark.parametrize("level", FAST)
@pytest.mark.parametrize("window", [0, 100])
def test_rows_do_not_depend_on_chunking_or_threads(level: str, window: int) -> None:
    q, k, v, table = make(1300, 120)
    whole = attention(level, "f16", q, k, v, table, 1180, 0.125, window=window)
    for n_threads in (2, 3):
        assert np.array_equal(
            attention(level, "f16", q, k, v, table, 1180, 0.125, window=window, n_threads=n_threads), whole
        )
    for begin, end in ((0, 1), (1, 2), (5, 18), (119, 120), (17, 64)):
        part = attention(level, "f16", q[begin:end], k, v, table, 1180 + begin, 0.125, window=window, n_threads=2)
        assert np.array_equal(part, whole[begin:end]), (begin, end)


def test_long_context_and_odd_dims() -> None:
    q, k, v, table = make(1111, 1, heads=4, kv_heads=1, dim=256)
    expected = reference(q, k, v, 1110, 0.0625)
    for level in FAST:
        found = attention(level, "f32", q, k, v, table, 1110, 0.0625, n_threads=2)
        assert np.max(np.abs(found - expected)) < 5e-6
    q, k, v, table = make(30, 3, heads=2, kv_heads=2, dim=24)
    found = attention(FAST[-1], "f32", q, k, v, table, 27, 0.2)
    assert np.max(np.abs(found - reference(q, k, v, 27, 0.2))) < 5e-6


@pytest.mark.parametrize("level", FAST)
def test_norms_and_gated_units(level: str) -> None:
    draw = np.random.default_rng(3)
    for dim in (1, 15, 64, 257):
        x = draw.normal(size=(3, dim)).astype(np.float32) * 10
        w = draw.normal(size=dim).astype(np.float32)
        for layer in (False, True):
            expected = testing.norm("reference", layer, x, w, 1e-5)
            assert np.allclose(testing.norm(level, layer, x, w, 1e-5), expected, rtol=3e-5, atol=1e-5)
        for activation in range(7):
            y = draw.normal(size=(3, dim)).astype(np.float32)
            expected = testing.glu("reference", activation, x, y)
            assert np.allclose(testing.glu(level, activation, x, y), expected, rtol=1e-5, atol=1e-5)
