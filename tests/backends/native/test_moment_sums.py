"""The kernel that adds up moments: the rows that it leaves."""

import numpy as np

from dkmeans.backends.moments import MOMENT_PLANES, moment_grid
from dkmeans.backends.native.moment_sums import add_moments


def test_rows_with_moments_off_the_grid_are_left():
    rows, weights = np.ones((40, 2)), np.ones(40)
    rows[7, 1], rows[9, 0], rows[11, 1], rows[13, 1] = 1e9, 1e-200, np.nan, np.inf
    rows[15] = 0.0
    index, centers, measures = np.zeros(40, np.int64), np.zeros((1, 2)), np.ones((40, 1))
    grid = moment_grid(rows, weights, index, centers, measures)
    planes, is_left = np.zeros((MOMENT_PLANES, 1, 5), np.int64), np.full(40, 7, np.uint8)
    words = np.empty((MOMENT_PLANES + 1, 5))
    arguments = rows, weights, index, centers, measures, grid.scales, words, planes, is_left
    add_moments(*arguments)
    assert np.flatnonzero(is_left).tolist() == [7, 9, 11, 13]
    assert planes[0, 0, 4] * 2.0 ** grid.exponents[4] == 36
