"""Matrix products of every format, at every CPU level that this machine has."""

from __future__ import annotations

import numpy as np
import pytest

from halfbyte import _core
from halfbyte._core import testing

FORMATS = {f["name"]: f for f in _core.formats()}
LEVELS = [level for level in _core.cpu_info()["supported"] if level != "reference"]
PACKED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q3_K", "Q2_K",
          "NVFP4", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0", "Q2_0",
          "Q1_0"]  # fmt: skip
FLOATS = ["F32", "F16", "BF16"]
# How much more than the file's bytes a format takes whose codebook or fractions are unfolded (ops/packed.h).
UNFOLDED = {"NVFP4": 0.06, "IQ1_S": 1.09, "IQ1_M": 1.0, "IQ2_XXS": 0.57, "IQ2_XS": 0.5, "IQ2_S": 0.35, "IQ3_XXS": 0.37,
            "IQ3_S": 0.21, "TQ1_0": 0.17}  # fmt: skip
DECODED = ["Q8_1"]  # not a format of weights: decoded row by row


def random_blocks(name: str, n_rows: int, n_cols: int, seed: int = 0) -> bytes:
    """Random codes with sane scales: every f16 that is a scale is made small and finite."""
    f = FORMATS[name]
    draw = np.random.default_rng(seed)
    n_blocks = n_rows * n_cols // f["block_weights"]
    if name in FLOATS:
        return _core.encode(name, draw.normal(size=n_rows * n_cols).astype(np.float32))
    blocks = draw.integers(0, 256, (n_blocks, f["block_bytes"]), dtype=np.uint8)
    places = {"Q4_1": [0, 2], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "Q3_K": [108], "Q2_K": [80, 82],
              "TQ1_0": [52], "TQ2_0": [64], "MXFP4": [], "NVFP4": [], "IQ1_M": []}.get(name, [0])  # fmt: skip
    for at in places:
        scale = (draw.uniform(0.5, 1.5, n_blocks) * draw.choice([-1, 1], n_blocks) * 0.01).astype(np.float16)
        blocks[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
    if name == "MXFP4":
        blocks[:, 0] = draw.integers(118, 124, n_blocks)
    if name == "NVFP4":
        blocks[:, :4] = draw.integers(40, 60, (n_blocks, 4))
    if name == "IQ1_M":
        blocks[:, 49::2] = blocks[:, 49::2] & 15 | 0x20  # the top nibbles spell an f16 of about 0.01
    return blocks.tobytes()


def quantized(x: np.ndarray) -> np.ndarray:
    """Activations as the integer kernels see them: int8 in groups of 32, scale amax / 127."""
    groups = x.reshape(*x.shape[:-1], -1, 32)
    amax = np.abs(groups).max(-1, keepdims=True)
    inverse = np.where(amax > 0, np.float32(127) / np.where(amax > 0, amax, 1), 0).astype(np.float32)
    return (np.rint(groups * inverse) * (amax / np.float32(127))).reshape(x.shape)


def rounded(x: np.ndarray) -> np.ndarray:
    """Activations as the CPU's integer kernels see them: quantized, but for a group's largest where that is worth it."""
    seen = []
    for row in x.reshape(-1, x.shape[-1]):
        groups = np.abs(row).reshape(-1, 32)
        second, first = np.sort(groups)[:, -2:].T
        is_apart = first * first > second * second + 6 * np.mean(second * second)
        columns = (32 * np.arange(len(groups)) + groups.argmax(-1))[is_apart]
        others = row.copy()
        others[columns] = 0
        seen.append(quantized(others))
        seen[-1][columns] = row[columns]
    return np.array(seen).reshape(x.shape)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", PACKED)
def test_integer_kernels(name: str, level: str) -> None:
    cols = 288 if FORMATS[name]["block_weights"] == 32 else 512
    for n_rows, n_tokens in ((1, 1), (15, 2), (17, 3), (33, 8), (48, 33)):
        blocks = random_blocks(name, n_rows, cols, seed=n_rows)
        x = np.random.default_rng(n_tokens).normal(size=(n_tokens, cols)).astype(np.float32)
        for t in range(n_tokens):  # none to three outliers, some of them in one column
            for i in range(t % 4):
                x[t, 97 * (t // 4 + i) % cols] = -40 + 8 * i
        w = _core.decode(name, blocks).reshape(n_rows, cols).astype(np.float64)
        found = testing.linear(level, name, blocks, x)[0]
        seen = rounded(x).astype(np.float64)
        exact = seen @ w.T
        # Only the order and rounding of f32 sums may differ: bounded by the sums of magnitudes.
        bound = 4e-6 * (np.abs(seen) @ np.abs(w).T) + 1e-30
        assert np.all(np.abs(found - exact) <= bound), np.max(np.abs(found - exact) / bound)
        unquantized = x.astype(np.float64) @ w.T
        if n_tokens >= 8:
            assert np.mean((found - unquantized) ** 2) <= 1e-4 * np.mean(unquantized**2)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FLOATS + DECODED)
def test_float_and_decoded_kernels(name: str, level: str) -> None:
    cols = 256
    for n_rows, n_tokens in ((1, 1), (17, 3), (33, 9)):
        blocks = random_blocks(name, n_rows, cols, seed=n_rows)
        x = np.random.default_rng(n_tokens).normal(size=(n_tokens, cols)).astype(np.float32)
        w = _core.decode(name, blocks).reshape(n_rows, cols).astype(np.float64)
        found = testing.linear(level, name, blocks, x)[0]
        bound = 2e-6 * (np.abs(x).astype(np.float64) @ np.abs(w).T) + 1e-30
        assert np.all(np.abs(found - x.astype(np.float64) @ w.T) <= bound)


@pytest.mark.parametrize("name", PACKED + FLOATS)
def test_same_bits_for_any_level_batch_and_threads(name: str) -> None:
    rows, cols = 37, 512
    blocks = random_blocks(name, rows, cols)
    x = np.random.default_rng(5).normal(size=(33, cols)).astype(np.float32)
    x[3] *= 1000
    x[4] = 0
    x[8:12, 300] = 50
    x[9:12, 470] = -60
    x[10:14, 40] = 35
    x[20, 17] = -90
    reference = testing.linear(LEVELS[-1], name, blocks, x)[0]
    for level in LEVELS:
        for n_threads in (1, 2, 3):
            assert np.array_equal(testing.linear(level, name, blocks, x, n_threads=n_threads)[0], reference)
        for n_tokens in (1, 2, 3, 5, 7, 12, 13):
            first = 7
            part = testing.linear(level, name, blocks, x[first : first + n_tokens])[0]
            assert np.array_equal(part, reference[first : first + n_tokens]), (level, n_tokens)


@pytest.mark.parametrize("level", LEVELS)
def test_rows_that_are_not_finite_disturb_no_others(level: str) -> None:
    blocks = random_blocks("Q5_1", 33, 256)
    x = np.random.default_rng(6).normal(size=(20, 256)).astype(np.float32)
    x[:, 40] = 30
    sound = testing.linear(level, "Q5_1", blocks, x)[0]
    x[3, 7], x[8, 100], x[8, 200], x[15, 40], x[17, 255] = np.inf, -np.inf, np.inf, np.nan, 3e38
    found = testing.linear(level, "Q5_1", blocks, x)[0]
    others = [t for t in range(20) if t not in (3, 8, 15, 17)]
    assert np.array_equal(found[others], sound[others])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["Q8_0", "Q6_K", "Q5_1", "IQ4_NL", "Q4_0", "MXFP4", "IQ2_S", "IQ3_XXS"])
def test_extreme_codes_do_not_saturate(name: str, level: str) -> None:
    cols = 256
    blocks = np.frombuffer(random_blocks(name, 16, cols), np.uint8).copy().reshape(-1, FORMATS[name]["block_bytes"])
    codes = {
        "Q8_0": slice(2, 34),
        "Q6_K": slice(0, 192),
        "Q5_1": slice(4, 24),
        "IQ4_NL": slice(2, 18),
        "Q4_0": slice(2, 18),
        "MXFP4": slice(1, 17),
        "IQ2_S": slice(2, 74),
        "IQ3_XXS": slice(2, 98),
    }[name]
    for fill in (0x00, 0x7F, 0x80, 0xFF):
        blocks[:, codes] = fill
        x = np.where(np.arange(cols) % 2 == 0, 127, -127)[None].repeat(3, 0).astype(np.float32)
        x[1] = 127
        w = _core.decode(name, blocks.tobytes()).reshape(16, cols).astype(np.float64)
        found = testing.linear(level, name, blocks.tobytes(), x)[0]
        assert np.allclose(found, x.astype(np.float64) @ w.T, rtol=1e-5, atol=1e-3 * np.abs(w).max())


def test_raw_layout_equals_decoding() -> None:
    blocks = random_blocks("Q4_K", 20, 512)
    x = np.random.default_rng(9).normal(size=(2, 512)).astype(np.float32)
    w = _core.decode("Q4_K", blocks).reshape(20, 512).astype(np.float64)
    found = testing.linear(LEVELS[-1], "Q4_K", blocks, x, keep_raw=True)[0]
    assert np.allclose(found, x @ w.T, rtol=1e-4, atol=1e-4)


def test_every_fast_format_is_packed() -> None:
    for name in PACKED + FLOATS:
        blocks = random_blocks(name, 16, 512)
        packed_bytes = testing.linear(LEVELS[-1], name, blocks, np.zeros((1, 512), np.float32))[2]
        assert packed_bytes <= (1.06 + UNFOLDED.get(name, 0)) * len(blocks), name
