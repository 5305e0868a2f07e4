"""The cache of packed centers, and the choice of the scoring that they are packed for.

`backend` takes packed centers from `PackedCentersCache`. The scoring (`packing.Scoring`) affects
only the speed: cluster indices and sums have the same bits with every scoring.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from dkmeans.backends.native.kernels import PackedCenters, Scratch
from dkmeans.backends.native.packing import Scoring, for_scores
from dkmeans.backends.native.panels import tile_of
from dkmeans.backends.native.vectors import Tile
from dkmeans.distance import Centers

# Above these shares of scores that are computed again, other scores take less time in all: for
# vectors, and for a matrix unit.
_AGAIN_SHARE = {False: 0.05, True: 0.015}
# Smaller chunks are not representative.
_REPRESENTATIVE_ROWS = 256
# Above this share of ambiguous rows the next scoring takes less time in all: its scores cost more,
# but it leaves fewer rows ambiguous.
_AMBIGUOUS_SHARE = 0.1


def scorings(dtype: np.dtype[Any]) -> tuple[Scoring, ...]:
    """Return the scorings for rows of a dtype, the fastest first.

    Each leaves fewer rows ambiguous than the one before.
    """
    float32 = np.dtype(np.float32)
    single = Scoring(float32, True, True), Scoring(float32, True), Scoring(float32, False)
    return (*single, Scoring(dtype, False)) if dtype == np.float64 else single


class PackedCentersCache:
    """Cache of packed centers; an entry lives as long as its `Centers`.

    All chunks of an iteration share an entry. The cache also chooses the scoring: after a chunk
    with many ambiguous rows, the next scoring is used for all problems of the same shape in this
    process.
    """

    def __init__(self) -> None:
        self._packed: WeakKeyDictionary[Centers, dict[Any, tuple[Tile, PackedCenters]]]
        self._packed = WeakKeyDictionary()
        # Not by centers: the next iteration has other centers, and mostly as many ambiguous rows.
        self._scoring_numbers: dict[Any, int] = {}
        self._lock = threading.Lock()

    def __call__(
        self, centers: Centers, dtype: np.dtype[Any], *, with_second: bool = False
    ) -> tuple[Tile, PackedCenters]:
        """Return the packed centers for rows of a dtype, and the tile that they are packed for.

        Args:
            centers: The centers.
            dtype: The dtype of the rows.
            with_second: True if the tile must also find second nearest centers, which first scores
                in 8 bits do not.
        """
        # Other threads wait here rather than pack the same centers again.
        with self._lock:
            left = scorings(dtype)[self._scoring_numbers.get(_problem(centers, dtype), 0) :]
            scoring = next(each for each in left if not (with_second and each.in_bytes))
            tile = tile_of(scoring.dtype)
            packed = self._packed.setdefault(centers, {})
            if (scoring, tile, dtype) not in packed:
                packed[scoring, tile, dtype] = for_scores(centers, tile, scoring, dtype)
            found, packed_centers = packed[scoring, tile, dtype]
            return found._replace(second=(None,) * with_second), packed_centers

    def note_ambiguous(
        self, centers: Centers, dtype: np.dtype[Any], tile: Tile, *, rows: int, ambiguous: int,
        is_slow: bool = False,
    ) -> None:  # fmt: skip
        """Change to the next scoring if a chunk has shown that the scores are too coarse.

        Args:
            centers: The centers.
            dtype: The dtype of the rows.
            tile: The tile that the chunk was scored with.
            rows: Number of rows of the chunk.
            ambiguous: Number of rows that were ambiguous.
            is_slow: True if too many scores were computed again (see `takes_long_again`).
        """
        is_coarse = is_slow or ambiguous >= _AMBIGUOUS_SHARE * rows
        if rows < _REPRESENTATIVE_ROWS or not is_coarse:
            return
        with self._lock:
            tiles = {key[0]: found[0] for key, found in self._packed.get(centers, {}).items()}
            problem = _problem(centers, dtype)
            first = self._scoring_numbers.get(problem, 0)
            used = tile._replace(second=())
            # None are left if another thread has reported this scoring before. To change twice
            # would skip a scoring.
            numbers = [
                number
                for number, scoring in enumerate(scorings(dtype))
                if number >= first and tiles.get(scoring) == used
            ]
            if numbers:
                last = len(scorings(dtype)) - 1
                self._scoring_numbers[problem] = min(numbers[-1] + 1, last)


def takes_long_again(tile: Tile, scratch: Scratch, rows: int) -> bool:
    """Return whether too many scores of some rows were in 8 bits first, and computed again."""
    scores = rows * len(scratch.in_bytes.minima)
    return int(scratch.scored_again[0]) > _AGAIN_SHARE[bool(tile.matrix_panels)] * scores


def _problem(centers: Centers, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    return (*centers.values.shape, centers.distance, dtype)
