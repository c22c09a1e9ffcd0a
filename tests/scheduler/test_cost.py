"""What the engine learns of its steps' cost."""

from __future__ import annotations

import random

import pytest

from halfbyte._core import testing


def learned(row: float, base: float, prompt_row: float, prompt_base: float, seed: int = 0) -> testing.StepCost:
    """A cost model that has seen steps of base + row * streams (+ prompt_base + prompt_row * rows), with noise."""
    draw, cost = random.Random(seed), testing.StepCost()
    for _ in range(200):
        n = draw.randint(1, 16)
        cost.observe(0, n, (base + row * n) * draw.uniform(0.95, 1.05))
        m = draw.choice([8, 16, 32, 64, 128, 256, 512])
        cost.observe(m, n, base + row * n + prompt_base + prompt_row * m)
    return cost


@pytest.mark.parametrize("row", [1e-4, 1e-3, 5e-3])
@pytest.mark.parametrize("base", [5e-3, 5e-2])
def test_streams_keep_half_their_pace(row: float, base: float) -> None:
    prompt_row, prompt_base = 1e-3, 2e-3
    cost = learned(row, base, prompt_row, prompt_base)
    for n in (1, 4, 16):
        streams = base + row * n
        assert cost.stream_seconds(n) == pytest.approx(streams, rel=0.15)
        m = cost.prompt_rows_beside(n, 512)
        added = prompt_base + prompt_row * m
        assert added <= streams * 1.1 or m == 8
        # Nor do streams take all: half of the step is the prompt's, as far as the table's grain allows.
        assert added >= streams * 0.3 or m == 512


def test_nothing_known_yet() -> None:
    cost = testing.StepCost()
    assert cost.stream_seconds(3) == 0
    assert cost.prompt_rows_beside(1, 512) == 32
    assert cost.prompt_rows_beside(1, 5) == 5
    assert cost.prompt_rows_within(1.0, 512) == 512
    cost.observe(64, 2, 0.1)
    assert cost.prompt_seconds(64) == 0


def test_a_slow_model_reads_prompts_in_small_steps() -> None:
    cost = testing.StepCost()
    cost.observe(512, 0, 20.0)
    assert cost.prompt_rows_within(1.0, 512) < 32
    cost.observe(8, 0, 100.0)
    assert cost.prompt_rows_within(1.0, 512) >= 8


def test_one_width_says_little_about_others() -> None:
    cost = testing.StepCost()
    for _ in range(50):
        cost.observe(0, 1, 0.01)
    assert 0 < cost.stream_row_seconds() < 0.01
    for _ in range(50):
        cost.observe(0, 4, 0.013)
    assert cost.stream_row_seconds() == pytest.approx(0.001, rel=0.1)
