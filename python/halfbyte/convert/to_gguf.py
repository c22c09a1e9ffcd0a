"""A model folder as one GGUF file that other programs read too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from halfbyte import _core
from halfbyte.convert.plan import Plan, plan_folder
from halfbyte.convert.quantizing import quantize_plan
from halfbyte.convert.tensors import Planned
from halfbyte.errors import FileError, FormatError
from halfbyte.quantize.plan import file_type_of
from halfbyte.quantize.write import file_type_facts
from halfbyte.tokenizer.to_gguf import gguf_vocabulary

# What a header adds to the tensors, generously.
_SPARE_BYTES = 64 << 20

Progress = Callable[[int, int], Any]


def plan_gguf(folder: Path, type_name: str | None = None) -> Plan:
    """plan_folder() with everything that belongs into a file: vocabulary, chat templates, file type.

    type_name: the mix ("q4_k_m", "f16") whose types the matrices get; None leaves them as they are.
    """
    plan = plan_folder(folder)
    embedding = next((t for t in plan.tensors if t.name == "token_embd.weight"), None)
    if embedding is None:
        raise FormatError(f"{folder} has no embeddings ({plan.family.names}).")
    metadata = plan.metadata | gguf_vocabulary(folder, embedding.shape[0], plan.family.merging)
    if type_name is not None:
        return quantize_plan(replace(plan, metadata=metadata), type_name)
    file_type = file_type_of((t.format, int(np.prod(t.shape))) for t in plan.tensors)
    return replace(plan, metadata=metadata | file_type_facts(file_type))


def write_plan(plan: Plan, out: Path, progress: Progress | None = None) -> None:
    """Writes a plan, one tensor in memory at a time; the file appears when it is complete. Raises FileError."""
    total = sum(t.n_bytes for t in plan.tensors)
    if not out.parent.is_dir():
        raise FileError(f"{out.parent}: no such folder.", hint="Make it first.")
    free = shutil.disk_usage(out.parent).free
    if free < total + _SPARE_BYTES:
        raise FileError(f"{out} needs {total} bytes; {free} are free.", hint="Make room, or choose a smaller type.")
    done = 0

    def reported(tensor: Planned, make: Callable[[], Any]) -> Callable[[], Any]:
        def made() -> Any:
            nonlocal done
            array = make()
            done += tensor.n_bytes
            if progress is not None:
                progress(done, total)
            return array

        return made

    rows = [(name, form, shape, reported(t, make)) for t in plan.tensors for name, form, shape, make in [t.as_row()]]
    _core.write_gguf(str(out), plan.metadata, rows)
