"""What is done to a tensor's rows between Hugging Face's order and GGUF's. Each works on axis 0 unless it says more.

Arrays are (rows, ...) of any element type; rows of quantized blocks move as wholes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Heads:
    """The head counts that transforms need."""

    heads: int
    kv_heads: int


class Transform:
    """Nothing done. Subclasses override apply() and undo()."""

    #: Needs numbers, not just rows: quantized or half weights are decoded first.
    arithmetic = False
    #: Turns the matrix: cannot be done on blocks.
    turns = False
    #: Done to biases too.
    biases = True

    def apply(self, array: Array, heads: Heads) -> Array:
        """Hugging Face's order -> GGUF's."""
        return array

    def undo(self, array: Array, heads: Heads) -> Array:
        """GGUF's order -> Hugging Face's."""
        return array


class AddOne(Transform):
    """Gemma's norms multiply by 1 + w; GGUF stores the sum."""

    arithmetic = True
    biases = False

    def apply(self, array: Array, heads: Heads) -> Array:
        return array + np.float32(1)

    def undo(self, array: Array, heads: Heads) -> Array:
        return array - np.float32(1)


class Transpose(Transform):
    """GPT-2's Conv1D stores (inputs, outputs)."""

    turns = True

    def apply(self, array: Array, heads: Heads) -> Array:
        return array.T if array.ndim == 2 else array

    undo = apply


@dataclass(frozen=True)
class PermuteHeads(Transform):
    """Rotary pairs (i, i + dim/2) of each head -> (2i, 2i + 1), as llama-like GGUF files hold q and k."""

    which: str  # heads or kv_heads

    def apply(self, array: Array, heads: Heads) -> Array:
        n = getattr(heads, self.which)
        return array.reshape(n, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)

    def undo(self, array: Array, heads: Heads) -> Array:
        n = getattr(heads, self.which)
        return array.reshape(n, -1, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


class SplitThirds(Transform):
    """GPT-NeoX: rows are q, k, v of each head in turn -> all q, all k, all v."""

    def apply(self, array: Array, heads: Heads) -> Array:
        return array.reshape(heads.heads, 3, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)

    def undo(self, array: Array, heads: Heads) -> Array:
        return array.reshape(3, heads.heads, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


class SplitGroups(Transform):
    """Falcon: for each kv head its queries, then k, then v -> all q, all k, all v."""

    def apply(self, array: Array, heads: Heads) -> Array:
        per = heads.heads // heads.kv_heads
        rows = array.reshape(heads.kv_heads, per + 2, -1, *array.shape[1:])
        parts = (rows[:, :per], rows[:, per], rows[:, per + 1])
        return np.concatenate([p.reshape(-1, *array.shape[1:]) for p in parts])

    def undo(self, array: Array, heads: Heads) -> Array:
        per, kv = heads.heads // heads.kv_heads, heads.kv_heads
        dim = array.shape[0] // (heads.heads + 2 * kv)
        tail = array.shape[1:]
        q, k, v = np.split(array, [heads.heads * dim, (heads.heads + kv) * dim])
        rows = [q.reshape(kv, per, dim, *tail), k.reshape(kv, 1, dim, *tail), v.reshape(kv, 1, dim, *tail)]
        return np.concatenate(rows, axis=1).reshape(array.shape)
