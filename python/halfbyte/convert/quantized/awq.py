"""AWQ checkpoints in AutoAWQ's gemm order: 4 bits, zero points, groups of columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from halfbyte.convert.quantized.blocks import Groups, as_weight, expect, floats, part, unpack
from halfbyte.convert.tensors import Array, Stored, Weight
from halfbyte.errors import UnsupportedError

# Nibble i of a word belongs to output _ORDER[i] of the word's eight.
_ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])


def read(tensors: Mapping[str, Stored], settings: Mapping[str, Any]) -> dict[str, Weight]:
    """stem.qweight, .qzeros, .scales -> stem.weight."""
    bits, version = settings.get("bits", settings.get("w_bit")), str(settings.get("version", "gemm")).lower()
    if bits != 4 or version != "gemm":
        raise UnsupportedError(
            f"quantization_config: AWQ of {bits} bits in {version} order is not supported.",
            hint="4 bits in gemm order are.",
        )
    group = int(settings.get("group_size", settings.get("q_group_size", 128)))
    stems = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    return {f"{stem}.weight": _weight(tensors, stem, group) for stem in stems}


def _outputs_in_order(words: Array) -> Array:
    """(n, outputs / 8) words -> (n, outputs) codes."""
    codes = unpack(words, 4, 1).reshape(words.shape[0], -1, 8)
    out = np.empty_like(codes)
    out[..., _ORDER] = codes
    return out.reshape(words.shape[0], -1)


def _weight(tensors: Mapping[str, Stored], stem: str, group: int) -> Weight:
    names = tuple(f"{stem}.{kind}" for kind in ("qweight", "qzeros", "scales"))
    qweight = expect(part(tensors, names[0]), names[0], ("I32", "U32"), (None, None))
    columns, rows = qweight.shape[0], qweight.shape[1] * 8
    group = columns if group <= 0 else group
    n_groups = -(-columns // group)
    scales = expect(part(tensors, names[2]), names[2], ("F16", "BF16", "F32"), (n_groups, rows))
    if names[1] in tensors:
        qzeros = expect(tensors[names[1]], names[1], ("I32", "U32"), (n_groups, rows // 8))
        zeros = _outputs_in_order(qzeros.array()).T.astype(np.int32)
    else:
        zeros = np.full((1, n_groups), 8, np.int32)
    groups = Groups(
        rows=rows,
        columns=columns,
        bits=4,
        group=group,
        codes=lambda: np.ascontiguousarray(_outputs_in_order(qweight.array()).T),
        scales=lambda: np.ascontiguousarray(floats(scales, names[2]).T),
        zeros=zeros,
        exact_scales=scales.dtype == "F16",
    )
    return as_weight(groups, f"{stem}.weight", names)
