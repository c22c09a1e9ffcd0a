"""Rows of several streams, rows as large as others, and cut gates, at every CPU level that this machine has, against
numpy."""

from __future__ import annotations

import numpy as np
import pytest

from halfbyte._core import testing

from .test_linear import LEVELS

ALL = ["reference", *LEVELS]


@pytest.mark.parametrize("level", ALL)
@pytest.mark.parametrize("n", [1, 16, 63, 4096])
@pytest.mark.parametrize(("n_in", "n_out"), [(4, 4), (1, 4), (8, 8), (3, 1)])
def test_streams_are_mixed_by_weights_of_their_row(level: str, n: int, n_in: int, n_out: int) -> None:
    draw = np.random.default_rng(7)
    x = draw.normal(size=(9, n_in, n)).astype(np.float32)
    to = draw.normal(size=(9, n_out, n)).astype(np.float32)
    for n_rows in (9, 1):  # of weights: one for all rows, too
        weights = draw.normal(size=(n_rows, n_out, n_in)).astype(np.float32)
        expected = np.matmul(weights.astype(np.float64), x)
        assert np.allclose(testing.mix(level, weights, x, to), to + expected, atol=1e-5)
        if n_in == n_out:  # in place
            assert np.allclose(testing.mix(level, weights, x), expected, atol=1e-5)


@pytest.mark.parametrize("level", ALL)
@pytest.mark.parametrize("n", [1, 24, 2048])
def test_rows_become_as_large_as_others_but_none_grows_out_of_nothing(level: str, n: int) -> None:
    draw = np.random.default_rng(8)
    x, like = draw.normal(size=(2, 11, n)).astype(np.float32)
    x[3] = 0
    x[4] *= 1e-6
    sizes = [np.sqrt(np.mean(a.astype(np.float64) ** 2, axis=1, keepdims=True)) for a in (like, x)]
    expected = x * sizes[0] / np.maximum(sizes[1], 0.01)
    found = testing.match_size(level, x, like, 0.01)
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-9)
    assert not found[3].any()


@pytest.mark.parametrize("level", ALL)
@pytest.mark.parametrize("n", [1, 24, 31, 2048])
def test_gates_below_their_rows_cut_are_none(level: str, n: int) -> None:
    x = np.random.default_rng(9).normal(3, 2, (21, n + 8)).astype(np.float32)
    for deviations in (1.6448536, 0.0, -1.0):
        found = testing.cut(level, x, n, deviations)
        rows = x[:, :n].astype(np.float64)
        least = rows.mean(1, keepdims=True) + deviations * rows.std(1, keepdims=True)
        assert np.allclose(found[:, :n], np.maximum(rows - least, 0), atol=1e-5)
        assert np.array_equal(found[:, n:], x[:, n:])


def test_rows_are_the_same_among_others() -> None:
    draw = np.random.default_rng(10)
    level = LEVELS[-1]
    x, weights = draw.normal(size=(64, 4, 640)).astype(np.float32), draw.normal(size=(64, 4, 4)).astype(np.float32)
    rows = x.reshape(64, -1)
    for found, alone in (
        (testing.mix(level, weights, x), lambda i: testing.mix(level, weights[i : i + 1], x[i : i + 1])),
        (testing.cut(level, rows, 640, 1.5), lambda i: testing.cut(level, rows[i : i + 1], 640, 1.5)),
        (
            testing.match_size(level, rows, rows[::-1], 0.1),
            lambda i: testing.match_size(level, rows[i : i + 1], rows[::-1][i : i + 1], 0.1),
        ),
    ):
        assert all(np.array_equal(found[i : i + 1], alone(i)) for i in (0, 13, 63))
