"""The kernels that add up moments: the rows that they leave, and the order of the others."""

import numpy as np
import pytest

from dkmeans.backends.moments import AMBIGUOUS, LENGTH
from dkmeans.backends.native import backend as native
from dkmeans.backends.native.moment_sums import (
    MEASURE_SUMS,
    add_measures,
    add_squares,
    lengths_of,
    planes_of,
)
from dkmeans.distance import Centers, Distance
from tests.exactly import same_sums

OFF = [1e12, 1e-100, np.nan, np.inf]


@pytest.mark.parametrize("order", [[], range(40), range(39, -1, -1)])
def test_rows_with_squares_off_the_grid_are_left(order):
    rows, weights, index = np.ones((40, 9)), np.ones(40), np.zeros(40, np.int64)
    rows[[7, 9, 11, 13], [1, 0, 8, 1]] = OFF
    sums, is_left = np.zeros((6, 16), np.int64), np.full(40, 7, np.uint8)
    centers, scales, order = np.zeros((2, 9)), np.full(9, 2.0**22), np.array(order, np.int64)
    add_squares(rows, weights, index, order, centers, scales, sums, is_left)
    assert np.flatnonzero(is_left).tolist() == [7, 9, 11, 13]
    assert sums[0, :9].tolist() == [36 * 2**22] * 9
    assert not sums[1:].any()


def test_sums_larger_than_the_caches_are_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    rows, centers = rng.normal(size=(500, 9)), rng.normal(size=(30, 9))
    given = (
        rows,
        rng.random(500),
        rng.integers(30, size=500),
        Centers(centers, Distance.SQUARED_EUCLIDEAN),
    )
    found = native.add_squares(*given)
    monkeypatch.setattr(native, "_CACHED_SUMS", 0)
    assert same_sums(native.add_squares(*given), found)


def test_rows_with_measures_off_the_grid_are_left_but_have_a_length():
    distances, weights, index = np.ones((2, 21)), np.ones(21), np.ones(21, np.int64)
    distances[0, [2, 9, 18, 20]] = 1e-100, np.nan, np.inf, 1e18
    sums, is_left = np.zeros((2, MEASURE_SUMS), np.int64), np.full(24, 7, np.uint8)
    add_measures(distances, weights, index, 1.0, np.full(4, 2.0**22), sums, is_left)
    assert np.flatnonzero(is_left[:21]).tolist() == [2, 9, 18, 20]
    planes = planes_of(sums, has_second=True)
    assert planes[0].tolist() == [[0] * 4, [17 * 2**22, 17 * 2**22, 0, 17 * 2**22]]
    assert planes_of(sums, has_second=False)[0][1, [LENGTH, AMBIGUOUS]].tolist() == [17 * 2**22, 0]
    assert lengths_of(sums)[0] == 0
