"""The prefix tree against a dictionary of token runs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from halfbyte._core import testing

BLOCK = 16
# Texts of up to five blocks, each block one of two: many share beginnings.
TEXTS = st.builds(
    lambda blocks, tail: [i for i in blocks for _ in range(BLOCK)] + [9] * tail,
    st.lists(st.integers(0, 1), max_size=5),
    st.integers(0, BLOCK - 1),
)
OPERATIONS = st.lists(st.tuples(st.sampled_from(["insert", "match", "drop", "evict"]), TEXTS), max_size=40)


class Model:
    """What the tree must know: the block of each beginning, when it was used, who else holds blocks."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], int] = {}
        self.used: dict[tuple[int, ...], int] = {}
        self.held: list[int] = []
        self.clock = 0

    def touch(self, key: tuple[int, ...]) -> None:
        self.used[key] = self.clock

    def beginnings(self, text: list[int]) -> list[tuple[int, ...]]:
        return [tuple(text[: BLOCK * (i + 1)]) for i in range(len(text) // BLOCK)]

    def match(self, text: list[int]) -> list[int]:
        blocks = []
        for key in self.beginnings(text):
            if key not in self.known:
                break
            self.touch(key)
            blocks.append(self.known[key])
        return blocks

    def evict_one(self) -> bool:
        leaves = [
            key
            for key in self.known
            if self.held.count(self.known[key]) == 0
            and not any(len(k) == len(key) + BLOCK and k[: len(key)] == key for k in self.known)
        ]
        if not leaves:
            return False
        oldest = min(leaves, key=lambda k: self.used[k])
        del self.known[oldest], self.used[oldest]
        return True


@given(OPERATIONS)
def test_matches_inserts_and_evicts_like_a_dictionary(operations: list[tuple[str, list[int]]]) -> None:
    pool = testing.BlockPool(24)
    tree, model = testing.PrefixTree(pool), Model()
    for name, text in operations:
        model.clock += 1
        if name == "insert":
            blocks = tree.match(text)
            assert blocks == model.match(text)
            model.clock += 1
            while len(blocks) < len(text) // BLOCK and (block := pool.allocate()) >= 0:
                blocks.append(block)
            tree.insert(text, blocks)
            for key, block in zip(model.beginnings(text), blocks, strict=False):
                model.known.setdefault(key, block)
                model.touch(key)
            model.held += blocks
        elif name == "match":
            assert tree.n_known(text) == len(model.match(text))
            blocks = tree.match(text)
            assert blocks == model.match(text)
            model.held += blocks
        elif name == "drop":
            for block in model.held[: len(text)]:
                pool.release(block)
            del model.held[: len(text)]
        else:
            assert tree.evict(1) == int(model.evict_one())
        assert tree.n_blocks == len(model.known)
        refs = [model.held.count(b) + list(model.known.values()).count(b) for b in range(24)]
        pool.check_integrity(refs)
        assert tree.n_evictable == sum(model.held.count(b) == 0 for b in model.known.values())
    for block in model.held:
        pool.release(block)
    tree.evict(100)
    assert pool.n_free == 24
