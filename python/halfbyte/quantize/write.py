"""Carries a plan out: reads one tensor at a time, quantizes it on all cores, writes one GGUF file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from halfbyte import _core
from halfbyte.errors import FormatError
from halfbyte.quantize.importance import Floats, Importance
from halfbyte.quantize.plan import Choice, Plan

QUANTIZATION_VERSION = 2

#: Called before a tensor is made and after the last: bytes written and bytes in all, of the file to be.
Progress = Callable[[int, int], Any]


def write_plan(
    source: Any,
    plan: Plan,
    path: str | Path,
    *,
    importance: Importance | None = None,
    n_threads: int = 0,
    progress: Progress | None = None,
) -> None:
    """Writes the plan's tensors and the source's metadata to `path`, which appears when it is complete."""
    metadata = {k: v for k, v in source.metadata.items() if not k.startswith("split.")}
    metadata |= file_type_facts(plan.file_type)
    if importance is not None:
        metadata |= {
            "quantize.imatrix.file": importance.path,
            "quantize.imatrix.dataset": ", ".join(importance.datasets),
            "quantize.imatrix.entries_count": len(importance.means),
            "quantize.imatrix.chunks_count": importance.n_chunks,
        }
    total, done = plan.n_bytes, 0

    def maker(choice: Choice) -> Callable[[], Any]:
        def make() -> Any:
            nonlocal done
            if progress is not None:
                progress(done, total)
            done += choice.n_bytes
            return quantized(source, choice, importance, n_threads)

        return make

    _core.write_gguf(str(path), metadata, [(c.name, c.format, list(c.shape), maker(c)) for c in plan.choices])
    if progress is not None:
        progress(total, total)


def file_type_facts(file_type: int) -> dict[str, Any]:
    """What a model's metadata says about its types."""
    return {"general.file_type": file_type, "general.quantization_version": QUANTIZATION_VERSION}


def quantized(source: Any, choice: Choice, importance: Importance | None = None, n_threads: int = 0) -> Any:
    """The tensor's bytes in its chosen format."""
    data = source.tensor_data(choice.name)
    if choice.format == choice.source_format:
        return data
    weights = weights_for(choice, importance)
    try:
        rows = _core.requantize(
            data, choice.source_format, choice.shape[0], choice.format, *weights, n_threads=n_threads
        )
    except FormatError as error:
        raise FormatError(f"Tensor {choice.name}: {error}") from None
    if choice.format == "F16" and np.isinf(rows.view(np.float16)).any():
        raise FormatError(f"Tensor {choice.name} holds numbers past 65504, where F16 ends.", hint="Use BF16 or F32.")
    return rows


def weights_for(choice: Choice, importance: Importance | None) -> tuple[Floats | None, Floats | None]:
    """The importance of a tensor's columns and their mean inputs: (1 or experts, n_cols); None for what is not known."""
    means = None if importance is None else importance.means.get(choice.name)
    if importance is None or means is None:
        return None, None
    n_matrices = choice.shape[2] if len(choice.shape) > 2 else 1
    if means.shape == (1, n_matrices * choice.shape[0]):  # the binary form does not tell experts apart
        means = means.reshape(n_matrices, -1)
    if means.shape[1] != choice.shape[0] or means.shape[0] not in (1, n_matrices):
        raise FormatError(
            f"{importance.path}: {choice.name} has importance for {means.shape[0]} x {means.shape[1]} columns; the "
            f"model's has {n_matrices} x {choice.shape[0]}.",
            hint="The importance matrix was made with another model.",
        )
    inputs = importance.mean_inputs.get(choice.name)
    return np.ascontiguousarray(means), None if inputs is None else np.ascontiguousarray(inputs)
