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
            blocks = tree.match(text)[0]
            assert blocks == model.match(text)
            model.clock += 1
            while len(blocks) < len(text) // BLOCK and (block := pool.allocate()) >= 0:
                blocks.append(block)
            tree.insert(text, [blocks])
            for key, block in zip(model.beginnings(text), blocks, strict=False):
                known = model.known.setdefault(key, block)
                if known not in model.held:  # the caller's is kept, so that the other is free
                    model.known[key] = block
                model.touch(key)
            model.held += blocks
        elif name == "match":
            assert tree.n_known(text) == len(model.match(text))
            blocks = tree.match(text)[0]
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


WINDOWS = [0, 40, 17, 40]


@given(st.lists(st.tuples(st.sampled_from(["run", "match", "drop", "evict"]), TEXTS, st.integers(1, 4)), max_size=60))
def test_windowed_groups_give_what_the_next_token_sees(operations: list[tuple[str, list[int], int]]) -> None:
    pool = testing.BlockPool(60)
    tree = testing.PrefixTree(pool, WINDOWS)
    held: list[list[list[int]]] = []
    content: dict[int, tuple[int, tuple[int, ...]]] = {}  # a block's group, and the tokens up to its last
    for name, text, n in operations:
        if name in ("run", "match"):
            n_known = tree.n_known(text)
            tables = tree.match(text)
            held.append(tables)
            for group, (window, table) in enumerate(zip(WINDOWS, tables, strict=True)):
                assert len(table) == n_known
                first = max(0, n_known * BLOCK - window + 1) // BLOCK if window else 0
                for i, block in enumerate(table):
                    assert (block >= 0) == (i >= first)
                    assert block < 0 or content[block] == (group, tuple(text[: (i + 1) * BLOCK]))
        if name == "run":  # computes the rest, block by block, and lets go of what is behind the windows
            for i in range(len(tables[0]), len(text) // BLOCK):
                blocks = [pool.allocate() for _ in WINDOWS]
                if -1 in blocks:
                    for block in blocks:
                        if block >= 0:
                            pool.release(block)
                    break
                for group, block in enumerate(blocks):
                    tables[group].append(block)
                    content[block] = group, tuple(text[: (i + 1) * BLOCK])
                tree.insert(text[: (i + 1) * BLOCK], tables)
                for window, table in zip(WINDOWS, tables, strict=True):
                    for j in range(max(0, (i + 1) * BLOCK - window + 1) // BLOCK if window else 0):
                        if table[j] >= 0:
                            pool.release(table[j])
                            table[j] = -1
        elif name == "drop" and held:
            for table in held.pop(n % len(held)):
                for block in table:
                    if block >= 0:
                        pool.release(block)
        elif name == "evict":
            n_free, n_held, n_evictable = pool.n_free, tree.n_blocks, tree.n_evictable
            n_freed = tree.evict(n)
            assert n_freed == pool.n_free - n_free
            assert n_freed <= min(n_evictable, n + len(WINDOWS) - 1)
            assert tree.n_blocks <= n_held - n_freed
    for tables in held:
        for table in tables:
            for block in table:
                if block >= 0:
                    pool.release(block)
    pool.check_integrity()
    assert tree.n_evictable == tree.n_blocks == 60 - pool.n_free
    tree.evict(1000)
    assert pool.n_free == 60
    assert tree.n_blocks == 0


def test_what_windows_have_passed_goes_first_unless_others_began_there() -> None:
    pool = testing.BlockPool(40)
    tree = testing.PrefixTree(pool, [0, 16])
    text = list(range(10 * BLOCK))
    tables = [[pool.allocate() for _ in range(10)] for _ in range(2)]
    tree.insert(text, tables)
    for block in [*tables[0], *tables[1]]:
        pool.release(block)
    branch = text[: 5 * BLOCK]
    for table in tree.match(branch):
        for block in table:
            if block >= 0:
                pool.release(block)
    assert tree.evict(8) == 8
    assert tree.n_known(text) == 10
    assert tree.n_known([*branch, 7777]) == 5
    assert tree.n_known(text[: 4 * BLOCK]) == 0
