"""The ranking of scores, through `score_panel`, compared with NumPy."""

import numpy as np
import pytest
from numba import njit

from dkmeans.backends.native import tile_vectors
from dkmeans.backends.native.panels import tile_of


@njit
def score_panels(rows, weights, halves, panels, width, ranked, ranked_panels, tile):
    for panel in range(panels):
        tile_vectors.score_panel(rows, weights, halves, panel, width, ranked, ranked_panels, tile)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranking_keeps_the_three_least_panel_minima_and_the_least_other_score(dtype):
    tile, width, panels = tile_of(dtype), 3, 6
    size, centers = len(tile.lanes) * len(tile.vectors), len(tile.centers)
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
