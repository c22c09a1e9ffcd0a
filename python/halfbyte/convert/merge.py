"""Adapters melted into a model's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from halfbyte import _core
from halfbyte.convert.families import family_of_arch
from halfbyte.convert.lora import Change, read_adapter
from halfbyte.convert.plan import Plan
from halfbyte.convert.quantizing import quantize_plan
from halfbyte.convert.tensors import Array, Planned, decode, encode, is_plain
from halfbyte.convert.to_folder import decode_bytes
from halfbyte.convert.to_gguf import plan_gguf
from halfbyte.errors import FormatError, InvalidArgumentError, UnsupportedError


def plan_merge(source: Path, adapters: Mapping[str, float], type_name: str | None = None) -> Plan:
    """A folder's or a GGUF file's model with adapters (path -> strength) added, to be written as GGUF.

    type_name: the mix ("q4_k_m", "f16") whose types a folder's matrices get; a GGUF file's keep theirs.
    """
    if source.is_dir():
        plan = plan_gguf(source)
    elif type_name is not None:
        raise InvalidArgumentError("--type is for folders; a GGUF file's matrices keep their types.")
    else:
        plan = _plan_of_file(source)
    changes: dict[str, list[tuple[Change, float]]] = {}
    for path, strength in adapters.items():
        for change in read_adapter(Path(path).expanduser(), plan.metadata):
            changes.setdefault(f"{change.name}.weight", []).append((change, strength))
    missing = sorted(set(changes) - {t.name for t in plan.tensors})
    if missing:
        raise FormatError(f"The adapter changes {missing[0]}, which {source} does not have.")
    plan = replace(plan, tensors=[_merged(t, changes[t.name]) if t.name in changes else t for t in plan.tensors])
    return plan if type_name is None else quantize_plan(plan, type_name)


def _plan_of_file(path: Path) -> Plan:
    file = _core.GgufFile(str(path))
    metadata = file.metadata
    family = family_of_arch(str(metadata.get("general.architecture")))
    if family is None:
        raise UnsupportedError(f'Models of architecture "{metadata.get("general.architecture")}" cannot be merged.')

    def planned(info: _core.TensorInfo) -> Planned:
        shape = tuple(info.shape[::-1])
        return Planned(info.name, info.format, shape, lambda: file.tensor_data(info.name))

    kept = {k: v for k, v in metadata.items() if not k.startswith("split.")}
    return Plan(path, family, kept, [planned(info) for info in file.tensors])


def _merged(tensor: Planned, changes: Sequence[tuple[Change, float]]) -> Planned:
    for change, _ in changes:
        if tensor.shape != (change.b.shape[0], change.a.shape[1]):
            raise FormatError(
                f"An adapter's change of {tensor.name} is {change.b.shape[0]} x {change.a.shape[1]}; "
                f"the model's tensor is {' x '.join(map(str, tensor.shape))}.",
                hint="It was made for another model.",
            )
    if not _core.can_quantize(tensor.format):
        raise UnsupportedError(
            f"{tensor.name} is {tensor.format}, which cannot be written again.",
            hint="Merge into a model of plain weights.",
        )

    def make() -> Array:
        array = tensor.make()
        is_bytes = array.dtype == np.uint8 and is_plain(tensor.format)
        numbers = (decode_bytes if is_bytes else decode)(tensor.format, array, tensor.shape)
        for change, strength in changes:
            numbers = numbers + np.float32(strength) * (change.b @ change.a)
        if is_plain(tensor.format):
            return encode(tensor.format, numbers, tensor.name)
        rows: Any = np.ascontiguousarray(numbers)
        return _core.requantize(rows, "F32", tensor.shape[-1], tensor.format)

    note = tensor.note if is_plain(tensor.format) else f"merged weights were rounded to {tensor.format} again"
    return replace(tensor, make=make, note=note)
