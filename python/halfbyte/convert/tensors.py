"""Weights on their way from a checkpoint to a model: not read before their turn, and turned into the format wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from halfbyte import _core
from halfbyte.errors import FormatError

Array = npt.NDArray[Any]

#: name -> (block_weights, block_bytes, has_encoder) of every format.
FORMATS: dict[str, tuple[int, int, bool]] = {
    f["name"]: (f["block_weights"], f["block_bytes"], f["has_encoder"]) for f in _core.formats()
}
# Element type of formats whose rows are plain numbers (bfloat16 as the bits it has).
_ELEMENTS: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
# safetensors' type names.
_DTYPES: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
    "BOOL": np.uint8, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8, "F8_E8M0": np.uint8, "F8_E4M3FNUZ": np.uint8,
    "F8_E5M2FNUZ": np.uint8, "F4": np.uint8,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor as a checkpoint holds it. dtype: safetensors' name. shape: outermost axis first."""

    dtype: str
    shape: tuple[int, ...]
    bytes: Callable[[], Array]  # uint8, or any contiguous array of as many bytes

    def array(self) -> Array:
        """The elements (bfloat16 and float8 as their bits); a view where the bytes allow one."""
        elements: Array = self.bytes().view(_DTYPES[self.dtype])
        return elements.reshape(self.shape)


@dataclass(frozen=True)
class Weight:
    """A weight to come. format: of its rows. shape: in weights, outermost axis first.

    read() gives the elements in that shape for F32, F16 and BF16 (as uint16), else uint8 blocks (rows, bytes of a row).
    """

    format: str
    shape: tuple[int, ...]
    read: Callable[[], Array]
    note: str = ""  # what was lost on the way, for messages
    parts: tuple[str, ...] = ()  # the checkpoint's tensors that it is made of, where it is not one tensor as it is

    def f32(self) -> npt.NDArray[np.float32]:
        """The weights as numbers."""
        return decode(self.format, self.read(), self.shape)

    def changed(self, shape: tuple[int, ...], change: Callable[[Array], Array]) -> Weight:
        """The weight with its rows changed; rows of blocks move as wholes."""

        def read() -> Array:
            array = self.read()
            if is_plain(self.format):
                return change(array.reshape(self.shape)).reshape(shape)
            return change(array.reshape(*self.shape[:-1], -1)).reshape(int(np.prod(shape[:-1])), -1)

        return replace(self, shape=shape, read=read)


@dataclass(frozen=True)
class Planned:
    """A tensor of the model to be. shape: outermost axis first. make() gives its rows."""

    name: str
    format: str
    shape: tuple[int, ...]
    make: Callable[[], Array]
    note: str = ""  # what was lost on the way

    @property
    def n_bytes(self) -> int:
        """Bytes of the rows."""
        block_weights, block_bytes, _ = FORMATS[self.format]
        return int(np.prod(self.shape)) // block_weights * block_bytes

    def as_row(self) -> tuple[str, str, list[int], Callable[[], Array]]:
        """The tuple that the core takes."""
        return self.name, self.format, list(self.shape[::-1]), lambda: np.ascontiguousarray(self.make())


def from_stored(stored: Stored, name: str) -> Weight:
    """A checkpoint's plain tensor. Raises FormatError for one that holds no weights."""
    if stored.dtype in ("F32", "F16", "BF16"):
        return Weight(stored.dtype, stored.shape, stored.array)
    if stored.dtype == "F64":
        return Weight("F32", stored.shape, lambda: stored.array().astype(np.float32))
    if stored.dtype in ("F8_E4M3", "F8_E5M2"):
        return Weight("BF16", stored.shape, lambda: to_bf16(FLOAT8[stored.dtype][stored.array()]))
    raise FormatError(
        f"Tensor {name} is of type {stored.dtype}; weights were expected.",
        hint="A quantized checkpoint must say how in config.json (quantization_config).",
    )


def bf16_to_f32(bits: Array) -> npt.NDArray[np.float32]:
    """bfloat16 bits (uint16) -> float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """float32 -> the nearest bfloat16's bits."""
    encoded = np.frombuffer(_core.encode("BF16", np.ascontiguousarray(numbers, np.float32)), np.uint16)
    return encoded.reshape(numbers.shape)


def _float8(exponent_bits: int, mantissa_bits: int, bias: int, has_infinity: bool) -> npt.NDArray[np.float32]:
    """The 256 values of an 8-bit float (OCP 8-bit floating point specification)."""
    codes = np.arange(256)
    sign = np.where(codes & 128, -1.0, 1.0)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = codes & ((1 << mantissa_bits) - 1)
    fraction = mantissa / (1 << mantissa_bits)
    values = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))
    top = exponent == (1 << exponent_bits) - 1
    if has_infinity:
        values = np.where(top, np.where(mantissa == 0, np.inf, np.nan), values)
    else:
        values = np.where((codes & 127) == 127, np.nan, values)
    return (sign * values).astype(np.float32)


FLOAT8 = {"F8_E4M3": _float8(4, 3, 7, False), "F8_E5M2": _float8(5, 2, 15, True)}


def decode(format_name: str, array: Array, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Rows of a format -> float32 in `shape`."""
    if format_name == "F32":
        return array.astype(np.float32, copy=False).reshape(shape)
    if format_name == "F16":
        return array.astype(np.float32).reshape(shape)
    if format_name == "BF16":
        return bf16_to_f32(array).reshape(shape)
    return _core.decode(format_name, np.ascontiguousarray(array).tobytes()).reshape(shape)


def encode(format_name: str, numbers: npt.NDArray[np.float32], name: str) -> Array:
    """float32 (rows, columns) -> rows of a format. Raises FormatError where F16 cannot hold a weight."""
    if format_name == "F32":
        return numbers
    if format_name == "F16":
        with np.errstate(over="ignore"):
            halves = numbers.astype(np.float16)
        if np.isinf(halves).any() and not np.isinf(numbers).any():
            raise FormatError(
                f"Tensor {name} holds {np.abs(numbers).max():g}; F16 ends at 65504.", hint="Use bf16 or f32."
            )
        return halves
    blocks = np.frombuffer(_core.encode(format_name, np.ascontiguousarray(numbers)), np.uint8)
    if format_name == "BF16":
        return blocks.view(np.uint16).reshape(numbers.shape)
    return blocks.reshape(-1, blocks.size // max(1, numbers.size // numbers.shape[-1]))


def is_plain(format_name: str) -> bool:
    """True for formats whose rows are plain numbers."""
    return format_name in _ELEMENTS


def fits(format_name: str, columns: int) -> bool:
    """Whether a row of so many weights is whole blocks of a format."""
    return columns % FORMATS[format_name][0] == 0
