"""GGUF models in several files by llama.cpp's convention: cut into parts, and joined again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from halfbyte import _core
from halfbyte.errors import InvalidArgumentError

_MOST_PARTS = 4096  # as many as readers open


def part_path(prefix: str | Path, number: int, count: int) -> Path:
    """Where part `number` (from 1) of `count` lies."""
    return Path(f"{prefix}-{number:05d}-of-{count:05d}.gguf")


def plan_parts(source: Any, *, max_bytes: int | None = None, max_tensors: int | None = None) -> list[list[Any]]:
    """A GgufFile's tensors by part, in order. A tensor larger than max_bytes has a part of its own."""
    parts: list[list[Any]] = [[]]
    size = 0
    for tensor in source.tensors:
        full = (max_bytes is not None and size + tensor.n_bytes > max_bytes) or (
            max_tensors is not None and len(parts[-1]) >= max_tensors
        )
        if parts[-1] and full:
            parts.append([])
            size = 0
        parts[-1].append(tensor)
        size += tensor.n_bytes
    if len(parts) > _MOST_PARTS:
        raise InvalidArgumentError(
            f"{len(parts)} parts; at most {_MOST_PARTS} are allowed.", hint="Allow larger parts."
        )
    return parts


def split(
    source: Any,
    prefix: str | Path,
    parts: list[list[Any]],
    progress: Callable[[int, int], Any] | None = None,
) -> list[Path]:
    """Writes PREFIX-00001-of-0000N.gguf and so on; the first holds all metadata. Returns their paths."""
    metadata = _without_parts(source)
    n_tensors, total = sum(map(len, parts)), sum(t.n_bytes for part in parts for t in part)
    paths, done = [part_path(prefix, number, len(parts)) for number in range(1, len(parts) + 1)], 0
    _refuse_inputs(source, paths)
    for number, part in enumerate(parts, 1):
        own = metadata if number == 1 else {}
        own = own | {"split.no": number - 1, "split.count": len(parts), "split.tensors.count": n_tensors}
        _core.write_gguf(str(paths[number - 1]), own, [_row(source, tensor) for tensor in part])
        done += sum(t.n_bytes for t in part)
        if progress is not None:
            progress(done, total)
    return paths


def merge(source: Any, path: str | Path) -> None:
    """Writes all parts of a split model (a GgufFile that was opened at its first part) as one file."""
    _refuse_inputs(source, [Path(path)])
    _core.write_gguf(str(path), _without_parts(source), [_row(source, tensor) for tensor in source.tensors])


def _refuse_inputs(source: Any, outputs: list[Path]) -> None:
    """A kill in between would leave neither the old parts nor the new."""
    for path in outputs:
        if path.exists() and any(path.samefile(part) for part in source.paths):
            raise InvalidArgumentError(f"{path} is the input, or a part of it.", hint="Give the output another name.")


def _without_parts(source: Any) -> dict[str, Any]:
    return {key: value for key, value in source.metadata.items() if not key.startswith("split.")}


def _row(source: Any, tensor: Any) -> tuple[str, str, list[int], Callable[[], Any]]:
    return tensor.name, tensor.format, list(tensor.shape), lambda: source.tensor_data(tensor.name)
