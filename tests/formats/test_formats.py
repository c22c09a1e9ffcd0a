"""Block formats against the numpy dequantizers of the gguf package, and against their own error budgets."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import pytest

from halfbyte import _core

FORMATS = {f["name"]: f for f in _core.formats()}
# What the gguf package decodes; plain numbers are checked apart.
ORACLE = [
    n for n in FORMATS if n in gguf.GGMLQuantizationType.__members__ and n not in ("Q8_1", "Q8_K", "Q1_0", "Q2_0", "F64", "F32", "F16", "BF16")
    and not re.fullmatch(r"I\d+", n)
]  # fmt: skip


@pytest.mark.parametrize("name", ORACLE)
@pytest.mark.parametrize("kind", ["random", "zeros", "ones"])
@pytest.mark.filterwarnings("ignore:.*encountered.*:RuntimeWarning")
def test_decode_is_bit_exact(name: str, kind: str) -> None:
    draw = np.random.default_rng(1)
    shape = (64, FORMATS[name]["block_bytes"])
    fill = {"zeros": np.zeros(shape, np.uint8), "ones": np.full(shape, 255, np.uint8)}
    blocks = fill.get(kind, draw.integers(0, 256, shape, dtype=np.uint8))
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name]).ravel()
    found = _core.decode(name, blocks.tobytes())
    assert np.array_equal(expected, found, equal_nan=True)


def test_plain_numbers() -> None:
    values = np.array([-2.5, 0.0, 1e-3, 65504.0], np.float32)
    assert np.array_equal(_core.decode("F32", values.tobytes()), values)
    assert np.array_equal(
        _core.decode("F16", values.astype(np.float16).tobytes()), values.astype(np.float16).astype(np.float32)
    )
    assert np.array_equal(_core.decode("F64", values.astype(np.float64).tobytes()), values)
    for kind in (np.int8, np.int16, np.int32, np.int64):
        numbers = np.array([-7, 0, 100], kind)
        assert np.array_equal(_core.decode(f"I{8 * numbers.itemsize}", numbers.tobytes()), numbers.astype(np.float32))


def test_formats_without_an_oracle() -> None:
    half = np.float16(0.5).tobytes()
    assert np.array_equal(_core.decode("Q1_0", half + bytes([0b00000101]) + bytes(15))[:4], [0.5, -0.5, 0.5, -0.5])
    assert np.array_equal(_core.decode("Q2_0", half + bytes([0b11100100]) + bytes(15))[:4], [-0.5, 0.0, 0.5, 1.0])
    codes = np.arange(-16, 16, dtype=np.int8).tobytes()
    assert np.array_equal(_core.decode("Q8_1", half + half + codes), 0.5 * np.arange(-16, 16))
    codes = np.arange(-128, 128, dtype=np.int64).astype(np.int8).tobytes()
    assert np.array_equal(
        _core.decode("Q8_K", np.float32(0.25).tobytes() + codes + bytes(32)), 0.25 * np.arange(-128, 128)
    )


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f["has_encoder"]])
def test_encoders_keep_their_budget(name: str) -> None:
    weights = np.random.default_rng(2).normal(size=(64, 256)).astype(np.float32)
    decoded = _core.decode(name, _core.encode(name, weights)).reshape(weights.shape)
    rmse = float(np.sqrt(np.mean((decoded - weights) ** 2) / np.mean(weights**2)))
    assert rmse <= FORMATS[name]["max_rmse"], rmse


@pytest.mark.parametrize("name", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_encoders_equal_the_package(name: str) -> None:
    weights = np.random.default_rng(3).normal(size=(32, 256)).astype(np.float32)
    expected = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[name])
    assert _core.encode(name, weights) == expected.tobytes()


def test_ids_are_those_of_the_file_format() -> None:
    for name, f in FORMATS.items():
        member = gguf.GGMLQuantizationType.__members__.get(name)
        if member is None:
            assert name in ("Q2_0",)
            continue
        assert f["id"] == member.value
        if name != "Q8_1":  # the package counts its scales as f32; files hold f16
            assert (f["block_weights"], f["block_bytes"]) == gguf.GGML_QUANT_SIZES[member]


def test_every_header_is_registered() -> None:
    folder = Path(__file__).parents[2] / "csrc" / "formats"
    registry = (folder / "registry.cpp").read_text()
    for header in folder.glob("*.h"):
        if header.stem not in ("format", "registry", "block", "codebooks"):
            assert f'"formats/{header.name}"' in registry, header.name


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="no whole blocks of Q4_0"):
        _core.decode("Q4_0", bytes(17))
    with pytest.raises(ValueError, match="no block format named Q99"):
        _core.decode("Q99", b"")
