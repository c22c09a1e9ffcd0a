"""Integer codes with scales and zero points, as the block formats of GGUF.

A code q of row r in a group g of columns stands for scale[r, g] * (q - zero[r, g]). Q4_0 blocks hold 4-bit codes around
8 exactly, Q8_0 blocks 8-bit codes around 128; Q4_1 blocks hold any zero point, as the product scale * zero rounded to
half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfbyte.convert.tensors import Array, Stored, Weight, bf16_to_f32, encode
from halfbyte.errors import FormatError

Floats = npt.NDArray[np.float32]

_BLOCK = 32


@dataclass(frozen=True)
class Groups:
    """A quantized matrix to come. codes(): (rows, columns) unsigned; scales(): (rows, groups) float32; zeros: (rows or 1,
    groups) int. order: the group of each column where columns do not follow one another (act-order)."""

    rows: int
    columns: int
    bits: int
    group: int  # columns of a group
    codes: Callable[[], Array]
    scales: Callable[[], Floats]
    zeros: Array
    exact_scales: bool  # they are half precision numbers
    order: Array | None = None

    def f32(self) -> Floats:
        """The weights, (rows, columns)."""
        index = np.arange(self.columns) // self.group if self.order is None else self.order
        zeros = np.broadcast_to(self.zeros, (self.rows, self.zeros.shape[1]))[:, index]
        weights: Floats = self.scales()[:, index] * (self.codes().astype(np.float32) - zeros.astype(np.float32))
        return weights


def as_weight(groups: Groups, name: str, parts: tuple[str, ...]) -> Weight:
    """The matrix in the format that loses least in the least space."""
    g = groups
    n_groups = -(-g.columns // g.group)
    if g.zeros.shape[1] != n_groups or g.zeros.shape[0] not in (1, g.rows):
        raise FormatError(f"{name}: zero points of shape {g.zeros.shape} for {n_groups} groups of {g.rows} rows.")
    if g.order is not None and (g.order.shape != (g.columns,) or g.order.min() < 0 or g.order.max() >= n_groups):
        raise FormatError(f"{name}: its g_idx names groups that are not there.")
    shape = (g.rows, g.columns)
    whole = g.columns % _BLOCK == 0 and (g.group % _BLOCK == 0 or n_groups == 1)
    ordered = g.order is None or bool((g.order == np.arange(g.columns) // g.group).all())
    symmetric = bool((g.zeros == 1 << (g.bits - 1)).all())
    rounded = "" if g.exact_scales else "scales rounded to half precision"
    if ordered and whole and symmetric and g.bits <= 4:
        return Weight("Q4_0", shape, lambda: _blocks(g, 8), rounded, parts)
    if ordered and whole and g.bits <= 4:
        return Weight("Q4_1", shape, lambda: _blocks(g, None), "zero points rounded to half precision", parts)
    if ordered and whole and symmetric and g.bits == 8:
        return Weight("Q8_0", shape, lambda: _blocks(g, 128), rounded, parts)
    if g.bits <= 4 and g.columns % _BLOCK == 0:
        why = "act-order" if not ordered else f"groups of {g.group}"
        return Weight("Q8_0", shape, lambda: encode("Q8_0", g.f32(), name), f"{why}: weights rounded to Q8_0", parts)
    return Weight("BF16", shape, lambda: encode("BF16", g.f32(), name), "weights rounded to BF16", parts)


def _blocks(g: Groups, center: int | None) -> Array:
    """Rows of Q4_0 (center 8), Q8_0 (center 128) or Q4_1 (None) blocks, uint8 (rows, bytes)."""
    n_blocks = g.columns // _BLOCK
    per_block = np.arange(n_blocks) * _BLOCK // g.group
    with np.errstate(over="ignore"):
        scales = np.ascontiguousarray(g.scales()[:, per_block], np.float16)
    if not np.isfinite(scales).all():
        raise FormatError("A scale is past the range of half precision.", hint="Convert with --type bf16.")
    parts = [scales.view(np.uint8).reshape(g.rows, n_blocks, 2)]
    codes = g.codes().reshape(g.rows, n_blocks, _BLOCK)
    if center is None:
        zeros = np.broadcast_to(g.zeros, (g.rows, g.zeros.shape[1]))[:, per_block]
        minimums = np.ascontiguousarray(-g.scales()[:, per_block] * zeros, np.float16)
        parts.append(minimums.view(np.uint8).reshape(g.rows, n_blocks, 2))
    elif g.bits != {8: 4, 128: 8}[center]:
        codes = codes + np.uint8(center - (1 << (g.bits - 1)))  # narrower codes around their own center
    if center == 128:
        parts.append((codes ^ np.uint8(128)).astype(np.uint8))  # unsigned around 128 -> two's complement
    else:
        parts.append((codes[..., :16] | codes[..., 16:] << 4).astype(np.uint8))
    return np.concatenate(parts, axis=2).reshape(g.rows, -1)


def unpack(words: Array, bits: int, axis: int) -> Array:
    """Codes packed in 32-bit words along an axis, lowest bits first: uint8, that axis longer by 32 / bits."""
    if bits == 8:
        words = words.astype("<u4", copy=False)
    moved = np.ascontiguousarray(np.moveaxis(words.view(np.uint32), axis, -1))
    lead, n = moved.shape[:-1], moved.shape[-1]
    if 8 % bits == 0:
        in_bytes = moved.view(np.uint8)
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        codes = (in_bytes[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    else:  # a code may lie across two words: a stream of bits
        stream = np.unpackbits(moved.view(np.uint8), axis=-1, bitorder="little").reshape(*lead, -1, bits)
        codes = (stream << np.arange(bits, dtype=np.uint8)).sum(axis=-1, dtype=np.uint8)
    return np.moveaxis(codes.reshape(*lead, n * 32 // bits), -1, axis)


def floats(stored: Stored, name: str) -> Floats:
    """A tensor of numbers as float32."""
    if stored.dtype == "BF16":
        return bf16_to_f32(stored.array())
    if stored.dtype not in ("F16", "F32", "F64"):
        raise FormatError(f"Tensor {name} is of type {stored.dtype}; numbers were expected.")
    return stored.array().astype(np.float32)


def expect(stored: Stored, name: str, dtypes: tuple[str, ...], shape: tuple[int | None, ...]) -> Stored:
    """The tensor, if it has one of the types and the shape (None: any length). Raises FormatError."""
    fits = len(shape) == len(stored.shape) and all(
        w is None or w == n for w, n in zip(shape, stored.shape, strict=True)
    )
    if stored.dtype not in dtypes or not fits:
        raise FormatError(
            f"Tensor {name} is {stored.dtype} {list(stored.shape)}; {' or '.join(dtypes)} "
            f"{['any' if n is None else n for n in shape]} was expected."
        )
    return stored


def part(tensors: object, name: str) -> Stored:
    """A tensor that must be there. Raises FormatError."""
    found: Stored | None = tensors.get(name)  # type: ignore[attr-defined]
    if found is None:
        raise FormatError(f"Tensor {name} is missing.", hint="The checkpoint is incomplete; fetch it again.")
    return found
