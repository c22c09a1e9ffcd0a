"""FP8 checkpoints: 8-bit floats with one scale per tensor, per row, or per block of 128 x 128 (DeepSeek, Qwen)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from halfbyte.convert.quantized.blocks import Floats, floats
from halfbyte.convert.tensors import FLOAT8, Array, Stored, Weight, to_bf16
from halfbyte.errors import FormatError


def read(tensors: Mapping[str, Stored], settings: Mapping[str, Any]) -> dict[str, Weight]:
    """stem.weight in F8 with stem.weight_scale_inv or stem.weight_scale -> stem.weight in BF16."""
    block = settings.get("weight_block_size") or (128, 128)
    return {
        name: scaled(tensors, name, (int(block[0]), int(block[1])))
        for name, stored in tensors.items()
        if name.endswith(".weight") and stored.dtype in FLOAT8
    }


def scaled(tensors: Mapping[str, Stored], name: str, block: tuple[int, int]) -> Weight:
    """One 8-bit float matrix times its scales. Raises FormatError when they do not fit it."""
    stored = tensors[name]
    found = next((n for n in (f"{name}_scale_inv", f"{name}_scale") if n in tensors), None)
    if found is None or len(stored.shape) != 2 or min(block) < 1:
        raise FormatError(f"Tensor {name} is an 8-bit float matrix without scales.")
    rows, columns = stored.shape
    scale = tensors[found]
    in_blocks = (-(-rows // block[0]), -(-columns // block[1]))
    if int(np.prod(scale.shape)) == 1:
        spread = (rows, columns)
    elif scale.shape in ((rows,), (rows, 1)):
        spread = (1, columns)
    elif scale.shape == in_blocks:
        spread = block
    else:
        raise FormatError(
            f"Tensor {found} has shape {list(scale.shape)}; one scale, {rows} or {list(in_blocks)} were expected."
        )

    def make() -> Array:
        numbers = FLOAT8[stored.dtype][stored.array()]
        return to_bf16(numbers * spread_scales(floats(scale, found), spread, (rows, columns)))

    parts = (name, found, name.removesuffix("weight") + "input_scale")
    return Weight("BF16", (rows, columns), make, "weights rounded to BF16", parts)


def spread_scales(scales: Floats, block: tuple[int, int], shape: tuple[int, int]) -> Floats:
    """One number per block -> one per weight."""
    grid = scales.reshape(-(-shape[0] // block[0]), -(-shape[1] // block[1]))
    return grid.repeat(block[0], axis=0).repeat(block[1], axis=1)[: shape[0], : shape[1]]
