"""Moments of rows about their centers: exact sums of rounded values, in every backend."""

import math

import numpy as np
import pytest

from dkmeans.backends import select
from dkmeans.backends.moments import NUM_MEASURES
from dkmeans.distance import Centers, Distance, directions
from dkmeans.exact_grid import NotFinite

EUCLIDEAN, COSINE = Distance.SQUARED_EUCLIDEAN, Distance.COSINE


def rows_of(dtype, width):
    """Return rows with values off the grid: huge, tiny, and of subnormal squares."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(501, width)).astype(dtype) * dtype(3) + dtype(100)
    rows[3], rows[7, 0] = dtype(1e12), dtype(1e-30)
    centers = rng.normal(size=(3, width)) + 100
    centers[1], centers[2, -1] = 0.0, 1e-20
    rows[9] = centers[2].astype(dtype)
    return rows, rng.random(501) + 0.1, rng.integers(3, size=501), centers


def assert_sums(found, values, index):
    """Assert that sums are the rounded sums of what each row adds."""
    sums = found.means(np.ones(3, np.int64))
    for cluster in range(3):
        assert sums[cluster].tolist() == [math.fsum(c) for c in values[index == cluster].T]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [3, 21])
@pytest.mark.parametrize("name", ["numpy", "native"])
def test_squares_are_the_exact_sums_of_each_rows_squares(name, width, dtype):
    rows, weights, index, centers = rows_of(dtype, width)
    found = select(name).add_squares(rows, weights, index, Centers(centers, EUCLIDEAN))
    differences = rows - centers[index]
    assert_sums(found, differences * differences * weights[:, None], index)
    found = select(name).add_squares(rows, weights, index, Centers(centers, COSINE))
    differences = directions(rows) - directions(centers)[index]
    assert_sums(found, differences * differences * weights[:, None], index)


@pytest.mark.parametrize("name", ["numpy", "native"])
@pytest.mark.parametrize("count", [1, 2])
def test_measures_are_the_exact_sums_of_each_rows_measures(name, count):
    rng = np.random.default_rng(2)
    distances = np.sort(rng.random((2, 501)), axis=0)
    # At the center; at both; halfway; off the grid; and as far as float64 reaches.
    distances[:, 5], distances[0, 6], distances[:, 7] = 0.0, 0.0, 0.5
    distances[0, 11], distances[:, 12] = 1e-300, 1e300
    weights, index = rng.random(501) + 0.1, rng.integers(3, size=501)
    found, lengths = select(name).add_measures(distances[:count], weights, index, 3, 2.0)
    near, far = np.sqrt(2.0 * distances)
    values = np.zeros((501, NUM_MEASURES))
    values[:, 0], values[:, 1] = distances[0], near
    if count == 2:
        values[:, 2] = [1 - (a / b if b else 1.0) for a, b in zip(near, far, strict=True)]
        values[:, 3] = far <= 1.05 * near
    assert_sums(found, values * weights[:, None], index)
    assert lengths.tolist() == [near[index == cluster].max() for cluster in range(3)]


@pytest.mark.parametrize("name", ["numpy", "native"])
def test_moments_that_overflow_are_refused(name):
    rows, weights, index, centers = rows_of(np.float64, 3)
    rows[20, 1] = 1e200
    with pytest.raises(NotFinite):
        select(name).add_squares(rows, weights, index, Centers(centers, EUCLIDEAN))
    with pytest.raises(NotFinite):
        select(name).add_measures(np.full((2, 501), 1e308), weights + 9, index, 3, 1.0)
