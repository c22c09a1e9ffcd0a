"""Weights of checkpoints, whatever their quantization: plain ones as they are, packed ones repacked into block formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from halfbyte.convert.checkpoint import Checkpoint, read_json
from halfbyte.convert.quantized import awq, bitsandbytes, compressed, fp8, gptq, mxfp4
from halfbyte.convert.tensors import Stored, Weight, from_stored
from halfbyte.errors import UnsupportedError

# quant_method of config.json -> tensors whose names it claims, as weights. What it leaves is plain.
_METHODS: dict[str, Callable[[Mapping[str, Stored], Mapping[str, Any]], dict[str, Weight]]] = {
    "gptq": gptq.read,
    "awq": awq.read,
    "compressed-tensors": compressed.read,
    "bitsandbytes": bitsandbytes.read,
    "fp8": fp8.read,
    "mxfp4": mxfp4.read,
}


def weights_of(checkpoint: Checkpoint) -> Mapping[str, Weight]:
    """name -> weight, not read yet. Raises UnsupportedError for a quantization that is not known, FormatError for
    tensors that do not fit together."""
    settings = checkpoint.config.get("quantization_config") or read_json(checkpoint.folder / "quantize_config.json")
    if not settings:
        return {name: from_stored(stored, name) for name, stored in checkpoint.tensors.items()}
    method = str(settings.get("quant_method", "gptq")).lower()  # quantize_config.json is GPTQ's own
    if method.endswith("auto-round"):
        method = "awq" if "awq" in str(settings.get("packing_format")) else "gptq"
    if method not in _METHODS:
        raise UnsupportedError(
            f'config.json: quantization "{method}" is not supported.', hint=f"Supported are {', '.join(_METHODS)}."
        )
    weights = _METHODS[method](checkpoint.tensors, settings)
    claimed = {name for weight in weights.values() for name in weight.parts}
    plain = {n: from_stored(t, n) for n, t in checkpoint.tensors.items() if n not in claimed and n not in weights}
    return weights | plain
