"""The cache of packed centers, and the choice of the scoring that they are packed for.

`backend` takes packed centers from `PackedCentersCache`. The scoring (`packing.Scoring`) affects
only the speed: cluster indices and sums have the same bits with every scoring.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from dkmeans.backends.native.first_scores import ByteScratch
from dkmeans.backends.native.kernels import Scratch
from dkmeans.backends.native.packing import Packing, Scoring, for_scores
from dkmeans.backends.native.panels import tile_of
from dkmeans.backends.native.tile_vectors import Tile
from dkmeans.distance import Centers

# The next scoring takes less time in all if more candidates than this were scored again in float32,
# for each row and panel: (columns - 14) / 650, and with a matrix unit a tenth of that.
_SHORT_COLUMNS, _LONG_COLUMNS, _BY_MATRIX = 14, 650, 0.1
# Smaller chunks are not representative.
_REPRESENTATIVE_ROWS = 256
# Above this share of ambiguous rows the next scoring takes less time in all.
_AMBIGUOUS_SHARE = 0.1


def scorings(dtype: np.dtype[Any]) -> tuple[Scoring, ...]:
    """Return the scorings for rows of a dtype, the fastest first.

    Each takes at least as long for its scores as the one before; as long where this machine lacks a
    matrix unit or products of bytes. From the matrix unit to vectors, and from float32 to float64,
    fewer rows stay ambiguous.
    """
    float32 = np.dtype(np.float32)
    single = Scoring(float32, True, True), Scoring(float32, True), Scoring(float32, False)
    return (*single, Scoring(dtype, False)) if dtype == np.float64 else single


class PackedCentersCache:
    """Cache of packed centers; an entry lives as long as its `Centers`.

    All chunks of an iteration share an entry. The cache also chooses the scoring: after a chunk
    with many ambiguous rows, or with many candidates scored again in float32, the next scoring is
    used for all problems of the same shape in this process.
    """

    def __init__(self) -> None:
        self._packed: WeakKeyDictionary[Centers, dict[Any, Packing]]
        self._packed = WeakKeyDictionary()
        # Not by centers: the next iteration has other centers, and mostly as many ambiguous rows.
        self._scoring_numbers: dict[Any, int] = {}
        self._lock = threading.Lock()

    def __call__(
        self, centers: Centers, dtype: np.dtype[Any], *, with_second: bool = False
    ) -> Packing:
        """Return the packed centers for rows of a dtype, with the tile that they are packed for.

        With `with_second`, second nearest centers can be found too.
        """
        # Other threads wait here rather than pack the same centers again.
        with self._lock:
            problem = _problem(centers, dtype, with_second=with_second)
            scoring = scorings(dtype)[self._scoring_numbers.get(problem, 0)]
            tile, second = tile_of(scoring.dtype), (None,) * with_second
            # Whether bytes are used depends on `second`, so it is a part of the key.
            if scoring.in_bytes:
                tile = tile._replace(second=second)
            packed = self._packed.setdefault(centers, {})
            if (scoring, tile, dtype) not in packed:
                packed[scoring, tile, dtype] = for_scores(centers, tile, scoring, dtype)
            found = packed[scoring, tile, dtype]
            return found._replace(tile=found.tile._replace(second=second))

    def note_ambiguous(
        self, centers: Centers, dtype: np.dtype[Any], tile: Tile, *, rows: int, ambiguous: int,
        is_slow: bool = False,
    ) -> None:  # fmt: skip
        """Change to the next scoring if a chunk has shown that this one resolves too few rows.

        The chunk was scored with this tile; `is_slow` is what `takes_long_again` says of it.
        """
        is_coarse = is_slow or ambiguous >= _AMBIGUOUS_SHARE * rows
        if rows < _REPRESENTATIVE_ROWS or not is_coarse:
            return
        with self._lock:
            tiles = {
                scoring: packing.tile._replace(second=())
                for (scoring, asked, of), packing in self._packed.get(centers, {}).items()
                if of == dtype and (not scoring.in_bytes or asked.second == tile.second)
            }
            problem = _problem(centers, dtype, with_second=bool(tile.second))
            first = self._scoring_numbers.get(problem, 0)
            used = tile._replace(second=())
            # Empty if another thread has already reported this scoring: to change twice would skip
            # one.
            numbers = [
                number
                for number, scoring in enumerate(scorings(dtype))
                if number >= first and tiles.get(scoring) == used
            ]
            if numbers:
                last = len(scorings(dtype)) - 1
                self._scoring_numbers[problem] = min(numbers[-1] + 1, last)


def takes_long_again(
    tile: Tile, scratch: Scratch, in_bytes: ByteScratch | tuple[()], shape: tuple[int, ...]
) -> bool:
    """Return whether too many candidates of (n, d) rows were scored again after 8 bits."""
    if not in_bytes:
        return False
    n, d = shape
    share = (d - _SHORT_COLUMNS) / _LONG_COLUMNS * (_BY_MATRIX if tile.matrix_panels else 1)
    return int(scratch.scored_again[0]) > share * n * len(in_bytes.minima)


def _problem(centers: Centers, dtype: np.dtype[Any], *, with_second: bool) -> tuple[Any, ...]:
    return (*centers.values.shape, centers.distance, dtype, with_second)
