"""The intrinsics for tiles, called from small compiled functions and compared with NumPy."""

import numpy as np
import pytest
from numba import njit

from dkmeans.backends.native import tile_vectors
from dkmeans.backends.native.panels import tile_of

DTYPES = (np.float32, np.float64)


@njit
def squared_norms(rows, width, squares, tile):
    tile_vectors.squared_norms(rows, width, squares, tile)


@njit
def transpose_narrow(points, indices, scales, shift, rows, side):
    tile_vectors.transpose_narrow(points, indices, 0, scales, shift, rows, len(indices), side)


def size_of(tile):
    return len(tile.lanes) * len(tile.vectors)


@pytest.mark.parametrize("dtype", DTYPES)
def test_squared_norms_are_those_of_the_tile_s_rows(dtype):
    tile = tile_of(dtype)
    rows = np.random.default_rng(0).integers(-9, 9, (5, size_of(tile))).astype(dtype)
    squares = np.empty(size_of(tile), dtype)
    squared_norms(rows.ravel(), len(rows), squares, tile)
    assert squares.tolist() == (rows**2).sum(axis=0).tolist()


@pytest.mark.parametrize("width", [1, 2, 3])
def test_narrow_rows_are_scaled_shifted_and_filled_up_with_zeros(width):
    side = (None,) * 4
    points = np.random.default_rng(1).integers(-9, 9, (4, width)).astype(np.float32)
    scales, shift = np.array([1, 2, 4, 8], np.float32), np.arange(width, dtype=np.float32)
    rows = np.full((4, 4), np.nan, np.float32)
    transpose_narrow(points, np.array([3, 2, 1, 0]), scales, shift, rows.ravel(), side)
    expected = points[::-1] * scales[:, None] - shift
    assert rows[:width].T.tolist() == expected.tolist()
    assert not rows[width:].any()
