"""The intrinsics for groups of centers, called from small compiled functions."""

import numpy as np
import pytest
from numba import njit

from dkmeans.backends.native import group_vectors, llvm_code, panels

D, GROUPS = 37, 3


@njit
def find_suspects(lower, reach, uppers, masks):
    for row in range(len(lower)):
        group_vectors.find_suspects(lower, row, reach, uppers[row], len(reach) // 16, masks[row])


@njit
def lay_row(points, scales, shift, centers, center, rows, squares, distances):
    group_vectors.lay_row(points, 1, scales, shift, centers, center, 2, rows, squares, distances)


@njit
def score(rows, tile, weights, halves, squares, margins, reach, least, lower, scores, d, height):
    for place in range(len(height)):
        group_vectors.copy_row(rows, place, tile, place, height)
    group_vectors.score_group(
        tile, weights, halves, 1, d, squares, margins, reach, least, lower, height
    )
    group_vectors.score_row(rows, 0, weights, halves, 1, d, scores)


@njit
def trailing_zeros(number):
    return llvm_code.trailing_zeros(number)


def halves_of(values):
    """Return the upper halves of float32 numbers, as bounds are stored."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def floats_of(halves):
    return (np.ascontiguousarray(halves).astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("groups", [17, 25, 32])
def test_suspects_are_the_groups_whose_bound_is_not_above_the_limit(groups):
    rng = np.random.default_rng(0)
    reach, uppers = rng.random(32).astype(np.float32), rng.random(50).astype(np.float32)
    flat, masks = np.zeros(50 * groups + 16, np.uint16), np.empty((50, 3), np.int64)
    lower = flat[:-16].reshape(50, groups)
    lower[:] = halves_of(rng.random((50, groups)))
    lower[7] = halves_of(np.full(groups, 9.0))  # the next row has suspects
    find_suspects(lower, reach, uppers, masks)
    expected = floats_of(lower) <= reach[:groups] + uppers[:, None]
    assert masks[7].tolist() == [0, 0, 0]
    assert not expected[7].any()
    bits = masks[:, :2, None] >> np.arange(16) & 1
    assert np.array_equal(bits.reshape(50, 32)[:, :groups], expected)
    assert not bits.reshape(50, 32)[:, groups:].any()
    assert np.array_equal(masks[:, 2] != 0, expected.any(axis=1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 15, 16, 37])
def test_rows_are_laid_with_their_lengths_and_distances(d, dtype):
    rng = np.random.default_rng(0)
    points, shift = rng.normal(size=(3, d)).astype(dtype), rng.normal(size=d).astype(dtype)
    centers = np.pad(rng.normal(size=(4, d)), ((0, 0), (0, -d % 16))).astype(np.float32)
    rows = np.full((4, centers.shape[1]), 9, np.float32)
    squares, distances = np.zeros((2, 4), np.float32)
    lay_row(points, np.array([2], dtype), shift, centers, 3, rows, squares, distances)
    value = 2 * points[1] - shift
    assert np.allclose(rows[2, :d], value, rtol=1e-6)
    assert not rows[2, d:].any()
    assert np.isclose(squares[2], value @ value, rtol=1e-5)
    away = value - centers[3, :d]
    assert np.isclose(distances[2], away @ away, rtol=1e-5)
    assert (rows[[0, 1, 3]] == 9).all()


@pytest.mark.parametrize("height", [6, 16])
def test_a_group_gives_the_two_least_scores_and_bounds_of_the_distances(height):
    rng = np.random.default_rng(0)
    rows = np.pad(rng.normal(size=(16, D)), ((0, 0), (0, -D % 16))).astype(np.float32)
    centers = rng.normal(size=(GROUPS, 16, D)).astype(np.float32)
    weights = np.append(-centers.swapaxes(1, 2).ravel(), np.zeros(64, np.float32))
    halves = (centers**2).sum(axis=2).ravel() / 2
    tile = panels.aligned(np.zeros(rows.size, np.float32))
    least, lower = np.empty((2, 16), np.float32), np.empty((2, 16), np.uint16)
    squares, margins = (rows**2).sum(axis=1), np.full(16, 0.01, np.float32)
    reach, scores = np.float32([9, 5, 9]), np.empty(16, np.float32)
    score(
        rows, tile, weights, halves, squares, margins, reach, least, lower, scores, D,
        (None,) * height,
    )  # fmt: skip
    expected = halves.reshape(GROUPS, 16)[1] - rows[:, :D] @ centers[1].T
    two = np.sort(expected, axis=1)[:height, :2].T
    assert np.allclose(least[:, :height], two, rtol=1e-4, atol=1e-4)
    numbers = least[0, :height].view(np.uint32) & 15
    assert numbers.tolist() == expected.argmin(axis=1)[:height].tolist()
    assert np.allclose(scores, expected[0], rtol=1e-4, atol=1e-4)
    distances = np.linalg.norm(rows[:, None, :D] - centers[1], axis=2)
    exact = np.sort(distances, axis=1)[:height, :2].T
    bound = floats_of(lower[:, :height]) - 5
    assert (bound < exact).all()
    assert (bound > exact - 0.1).all()


@pytest.mark.parametrize("number", [1, 6, 2**40, -(2**63)])
def test_trailing_zeros_are_those_of_the_binary_number(number):
    assert trailing_zeros(number) == (number & -number).bit_length() - 1
