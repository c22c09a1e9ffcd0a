"""A model folder as one GGUF file that other programs read too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halfbyte import _core
from halfbyte.convert.plan import Plan, Planned, format_named, plan_folder
from halfbyte.errors import FileError, FormatError
from halfbyte.tokenizer.to_gguf import gguf_vocabulary

# general.file_type: what most matrices are.
_FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "BF16": 32, "MXFP4": 38,
}  # fmt: skip
# What a header adds to the tensors, generously.
_SPARE_BYTES = 64 << 20

Progress = Callable[[int, int], Any]


def plan_gguf(folder: Path, type_name: str | None = None) -> Plan:
    """plan_folder() with everything that belongs into a file: vocabulary, chat templates, file type."""
    plan = plan_folder(folder, type_name)
    embedding = next((t for t in plan.tensors if t.name == "token_embd.weight"), None)
    if embedding is None:
        raise FormatError(f"{folder} has no embeddings ({plan.family.names}).")
    metadata = plan.metadata | gguf_vocabulary(folder, embedding.shape[0])
    common = most_common(plan.tensors) if type_name is None else format_named(type_name)
    if common in _FILE_TYPES:
        metadata["general.file_type"] = _FILE_TYPES[common]
    metadata["general.quantization_version"] = 2
    return Plan(plan.path, plan.family, metadata, plan.tensors)


def most_common(tensors: list[Planned]) -> str:
    """The format that most bytes are in."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.format] = sizes.get(tensor.format, 0) + tensor.n_bytes
    return max(sizes, key=lambda name: sizes[name])


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
