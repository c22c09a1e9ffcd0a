"""Which layers share blocks and where each lies there: nothing overlaps, little is left empty."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte._core import testing

ALIGNMENT = 64
HEADS, DIMS = st.integers(1, 5), st.sampled_from([32, 64, 96, 256])


def aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def alike(n: int, group: int, heads: int, dim: int, memory: int = 0) -> list[tuple[int, ...]]:
    return [(heads, dim, memory, group, -1)] * n


@given(
    st.lists(st.tuples(HEADS, DIMS, st.integers(0, 1), st.integers(0, 3), st.just(-1)), min_size=1, max_size=20),
    st.sampled_from(["f16", "f32", "q8_0", "q4_0"]),
)
def test_layers_of_a_group_never_overlap(layers: list[tuple[int, ...]], kv_type: str) -> None:
    slots, places = testing.kv_places(layers, kv_type)
    ends: dict[tuple[int, int], int] = {}  # of what a group has in a slot so far
    for (_, _, memory, group, _), (slot, offset, n_bytes) in zip(layers, places, strict=True):
        assert slots[slot][0] == memory
        assert offset % ALIGNMENT == 0
        assert offset >= ends.get((group, slot), 0)
        ends[group, slot] = offset + n_bytes
        assert offset + n_bytes <= slots[slot][1]
    # A block is as large as the largest group, in each memory.
    totals: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for (_, _, memory, group, _), (_, _, n_bytes) in zip(layers, places, strict=True):
        totals[memory][group] += aligned(n_bytes)
    for memory, of_groups in totals.items():
        assert sum(n for m, n in slots if m == memory) == max(of_groups.values())


def test_groups_of_the_same_layers_have_a_slot_for_each() -> None:
    slots, places = testing.kv_places(alike(3, 0, 2, 64) + alike(3, 1, 2, 64) + alike(2, 2, 2, 64))
    n_bytes = 16 * 2 * 64 * 2 * 2
    assert slots == [(0, n_bytes)] * 3
    assert places == [(slot, 0, n_bytes) for slot in (0, 1, 2, 0, 1, 2, 0, 1)]


def test_small_layers_lie_beside_each_other_where_a_large_one_would() -> None:
    """Gemma 4 26B: 8 heads of 256 with a window, 2 heads of 512 without."""
    slots, places = testing.kv_places(alike(3, 0, 8, 256) + alike(5, 1, 2, 512))
    large, small = 16 * 8 * 256 * 2 * 2, 16 * 2 * 512 * 2 * 2
    assert slots == [(0, large)] * 3
    assert places[3:] == [(0, 0, small), (0, small, small), (1, 0, small), (1, small, small), (2, 0, small)]


def test_a_layer_that_would_be_cut_keeps_slots_together() -> None:
    slots, places = testing.kv_places(alike(2, 0, 3, 32) + alike(3, 1, 2, 32))
    assert [slot for slot, _, _ in places] == [0] * 5
    assert slots == [(0, 16 * 6 * 32 * 2 * 2)]


def test_a_layer_without_keys_lies_where_those_are_that_it_reads() -> None:
    _, places = testing.kv_places([*alike(1, 0, 2, 64), *alike(1, 0, 1, 64), (1, 64, 0, 0, 1), (2, 64, 0, 0, 0)])
    assert places[2:] == [places[1], places[0]]


def layer(window: int, heads: int, dim: int, n: int, memory: int = 0) -> list[tuple[int, ...]]:
    return [(window, heads, dim, memory, -1)] * n


def share_in_use(layers: list[tuple[int, ...]]) -> float:
    """Numbers of a position that layers have of their own, of all that blocks of every group hold."""
    windows, group_of = testing.kv_groups(layers)
    of_groups: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for (_, heads, dim, memory, source), group in zip(layers, group_of, strict=True):
        if source < 0:
            of_groups[memory][group] += 2 * heads * dim
    held = len(windows) * sum(max(groups.values()) for groups in of_groups.values())
    return sum(sum(groups.values()) for groups in of_groups.values()) / held


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 128, 512]), HEADS, DIMS, st.integers(0, 1), st.just(-1)), min_size=1, max_size=30
    )
)
def test_layers_of_a_group_look_equally_far_and_little_stays_empty(layers: list[tuple[int, ...]]) -> None:
    windows, group_of = testing.kv_groups(layers)
    assert set(group_of) == set(range(len(windows)))
    if len(windows) == 1:  # all that is left where layers are too uneven
        assert windows == [0 if any(w == 0 for w, *_ in layers) else max(w for w, *_ in layers)]
        return
    assert [windows[group] for group in group_of] == [window for window, *_ in layers]
    assert share_in_use(layers) >= 8 / 9


@pytest.mark.parametrize(
    ("layers", "n_windowed", "n_full"),
    [
        (layer(512, 1, 256, 15) + layer(0, 1, 256, 3), 5, 1),  # Gemma 3 270M
        (layer(1024, 8, 256, 25) + layer(0, 2, 512, 5), 9, 1),  # Gemma 4 26B
        (layer(1024, 16, 256, 50) + layer(0, 4, 512, 10), 10, 1),  # Gemma 4 31B
        (layer(512, 1, 256, 12) + layer(0, 1, 512, 3), 2, 1),  # Gemma 4 E2B, less what reads others' caches
        (layer(512, 2, 256, 20) + layer(0, 2, 512, 4), 5, 2),  # Gemma 4 E4B, likewise
        (layer(512, 2, 256, 16) + layer(0, 2, 256, 4), 4, 1),  # Gemma 3n E4B, likewise
        (layer(128, 8, 64, 12) + layer(0, 8, 64, 12), 1, 1),  # gpt-oss
        (layer(0, 8, 128, 32), 0, 1),
        (layer(4096, 8, 128, 32), 1, 0),
        (  # Gemma 4 26B on two devices
            layer(1024, 8, 256, 13)
            + layer(0, 2, 512, 3)
            + layer(1024, 8, 256, 12, memory=1)
            + layer(0, 2, 512, 2, memory=1),
            13,
            2,
        ),
    ],
)
def test_groups_of_models(layers: list[tuple[int, ...]], n_windowed: int, n_full: int) -> None:
    windows, _ = testing.kv_groups(layers)
    assert (sum(w > 0 for w in windows), windows.count(0)) == (n_windowed, n_full)
    if len(windows) > 1:
        assert share_in_use(layers) > 0.9


def test_a_layer_without_keys_is_in_the_group_of_those_that_it_reads() -> None:
    own = [(16, 1, 32, 0, -1), (0, 1, 32, 0, -1)]
    windows, group_of = testing.kv_groups([*own, (16, 1, 32, 0, 0), (0, 1, 32, 0, 1)])
    assert windows == [0, 16]
    assert group_of == [1, 0, 1, 0]
