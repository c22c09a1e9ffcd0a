"""GPTQ checkpoints (AutoGPTQ, GPTQModel; versions 1 and 2): 2, 3, 4 and 8 bits, any group size, with or without act-order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from halfbyte.convert.quantized.blocks import Groups, as_weight, expect, floats, part, unpack
from halfbyte.convert.tensors import Stored, Weight
from halfbyte.errors import FormatError

_WORDS = ("I32", "U32")


def read(tensors: Mapping[str, Stored], settings: Mapping[str, Any]) -> dict[str, Weight]:
    """stem.qweight, .qzeros, .scales, .g_idx -> stem.weight."""
    bits = settings.get("bits")
    if bits not in (2, 3, 4, 8):
        raise FormatError(f"quantization_config: bits is {bits!r}; 2, 3, 4 or 8 was expected.")
    # Version 1 stores each zero point less one.
    bias = 0 if str(settings.get("checkpoint_format", settings.get("packing_format"))).endswith("_v2") else 1
    stems = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    return {f"{stem}.weight": _weight(tensors, stem, bits, int(settings.get("group_size", -1)), bias) for stem in stems}


def _weight(tensors: Mapping[str, Stored], stem: str, bits: int, group: int, bias: int) -> Weight:
    names = tuple(f"{stem}.{kind}" for kind in ("qweight", "qzeros", "scales", "g_idx"))
    qweight = expect(part(tensors, names[0]), names[0], _WORDS, (None, None))
    columns, rows = qweight.shape[0] * 32 // bits, qweight.shape[1]
    group = columns if group <= 0 else group
    n_groups = -(-columns // group)
    scales = expect(part(tensors, names[2]), names[2], ("F16", "BF16", "F32"), (n_groups, rows))
    qzeros = expect(part(tensors, names[1]), names[1], _WORDS, (n_groups, rows * bits // 32))
    order = None
    if names[3] in tensors:
        order = expect(tensors[names[3]], names[3], ("I32", "I64"), (columns,)).array()
    groups = Groups(
        rows=rows,
        columns=columns,
        bits=bits,
        group=group,
        codes=lambda: np.ascontiguousarray(unpack(qweight.array(), bits, 0).T),
        scales=lambda: np.ascontiguousarray(floats(scales, names[2]).T),
        zeros=unpack(qzeros.array(), bits, 1).T.astype(np.int32) + bias,
        exact_scales=scales.dtype == "F16",
        order=order,
    )
    return as_weight(groups, f"{stem}.weight", names)
