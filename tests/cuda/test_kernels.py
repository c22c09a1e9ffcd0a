"""Every op on the device against the reference, for every format, KV type and shape that takes another path."""

from __future__ import annotations

import numpy as np
import pytest

from halfbyte import _core
from halfbyte._core import testing

from ..kernels import test_streams as streams
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


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "F16"])
def test_inputs_rounded_where_they_are_made_give_the_same_bits(name: str) -> None:
    """Norms, gated products and attention leave int8 inputs for the matrix that follows; it must not notice."""
    draw = np.random.default_rng(8)

    def following(n_cols: int) -> tuple[str, bytes]:
        return name, random_blocks(name, 20, n_cols, seed=3)

    def product_of(rows: np.ndarray) -> np.ndarray:
        rows = rows.reshape(len(rows), -1)
        return testing.linear("cuda", name, following(rows.shape[1])[1], rows)[0]

    # A warp a row, a block a row; columns that end inside a group of 256.
    for n, dim in ((1, 96), (11, 256), (2, 1056)):
        x, w = draw.normal(size=(n, dim)).astype(np.float32), draw.normal(size=dim).astype(np.float32)
        for layer in (False, True):
            rows = testing.norm("cuda", layer, x, w, 1e-5)
            assert np.array_equal(testing.norm("cuda", layer, x, w, 1e-5, following(dim)), product_of(rows)), (n, dim)
    # One slice of the columns and two; one group of tokens, two, and more than the few that are rounded at once.
    for n, n_cols, n_ff in ((1, 64, 96), (3, 1024, 288), (16, 64, 320), (17, 64, 64)):
        gate, up = (random_blocks("Q8_0", n_ff, n_cols, seed=seed) for seed in (1, 2))
        x = draw.normal(size=(n, n_cols)).astype(np.float32)
        rows = testing.linear_glu("cuda", "Q8_0", gate, "Q8_0", up, x, 1)
        found = testing.linear_glu("cuda", "Q8_0", gate, "Q8_0", up, x, 1, following(n_ff))
        assert np.array_equal(found, product_of(rows)), (n, n_cols, n_ff)
    for n, dim, is_decode in ((3, 64, True), (2, 160, True), (2, 80, True), (3, 64, False)):
        q, k, v, table = make(150, n, heads=2 if dim > 64 else 6, kv_heads=1, dim=dim)
        args = ("cuda", "f16", q, k, v, table, 150 - n, 0.125)
        rows = testing.attention(*args, is_decode=is_decode)[0]
        found = testing.attention(*args, is_decode=is_decode, following=following(rows[0].size))[0]
        assert np.array_equal(found, product_of(rows)), (n, dim)


@pytest.mark.parametrize("is_decode", [False, True])
@pytest.mark.parametrize("kv_type", list(KV_TYPES))
@pytest.mark.parametrize("options", [{}, {"softcap": 20.0}, {"window": 24}, {"sinks": True}, {"gap": 192}])
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
@pytest.mark.parametrize(("key_dim", "value_dim", "heads"), [(576, 512, 20), (288, 256, 3), (384, 512, 1)])
def test_attention_over_latent_rows(key_dim: int, value_dim: int, heads: int, is_decode: bool) -> None:
    n, n_rows = 150, 3
    q, k, v, table = make(n, n_rows, heads=heads, kv_heads=1, dim=key_dim)
    v = v[..., :value_dim].copy()
    for kv_type, options in (
        ("f16", {}),
        ("f16", {"window": 60}),
        ("q8_0", {}),
        ("q4_0", {}),
        ("f32", {"softcap": 9.0}),
    ):
        args = (kv_type, q, k, v, table, n - n_rows, 0.05)
        found = testing.attention("cuda", *args, is_decode=is_decode, **options)[0]
        exact = testing.attention("reference", *args, **options)[0]
        assert np.max(np.abs(found - exact)) < 1.5e-3, kv_type
        alone = testing.attention("cuda", kv_type, q[1:2], k, v, table, n - 2, 0.05, is_decode=is_decode, **options)[0]
        assert np.array_equal(alone[0], found[1])


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


N_EXPERTS, N_USED = 6, 3


