"""Importance matrices: mean squared activations per input column, in llama.cpp's GGUF and older binary formats.

The GGUF form also holds the sums of activations (in_sum), which llama.cpp passes over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfbyte import _core
from halfbyte.errors import FileError, FormatError

Floats = npt.NDArray[np.float32]


@dataclass
class Importance:
    """Sums over what was seen. sums: tensor -> (matrices, n_cols) of squared activations; counts: (matrices) of rows;
    input_sums: like sums, of the activations themselves, for the tensors of which they are known."""

    sums: dict[str, Floats] = field(default_factory=dict)
    counts: dict[str, Floats] = field(default_factory=dict)
    datasets: list[str] = field(default_factory=list)
    n_chunks: int = 0
    chunk_size: int = 512
    path: str = ""
    input_sums: dict[str, Floats] = field(default_factory=dict)

    @property
    def means(self) -> dict[str, Floats]:
        """Tensor -> mean squared activation, (matrices, n_cols). Experts that were never chosen count as all alike."""
        out = {}
        for name, sums in self.sums.items():
            counts = self.counts[name][:, None]
            out[name] = np.where(counts > 0, sums / np.maximum(counts, 1), np.float32(1)).astype(np.float32)
        return out

    @property
    def mean_inputs(self) -> dict[str, Floats]:
        """Tensor -> mean activation, (matrices, n_cols), where it is known; 0 for experts that were never chosen."""
        return {
            name: np.asarray(sums / np.maximum(self.counts[name][:, None], 1), np.float32)
            for name, sums in self.input_sums.items()
        }

    def add(self, seen: Mapping[str, tuple[Any, Any, Any]]) -> None:
        """What an ImportanceCollector's sums() gives, of tensors that are not here yet."""
        for name, (squares, inputs, n_rows) in seen.items():
            self.sums[name], self.input_sums[name] = squares.astype(np.float32), inputs.astype(np.float32)
            self.counts[name] = n_rows.astype(np.float32)

    def merge(self, other: Importance) -> None:
        """Adds what another matrix of the same model has seen."""
        for name, sums in other.sums.items():
            if name not in self.sums:
                self.sums[name], self.counts[name] = sums.copy(), other.counts[name].copy()
                if name in other.input_sums:
                    self.input_sums[name] = other.input_sums[name].copy()
            elif self.sums[name].shape != sums.shape:
                raise FormatError(
                    f"{other.path}: {name} is {sums.shape[0]} x {sums.shape[1]}; {self.path or 'the first file'} has "
                    f"{self.sums[name].shape[0]} x {self.sums[name].shape[1]}.",
                    hint="Only importance matrices of one model can be merged.",
                )
            else:
                self.sums[name] = self.sums[name] + sums
                self.counts[name] = self.counts[name] + other.counts[name]
                ours, theirs = self.input_sums.pop(name, None), other.input_sums.get(name)
                if ours is not None and theirs is not None:  # the mean of a part is not that of all
                    self.input_sums[name] = ours + theirs
        self.n_chunks += other.n_chunks
        self.datasets += [d for d in other.datasets if d not in self.datasets]

    def save(self, path: str | Path) -> None:
        """Writes the GGUF form."""
        tensors: list[tuple[str, str, list[int], Any]] = []
        for name in sorted(self.sums):
            sums, counts = self.sums[name], self.counts[name]
            tensors.append((f"{name}.in_sum2", "F32", [sums.shape[1], sums.shape[0]], sums.astype(np.float32)))
            tensors.append((f"{name}.counts", "F32", [1, counts.shape[0]], counts.astype(np.float32)))
            if name in self.input_sums:
                inputs = self.input_sums[name]
                tensors.append((f"{name}.in_sum", "F32", [inputs.shape[1], inputs.shape[0]], inputs.astype(np.float32)))
        metadata = {
            "general.type": "imatrix",
            "imatrix.datasets": self.datasets,
            "imatrix.chunk_count": self.n_chunks,
            "imatrix.chunk_size": self.chunk_size,
        }
        _core.write_gguf(str(path), metadata, tensors)

    @classmethod
    def load(cls, path: str | Path) -> Importance:
        """Reads either form. Raises FormatError for anything else."""
        try:
            with Path(path).open("rb") as file:
                start = file.read(4)
        except OSError as error:
            raise FileError(f"{path}: cannot be read: {error.strerror}.", hint="Check the path.") from None
        found = _load_gguf(str(path)) if start == b"GGUF" else _load_binary(Path(path))
        for name, sums in found.sums.items():
            if not (np.isfinite(sums).all() and (sums >= 0).all()):
                raise FormatError(f"{path}: the importance of {name} holds numbers that are negative or not finite.")
            if name in found.input_sums and not np.isfinite(found.input_sums[name]).all():
                raise FormatError(f"{path}: the inputs of {name} hold numbers that are not finite.")
        return found

    @classmethod
    def load_all(cls, paths: Iterable[str]) -> Importance | None:
        """Several files merged; None for no files."""
        merged: Importance | None = None
        for path in paths:
            one = cls.load(path)
            if merged is None:
                merged = one
            else:
                merged.merge(one)
        return merged


