"""The scheduler: a memory that remembers what was written where shows that blocks are shared rightly."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte._core import testing

BLOCK = 16


class Memory:
    """Runs plans: each row checks that its sequence's earlier positions hold what was computed from the same tokens."""

    def __init__(self, scheduler: testing.Scheduler, windows: tuple[int, ...] = (0,), n_batch: int = 512) -> None:
        self.scheduler = scheduler
        self.windows, self.n_batch = windows, n_batch
        self.slots: dict[int, tuple[int, int]] = {}  # a slot's group of layers, and a hash of the tokens up to its own
        self.n_prompt: dict[int, int] = {}

    def add(self, id: int, prompt: list[int], **spec: Any) -> None:
        self.n_prompt[id] = len(prompt)
        self.scheduler.add(id, prompt, **spec)

    def fork(self, id: int, new_id: int) -> None:
        self.n_prompt[new_id] = self.n_prompt[id]
        for source, target in self.scheduler.fork(id, new_id):
            for i in range(BLOCK):
                if source * BLOCK + i in self.slots:
                    self.slots[target * BLOCK + i] = self.slots[source * BLOCK + i]

    def run(self, plan: list[dict]) -> None:
        for write in (True, False):  # all rows are stored before any row is read
            for rows in plan:
                tokens, tables = self.scheduler.tokens(rows["id"]), self.scheduler.block_tables(rows["id"])
                first, end = rows["first_position"], rows["first_position"] + rows["n_rows"]
                assert rows["is_prefill"] == (end <= self.n_prompt[rows["id"]])
                assert rows["is_newest"] == (end == len(tokens))
                content = 0
                for p in range(end):
                    content = hash((content, tokens[p]))
                    for group, (window, table) in enumerate(zip(self.windows, tables, strict=True)):
                        slot = table[p // BLOCK] * BLOCK + p % BLOCK
                        if write and p >= first:
                            assert slot >= 0
                            self.slots[slot] = group, content
                        elif not write and (window == 0 or p > first - window):
                            assert self.slots[slot] == (group, content), (rows, group, p)
                for window, table in zip(self.windows, tables, strict=True):
                    n_held = sum(block >= 0 for block in table)
                    assert n_held == len(table) if window == 0 else n_held <= (window + self.n_batch) // BLOCK + 3
        self.scheduler.complete(plan)
        self.scheduler.check_integrity()


def streams_and_prompts(plan: list[dict]) -> tuple[dict[int, int], dict[int, int]]:
    streams = {r["id"]: r["n_rows"] for r in plan if not r["is_prefill"]}
    return streams, {r["id"]: r["n_rows"] for r in plan if r["is_prefill"]}


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 1 << 30),
    st.sampled_from([(30, 512, 8), (30, 7, 8), (14, 40, 3), (14, 1, 8), (60, 64, 2)]),
    st.booleans(),
    st.sampled_from([(0,), (20,), (0, 20), (33, 0, 5, 33)]),
)
def test_random_lives(seed: int, sizes: tuple[int, int, int], prefix_cache: bool, windows: tuple[int, ...]) -> None:
    """Requests of all kinds come, draft, fork, slide and go; all get done, no block is lost, written twice or given
    back too early or too late."""
    n_blocks, n_batch, max_sequences = sizes
    n_blocks *= len(windows)
    draw = random.Random(seed)
    s = testing.Scheduler(
        n_blocks,
        n_batch=n_batch,
        max_sequences=max_sequences,
        max_logit_rows=12,
        prefix_cache=prefix_cache,
        windows=windows,
    )
    memory, left, next_id, n_to_come = Memory(s, windows, n_batch), {}, 0, 12
    every_logit: set[int] = set()
    passes: set[int] = set()
    for _ in range(3000):
        if n_to_come and draw.random() < 0.4:
            shared = [draw.randrange(2)] * draw.choice([0, 16, 40])
            prompt = shared + [draw.randrange(3) for _ in range(draw.randint(1, 90))]
            kind = draw.random()
            if kind < 0.2:
                every_logit.add(next_id)
            elif kind < 0.35:
                passes.add(next_id)
            memory.add(
                next_id,
                prompt,
                priority=draw.choice([0, 0, 1]),
                client=draw.randrange(3),
                every_logit=next_id in every_logit,
                every_row=next_id in passes,
                no_logits=next_id in passes,
                is_passing=next_id in passes,
            )
            left[next_id] = draw.randint(1, 30) if next_id not in passes else 1
            next_id += 1
            n_to_come -= 1
        for id in left:
            if s.is_streaming(id) and draw.random() < 0.3:
                s.draft(id, [draw.randrange(3) for _ in range(draw.randint(1, 4))])
        limit = draw.choice([1, 5, 1000])
        plan = s.plan(limit)
        if not left and not n_to_come:
            assert plan == []
            break
        assert plan or not left
        assert sum(r["n_rows"] for r in plan) <= n_batch
        assert sum(r["n_logits"] for r in plan) <= max(12, max_sequences)
        assert s.n_running <= max_sequences
        memory.run(plan)
        for rows in plan:
            id, n_rows = rows["id"], rows["n_rows"]
            assert rows["n_logits"] == n_rows or id not in every_logit or not rows["is_prefill"]
            if not rows["is_newest"] or id not in left:
                continue
            if id in passes:
                assert rows["n_logits"] == 0
                s.finish(id)
                del left[id]
                continue
            assert rows["n_logits"] >= 1
            for _ in range(rows["n_logits"] if not rows["is_prefill"] else 1):
                left[id] -= 1
                if left[id] == 0 or draw.random() < 0.02:
                    s.finish(id)
                    del left[id]
                    break
                if not s.append(id, draw.randrange(3)):
                    break
        for id in set(left) - passes:
            tokens = s.tokens(id)
            if draw.random() < 0.02 and len(tokens) > 40:
                memory.n_prompt[id] = len(tokens) // 2
                s.restart(id, tokens[-(len(tokens) // 2) :])
            elif draw.random() < 0.02 and next_id < 24:
                memory.fork(id, next_id)
                left[next_id] = left[id]
                if id in every_logit:
                    every_logit.add(next_id)
                next_id += 1
        s.check_integrity()
    assert not left
    s.forget_prefixes()
    assert s.n_free == n_blocks


def test_streams_go_on_beside_a_long_prompt_and_it_gets_its_rows() -> None:
    s = testing.Scheduler(400)
    memory = Memory(s)
    for id in range(3):
        memory.add(id, [id] * 5)
    memory.run(s.plan())
    memory.add(9, [9] * 4000)
    for step in range(40):
        for id in range(3):
            s.append(id, step % 5)
        plan = s.plan(100)
        assert streams_and_prompts(plan) == ({0: 1, 1: 1, 2: 1}, {9: 100})
        memory.run(plan)


def test_short_prompts_pass_long_ones_but_not_for_ever() -> None:
    s = testing.Scheduler(4000, n_batch=64, max_sequences=200)
    memory = Memory(s)
    memory.add(1000, list(range(1000)))
    memory.run(s.plan())
    for id in range(200):
        memory.add(id, [id + 5000] * 60)
        plan = s.plan()
        _, prompts = streams_and_prompts(plan)
        memory.run(plan)
        if id == 0:
            assert list(prompts) == [0, 1000]
            assert prompts[0] == 60
        for done in [r["id"] for r in plan if r["is_newest"]]:
            s.finish(done)
            if done == 1000:
                return
    raise AssertionError("The long prompt was never read.")


def test_clients_take_turns() -> None:
    s = testing.Scheduler(4000, n_batch=50)
    memory = Memory(s)
    for id in range(20):
        memory.add(id, [id + 10] * 50, client=1)
    order = []
    for step in range(23):
        if step == 1:
            memory.add(100, [7] * 150, client=2)
        plan = s.plan()
        memory.run(plan)
        for rows in plan:
            order.append(rows["id"])
            if rows["is_newest"]:
                s.finish(rows["id"])
    # The other client reads every second step, though all twenty came first and are shorter.
    assert len(order) == 23
    assert [i for i, id in enumerate(order) if id == 100] == pytest.approx([2, 4, 6], abs=1)


def test_priority_goes_first_and_pushes_out() -> None:
    s = testing.Scheduler(12, n_batch=512, max_sequences=2)
    memory = Memory(s)
    for id in (0, 1):
        memory.add(id, [id] * 60)
    memory.run(s.plan())
    memory.add(2, [2] * 60)
    memory.add(3, [3] * 60, priority=5)
    for id in (0, 1):
        s.append(id, 1)
    plan = s.plan()
    assert sorted(r["id"] for r in plan) == [0, 3]
    assert s.n_preemptions == 1
    memory.run(plan)


def test_equal_prompts_wait_for_the_first_to_be_read() -> None:
    s = testing.Scheduler(100, n_batch=64)
    memory = Memory(s)
    for id in range(4):
        memory.add(id, [5] * 200)
    n_rows = 0
    while not all(s.is_streaming(id) for id in range(4)):
        plan = s.plan()
        n_rows += sum(r["n_rows"] for r in plan if r["is_prefill"])
        memory.run(plan)
        for rows in plan:
            if rows["is_newest"]:
                s.append(rows["id"], rows["id"])
    assert [s.n_cached(id) for id in range(4)] == [0, 192, 192, 192]
    assert n_rows <= 200 + 3 * BLOCK


def test_one_without_room_is_not_passed_for_ever() -> None:
    s = testing.Scheduler(20, prefix_cache=False)
    memory = Memory(s)
    memory.add(0, [1] * 160)  # half of the pool
    memory.run(s.plan())
    s.append(0, 1)
    memory.add(1, [2] * 280)  # has to wait for it
    others = 2
    for step in range(200):
        memory.add(others, [3] * 20)
        others += 1
        if step == 100:
            s.finish(0)
        plan = s.plan()
        memory.run(plan)
        for rows in plan:
            if rows["id"] == 1:
                return
            if rows["id"] > 1:
                s.finish(rows["id"])
    raise AssertionError("The large request was never admitted.")


def test_drafts_are_settled_by_what_is_drawn() -> None:
    s = testing.Scheduler(20)
    memory = Memory(s)
    memory.add(0, [1, 2, 3])
    memory.run(s.plan())
    s.append(0, 4)
    s.draft(0, [5, 6, 7])
    plan = s.plan()
    assert (plan[0]["n_rows"], plan[0]["n_logits"]) == (4, 4)
    memory.run(plan)
    assert s.append(0, 5)
    assert s.append(0, 6)
    assert not s.append(0, 8)
    assert s.tokens(0) == [1, 2, 3, 4, 5, 6, 8]
    plan = s.plan()
    assert (plan[0]["first_position"], plan[0]["n_rows"]) == (6, 1)
    memory.run(plan)


def test_windows_hold_no_more_than_they_see() -> None:
    """A pool that could not keep the whole prompt in every group reads it, and runs a stream as long."""
    s = testing.Scheduler(300, n_batch=32, windows=[0, 40, 40, 40, 40], prefix_cache=False)
    memory = Memory(s, (0, 40, 40, 40, 40), 32)
    memory.add(0, [1] * 1500)  # 94 blocks for one group, 470 for five
    for _ in range(1000):
        plan = s.plan()
        memory.run(plan)
        if plan[0]["is_newest"]:
            s.append(0, 2)
    assert s.n_preemptions == 0
    assert [sum(b >= 0 for b in table) for table in s.block_tables(0)[1:]] == [4] * 4
    s.finish(0)
    assert s.n_free == 300


def test_prompt_rows_that_are_wanted_are_computed_though_they_are_known() -> None:
    s = testing.Scheduler(40)
    memory = Memory(s)
    memory.add(0, [1] * 100)
    memory.run(s.plan())
    s.finish(0)
    memory.add(1, [1] * 100, every_logit=True)
    plan = s.plan()
    assert (plan[0]["first_position"], plan[0]["n_logits"]) == (0, 64)
    memory.add(2, [1] * 100)
    memory.run(plan)
    assert [r["first_position"] for r in s.plan() if r["id"] == 2] == [96]
