"""Ambiguous rows get the nearest of exact distances, and the lowest index of equal ones."""

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.native import backend as native
from dkmeans.distance import Centers, Distance


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 3, 40, 150])
def test_rows_between_equal_centers_get_the_first_two(k, dtype):
    rng = np.random.default_rng(k)
    # Each center is there several times, in other panels too.
    values = rng.normal(size=(-(-k // 4), 6))[rng.integers(-(-k // 4), size=k)].astype(dtype)
    rows = values[rng.integers(k, size=300)]
    centers = Centers(values, Distance.SQUARED_EUCLIDEAN)
    index, distance = native.nearest_two(rows, centers)
    expected_index, expected_distance = by_numpy.nearest_two(rows, centers)
    assert index.tolist() == expected_index.tolist()
    assert distance.tobytes() == expected_distance.tobytes()


def test_rows_that_are_not_finite_get_center_0():
    rows = np.array([[np.nan, 1], [np.inf, 1], [1, 1]])
    centers = Centers(np.array([[9.0, 9], [1, 1], [1, 1]]), Distance.SQUARED_EUCLIDEAN)
    assert native.nearest_index(rows, centers).tolist() == [0, 0, 1]
