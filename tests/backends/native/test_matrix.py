"""The matrix unit's intrinsics: no code for other tiles, and scores with a known error."""

import numpy as np
import pytest
from numba import njit

from dkmeans.backends.native import matrix, packed_centers, packing, processor
from dkmeans.backends.native.scratch import ScratchPerThread
from dkmeans.distance import Centers, Distance

FLOAT32 = np.dtype(np.float32)


@njit
def score(rows, width, centers, biases, config, pairs, scores, tile):
    """Compute the scores of a tile and one group of panels, as `kernels` does."""
    whole, rest_pairs = width // 32, (width % 32 + 1) // 2
    rest = -(-3 * rest_pairs // 16)
    matrix.configure(config, tile)
    matrix.load_biases(biases, 0, tile)
    if whole:
        matrix.split_whole(rows, whole, pairs, tile)
        matrix.multiply_whole(pairs, centers, 0, whole, tile)
    if rest:
        matrix.split_rest(rows, width, 32 * whole, pairs, 32 * whole, tile)
        matrix.multiply_rest(pairs, 32 * whole, centers, 4 * whole, rest, tile)
    matrix.store_scores(0, scores, tile)
    matrix.release(tile)


def scores_of(rows, values):
    """Return the scores of 32 rows with 32 centers, their norms, and whether they were written."""
    centers = Centers(values, Distance.SQUARED_EUCLIDEAN)
    tile, packed, _ = packed_centers.PackedCentersCache()(centers, FLOAT32)
    scratch = ScratchPerThread()(tile, packed)
    scratch.scores[:] = np.nan
    score(
        rows.T.ravel(), rows.shape[1], packed.registers, packed.biases, scratch.matrix_config,
        scratch.pairs, scratch.scores, tile,
    )  # fmt: skip
    return scratch.scores, packed


@pytest.mark.parametrize("width", [1, 7, 32, 43, 64, 69])
def test_scores_are_as_exact_as_two_bfloat16_for_each_number(width, monkeypatch):
    if not processor.matrix_unit():
        pytest.skip("this processor has no matrix unit")
    monkeypatch.setattr(packing, "_is_large", lambda k, d: True)
    rng = np.random.default_rng(width)
    rows, values = rng.normal(size=(2, 32, width)).astype(np.float32)
    values -= values.mean(axis=0)
    scores, packed = scores_of(rows, values)
    shifted = packed.exact - packed.shift
    expected = (shifted**2).sum(axis=1)[:, None] / 2 - shifted @ rows.T.astype(np.float64)
    sizes = np.linalg.norm(shifted, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    errors = np.abs(scores[: 32 * 32].reshape(32, 32) - expected)
    assert (errors <= 2.0**-15 * sizes + 1e-6 * width).all()


def test_for_tiles_of_vectors_the_intrinsics_write_nothing(monkeypatch):
    monkeypatch.setattr(processor, "matrix_unit", lambda: False)
    rows, values = np.ones((2, 32, 64), np.float32)
    scores, _ = scores_of(rows, values)
    assert np.isnan(scores).all()
