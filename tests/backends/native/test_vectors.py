"""The vector intrinsics, called from small compiled functions and compared with NumPy."""

import numpy as np
import pytest
from numba import njit

from dkmeans.backends.native import packing, vectors

DTYPES = (np.float32, np.float64)


@njit
def squared_norms(rows, width, squares, tile):
    vectors.squared_norms(rows, width, squares, tile)


@njit
def transpose_narrow(points, indices, scales, shift, rows, side):
    vectors.transpose_narrow(points, indices, 0, scales, shift, rows, len(indices), side)


@njit
def score_panels(rows, weights, halves, panels, width, ranked, ranked_panels, tile):
    for panel in range(panels):
        vectors.score_panel(rows, weights, halves, panel, width, ranked, ranked_panels, tile)


@njit
def add_rows(points, scales, clusters, cosine, grid, counts, sums, low, rest, num_rest):
    vectors.add_rows(
        points, 0, len(points), scales, clusters, cosine, grid, counts, sums, low, rest, num_rest
    )


def size_of(tile):
    return len(tile.lanes) * len(tile.vectors)


@pytest.mark.parametrize("dtype", DTYPES)
def test_squared_norms_are_those_of_the_tile_s_rows(dtype):
    tile = packing.tile_of(dtype)
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


@pytest.mark.parametrize("dtype", DTYPES)
def test_ranking_keeps_the_three_least_panel_minima_and_the_least_other_score(dtype):
    tile, width, panels = packing.tile_of(dtype), 3, 6
    size, centers = size_of(tile), len(tile.centers)
    rng = np.random.default_rng(2)
    # Multiples of 64 leave the last bits of a score free for the number of the center.
    rows = rng.integers(-9, 9, (width, size)).astype(dtype)
    weights = 64 * rng.integers(-9, 9, (panels, width, centers)).astype(dtype)
    halves = 64 * rng.integers(0, 99, (panels, centers)).astype(dtype)
    ranked = np.full((4, size), np.inf, dtype)
    bits = ranked.view(f"i{ranked.itemsize}")
    ranked_panels = np.zeros((2, size), bits.dtype)
    score_panels(
        rows.ravel(), weights.ravel(), halves.ravel(), panels, width, ranked, ranked_panels, tile
    )
    numbers = bits & (centers - 1)
    bits -= numbers
    scores = np.einsum("pwc,ws->pcs", weights, rows) + halves[:, :, None]
    ordered = np.sort(scores, axis=1)
    minima, others = np.sort(ordered[:, 0], axis=0), ordered[:, 1:].min(axis=(0, 1))
    assert ranked[:3].tolist() == minima[:3].tolist()
    assert ranked[3].tolist() == others.tolist()
    for rank in range(2):
        of_rank = scores[ranked_panels[rank], numbers[rank], np.arange(size)]
        assert of_rank.tolist() == ranked[rank].tolist()


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("width", [1, 7, 8, 9, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_added_to_the_sums_of_their_clusters_as_integers(dtype, width, cosine):
    rng = np.random.default_rng(3)
    points = rng.integers(-99, 99, (50, width)).astype(dtype) / 8
    points[::7, 0] = -0.0
    # Beyond the window, between two integers, and not finite: only the last is left for cosine.
    points[11, width - 1], points[23, 0], points[37, width // 2] = 2.0**60, 0.1, np.nan
    others = [37] if cosine else [11, 23, 37]
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
    assert rest[: num_rest[0]].tolist() == [[row, clusters[row]] for row in others]
    added = np.setdiff1d(np.arange(50), others)
    integers = np.rint(points[added] * scales[added, None] * 2.0**20).astype(np.int64)
    expected = np.zeros((4, width), np.int64)
    np.add.at(expected, clusters[added], integers)
    assert counts.tolist() == np.bincount(clusters[added], minlength=4).tolist()
    extra = counts[:, None] * np.int64(vectors.MAGIC_BITS)
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
