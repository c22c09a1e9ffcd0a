"""Every op on the device against the reference, for every format, KV type and shape that takes another path."""

from __future__ import annotations

import numpy as np
import pytest

from halfbyte import _core
from halfbyte._core import testing

from ..kernels.test_attention import TOLERANCE as KV_TYPES
from ..kernels.test_attention import make
from ..kernels.test_linear import FORMATS, PACKED, quantized, random_blocks

pytestmark = pytest.mark.usefixtures("gpu")
INTEGER = PACKED
# Columns that end inside a cell of 256 where the format allows it.
COLUMNS = {1: 288, 32: 288, 64: 320, 128: 384, 256: 512}


def product(name: str, n_rows: int, n_tokens: int, n_cols: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n_cols = n_cols or COLUMNS[FORMATS[name]["block_weights"]]
    blocks = random_blocks(name, n_rows, n_cols, seed=n_rows)
    x = np.random.default_rng(n_tokens).normal(size=(n_tokens, n_cols)).astype(np.float32)
    w = _core.decode(name, blocks).reshape(n_rows, n_cols).astype(np.float64)
    return testing.linear("cuda", name, blocks, x)[0], x, w


@pytest.mark.parametrize("name", INTEGER)
def test_quantized_products_are_exact_in_integers(name: str) -> None:
    for n_rows, n_tokens in ((1, 1), (17, 3), (40, 12), (33, 18)):
        found, x, w = product(name, n_rows, n_tokens)
        exact = quantized(x).astype(np.float64) @ w.T
        # Only the order and rounding of f32 sums may differ.
        bound = 4e-7 * (np.abs(quantized(x)).astype(np.float64) @ np.abs(w).T) + 1e-30
        assert np.all(np.abs(found - exact) <= bound), (n_rows, n_tokens)


@pytest.mark.parametrize(("name", "error"), [("F32", 1e-6), ("F16", 2e-4), ("BF16", 2e-3)])
def test_float_products(name: str, error: float) -> None:
    for n_rows, n_tokens in ((1, 1), (17, 3), (40, 12), (33, 18)):
        found, x, w = product(name, n_rows, n_tokens)
        assert np.all(np.abs(found - x @ w.T) <= error * (np.abs(x) @ np.abs(w).T))


def test_large_and_tiny_activations_keep_their_precision_in_f16() -> None:
    blocks = random_blocks("F16", 20, 128)
    w = _core.decode("F16", blocks).reshape(20, 128).astype(np.float64)
    for magnitude in (1e-20, 1e-6, 1e6, 1e20):
        x = np.random.default_rng(1).normal(size=(2, 128)).astype(np.float32) * np.float32(magnitude)
        found = testing.linear("cuda", "F16", blocks, x)[0]
        assert np.all(np.abs(found - x @ w.T) <= 1e-3 * (np.abs(x) @ np.abs(w).T)), magnitude


@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "F16", "F32"])
def test_rows_have_the_same_bits_in_any_batch(name: str) -> None:
    # 1536 columns are cut into slices; 260 tokens take the kernel of long prompts.
    n_rows, n_cols = 36, 1536
    blocks = random_blocks(name, n_rows, n_cols)
    x = np.random.default_rng(5).normal(size=(260, n_cols)).astype(np.float32)
    whole = testing.linear("cuda", name, blocks, x)[0]
    for begin, end in ((0, 1), (3, 15), (100, 164), (7, 80)):
        assert np.array_equal(testing.linear("cuda", name, blocks, x[begin:end])[0], whole[begin:end]), (begin, end)


@pytest.mark.parametrize(
    ("gate", "up"), [("Q4_K", "Q4_K"), ("Q4_K", "Q6_K"), ("IQ4_XS", "IQ3_S"), ("F16", "F16"), ("F32", "F32")]
)
def test_gated_products(gate: str, up: str) -> None:
    gate_blocks, up_blocks = random_blocks(gate, 50, 512, seed=1), random_blocks(up, 50, 512, seed=2)
    x = np.random.default_rng(1).normal(size=(3, 512)).astype(np.float32)
    found = testing.linear_glu("cuda", gate, gate_blocks, up, up_blocks, x, 1)
    for part, exact in ((found, testing.linear_glu("reference", gate, gate_blocks, up, up_blocks, x, 1)),):
        assert np.mean((part - exact) ** 2) <= 5e-4 * np.mean(exact**2)


@pytest.mark.parametrize("is_decode", [False, True])
@pytest.mark.parametrize("kv_type", list(KV_TYPES))
@pytest.mark.parametrize("options", [{}, {"softcap": 20.0}, {"window": 24}, {"sinks": True}])
def test_attention(kv_type: str, options: dict, is_decode: bool) -> None:
    q, k, v, table = make(83, 9)
    options = dict(options)
    if options.pop("sinks", False):
        options["sinks"] = np.linspace(-1, 3, 6).astype(np.float32)
    found = testing.attention("cuda", kv_type, q, k, v, table, 74, 0.125, is_decode=is_decode, **options)[0]
    exact = testing.attention("reference", kv_type, q, k, v, table, 74, 0.125, **options)[0]
    assert np.max(np.abs(found - exact)) < 1.5e-3  # scores and weights are rounded to f16


