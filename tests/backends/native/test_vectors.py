"""The vector intrinsics, called from small compiled functions and compared with NumPy."""

import numpy as np
import pytest
from llvmlite import ir
from numba import njit

from dkmeans.backends.native import vectors
from dkmeans.backends.native.panels import tile_of

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


@vectors.as_intrinsic
def lesser_and_greater(code, a, b, found, lanes):
    vector = ir.VectorType(a.element, lanes)
    values = code.load(a.first, vector), code.load(b.first, vector)
    code.store(code.minimum(*values), found.first)
    code.store(code.maximum(*values), code.at(found.first, lanes))


@njit
def choose(a, b, found, lanes):
    lesser_and_greater(a, b, found, lanes)


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


@pytest.mark.parametrize("dtype", DTYPES)
def test_ranking_keeps_the_three_least_panel_minima_and_the_least_other_score(dtype):
    tile, width, panels = tile_of(dtype), 3, 6
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bytes_of_vector", [8, 16, 32, 64, 128])
def test_the_lesser_and_the_greater_are_the_second_number_where_one_is_nan(bytes_of_vector, dtype):
    lanes = bytes_of_vector // np.dtype(dtype).itemsize
    pairs = [(1, 2), (2, 1), (np.nan, 3), (3, np.nan), (0.0, -0.0), (-0.0, 0.0), (np.inf, 1)]
    for some in range(0, 28, lanes):
        a, b = np.array([pairs[(some + i) % len(pairs)] for i in range(lanes)], dtype).T.copy()
        found = np.empty((2, lanes), dtype)
        choose(a, b, found.ravel(), (None,) * lanes)
        expected = np.array([np.where(a < b, a, b), np.where(a > b, a, b)])
        assert found.tobytes() == expected.tobytes()
