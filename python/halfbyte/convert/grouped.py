"""Queries, keys and values that folders hold as one matrix, group by group, and GGUF as three."""

from __future__ import annotations

from collections.abc import Mapping

from halfbyte.convert.family import Family
from halfbyte.convert.tensors import Array, Weight
from halfbyte.convert.transforms import Heads, SplitGroups
from halfbyte.errors import FormatError


def stems_of_three(stem: str, family: Family) -> tuple[str, ...]:
    """The stems of the three that a grouped matrix becomes; () of any other."""
    found = next((g for g in family.grouped if stem.endswith(g)), None)
    return tuple(stem.removesuffix(found) + part for part in family.grouped[found]) if found is not None else ()


def rows_of_three(name: str, n_rows: int, heads: Heads) -> list[slice]:
    """Where queries, keys and values are among SplitGroups' rows. Raises FormatError for rows that are no groups."""
    n_heads = heads.heads + 2 * heads.kv_heads
    if not n_rows or n_rows % n_heads:
        raise FormatError(f"{name}: {n_rows} rows are not those of {heads.heads} + 2 x {heads.kv_heads} heads.")
    dim, after_q = n_rows // n_heads, n_rows // n_heads * heads.heads
    after_k = after_q + dim * heads.kv_heads
    return [slice(0, after_q), slice(after_q, after_k), slice(after_k, n_rows)]


def as_three(weights: Mapping[str, Weight], family: Family, heads: Heads) -> dict[str, Weight]:
    """A checkpoint's weights with the family's grouped matrices cut in three. Raises FormatError for one whose rows are
    no groups."""
    out: dict[str, Weight] = {}
    for name, weight in weights.items():
        stem, _, kind = name.rpartition(".")
        three = stems_of_three(stem, family)
        if not three:
            out[name] = weight
            continue
        for part, rows in zip(three, rows_of_three(name, (*weight.shape, 0)[0], heads), strict=True):

            def change(array: Array, rows: slice = rows) -> Array:
                return SplitGroups().apply(array, heads)[rows]

            out[f"{part}.{kind}"] = weight.changed((rows.stop - rows.start, *weight.shape[1:]), change)
    return out
