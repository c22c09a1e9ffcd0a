"""compressed-tensors checkpoints (llm-compressor): packed int4 and int8, int8, and 8-bit floats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from halfbyte.convert.quantized import fp8
from halfbyte.convert.quantized.blocks import Groups, as_weight, expect, floats, part, unpack
from halfbyte.convert.tensors import FLOAT8, Array, Stored, Weight
from halfbyte.errors import FormatError, UnsupportedError

# Parts that say how activations are quantized, which halfbyte does in its own way.
_ACTIVATIONS = ("input_scale", "input_zero_point", "input_global_scale", "weight_shape")


def read(tensors: Mapping[str, Stored], settings: Mapping[str, Any]) -> dict[str, Weight]:
    """stem.weight_packed or stem.weight with stem.weight_scale -> stem.weight."""
    groups = [g for g in (settings.get("config_groups") or {}).values() if isinstance(g, dict) and g.get("weights")]
    out: dict[str, Weight] = {}
    for name, stored in tensors.items():
        stem, _, kind = name.rpartition(".")
        if f"{stem}.weight_scale" not in tensors or kind not in ("weight", "weight_packed"):
            continue
        scheme = _scheme_of(stem, groups)
        if kind == "weight_packed" or stored.dtype == "I8":
            out[f"{stem}.weight"] = _integers(tensors, stem, name, scheme)
        elif stored.dtype in FLOAT8:
            block = scheme.get("block_structure") or (128, 128)
            out[name] = fp8.scaled(tensors, name, (int(block[0]), int(block[1])))
        else:
            raise UnsupportedError(f"Tensor {name} of type {stored.dtype} with scales is not supported.")
    return out


def _scheme_of(stem: str, groups: list[dict[str, Any]]) -> dict[str, Any]:
    """How a layer's weights are quantized: the group that names it, or the one for all linear layers."""
    for group in groups:
        for target in group.get("targets") or ():
            by_pattern = isinstance(target, str) and target.startswith("re:")
            if target == stem or (by_pattern and _matches(target[3:], stem)):
                return dict(group["weights"])
    if not groups:
        raise FormatError("quantization_config has no config_groups that say how weights are stored.")
    return dict(groups[0]["weights"])


def _matches(pattern: str, stem: str) -> bool:
    try:
        return re.match(pattern, stem) is not None
    except re.error as error:
        raise FormatError(f'quantization_config: "{pattern}" is no regular expression: {error}.') from None


def _integers(tensors: Mapping[str, Stored], stem: str, name: str, scheme: Mapping[str, Any]) -> Weight:
    bits, stored = int(scheme.get("num_bits") or 0), tensors[name]
    is_packed = name.endswith("_packed")
    if bits not in (4, 8) or scheme.get("type", "int") != "int":
        raise UnsupportedError(f"{stem}: weights of {bits} bits and type {scheme.get('type')} are not supported.")
    expect(stored, name, ("I32", "U32") if is_packed else ("I8",), (None, None))
    rows, columns = stored.shape[0], stored.shape[1] * (32 // bits if is_packed else 1)
    if is_packed and f"{stem}.weight_shape" in tensors:  # the last word of a row may be padded
        wanted = tensors[f"{stem}.weight_shape"].array().reshape(-1).tolist()
        if len(wanted) != 2 or wanted[0] != rows or not columns - 32 // bits < wanted[1] <= columns:
            raise FormatError(f"Tensor {stem}.weight_shape is {wanted}; {name} holds {rows} x {columns}.")
        columns = wanted[1]
    scales = part(tensors, f"{stem}.weight_scale")
    n_groups = scales.shape[1] if len(scales.shape) == 2 else 1
    group = int(scheme.get("group_size") or 0) if scheme.get("strategy") in ("group", "tensor_group") else columns
    group = group if group > 0 else columns
    if -(-columns // group) != n_groups or scales.shape[0] not in (1, rows):
        raise FormatError(
            f"Tensor {stem}.weight_scale has shape {list(scales.shape)} for groups of {group} of {columns}."
        )
    center = 1 << (bits - 1)
    order = tensors.get(f"{stem}.weight_g_idx")
    is_ordered = order is None or bool((order.array() < 0).all())  # -1 everywhere: no order
    kinds = ("weight_packed", "weight", "weight_scale", "weight_zero_point", "weight_g_idx", *_ACTIVATIONS)
    groups = Groups(
        rows=rows,
        columns=columns,
        bits=bits,
        group=group,
        codes=lambda: _codes(stored, bits, is_packed)[:, :columns],
        scales=lambda: np.broadcast_to(floats(scales, f"{stem}.weight_scale").reshape(-1, n_groups), (rows, n_groups)),
        zeros=_zeros(tensors, stem, bits, rows, n_groups) + center,
        exact_scales=scales.dtype == "F16",
        order=None if is_ordered or order is None else order.array(),
    )
    return as_weight(groups, f"{stem}.weight", tuple(f"{stem}.{kind}" for kind in kinds))


def _codes(stored: Stored, bits: int, is_packed: bool) -> Array:
    """Unsigned codes around 2^(bits - 1)."""
    if is_packed:
        return unpack(stored.array(), bits, 1)
    return stored.array().view(np.uint8) ^ np.uint8(128)


def _zeros(tensors: Mapping[str, Stored], stem: str, bits: int, rows: int, n_groups: int) -> Array:
    """Signed zero points, (rows or 1, groups)."""
    stored = tensors.get(f"{stem}.weight_zero_point")
    if stored is None:
        return np.zeros((1, n_groups), np.int32)
    if stored.dtype in ("I32", "U32") and stored.shape[0] != rows:  # packed along the rows
        return unpack(stored.array(), bits, 0)[:rows].astype(np.int32) - (1 << (bits - 1))
    return np.broadcast_to(stored.array().astype(np.int32).reshape(-1, n_groups), (rows, n_groups))
