"""Moments of rows about their centers: exact sums of rounded values, in every backend."""

import math

import numpy as np
import pytest

from dkmeans.backends import select
from dkmeans.exact import NotFinite


def problem(dtype):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(500, 3)).astype(dtype) * dtype(3) + dtype(100)
    # Values off the grid: huge, tiny, and so small that their squares are subnormal.
    rows[3], rows[7, 0] = dtype(1e12), dtype(1e-30)
    centers = np.array([[100.0, 99.0, 101.0], [0.0, 0.0, 0.0], [98.0, 100.0, 1e-20]])
    rows[9] = centers[2].astype(dtype)
    index, measures = rng.integers(3, size=500), rng.random((2, 500))
    measures[:, 11] = 1e-300, 0.0
    return rows, rng.random(500) + 0.1, index, centers, measures


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["numpy", "native"])
def test_moments_are_the_exact_sums_of_each_rows_values(name, dtype):
    rows, weights, index, centers, measures = problem(dtype)
    found = select(name).add_moments(rows, weights, index, centers, measures)
    assert found.shape == (3, 5)
    sums = found.means(np.ones(3, np.int64))
    differences, w = rows - centers[index], weights[:, None]
    values = np.hstack([differences * differences * w, measures.T * w])
    for cluster in range(3):
        expected = [math.fsum(column) for column in values[index == cluster].T]
        assert sums[cluster].tolist() == expected


@pytest.mark.parametrize("name", ["numpy", "native"])
def test_moments_that_overflow_are_refused(name):
    rows, weights, index, centers, measures = problem(np.float64)
    rows[20, 1] = 1e200
    with pytest.raises(NotFinite):
        select(name).add_moments(rows, weights, index, centers, measures)
