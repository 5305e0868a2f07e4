"""The partial sums of a chunk (the E step of `lloyd`). Runs on a worker.

`lloyd.iterate` maps `accumulate_starts` over the chunks of an iteration. The sums of a chunk are
computed by `backends`; bounds (`skipping`) save most of the work if every iteration has the same
chunks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from dkmeans.backends import select
from dkmeans.backends.weighted import weighted_squares
from dkmeans.data.chunks import LoadedChunk
from dkmeans.distance import Centers, Distance, squared_norms
from dkmeans.empty_clusters import sums_and_farthest
from dkmeans.exact_grid import NotFinite
from dkmeans.exact_total import NOTHING, ExactTotal
from dkmeans.skipping import by_bounds, by_movement
from dkmeans.state import FloatArray, PartialSums, SideBySide

# A squared distance between rows is at most this many times the larger of their squared lengths.
_DISTANCE_OF_SQUARES = 4.0
# If the squares of all rows add up to less than this, no row is too long.
_SURELY_FINITE = float(np.finfo(np.float64).max) / (2 * _DISTANCE_OF_SQUARES)


@dataclass(frozen=True, slots=True, eq=False)
class StartCenters:
    """Centers of several starts, as sent to the workers.

    Attributes:
        centers: Centers of each start.
        with_farthest: True if the farthest rows are needed, to relocate empty clusters.
        with_squares: True if the squares of the rows are not known yet.
        numbers: Number of each start in its fit, if the chunks are the same in each iteration, so
            that bounds of their rows save time; None for no bounds.
    """

    centers: tuple[Centers, ...]
    with_farthest: bool
    with_squares: bool
    numbers: tuple[int, ...] | None = None


def accumulate(
    loaded: LoadedChunk,
    centers: Centers,
    *,
    with_farthest: bool = False,
    with_squares: bool = True,
    start: int | None = None,
) -> PartialSums:
    """Return the partial sums of one chunk for one start. Runs on a worker.

    Args:
        loaded: The chunk with its rows.
        centers: The centers.
        with_farthest: True if the farthest rows are needed too.
        with_squares: True if the squares of the rows are needed too.
        start: Number of the start in its fit, if the chunk is the same in each iteration; else
            None.

    Raises:
        InvalidData: the rows are not as wide as the centers, or not finite.
    """
    points, weights = loaded.of_width(centers.width), loaded.weights
    if not len(points):  # all rows have the weight zero
        return PartialSums.zero(centers.values.shape)
    backend = select(centers.backend)
    try:
        squares = squares_of(points, centers, weights) if with_squares else NOTHING
        if with_farthest:  # all distances are needed
            sums = sums_and_farthest(points, centers, weights)
        elif weights is None:
            functions = backend.sums_by_bounds, backend.partial_sums
            sums = by_bounds(loaded, points, centers, start, *functions, lambda found: found)
        else:
            lookups = backend.nearest_by_bounds, backend.nearest_index
            add_up = partial(by_movement, loaded, points, weights, centers, start)
            sums = by_bounds(loaded, points, centers, start, *lookups, add_up)
    except NotFinite:
        raise loaded.complaint() from None
    return replace(sums, squares=squares)


def squares_of(
    points: FloatArray, centers: Centers, weights: FloatArray | None = None
) -> ExactTotal:
    """Return the sum of the squares of all values of the (n, d) rows, which the loss needs.

    It is zero for cosine. With weights, which are above 0, each square is multiplied by the weight
    of its row. Whether a row is refused depends on the row alone, not on the chunk.

    Raises:
        NotFinite: a value is not finite, or a row is so long that squared distances may overflow.
    """
    if centers.distance is Distance.COSINE:
        return NOTHING
    backend = select(centers.backend)
    if weights is None:
        squares, least = backend.squares(points), 1.0
    else:
        squares, least = weighted_squares(backend, points, weights), float(weights.min())
    if float(squares) > min(1.0, least) * _SURELY_FINITE and _has_too_long_row(points):
        raise NotFinite
    return squares


@np.errstate(over="ignore")
def _has_too_long_row(points: FloatArray) -> bool:
    lengths = squared_norms(points.astype(np.float64))
    return not np.isfinite(_DISTANCE_OF_SQUARES * lengths).all()


def accumulate_starts(loaded: LoadedChunk, starts: StartCenters) -> SideBySide[PartialSums]:
    """Return the partial sums of one chunk for each start. Runs on a worker.

    Raises:
        InvalidData: as `accumulate` does.
    """
    parts: list[PartialSums] = []
    numbers = starts.numbers or (None,) * len(starts.centers)
    for number, centers in zip(numbers, starts.centers, strict=True):
        sums = accumulate(
            loaded,
            centers,
            with_farthest=starts.with_farthest,
            with_squares=starts.with_squares and not parts,
            start=number,
        )
        # All starts have the same rows, and so the same squares.
        parts.append(replace(sums, squares=parts[0].squares) if parts else sums)
    return SideBySide(tuple(parts))
