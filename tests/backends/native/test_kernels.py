"""The kernels, called as `backend` calls them."""

import numpy as np

from dkmeans.backends.native import kernels, packing, panels
from dkmeans.backends.native.runner import kernel_array
from dkmeans.backends.native.scratch import ScratchPerThread
from dkmeans.distance import Centers, Distance
from dkmeans.exact_grid import digit_places


def test_squares_are_added_up_without_the_rows_that_are_off_the_grid():
    rows = np.ones((70, 3))
    rows[[5, 66]] = [[0.5, 1, 1], [1, 1, 1e30]]
    products, scales = len(digit_places(rows.dtype)), np.full(8, 2.0**44)
    sums = np.zeros((products * (products + 1) // 2, 8), np.int64)
    is_left = np.full(70, 7, np.uint8)
    kernels.square(kernel_array(rows), scales, np.empty(sums.shape), sums, is_left)
    assert np.flatnonzero(is_left).tolist() == [66]
    assert sums.sum() > 0


def test_distances_fill_no_more_than_the_rows_and_centers_that_exist():
    rows, values = np.arange(26.0).reshape(13, 2), np.arange(10.0).reshape(5, 2)
    tile = panels.tile_of(np.float64)
    packed = packing.for_distances(Centers(values, Distance.SQUARED_EUCLIDEAN), tile)
    distances = np.full((13, 5), -1, np.float32)
    scratch = ScratchPerThread()(tile, packed)
    kernels.measure(kernel_array(rows), packed, tile, scratch, distances)
    assert (distances == ((rows[:, None] - values) ** 2).sum(axis=2)).all()
