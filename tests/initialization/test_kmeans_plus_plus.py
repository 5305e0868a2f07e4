"""Greedy k-means++ against plain float64 distances; and that nothing but the rows decides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmeans.initialization import kmeans_plus_plus as greedy
from dkmeans.initialization.kmeans_plus_plus import plus_plus


def plain(points, k, candidates, rng, weights=None):
    """The same draws, over all distances of all rows, in float64."""
    points = points.astype(np.float64)
    chances = None if weights is None else weights / weights.sum()
    weights = np.ones(len(points)) if weights is None else weights
    nearest, picked = None, []
    for _ in range(k):
        if nearest is None:
            drawn = np.unique(rng.choice(len(points), candidates, p=chances))
        elif not (weights * nearest).any():
            drawn = rng.integers(len(points), size=candidates)
        else:
            stops = np.cumsum(weights * nearest)
            drawn = np.searchsorted(stops, rng.random(candidates) * stops[-1], "right")
        apart = ((points[drawn][:, None] - points) ** 2).sum(axis=2)
        closer = apart if nearest is None else np.minimum(apart, nearest)
        sums = (closer * weights).sum(axis=1)
        best = int(np.flatnonzero(sums <= sums.min() * (1 + 1e-12))[0])
        nearest = closer[best]
        picked.append(int(drawn[best]))
    return picked


def rows_of(n, d, offset=0.0, dtype=np.float32, seed=0):
    return (np.random.default_rng(seed).normal(size=(n, d)) + offset).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows,
        lambda rows: rows + 1e6,
        lambda rows: rows * 1e-25,
        lambda rows: rows * 1e25,
        lambda rows: rows * np.logspace(-9, 9, len(rows))[:, None],
    ],
    ids=["plain", "offset", "tiny", "huge", "scales"],
)
def test_picks_are_those_of_plain_distances(change, dtype):
    rows = change(rows_of(300, 5, dtype=np.float64)).astype(dtype)
    for candidates in (1, 4):
        found = plus_plus(rows, 12, candidates, np.random.default_rng(1))
        assert found.tolist() == plain(rows, 12, candidates, np.random.default_rng(1))
        weights = np.random.default_rng(2).random(300) * np.arange(300)
        found = plus_plus(rows, 12, candidates, np.random.default_rng(1), weights)
        assert found.tolist() == plain(rows, 12, candidates, np.random.default_rng(1), weights)


def test_rows_that_float32_cannot_tell_apart_are_told_apart():
    rows = np.array([[0.0], [1e9], [1e9 + 1], [1e9 + 2]])
    for seed in range(10):
        assert len(set(plus_plus(rows, 4, 2, np.random.default_rng(seed)).tolist())) == 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=12).filter(any), st.integers(0, 9))
def test_all_rows_of_any_weight_are_picked_before_one_of_none(weights, seed):
    weights = np.array(weights, float)
    rows, rng = rows_of(len(weights), 2, seed=seed), np.random.default_rng(seed)
    picked = plus_plus(rows, np.count_nonzero(weights), 3, rng, weights)
    assert sorted(picked.tolist()) == np.flatnonzero(weights).tolist()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_picks_are_the_same_for_any_number_of_threads(monkeypatch, threads):
    rows = rows_of(500, 7)
    monkeypatch.setattr(greedy, "_BLOCK_ROWS", 64)
    expected = plus_plus(rows, 20, 3, np.random.default_rng(2))
    monkeypatch.setattr(greedy.cores, "usable_cores", lambda: threads)
    assert plus_plus(rows, 20, 3, np.random.default_rng(2)).tolist() == expected.tolist()
