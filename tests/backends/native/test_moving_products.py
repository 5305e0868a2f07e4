"""Sums of products that are kept: moved rows give the bits of rows that are added anew."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import exact_grid
from dkmeans.backends import select
from dkmeans.distance import Centers, Distance
from dkmeans.exact_grid import Grid, NotFinite
from dkmeans.state import sum_up
from tests.exactly import units

NATIVE, NUMPY = select("native"), select("numpy")


def agree(rows, weights, clusters, metric, k=5):
    """Hold the sums of each iteration to those of rows that are added anew, by NumPy."""
    found, grid = None, None
    for index in clusters:
        centers = Centers(np.ones((k, rows.shape[1]), rows.dtype), metric, grid=grid)
        sums, found = NATIVE.weighted_sums(rows, weights, index, centers, found)
        anew, _ = NUMPY.weighted_sums(rows, weights, index, centers, None)
        assert (units(sums.sums) == units(anew.sums)).all()
        assert (units(sums.weights) == units(anew.weights)).all()
        assert sums.counts.tolist() == anew.counts.tolist()
        grid = sums.sums.grid
    return found


@pytest.mark.parametrize("metric", list(Distance))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["whole", "short", "long"])
def test_moved_rows_have_the_sums_of_rows_added_anew(metric, dtype, kind):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(2000, 9)).astype(dtype)
    rows[:, 4] *= dtype(1e-9)
    rows[3], rows[5], rows[1500] = dtype(1e15), 0, dtype(1e-12)
    whole, real = rng.integers(1, 9, 2000).astype(float), rng.random(2000)
    weights = {"whole": whole, "short": real.astype("f4").astype(float), "long": real}[kind]
    first = rng.integers(0, 5, 2000)
    few = np.where(rng.random(2000) < 0.02, (first + 1) % 5, first)
    far = few.copy()
    far[3] = (far[3] + 2) % 5
    assert agree(rows, weights, (first, few, few, far, first), metric) is not None


@given(st.data())
def test_rows_and_weights_of_any_size_are_moved_exactly(data):
    n, d = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    anything = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-9, 9)
    rows = np.reshape(data.draw(st.lists(anything, min_size=n * d, max_size=n * d)), (n, d))
    positive = st.floats(0, allow_infinity=False, exclude_min=True) | st.floats(0.1, 9)
    weights = np.array(data.draw(st.lists(positive, min_size=n, max_size=n)))
    index = st.lists(st.integers(0, 4), min_size=n, max_size=n).map(np.array)
    agree(rows, weights, [data.draw(index) for _ in range(3)], Distance.SQUARED_EUCLIDEAN)


def test_several_pieces_are_moved_each_for_itself(monkeypatch):
    monkeypatch.setattr(exact_grid, "PIECE_ROWS", 300)
    rng = np.random.default_rng(5)
    rows, weights = rng.normal(size=(1000, 3)), rng.random(1000)
    found = agree(rows, weights, rng.integers(0, 5, (3, 1000)), Distance.SQUARED_EUCLIDEAN)
    assert len(found.pieces) == 4


def test_sums_do_not_change_when_another_task_moves_the_cached_rows():
    rng = np.random.default_rng(7)
    rows, weights, k = rng.normal(size=(1000, 3)), rng.random(1000), 5
    centers = Centers(np.ones((k, 3)), Distance.SQUARED_EUCLIDEAN)
    sums, found = NATIVE.weighted_sums(rows, weights, np.zeros(1000, int), centers, None)
    before, counts = units(sums.sums).copy(), sums.counts.tolist()
    NATIVE.weighted_sums(rows, weights, np.ones(1000, int), centers, found)
    assert (units(sums.sums) == before).all()
    assert sums.counts.tolist() == counts


def test_sums_that_are_larger_than_the_rows_are_not_kept():
    rows = np.random.default_rng(6).normal(size=(20, 3))
    assert agree(rows, np.ones(20), [np.arange(20) % 5], Distance.COSINE, k=500) is None


def test_chunks_have_the_grid_of_the_first_and_go_on_from_their_sums():
    rng = np.random.default_rng(5)
    chunks = [(scale * rng.normal(size=(500, 3))).astype("f4") for scale in (1, 1.7, 0.8)]
    weights, index = rng.uniform(0.5, 2, 500), rng.integers(0, 4, 500)
    first = Centers(np.ones((4, 3), np.float32), Distance.SQUARED_EUCLIDEAN)
    found = [NATIVE.weighted_sums(rows, weights, index, first, None) for rows in chunks]
    total = sum_up([sums for sums, _ in found])
    second = Centers(np.ones((4, 3), np.float32), first.distance, grid=total.sums.grid)
    for rows, (sums, entry) in zip(chunks, found, strict=True):
        again, later = NATIVE.weighted_sums(rows, weights, index, second, entry)
        assert later.pieces[0].planes is entry.pieces[0].planes
        assert (units(again.sums) == units(sums.sums)).all()


def test_earlier_sums_on_a_grid_that_suits_are_continued_on_it():
    rng = np.random.default_rng(7)
    rows, weights, index = rng.normal(size=(500, 2)), np.ones(500), np.zeros(500, np.int64)
    centers = Centers(rows[:2], Distance.SQUARED_EUCLIDEAN)
    sums, _ = NATIVE.weighted_sums(rows, weights, index, centers, None)
    coarser = Grid(sums.sums.grid.exponents - 2)
    found = NATIVE.weighted_sums(
        rows, weights, index, Centers(rows[:2], Distance.SQUARED_EUCLIDEAN, grid=coarser), None
    )[1]
    assert found.grid.exponents[:-1].tolist() == coarser.exponents.tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_has_no_sums(bad):
    rows = np.ones((50, 2))
    rows[4, 1] = bad
    centers = Centers(np.ones((2, 2)), Distance.SQUARED_EUCLIDEAN)
    with pytest.raises(NotFinite):
        NATIVE.weighted_sums(rows, np.ones(50), np.zeros(50, np.int64), centers, None)
