"""First scores in 8 bits: their error is known."""

import numpy as np
import pytest
from numba import njit

from dkmeans.backends.native import eight_bits, packed_centers
from dkmeans.backends.native.packed_bytes import padded_to_lines
from dkmeans.backends.native.panels import tile_of
from dkmeans.backends.native.scratch import ScratchPerThread
from dkmeans.distance import Centers, Distance


@njit
def score(rows, width, centers, halves, scratch, ranked, panels, tile):
    """Compute the first scores of a tile and one panel, as `kernels` does."""
    eight_bits.round_rows(rows, width, scratch.quads, scratch.steps, scratch.lost, tile)
    for place in range(len(scratch.steps)):
        scratch.steps[place] *= centers.step
    eight_bits.score_panel(
        scratch.quads, scratch.steps, centers.quads, centers.offsets, halves, 0, -(-width // 4),
        ranked, panels, scratch.minima, tile,
    )  # fmt: skip


@njit
def score_one(lines, place, centers, center, halves, found, tile):
    eight_bits.score_center(lines, place, centers, center, halves, found, tile)


@pytest.mark.parametrize("width", [1, 64, 130])
def test_a_single_center_is_scored_over_whole_lines(width):
    rng = np.random.default_rng(width)
    lines, centers = (np.zeros((3, padded_to_lines(width)), "f") for _ in range(2))
    lines[:, :width], centers[:, :width] = rng.normal(size=(2, 3, width))
    halves, found = np.array([1, 2, 3], "f"), np.zeros(1, "f")
    score_one(lines, 1, centers, 2, halves, found, tile_of(np.float32))
    assert found[0] == pytest.approx(3 + lines[1] @ centers[2], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("width", [1, 7, 40])
@pytest.mark.parametrize("byte_unit", ["vectors"], indirect=True)
def test_the_error_of_first_scores_is_within_what_rounding_loses(byte_unit, width):
    rng = np.random.default_rng(width)
    centers = Centers(rng.normal(size=(2, width)).astype("f"), Distance.SQUARED_EUCLIDEAN)
    tile, packed, byte_centers = packed_centers.PackedCentersCache()(centers, np.dtype("f"))
    scratches = ScratchPerThread()
    scratch, in_bytes = scratches(tile, packed), scratches.in_bytes(tile, packed)
    rows = rng.normal(size=(len(scratch.indices), width)).astype("f")
    rows[1], rows[2] = 0, 1e-38
    scratch.ranked[:] = np.inf
    score(
        rows.T.ravel(), width, byte_centers, packed.halves, in_bytes, scratch.ranked,
        scratch.panels, tile,
    )  # fmt: skip
    lost, (first, later) = np.sqrt(in_bytes.lost.astype(float)), in_bytes.minima[0]
    assert lost[1] == 0
    assert (lost <= np.abs(rows).max(axis=1) / 254 * np.sqrt(width) * 1.001 + 1e-19).all()
    values = packed.exact - packed.shift
    scores = packed.halves[:2] - rows.astype(float) @ values.T
    norms, largest = np.linalg.norm(rows, axis=1), np.linalg.norm(values, axis=1).max()
    errors = lost * largest + (norms + lost) * byte_centers.largest_lost
    assert (np.abs(first - scores.min(axis=1)) <= errors + 1e-5 * (1 + norms)).all()
    assert (np.abs(later - scores.max(axis=1)) <= errors + 1e-5 * (1 + norms)).all()
    assert (scratch.ranked[:2] == in_bytes.minima[0]).all()
