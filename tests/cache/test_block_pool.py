"""The block pool against a dictionary of counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte._core import testing
from halfbyte.errors import InvalidArgumentError

OPERATIONS = st.lists(st.tuples(st.sampled_from(["allocate", "add_ref", "release"]), st.integers(0, 7)), max_size=80)


@given(st.integers(0, 8), OPERATIONS)
def test_counts(n_blocks: int, operations: list[tuple[str, int]]) -> None:
    pool, refs = testing.BlockPool(n_blocks), [0] * n_blocks
    for name, block in operations:
        if name == "allocate":
            found = pool.allocate()
            if found < 0:
                assert 0 not in refs
            else:
                assert refs[found] == 0
                refs[found] = 1
        elif block < n_blocks and refs[block] > 0:
            getattr(pool, name)(block)
            refs[block] += 1 if name == "add_ref" else -1
        else:
            with pytest.raises(InvalidArgumentError):
                getattr(pool, name)(block)
        assert pool.n_free == refs.count(0)
        pool.check_integrity(refs)


def test_integrity_sees_a_lost_reference() -> None:
    pool = testing.BlockPool(2)
    pool.allocate()
    with pytest.raises(InvalidArgumentError, match="references"):
        pool.check_integrity([0, 0])
