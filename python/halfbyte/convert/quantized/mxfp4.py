"""gpt-oss checkpoints: experts in MXFP4, blocks of 32 four-bit floats with one power of two (OCP Microscaling)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from halfbyte.convert.quantized.blocks import expect, part
from halfbyte.convert.tensors import Array, Stored, Weight


def read(tensors: Mapping[str, Stored], settings: Mapping[str, Any]) -> dict[str, Weight]:
    """stem_blocks (experts, rows, groups, 16) with stem_scales (experts, rows, groups) -> stem in MXFP4, bit for bit."""
    return {name.removesuffix("_blocks"): _repacked(tensors, name) for name in tensors if name.endswith("_blocks")}


def _repacked(tensors: Mapping[str, Stored], name: str) -> Weight:
    blocks = expect(tensors[name], name, ("U8",), (None, None, None, 16))
    scales_name = name.removesuffix("_blocks") + "_scales"
    experts, rows, groups, _ = blocks.shape
    scales = expect(part(tensors, scales_name), scales_name, ("U8",), (experts, rows, groups))

    def make() -> Array:
        # Theirs holds neighbours in a byte, the blocks of GGUF a weight and the one 16 further.
        pairs = blocks.array().reshape(experts * rows, groups, 16)
        out = np.empty((experts * rows, groups, 17), np.uint8)
        out[..., 0] = scales.array().reshape(experts * rows, groups)
        first, second = pairs[..., :8], pairs[..., 8:]
        out[..., 1::2] = (first & 15) | second << 4
        out[..., 2::2] = first >> 4 | (second & 0xF0)
        return out.reshape(experts * rows, groups * 17)

    return Weight("MXFP4", (experts, rows, groups * 32), make, "", (name, scales_name))
