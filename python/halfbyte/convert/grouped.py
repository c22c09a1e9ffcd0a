"""Queries, keys and values that folders hold as one matrix, group by group, and GGUF as three."""

from __future__ import annotations

from collections.abc import Mapping

from halfbyte.convert.family import Family
from halfbyte.convert.tensors import Array, Weight
from halfbyte.convert.transforms import Heads, SplitGroups
from halfbyte.errors import FormatError


def as_three(weights: Mapping[str, Weight], family: Family, heads: Heads) -> dict[str, Weight]:
    """A checkpoint's weights with the family's grouped matrices cut in three. Raises FormatError for one whose rows are
    no groups."""
    out: dict[str, Weight] = {}
    for name, weight in weights.items():
        stem, _, kind = name.rpartition(".")
        found = next((g for g in family.grouped if stem.endswith(g)), None)
        if found is None:
            out[name] = weight
            continue
        n_rows, n_heads = (*weight.shape, 0)[0], heads.heads + 2 * heads.kv_heads
        if not n_rows or n_rows % n_heads:
            raise FormatError(f"{name}: {n_rows} rows are not those of {heads.heads} + 2 x {heads.kv_heads} heads.")
        at = 0
        for part, n in zip(family.grouped[found], (heads.heads, heads.kv_heads, heads.kv_heads), strict=True):
            end = at + n * (n_rows // n_heads)

            def change(array: Array, taken: slice = slice(at, end)) -> Array:
                return SplitGroups().apply(array, heads)[taken]

            out[f"{stem.removesuffix(found)}{part}.{kind}"] = weight.changed((end - at, *weight.shape[1:]), change)
            at = end
    return out
