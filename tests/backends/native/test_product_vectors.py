"""The vectors that move products: the planes that they use, and the rows that they leave."""

import numpy as np
import pytest

from dkmeans.backends.native import products
from dkmeans.backends.weighted import product_grid


def moved(rows, weights, *clusters, planes=4):
    """Return the sums after moves through some clusters, whether -1 is used, and the rows left."""
    rows, weights = np.asarray(rows), np.asarray(weights, np.float64)
    width = -(-(rows.shape[1] + 1) // 8) * 8
    sums, used = np.zeros((planes, 3, width), np.int64), np.zeros(8, np.int64)
    unit, scales, left = np.zeros(width), np.ones(width), np.empty(len(rows), np.int64)
    scales[: rows.shape[1] + 1] = product_grid(rows, weights).scales
    unit[rows.shape[1]] = 1
    before, counts = np.full(len(rows), -1, np.int32), np.zeros(3, np.int64)
    for cluster in clusters:
        after = np.full(len(rows), cluster, np.int32)
        options = (None,) * (planes > 2), used, left, products.new_scratch()
        arrays = rows, weights, before, after, counts, scales, unit, sums
        found = products.move_products(*arrays, *options)
        assert before.tolist() == after.tolist()
    assert counts.tolist() == np.bincount(before, minlength=3).tolist()
    return sums, bool(used.any()), left[:found].tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [1, 7, 8, 19])
def test_rows_that_are_moved_leave_nothing_behind(dtype, width):
    rng = np.random.default_rng(0)
    rows, weights = rng.normal(size=(50, width)).astype(dtype), rng.random(50)
    rows[7, 0], rows[9, -1] = 1e30, np.nan
    there, _, left = moved(rows, weights, 0, 2, 1)
    assert left == [7, 9]
    assert not there[:, [0, 2]].any()
    assert (there[:, 1] == moved(rows, weights, 1)[0][:, 1]).all()


def test_whole_products_use_plane_0_alone():
    rows = np.random.default_rng(0).uniform(1, 2, (50, 3)).astype(np.float32)
    assert moved(rows, np.full(50, 3.0), 0, planes=2)[1:] == (False, [])
    assert moved(rows, np.full(50, np.float32(0.3)), 0, planes=2)[1:] == (True, [])


def test_products_of_more_bits_than_the_planes_hold_are_left():
    rows = np.random.default_rng(0).uniform(1, 2, (50, 3))
    assert moved(rows, np.full(50, 0.3), 0)[2] == []
    rows[3, 1] *= 1e-15
    assert moved(rows, np.full(50, 0.3), 0)[2] == [3]
    rows = np.ones((40, 2))
    rows[7, 1], rows[9, 0], rows[11, 1], rows[13, 1] = 1e9, 1e-60, np.nan, np.inf
    rows[15] = 0.0
    assert moved(rows, np.ones(40), 0)[2] == [7, 9, 11, 13]