@pytest.mark.parametrize("is_decode", [False, True])
@pytest.mark.parametrize(("dim", "n"), [(16, 20), (24, 30), (80, 50), (96, 300), (128, 700), (256, 290)])
def test_attention_of_all_head_sizes(dim: int, n: int, is_decode: bool) -> None:
    q, k, v, table = make(n, 3, dim=dim)
    for kv_type in ("f16", "q8_0", "q4_0") if dim % 32 == 0 else ("f16",):
        found = testing.attention("cuda", kv_type, q, k, v, table, n - 3, 0.1, is_decode=is_decode)[0]
        exact = testing.attention("reference", kv_type, q, k, v, table, n - 3, 0.1)[0]
        assert np.max(np.abs(found - exact)) < 1.5e-3, kv_type


@pytest.mark.parametrize("is_decode", [False, True])
@pytest.mark.parametrize("window", [0, 100])
def test_attention_rows_do_not_depend_on_chunking(window: int, is_decode: bool) -> None:
    q, k, v, table = make(600, 40)

    def run(begin: int, end: int) -> np.ndarray:
        return testing.attention(
            "cuda", "f16", q[begin:end], k, v, table, 560 + begin, 0.125, window=window, is_decode=is_decode
        )[0]

    whole = run(0, 40)
    for begin, end in ((0, 1), (5, 18), (39, 40), (17, 38)):
        assert np.array_equal(run(begin, end), whole[begin:end]), (begin, end)


def test_norms_gates_and_rope() -> None:
    draw = np.random.default_rng(3)
    for dim in (1, 15, 64, 257, 600):
        x, y, w = (draw.normal(size=shape).astype(np.float32) for shape in ((3, dim), (3, dim), dim))
        for layer in (False, True):
            exact = testing.norm("reference", layer, 10 * x, w, 1e-5)
            assert np.allclose(testing.norm("cuda", layer, 10 * x, w, 1e-5), exact, rtol=3e-5, atol=1e-5)
        for activation in range(7):
            exact = testing.glu("reference", activation, x, y)
            assert np.allclose(testing.glu("cuda", activation, x, y), exact, rtol=1e-5, atol=1e-5)
    x = draw.normal(size=(5, 3, 64)).astype(np.float32)
    frequencies = (10000 ** (-np.arange(24) / 24)).astype(np.float32)
    positions = np.array([0, 5, 100, 7, 4000], np.int32)
    for adjacent in (True, False):
        exact = testing.rope("reference", adjacent, x, frequencies, positions)
        assert np.allclose(testing.rope("cuda", adjacent, x, frequencies, positions), exact, atol=2e-6)


def test_norms_are_added_to_the_stream() -> None:
    draw = np.random.default_rng(4)
    for dim in (5, 257, 1500):
        y, x, w = (draw.normal(size=shape).astype(np.float32) for shape in ((3, dim), (3, dim), dim))
        for layer in (False, True):
            exact = testing.norm_add("reference", layer, 10 * y, x, w, 0.5, 1e-5)
            assert np.allclose(testing.norm_add("cuda", layer, 10 * y, x, w, 0.5, 1e-5), exact, rtol=3e-5, atol=1e-5)


@pytest.mark.parametrize("adjacent", [False, True])
@pytest.mark.parametrize(("n_heads", "n_kv_heads", "dim", "n_pairs"), [(6, 2, 64, 24), (3, 3, 80, 40), (8, 1, 256, 1)])
def test_heads_are_normed_rotated_and_stored(
    n_heads: int, n_kv_heads: int, dim: int, n_pairs: int, adjacent: bool
) -> None:
    draw = np.random.default_rng(dim)
    q, k, v = (draw.normal(size=(4, n, dim)).astype(np.float32) for n in (n_heads, n_kv_heads, n_kv_heads))
    frequencies = (10000 ** (-np.arange(n_pairs) / n_pairs)).astype(np.float32)
    positions = np.array([0, 5, 100, 4000], np.int32)
    norms = [draw.normal(size=dim).astype(np.float32) for _ in range(2)]
    for q_norm, k_norm in ([None, None], norms, [None, norms[1]]):
        args = ("f32", q, k, v, q_norm, k_norm, adjacent, frequencies, positions, [33, -1, 5, 16], 3)
        (found, kv), (exact, exact_kv) = (testing.store_heads(level, *args) for level in ("cuda", "reference"))
        assert np.allclose(found, exact, atol=1e-5)
        assert np.allclose(kv.view(np.float32), exact_kv.view(np.float32), atol=1e-5)
        assert np.count_nonzero(exact_kv.view(np.float32)) == 3 * 2 * n_kv_heads * dim


@pytest.mark.parametrize("n_vocab", [1, 260, 2048, 2049, 40000])
def test_likely_tokens_are_found_in_order(n_vocab: int) -> None:
    draw = np.random.default_rng(n_vocab)
    # Few different values: most are decided by the lower token. Both zeros are one value.
    rows = draw.choice(np.array([-3.5, -0.0, 0.0, 1.0, 1e-30, 7.25], np.float32), size=(3, n_vocab))
    rows[1] = draw.normal(size=n_vocab)
    rows[2] = np.where(draw.random(n_vocab) < 0.999, draw.choice([-np.inf, np.nan], size=n_vocab), -5)
    rows[0, n_vocab // 2] = np.inf
    for n in (1, 2, 40, 64, 65, 256):
        found, exact = (testing.likely(level, rows, n) for level in ("cuda", "reference"))
        assert np.array_equal(found[0], exact[0]), n
        assert np.array_equal(found[1], exact[1]), n
    order = sorted(range(n_vocab), key=lambda token: (-rows[1, token], token))[:256]
    assert list(exact[0][1, : len(order)]) == order
    assert np.all(exact[0][1, len(order) :] == -1)
