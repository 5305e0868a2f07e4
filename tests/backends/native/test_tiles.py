"""Tiles of rows: loaded feature by feature, filled up with the last row."""

import numpy as np
import pytest
from numba import njit

from dkmeans.backends.native import panels
from dkmeans.backends.native.packing import Scoring, for_scores
from dkmeans.backends.native.scratch import ScratchPerThread
from dkmeans.backends.native.tiles import load_tile
from dkmeans.distance import Centers, Distance


@njit
def load(rows, start, centers, scratch, tile):
    load_tile(rows, start, centers, scratch, tile)


# Narrower than a small square, than a vector, as wide, and wider, with a rest.
@pytest.mark.parametrize("width", [1, 3, 5, 16, 37])
def test_a_tile_has_the_rows_shifted_and_feature_by_feature(width):
    rng = np.random.default_rng(width)
    rows = rng.normal(size=(100, width)).astype("f")
    centers = Centers(rows[:3].copy(), Distance.SQUARED_EUCLIDEAN)
    scoring, dtype = Scoring(np.dtype("f"), by_matrix=False), np.dtype("f")
    tile, packed, _ = for_scores(centers, panels.tile_of(dtype), scoring, dtype)
    scratch = ScratchPerThread()(tile, packed)
    load(rows, 90, packed, scratch, tile)
    size = len(scratch.indices)
    assert scratch.indices.tolist() == [min(90 + place, 99) for place in range(size)]
    expected = (rows[scratch.indices] - packed.shift).T
    assert (scratch.rows[: width * size].reshape(width, size) == expected).all()
