"""Searching encoders: errors against llama.cpp's and the gguf package's, identities, hostile numbers, determinism."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte import _core
from halfbyte.errors import FormatError

# Normalized squared errors of llama.cpp's quantizer on heavy_tails(), without and with importance.
REFERENCE = json.loads((Path(__file__).parent / "reference_errors.json").read_text())["errors"]
BLOCKS = {f["name"]: f["block_weights"] for f in _core.formats()}


def heavy_tails() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(11)
    weights = draw.standard_t(5, size=(32, 512)).astype(np.float32)
    return weights, draw.gamma(0.5, size=512).astype(np.float32) + np.float32(0.01)


def quantize(weights: np.ndarray, name: str, importance: np.ndarray | None = None, n_threads: int = 1) -> bytes:
    n_cols = weights.shape[1]
    return bytes(_core.requantize(weights, "F32", n_cols, name, importance, n_threads=n_threads))


def relative_error(name: str, blocks: bytes, weights: np.ndarray, importance: np.ndarray | float = 1.0) -> float:
    decoded = _core.decode(name, blocks).reshape(weights.shape)
    return float((((decoded - weights) ** 2) * importance).sum() / ((weights**2) * importance).sum())


@pytest.mark.parametrize("name", list(REFERENCE))
def test_errors_are_a_percent_below_llama_cpp(name: str) -> None:
    weights, importance = heavy_tails()
    plain = relative_error(name, quantize(weights, name), weights)
    weighted = relative_error(name, quantize(weights, name, importance), weights, importance)
    assert plain < 0.99 * REFERENCE[name]["plain"]
    assert weighted < 0.99 * REFERENCE[name]["weighted"]


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"])
@pytest.mark.parametrize("spread", ["gaussian", "uniform", "sparse"])
def test_errors_are_below_the_package(name: str, spread: str) -> None:
    draw = np.random.default_rng(5)
    weights = {
        "gaussian": draw.normal(size=(16, 512)),
        "uniform": draw.uniform(-1, 2, size=(16, 512)),
        "sparse": draw.normal(size=(16, 512)) * (draw.random((16, 512)) < 0.1),
    }[spread].astype(np.float32)
    theirs = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[name]).tobytes()
    ours = quantize(weights, name)
    assert relative_error(name, ours, weights) <= relative_error(name, theirs, weights)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_floats_are_rounded(name: str) -> None:
    weights = np.random.default_rng(6).normal(size=(3, 7)).astype(np.float32)
    expected = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[name])
    assert quantize(weights, name) == expected.tobytes()


@pytest.mark.parametrize("name", list(REFERENCE))
def test_importance_pays(name: str) -> None:
    weights, importance = heavy_tails()
    blind = relative_error(name, quantize(weights, name), weights, importance)
    assert relative_error(name, quantize(weights, name, importance), weights, importance) <= blind


@pytest.mark.parametrize("name", list(REFERENCE))
@pytest.mark.parametrize("kind", ["zeros", "one spike", "constant", "tiny", "huge", "no importance"])
def test_odd_blocks_decode_to_finite_numbers(name: str, kind: str) -> None:
    weights = np.zeros((5, 256), np.float32)
    importance = None
    if kind == "one spike":
        weights[:, 77] = -3.5
    elif kind == "constant":
        weights[:] = 0.25
    elif kind == "tiny":
        weights[:] = np.float32(1e-39) * np.arange(256, dtype=np.float32)
    elif kind == "huge":
        weights[:] = np.linspace(-3e38, 3e38, 256, dtype=np.float32)
    elif kind == "no importance":
        weights[:] = np.linspace(-1, 1, 256, dtype=np.float32)
        importance = np.zeros(256, np.float32)
    decoded = _core.decode(name, quantize(weights, name, importance)).reshape(weights.shape)
    assert np.isfinite(decoded).all()
    if kind == "zeros":
        assert not decoded.any()
    if kind == "one spike" and not name.startswith(("IQ1", "IQ2", "IQ3", "MXFP4")):  # these cannot say 0 beside it
        assert abs(decoded[0, 77] + 3.5) < 0.2


@pytest.mark.parametrize("name", list(REFERENCE))
def test_threads_rows_and_cpu_change_no_bit(name: str) -> None:
    weights, importance = heavy_tails()
    whole = quantize(weights, name, importance, n_threads=1)
    assert quantize(weights, name, importance, n_threads=3) == whole
    rows = [quantize(weights[i : i + 1], name, importance) for i in range(len(weights))]
    assert b"".join(rows) == whole
    levels = _core.cpu_info()["supported"]
    try:
        for level in levels:
            _core.testing.set_cpu_level(level)
            assert quantize(weights[:8], name, importance) == whole[: len(whole) // 4], level
    finally:
        _core.testing.set_cpu_level(levels[-1])


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(REFERENCE)),
    bits=st.lists(st.integers(0, 0xFFFFFFFF), min_size=256, max_size=256),
)
def test_any_bits_are_encoded_or_refused(name: str, bits: list[int]) -> None:
    weights = np.array(bits, np.uint32).view(np.float32).reshape(1, 256)
    if np.isfinite(weights).all():
        assert np.isfinite(_core.decode(name, quantize(weights, name))).all()
    else:
        with pytest.raises(FormatError, match="row 0, column"):
            quantize(weights, name)


@pytest.mark.parametrize("source", ["BF16", "Q8_0", "Q6_K"])
def test_any_format_is_read(source: str) -> None:
    weights, importance = heavy_tails()
    rows = quantize(weights, source)
    decoded = _core.decode(source, rows).reshape(weights.shape)
    direct = bytes(_core.requantize(rows, source, 512, "Q4_K", importance))
    assert direct == quantize(decoded, "Q4_K", importance)


def test_experts_have_their_own_importance() -> None:
    weights, _ = heavy_tails()
    importance = np.random.default_rng(8).gamma(0.5, size=(4, 512)).astype(np.float32) + np.float32(0.01)
    stacked = quantize(weights, "Q3_K", importance)
    each = [quantize(weights[8 * i : 8 * i + 8], "Q3_K", importance[i]) for i in range(4)]
    assert stacked == b"".join(each)


def test_measured_loss_is_the_loss() -> None:
    weights, importance = heavy_tails()
    error, energy = _core.measure_loss(weights, "F32", 512, "Q4_K", importance, max_rows=1000)
    expected = relative_error("Q4_K", quantize(weights, "Q4_K", importance), weights, importance)
    assert error / energy == pytest.approx(expected, rel=1e-5)
    some, of = _core.measure_loss(weights, "F32", 512, "Q4_K", importance, max_rows=8)
    assert some / of == pytest.approx(expected, rel=0.3)


def test_refusals_say_what_to_do() -> None:
    weights = np.zeros((2, 48), np.float32)
    with pytest.raises(ValueError, match="no whole blocks of Q4_0"):
        quantize(weights, "Q4_0")
    with pytest.raises(ValueError, match="Q8_K has no encoder"):
        quantize(np.zeros((1, 256), np.float32), "Q8_K")
    with pytest.raises(ValueError, match=r"one number a column \(48\)"):
        quantize(weights, "F16", np.ones(47, np.float32))


def test_large_weights_count_for_more() -> None:
    """Of thirty ones and two twos, one scale must serve all: least squares alone gives 34/32."""
    row = np.tile(np.r_[np.ones(30), 2.0, -2.0], 8).astype(np.float32).reshape(1, 256)
    decoded = _core.decode("TQ2_0", quantize(row, "TQ2_0"))
    mean = 34 / 32
    small, large = 30 * (1 + 0.5 / mean), 2 * (1 + 0.5 * 2 / mean)
    assert np.abs(decoded).max() == pytest.approx((small + 2 * large) / (small + large), rel=1e-3)