def expert_operands(
    name: str, n_tokens: int, n_ff: int, n_cols: int
) -> tuple[list[bytes], np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    draw = np.random.default_rng(n_tokens)
    shapes = ((n_ff, n_cols), (n_ff, n_cols), (n_cols, n_ff))
    stacks = [random_blocks(name, N_EXPERTS * rows, cols, seed=i) for i, (rows, cols) in enumerate(shapes)]
    x = draw.normal(size=(n_tokens, n_cols)).astype(np.float32)
    # The last expert is chosen by nobody, the first by all: groups of very different sizes.
    chosen = np.stack([np.r_[0, 1 + draw.permutation(N_EXPERTS - 2)[: N_USED - 1]] for _ in range(n_tokens)])
    weights = draw.uniform(0.1, 1, (n_tokens, N_USED)).astype(np.float32)
    biases = [draw.normal(size=(N_EXPERTS, rows)).astype(np.float32) for rows, _ in shapes]
    return stacks, x, chosen.astype(np.int32), weights, biases


@pytest.mark.parametrize("name", [*INTEGER, "F32", "F16", "BF16"])
def test_experts_of_every_format(name: str) -> None:
    step = FORMATS[name]["block_weights"]
    n_cols, n_ff = (40, 27) if step == 1 else (step, step) if step > 32 else (96, 64)
    error = {"F16": 2e-3, "BF16": 2e-2}.get(name, 1e-4)
    # One token, a few; and for some so many that an expert's tokens fill several groups of eight.
    for n_tokens in (1, 20) if name in ("Q4_K", "Q8_0", "MXFP4", "F16", "F32") else (3,):
        stacks, x, chosen, weights, biases = expert_operands(name, n_tokens, n_ff, n_cols)
        hidden, out, _ = testing.experts(
            "cuda", name, stacks, n_ff, x, chosen, weights, biases, activation=4, limit=1.5, shift=1.0
        )
        shapes = ((n_ff, n_cols), (n_ff, n_cols), (n_cols, n_ff))
        gate, up, down = (
            _core.decode(name, s).reshape(N_EXPERTS, *shape).astype(np.float64)
            for s, shape in zip(stacks, shapes, strict=True)
        )
        seen = quantized(x) if name in INTEGER else x
        g = np.minimum(np.einsum("tjfc,tc->tjf", gate[chosen], seen) + biases[0][chosen], 1.5)
        u = np.clip(np.einsum("tjfc,tc->tjf", up[chosen], seen) + biases[1][chosen], -1.5, 1.5)
        with np.errstate(over="ignore"):
            expected = g / (1 + np.exp(-1.702 * g)) * (u + 1)
        assert np.allclose(hidden, expected, rtol=error, atol=error * np.abs(expected).max()), n_tokens
        seen = quantized(hidden) if name in INTEGER else hidden
        each = np.einsum("tjcf,tjf->tjc", down[chosen], seen) + biases[2][chosen]
        expected = (weights[..., None] * each).sum(1)
        assert np.allclose(out, expected, rtol=error, atol=error * np.abs(expected).max()), n_tokens


@pytest.mark.parametrize(("name", "n_tokens"), [("Q4_K", 40), ("F32", 40), ("Q8_0", 350)])
def test_experts_give_the_same_bits_in_any_batch(name: str, n_tokens: int) -> None:
    # 40 tokens make tiles of several groups; 350 are counted and placed by many blocks.
    n_cols, n_ff = (256, 256) if name == "Q4_K" else (64, 32)
    stacks, x, chosen, weights, _ = expert_operands(name, n_tokens, n_ff, n_cols)
    whole = testing.experts("cuda", name, stacks, n_ff, x, chosen, weights)
    for begin, end in ((0, 1), (3, 12)):
        part = testing.experts("cuda", name, stacks, n_ff, x[begin:end], chosen[begin:end], weights[begin:end])
        assert np.array_equal(part[0], whole[0][begin:end])
        assert np.array_equal(part[1], whole[1][begin:end])


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_routing(sigmoid: bool, normalize: bool) -> None:
    draw = np.random.default_rng(5)
    for n_experts, n_used in ((128, 8), (33, 33), (5, 1), (300, 4)):
        logits = (3 * draw.normal(size=(21, n_experts))).astype(np.float32)
        for bias in (None, draw.normal(size=n_experts).astype(np.float32)):
            found = testing.route("cuda", logits, n_used, sigmoid, normalize, 2.5, bias)
            exact = testing.route("reference", logits, n_used, sigmoid, normalize, 2.5, bias)
            assert np.array_equal(found[0], exact[0])
            assert np.allclose(found[1], exact[1], rtol=1e-4, atol=1e-6)
        strengths = draw.uniform(0.5, 2, n_experts).astype(np.float32)
        found, exact = (testing.route(on, logits, n_used, sigmoid, strengths=strengths) for on in ("cuda", "reference"))
        assert np.allclose(found[1], exact[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_routing_within_groups(sigmoid: bool) -> None:
    draw = np.random.default_rng(6)
    for n_experts, groups in ((256, (8, 4)), (24, (12, 4)), (160, (32, 3)), (6, (2, 2))):
        logits = (3 * draw.normal(size=(21, n_experts))).astype(np.float32)
        for bias in (None, draw.normal(size=n_experts).astype(np.float32)):
            found = testing.route("cuda", logits, 5, sigmoid, True, 2.5, bias, *groups)
            exact = testing.route("reference", logits, 5, sigmoid, True, 2.5, bias, *groups)
            assert np.array_equal(found[0], exact[0])
            assert np.allclose(found[1], exact[1], rtol=1e-4, atol=1e-6)


def test_routing_of_equal_and_of_no_numbers() -> None:
    logits = np.zeros((2, 40), np.float32)
    logits[1] = np.nan
    experts, weights = testing.route("cuda", logits, 3)
    assert experts[0].tolist() == [0, 1, 2]
    assert np.allclose(weights[0], 1 / 3)
    assert sorted(set(experts[1].tolist())) == sorted(experts[1].tolist())
    assert experts[1].min() >= 0
    assert experts[1].max() < 40


@pytest.mark.parametrize("n", [1, 63, 640])
def test_streams_sizes_and_cut_gates(n: int) -> None:
    for n_in, n_out in ((4, 4), (1, 4), (8, 8), (3, 1)):
        streams.test_streams_are_mixed_by_weights_of_their_row("cuda", n, n_in, n_out)
    streams.test_rows_become_as_large_as_others_but_none_grows_out_of_nothing("cuda", n)
    streams.test_gates_below_their_rows_cut_are_none("cuda", n)
