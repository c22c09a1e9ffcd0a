"""Weights of checkpoints, whatever their quantization: plain ones as they are, packed ones repacked into block formats."""

from __future__ import annotations

from collections.abc import Mapping

from halfbyte.convert.checkpoint import Checkpoint
from halfbyte.convert.tensors import Weight, from_stored
from halfbyte.errors import UnsupportedError


def weights_of(checkpoint: Checkpoint) -> Mapping[str, Weight]:
    """name -> weight, not read yet. Raises UnsupportedError for a quantization that is not known."""
    quantization = checkpoint.config.get("quantization_config")
    if quantization:
        raise UnsupportedError(f"config.json: quantization {quantization.get('quant_method')} is not supported.")
    return {name: from_stored(stored, name) for name, stored in checkpoint.tensors.items()}
