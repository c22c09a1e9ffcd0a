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

# Normalized squared errors of llama.cpp's quantizer on heavy_tails(), without and with importance.
REFERENCE = json.loads((Path(__file__).parent / "reference_errors.json").read_text())["errors"]
BLOCKS = {f["name"]: f["block_weights"] for f in _core.formats()}


def heavy_tails() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(11)
    weights = draw.standard_t(5, size=(32, 512)).astype(np.float32)
    return weights, draw.gamma(0.5, size=512).astype(np.float32) + np.float32(0.01)


def relative_error(name: str, blocks: bytes, weights: np.ndarray, importance: np.ndarray | float = 1.0) -> float:
    decoded = _core.decode(name, blocks).reshape(weights.shape)
    return float((((decoded - weights) ** 2) * importance).sum() / ((weights**2) * importance).sum())


@pytest.mark.parametrize("name", list(REFERENCE))
def test_errors_are_below_llama_cpp(name: str) -> None:
    weights, importance = heavy_tails()
    plain = relative_error(name, _core.quantize_rows(weights, name), weights)
    weighted = relative_error(name, _core.quantize_rows(weights, name, importance), weights, importance)
    assert plain < REFERENCE[name]["plain"]
    assert weighted < REFERENCE[name]["weighted"]


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
    ours = _core.quantize_rows(weights, name)
    assert relative_error(name, ours, weights) <= relative_error(name, theirs, weights)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_floats_are_rounded(name: str) -> None:
    weights = np.random.default_rng(6).normal(size=(3, 7)).astype(np.float32)
    expected = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[name])
    assert _core.quantize_rows(weights, name) == expected.tobytes()


@pytest.mark.parametrize("name", list(REFERENCE))
def test_importance_pays(name: str) -> None:
    weights, importance = heavy_tails()
    blind = relative_error(name, _core.quantize_rows(weights, name), weights, importance)
    assert relative_error(name, _core.quantize_rows(weights, name, importance), weights, importance) <= blind


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
    decoded = _core.decode(name, _core.quantize_rows(weights, name, importance)).reshape(weights.shape)
    assert np.isfinite(decoded).all()
    if kind == "zeros":
        assert not decoded.any()
    if kind == "one spike" and not name.startswith(("IQ1", "IQ2", "IQ3", "MXFP4")):  # these cannot say 0 beside it
        assert abs(decoded[0, 77] + 3.5) < 0.2


@pytest.mark.parametrize("name", list(REFERENCE))
def test_threads_rows_and_cpu_change_no_bit(name: str) -> None:
    weights, importance = heavy_tails()
    whole = _core.quantize_rows(weights, name, importance, n_threads=1)
    assert _core.quantize_rows(weights, name, importance, n_threads=3) == whole
    rows = [_core.quantize_rows(weights[i : i + 1], name, importance) for i in range(len(weights))]
    assert b"".join(rows) == whole
    levels = _core.cpu_info()["supported"]
    try:
        for level in levels:
            _core.testing.set_cpu_level(level)
            assert _core.quantize_rows(weights[:8], name, importance) == whole[: len(whole) // 4], level
    finally:
        _core.testing.set_cpu_level(levels[-1])


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(REFERENCE)),
    bits=st.lists(st.integers(0, 0xFFFFFFFF), min_size=256, max_size=256),
)
def test_any_bits_are_survived(name: str, bits: list[int]) -> None:
    weights = np.array(bits, np.uint32).view(np.float32).reshape(1, 256)
    assert len(_core.quantize_rows(weights, name)) == 256 // BLOCKS[name] * len(_core.quantize_rows(
        np.zeros((1, BLOCKS[name]), np.float32), name
    ))  # fmt: skip


def test_refusals_say_what_to_do() -> None:
    weights = np.zeros((2, 48), np.float32)
    with pytest.raises(ValueError, match="no whole blocks of Q4_0"):
        _core.quantize_rows(weights, "Q4_0")
    with pytest.raises(ValueError, match="Q8_K has no encoder"):
        _core.quantize_rows(np.zeros((1, 256), np.float32), "Q8_K")
    with pytest.raises(ValueError, match="one number a column: 48"):
        _core.quantize_rows(weights, "F16", np.ones(47, np.float32))
