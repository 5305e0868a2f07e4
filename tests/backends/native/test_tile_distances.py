"""Distances of a tile: the bits of those that are computed one by one, for any number of rows."""

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.native import backend as native
from dkmeans.distance import Centers, Distance
from tests.reference import METRICS


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("width", [1, 7, 8, 9, 16, 127, 128, 129, 300, 1027])
@pytest.mark.parametrize("n", [1, 3, 8, 33])
def test_distances_to_one_and_two_centers_are_those_of_numpy(metric, width, n):
    rng = np.random.default_rng(width + n)
    rows = (rng.normal(size=(n, width)) * 10.0 ** rng.integers(-9, 9, (n, 1))).astype(np.float32)
    centers = Centers(rng.normal(size=(5, width)).astype(np.float32), Distance(metric))
    assert (
        native.nearest(rows, centers)[1].tobytes() == by_numpy.nearest(rows, centers)[1].tobytes()
    )
    found, expected = (each.nearest_two(rows, centers) for each in (native, by_numpy))
    assert found[0].tolist() == expected[0].tolist()
    assert found[1].tobytes() == expected[1].tobytes()


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_not_finite_have_the_distances_of_numpy(metric):
    rows = np.ones((20, 11), np.float32)
    rows[3, 2], rows[7, 9], rows[12, 0], rows[19] = np.nan, np.inf, -np.inf, 0.0
    centers = Centers(np.arange(22, dtype=np.float32).reshape(2, 11), Distance(metric))
    found, expected = (each.nearest(rows, centers)[1] for each in (native, by_numpy))
    np.testing.assert_array_equal(found, expected)
