"""Rows encoded with the mean of their inputs known: smaller errors of outputs, every row on its own, hostile numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from halfbyte import _core
from halfbyte.quantize import Importance

FORMATS = list(json.loads((Path(__file__).parent / "reference_errors.json").read_text())["errors"])


def weights_and_inputs() -> tuple[np.ndarray, np.ndarray]:
    """(40, 512) weights, and (2000, 512) inputs of which a third of the energy lies along their mean."""
    draw = np.random.default_rng(12)
    weights = draw.standard_t(5, size=(40, 512)).astype(np.float32)
    scales = draw.gamma(1.0, size=512) + 0.05
    inputs = scales * (draw.normal(size=512) * 0.7 + draw.normal(size=(2000, 512)))
    return weights, inputs.astype(np.float32)


def moments(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (inputs**2).mean(axis=0), inputs.mean(axis=0)


def output_error(name: str, blocks: np.ndarray, weights: np.ndarray, inputs: np.ndarray) -> float:
    difference = _core.decode(name, bytes(blocks)).reshape(weights.shape) - weights
    return float(((inputs @ difference.T) ** 2).mean() / ((inputs @ weights.T) ** 2).mean())


@pytest.mark.parametrize("name", FORMATS)
def test_outputs_err_less(name: str) -> None:
    weights, inputs = weights_and_inputs()
    square, mean = moments(inputs)
    blind = output_error(name, _core.requantize(weights, "F32", 512, name, square), weights, inputs)
    seeing = output_error(name, _core.requantize(weights, "F32", 512, name, square, mean), weights, inputs)
    assert seeing < 0.9 * blind


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "IQ2_XXS"])
def test_threads_rows_and_cpu_change_no_bit(name: str) -> None:
    weights, inputs = weights_and_inputs()
    of_two = np.stack(moments(inputs)), np.stack(moments(inputs[:500]))  # a stack of two matrices
    square, mean = (np.stack([a, b]) for a, b in zip(*of_two, strict=True))
    whole = bytes(_core.requantize(weights, "F32", 512, name, square, mean, n_threads=1))
    assert bytes(_core.requantize(weights, "F32", 512, name, square, mean, n_threads=3)) == whole
    rows = [
        _core.requantize(weights[i : i + 1], "F32", 512, name, square[i // 20], mean[i // 20])
        for i in range(len(weights))
    ]
    assert b"".join(map(bytes, rows)) == whole
    levels = _core.cpu_info()["supported"]
    try:
        for level in levels:
            _core.testing.set_cpu_level(level)
            assert bytes(_core.requantize(weights, "F32", 512, name, square, mean)) == whole, level
    finally:
        _core.testing.set_cpu_level(levels[-1])


def test_measured_loss_is_that_of_outputs() -> None:
    weights, inputs = weights_and_inputs()
    square, mean = moments(inputs)
    error, energy = _core.measure_loss(weights, "F32", 512, "Q4_K", square, mean, max_rows=1000)
    blocks = _core.requantize(weights, "F32", 512, "Q4_K", square, mean)
    assert error / energy == pytest.approx(output_error("Q4_K", blocks, weights, inputs), rel=0.1)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30, 3e38])
def test_extreme_weights_decode_to_finite_numbers(name: str, size: float) -> None:
    weights = (np.random.default_rng(3).uniform(-1, 1, size=(3, 512)) * size).astype(np.float32)
    mean = np.where(np.arange(512) % 3 == 0, 1e30, -1e-30).astype(np.float32)  # more than its square allows
    blocks = _core.requantize(weights, "F32", 512, name, np.ones(512, np.float32), mean)
    decoded = _core.decode(name, bytes(blocks))
    assert np.isfinite(decoded).all()
    assert size > 0 or np.abs(decoded).max() < 1e-3


def test_what_is_asked_is_checked() -> None:
    weights, ones = np.ones((1, 32), np.float32), np.ones(32, np.float32)
    with pytest.raises(ValueError, match=r"as many as the importance \(32\); they are 31"):
        _core.requantize(weights, "F32", 32, "Q4_0", ones, ones[1:])
    with pytest.raises(ValueError, match="Mean inputs must be finite; found inf"):
        _core.requantize(weights, "F32", 32, "Q4_0", ones, ones * np.float32(np.inf))


def test_merged_means_are_those_of_all_or_none(tmp_path: Path) -> None:
    def seen(squares: float, inputs: float | None, rows: float) -> Importance:
        one = Importance(n_chunks=1)
        one.sums["a"], one.counts["a"] = np.full((1, 32), squares, np.float32), np.array([rows], np.float32)
        if inputs is not None:
            one.input_sums["a"] = np.full((1, 32), inputs, np.float32)
        path = tmp_path / f"{squares}.gguf"
        one.save(path)
        return Importance.load(path)

    both = seen(8, 4, 2)
    both.merge(seen(30, 11, 3))
    assert (both.mean_inputs["a"] == 3).all()
    assert (both.means["a"] == np.float32(38 / 5)).all()
    both.merge(seen(1, None, 1))
    assert both.mean_inputs == {}
    assert both.counts["a"] == 6
