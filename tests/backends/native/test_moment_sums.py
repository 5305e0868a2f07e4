"""The kernel that adds up moments: the rows that it leaves."""

import numpy as np

from dkmeans.backends.moments import MOMENT_PLANES, moment_grid
from dkmeans.backends.native.moment_sums import add_moments
from dkmeans.backends.native.packing import padded_scales


def test_rows_with_moments_off_the_grid_are_left():
    rows, weights = np.ones((40, 2)), np.ones(40)
    rows[7, 1], rows[9, 0], rows[11, 1], rows[13, 1] = 1e9, 1e-100, np.nan, np.inf
    rows[15] = 0.0
    index, centers, measures = np.zeros(40, np.int64), np.zeros((1, 2)), np.ones((1, 40))
    grid = moment_grid(rows, weights, index, centers, measures)
    planes, is_left = np.zeros((MOMENT_PLANES, 1, 8), np.int64), np.full(40, 7, np.uint8)
    words, scales = np.zeros((MOMENT_PLANES + 1, 8)), padded_scales(grid)
    arguments = rows, weights, index, centers, measures, scales, words, planes, is_left
    add_moments(*arguments)
    assert np.flatnonzero(is_left).tolist() == [7, 9, 11, 13]
    assert planes[0, 0, 2] * 2.0 ** grid.exponents[2] == 36
    assert not planes[:, :, 3:].any()
