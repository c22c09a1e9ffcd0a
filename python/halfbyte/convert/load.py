"""A model folder straight into the engine: no file in between, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from halfbyte import _core
from halfbyte.convert.plan import plan_folder
from halfbyte.convert.quantizing import quantize_plan
from halfbyte.tokenizer.from_hf import read_folder


def load_folder(
    folder: Path,
    *,
    type_name: str | None = None,
    n_threads: int = 0,
    mmap: bool = False,
    n_gpu_layers: int = -1,
    n_cpu_moe: int = 0,
    gpu_budget: Any = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Any:
    """The folder's model, packed for this machine.

    type_name: the mix ("q4_k_m", "f16") whose types the matrices get on the way; None leaves them as they are.
    """
    plan = plan_folder(folder)
    if type_name is not None:
        plan = quantize_plan(plan, type_name)
    vocabulary, _ = read_folder(folder)
    return _core.Model.assemble(
        str(folder),
        plan.metadata | vocabulary.metadata,
        [tensor.as_row() for tensor in plan.tensors],
        n_threads=n_threads,
        mmap=mmap,
        n_gpu_layers=n_gpu_layers,
        n_cpu_moe=n_cpu_moe,
        gpu_budget=gpu_budget or _core.GpuBudget(),
        progress=progress,
    )