def _load_gguf(path: str) -> Importance:
    file = _core.GgufFile(path)
    metadata = file.metadata
    if metadata.get("general.type") != "imatrix":
        raise FormatError(f"{path}: a GGUF file, but no importance matrix.", hint="Make one with halfbyte imatrix.")
    out = Importance(
        datasets=[str(d) for d in metadata.get("imatrix.datasets", [])],
        n_chunks=int(metadata.get("imatrix.chunk_count", 0)),
        chunk_size=int(metadata.get("imatrix.chunk_size", 512)),
        path=path,
    )
    names = {t.name for t in file.tensors}
    for tensor in file.tensors:
        name = tensor.name.removesuffix(".in_sum2")
        if name == tensor.name:
            continue
        if f"{name}.counts" not in names:
            raise FormatError(f"{path}: {name} has sums but no counts.")
        sums = file.tensor_f32(tensor.name)
        counts = file.tensor_f32(f"{name}.counts").reshape(-1)
        if sums.size % max(1, counts.size):
            raise FormatError(f"{path}: {name} has {sums.size} sums and {counts.size} counts.")
        out.sums[name] = sums.reshape(counts.size, -1)
        out.counts[name] = counts
        if f"{name}.in_sum" in names:
            inputs = file.tensor_f32(f"{name}.in_sum")
            if inputs.size != sums.size:
                raise FormatError(f"{path}: {name} has {sums.size} sums of squares and {inputs.size} of inputs.")
            out.input_sums[name] = inputs.reshape(counts.size, -1)
    return out


def _load_binary(path: Path) -> Importance:
    """Entries of (name, times called, mean squares times that), then the number of chunks and the data set's name."""
    data = path.read_bytes()
    at = 0

    def take(n: int) -> bytes:
        nonlocal at
        if n < 0 or n > len(data) - at:
            raise FormatError(
                f"{path}: not an importance matrix: {n} bytes at offset {at} lie past its {len(data)} bytes.",
                hint="Make one with halfbyte imatrix.",
            )
        at += n
        return data[at - n : at]

    def number() -> int:
        return int(struct.unpack("<i", take(4))[0])

    out = Importance(path=str(path))
    for _ in range(number()):
        name = take(number()).decode("utf-8", "replace")
        n_calls, n_values = number(), number()
        values = np.frombuffer(take(4 * n_values), np.float32)
        # The sums were divided so that they belong to n_calls rows.
        out.sums[name] = values.reshape(1, -1).copy()
        out.counts[name] = np.array([max(1, n_calls)], np.float32)
    if at < len(data):
        out.n_chunks = number()
        out.datasets = [take(number()).decode("utf-8", "replace")]
    return out
