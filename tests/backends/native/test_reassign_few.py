"""The kernel of bounds for few centers: for any number of rows, and any width of the vectors."""

import numpy as np
import pytest

from dkmeans.backends.native import backend as native
from dkmeans.backends.native import bounds, processor
from dkmeans.backends.native.bounds import Waiting
from dkmeans.backends.native.runner import kernel_array
from dkmeans.distance import Centers, Distance
from tests.exactly import same_partial_sums


def follow(rows, k, iterations, move=0.02):
    """Return the bounds of each iteration, checked against iterations without bounds."""
    rng, found, all_found = np.random.default_rng(3), None, []
    values = rows[rng.choice(len(rows), k, replace=len(rows) < k)].astype(np.float32)
    for _ in range(iterations):
        centers = Centers(values, Distance.SQUARED_EUCLIDEAN)
        if found is None:
            found = bounds.begin(rows, centers, Waiting(), "few", with_sums=True).bounds
        else:
            found = bounds.advance(rows, centers, found).bounds
        assert same_partial_sums(found.sums, native.partial_sums(rows, centers))
        assert found.nearest.tolist() == native.nearest(rows, centers)[0].tolist()
        all_found.append(found)
        values = (values + move * rng.normal(size=values.shape)).astype(np.float32)
    return all_found


@pytest.fixture(autouse=True)
def bounds_are_always_kept(monkeypatch):
    monkeypatch.setattr(bounds, "_courses", bounds.Courses())
    monkeypatch.setattr(bounds, "_USELESS_SHARE", 9.0)
    monkeypatch.setattr(bounds, "_MOST_SLOW", 99.0)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 700, 5000])
@pytest.mark.parametrize(("d", "k"), [(1, 4), (3, 16), (21, 7), (3, 17), (7, 100)])
def test_every_number_of_rows_is_assigned_as_without_bounds(n, d, k):
    rows = np.random.default_rng(n).normal(size=(n, d)).astype(np.float32)
    follow(kernel_array(rows), k, 5)


def test_narrower_vectors_change_no_cluster_of_few(monkeypatch):
    monkeypatch.setattr(processor, "vector_bytes", lambda: 16)
    monkeypatch.setattr(processor, "matrix_unit", lambda: False)
    rows = np.random.default_rng(5).normal(size=(500, 5)).astype(np.float32)
    follow(kernel_array(rows), 13, 4)


def test_rows_whose_bounds_hold_are_not_scored():
    rows = kernel_array(np.random.default_rng(5).normal(size=(5000, 3)).astype(np.float32))
    for move, most in ((1e-6, 0.05), (0.01, 0.5)):
        last = follow(rows, 16, 6, move)[-1]
        counts = bounds._scratch(1, 3, rows.dtype).counts
        assert counts[0] == counts[1] < most * len(rows)
        assert last.work == 0


def test_distances_of_fewer_centers_than_a_group_are_counted_as_they_are(monkeypatch):
    rows = kernel_array(np.random.default_rng(5).normal(size=(20_000, 3)).astype(np.float32))
    values, found, skipped = rows[:4].copy(), None, []
    for _ in range(bounds._FIRST_OF_FEW + 3):
        centers = Centers(values, Distance.SQUARED_EUCLIDEAN)
        _, found, count = native.sums_by_bounds(rows, centers, found, "few")
        skipped.append(count)
        values = values + np.float32(1e-4)
    assert skipped[: bounds._FIRST_OF_FEW + 1] == [0] * (bounds._FIRST_OF_FEW + 1)
    assert 0.9 * 4 * len(rows) < skipped[-1] < 4 * len(rows)
    scored = bounds._scratch(1, 3, rows.dtype).counts[0]
    assert skipped[-1] == 4 * (len(rows) - scored)


def test_rows_that_are_not_finite_are_of_the_first_center():
    rows = np.random.default_rng(5).normal(size=(400, 3)).astype(np.float32)
    rows[[7, 399]], rows[20] = np.nan, np.inf
    rows = kernel_array(rows)
    values, found = rows[100:110].copy(), None
    for _ in range(4):
        centers = Centers(values, Distance.SQUARED_EUCLIDEAN)
        if found is None:
            found = bounds.begin(rows, centers, Waiting(), "few", with_sums=False).bounds
        else:
            found = bounds.advance(rows, centers, found).bounds
        assert found.nearest.tolist() == native.nearest_index(rows, centers).tolist()
        values = values + np.float32(0.01)


def test_centers_of_which_two_are_equal_give_their_rows_to_the_first():
    rows = kernel_array(np.random.default_rng(5).integers(0, 3, (3000, 3)).astype(np.float32))
    values = rows[:12].copy()
    values[6:] = values[:6]
    centers = Centers(values, Distance.SQUARED_EUCLIDEAN)
    found = bounds.begin(rows, centers, Waiting(), "few", with_sums=True).bounds
    moved = Centers(values + np.float32(0.125), Distance.SQUARED_EUCLIDEAN)
    found = bounds.advance(rows, moved, found).bounds
    assert found.nearest.max() < 6
    assert same_partial_sums(found.sums, native.partial_sums(rows, moved))
