"""bitsandbytes checkpoints: NF4 and FP4 (also with doubly quantized scales), and LLM.int8()."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from halfbyte.convert.quantized.blocks import Floats, Groups, as_weight, expect, floats, part
from halfbyte.convert.tensors import Array, Stored, Weight, encode
from halfbyte.errors import FormatError

_STATES = ("quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__fp4")


def read(tensors: Mapping[str, Stored], settings: Mapping[str, Any]) -> dict[str, Weight]:
    """name.weight with .absmax and .quant_state (4 bits), or with SCB (8 bits) -> name.weight."""
    out: dict[str, Weight] = {}
    for name in tensors:
        stem, _, kind = name.rpartition(".")
        if kind != "weight":
            continue
        state = next((f"{name}.{s}" for s in _STATES if f"{name}.{s}" in tensors), None)
        if state is not None:
            out[name] = _four_bits(tensors, name, state)
        elif f"{stem}.SCB" in tensors:
            out[name] = _eight_bits(tensors, stem)
    return out


def _eight_bits(tensors: Mapping[str, Stored], stem: str) -> Weight:
    name = f"{stem}.weight"
    stored = expect(tensors[name], name, ("I8",), (None, None))
    rows, columns = stored.shape
    largest = expect(tensors[f"{stem}.SCB"], f"{stem}.SCB", ("F32", "F16", "BF16"), (rows,))
    groups = Groups(
        rows=rows,
        columns=columns,
        bits=8,
        group=columns,
        codes=lambda: stored.array().view(np.uint8) ^ np.uint8(128),
        scales=lambda: floats(largest, f"{stem}.SCB").reshape(rows, 1) / np.float32(127),
        zeros=np.full((1, 1), 128, np.int32),
        exact_scales=False,
    )
    return as_weight(groups, name, (name, f"{stem}.SCB", f"{stem}.weight_format"))


def _four_bits(tensors: Mapping[str, Stored], name: str, state_name: str) -> Weight:
    state = _state(tensors[state_name], state_name)
    shape, block = tuple(state["shape"]), state["blocksize"]
    n_weights = int(np.prod(shape))
    kinds = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
    names = tuple(f"{name}.{kind}" for kind in kinds)
    packed = tensors[name]
    absmax = expect(part(tensors, names[0]), names[0], ("U8", "F32"), (-(-n_weights // block),))
    table = expect(part(tensors, names[1]), names[1], ("F32",), (16,))
    if packed.dtype != "U8" or int(np.prod(packed.shape)) * 2 < n_weights:
        raise FormatError(
            f"Tensor {name} is {packed.dtype} {list(packed.shape)}; bytes of {n_weights} nibbles were expected."
        )
    if absmax.dtype == "U8":
        nested = expect(
            part(tensors, names[2]), names[2], ("F32",), (-(-absmax.shape[0] // state["nested_blocksize"]),)
        )
        nested_table = expect(part(tensors, names[3]), names[3], ("F32",), (256,))

    def scales() -> Floats:
        if absmax.dtype == "F32":
            return floats(absmax, names[0])
        per_block = floats(nested, names[2]).repeat(state["nested_blocksize"])[: absmax.shape[0]]
        return floats(nested_table, names[3])[absmax.array()] * per_block + np.float32(state["nested_offset"])

    def numbers() -> Floats:
        data = packed.array().reshape(-1)
        codes = np.stack([data >> 4, data & 15], axis=1).reshape(-1)[:n_weights]  # the first weight in the high nibble
        return (floats(table, names[1])[codes] * scales().repeat(block)[:n_weights]).reshape(shape)

    target = "Q8_0" if shape[-1] % 32 == 0 else "BF16"

    def make() -> Array:
        return encode(target, numbers(), name)

    return Weight(
        target,
        shape,
        make,
        f"{state['quant_type']} has no block format: weights rounded to {target}",
        (name, state_name, *names),
    )


def _state(stored: Stored, name: str) -> dict[str, Any]:
    """The JSON that describes a 4-bit tensor, checked."""
    try:
        state = json.loads(bytes(stored.array()).decode("utf-8"))
        shape = state["shape"]
        good = all(isinstance(n, int) and 0 < n < 1 << 31 for n in (*shape, state["blocksize"])) and len(shape) == 2
        nested = state.get("nested_blocksize", 256), state.get("nested_offset", 0.0)
        good = good and isinstance(nested[0], int) and nested[0] > 0 and isinstance(nested[1], (int, float))
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"Tensor {name} does not describe a 4-bit matrix: {error}.") from None
    if not good:
        raise FormatError(f"Tensor {name} describes no matrix: {state}.")
    return {"quant_type": "4-bit", **state, "nested_blocksize": nested[0], "nested_offset": float(nested[1])}
