"""The intrinsics for sums, called from small compiled functions and compared with integers."""

import numpy as np
import pytest
from numba import njit

from dkmeans.backends.native import sum_vectors

DTYPES = (np.float32, np.float64)


@njit
def add_rows(points, scales, clusters, cosine, grid, counts, sums, low, rest, num_rest):
    sum_vectors.add_rows(
        points, 0, len(points), scales, clusters, cosine, grid, counts, sums, low, rest, num_rest
    )


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("width", [1, 7, 8, 9, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_added_to_the_sums_of_their_clusters_as_integers(dtype, width, cosine):
    rng = np.random.default_rng(3)
    points = rng.integers(-99, 99, (50, width)).astype(dtype) / 8
    points[::7, 0] = -0.0
    # Beyond the window, between two integers, and not finite: only the last is listed for cosine.
    points[11, width - 1], points[23, 0], points[37, width // 2] = 2.0**60, 0.1, np.nan
    listed, far = ([37], [37]) if cosine else ([11, 23, 37], [11, 37])
    if cosine:
        points[11] = 1.0
    clusters, scales = rng.integers(4, size=50), np.ones(50)
    if cosine:
        scales = 1 / np.maximum(1.0, np.abs(points).max(axis=1).astype(np.float64))
    padded = -(-width // 8) * 8
    grid = np.pad(np.full(width, 2.0**20), (0, padded - width))
    counts, sums, low = np.zeros(4, np.int64), *np.zeros((2, 4, padded), np.int64)
    rest, num_rest = np.empty((50, 2), np.int64), np.zeros(1, np.int64)
    add_rows(points, scales, clusters, cosine, grid, counts, sums, low, rest, num_rest)
    noted = np.where(np.isin(np.arange(50), far), ~clusters, clusters)
    assert rest[: num_rest[0]].tolist() == [[row, noted[row]] for row in listed]
    added = np.setdiff1d(np.arange(50), far)
    integers = np.rint(points[added] * scales[added, None] * 2.0**20).astype(np.int64)
    expected = np.zeros((4, width), np.int64)
    np.add.at(expected, clusters[added], integers)
    assert counts.tolist() == np.bincount(clusters[added], minlength=4).tolist()
    extra = counts[:, None] * np.int64(sum_vectors.MAGIC_BITS)
    assert (sums[:, :width] - extra).tolist() == expected.tolist()
    assert not (sums - extra)[:, width:].any()


def test_float64_rows_also_have_the_next_plane():
    points = np.array([[1 / 3, -1e-9], [2.0**-70, 1.0], [5e-324, 0.0]])
    grid = np.pad(np.ldexp(1.0, [30, 20]), (0, 6))
    counts, sums, low = np.zeros(1, np.int64), *np.zeros((2, 1, 8), np.int64)
    rest, num_rest = np.empty((3, 2), np.int64), np.zeros(1, np.int64)
    clusters = np.zeros(3, np.int64)
    add_rows(points, np.ones(3), clusters, False, grid, counts, sums, low, rest, num_rest)
    # 1 / 3 has 52 bits after 2^-2; 62 bits after the point are on the grid.
    assert rest[: num_rest[0], 0].tolist() == [1, 2] or rest[: num_rest[0], 0].tolist() == [0, 1, 2]
