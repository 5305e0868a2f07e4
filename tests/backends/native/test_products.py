"""The kernel that adds up products: the planes that it needs, and the rows that it leaves."""

import numpy as np
import pytest

from dkmeans.backends.native.products import add_products
from dkmeans.backends.weighted import PLANES, product_grid


def added(rows, weights):
    """Return the number of planes, and the numbers of the rows that are left."""
    rows, weights = np.asarray(rows), np.asarray(weights, np.float64)
    planes = np.zeros((PLANES, 2, rows.shape[1] + 1), np.int64)
    is_left = np.full(len(rows), 7, np.uint8)
    index, scales = np.arange(len(rows)) % 2, product_grid(rows, weights).scales
    used = add_products(rows, weights, index, scales, planes, is_left)
    assert not planes[used:].any()
    return used, np.flatnonzero(is_left).tolist()


@pytest.mark.parametrize(
    ("dtype", "weight", "planes"),
    [(np.float32, 3.0, 1), (np.float32, np.float32(0.3), 2), (np.float32, 0.3, 4), (float, 0.3, 4)],
)
def test_products_use_as_many_planes_as_they_have_bits(dtype, weight, planes):
    rows = np.random.default_rng(0).uniform(1, 2, (50, 3)).astype(dtype)
    assert added(rows, np.full(50, weight)) == (planes, [])


def test_small_products_of_few_bits_need_a_third_plane():
    rows = np.random.default_rng(0).uniform(1, 2, (50, 3)).astype(np.float32)
    rows[3, 1] *= np.float32(1e-5)
    assert added(rows, np.full(50, np.float32(0.3))) == (3, [])


def test_rows_with_products_off_the_grid_are_left():
    rows = np.ones((40, 2))
    rows[7, 1], rows[9, 0], rows[11, 1], rows[13, 1] = 1e9, 1e-60, np.nan, np.inf
    rows[15] = 0.0
    assert added(rows, np.ones(40)) == (4, [7, 9, 11, 13])
