"""Exact distances of rows and centers, with the bits of the NumPy backend.

The kernels call these functions for ambiguous rows. Columns are added up in the order in which
NumPy adds them up. `tile_distances` does the same for eight rows at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dkmeans.backends.native import distance_vectors
from dkmeans.backends.native.compilation import compiled, inlined
from dkmeans.distance import SMALLEST_SQUARED_NORM
from dkmeans.state import FloatArray, IndexArray

# NumPy adds up at most this many elements in eight parallel sums; it halves longer arrays.
_PAIRWISE_BLOCK = 128
# Sums that wait for others: more than the halvings of a row of any width.
_STACK_DEPTH = 64


class DistanceParts(NamedTuple):
    """Work arrays for the distances of one row or of eight: sums over parts of the columns.

    Attributes:
        blocks: (b, 3) int64. The columns in the blocks in which NumPy adds them up: start, stop,
            and with how many sums before it the sum of a block is then added up.
        octet_sums: (8,) float64. Parallel sums of one row.
        block_sums: (64 x 8,) float64. Sums of blocks that wait for others, as a stack: of eight
            rows each, or of one row.
    """

    blocks: IndexArray
    octet_sums: FloatArray
    block_sums: FloatArray


def new_distance_parts(d: int) -> DistanceParts:
    """Return work arrays for rows of d columns."""
    blocks = np.array(_blocks(0, d), np.int64)
    return DistanceParts(blocks, np.empty(8), np.empty(_STACK_DEPTH * 8))


def _blocks(start: int, stop: int) -> list[tuple[int, int, int]]:
    """Return the blocks of a span of columns, which NumPy halves while it is too long."""
    if stop - start <= _PAIRWISE_BLOCK:
        return [(start, stop, 0)]
    middle = start + (stop - start) // 2 // 8 * 8
    *right, (last_start, last_stop, joins) = _blocks(middle, stop)
    return [*_blocks(start, middle), *right, (last_start, last_stop, joins + 1)]


@inlined
def _sum_block(
    points: Any,
    row: int,
    scale: float,
    targets: Any,
    target: int,
    cosine: bool,
    start: int,
    stop: int,
    octet_sums: Any,
) -> Any:
    """Add up the terms of at most one block of columns, in NumPy's order."""
    total, octets = 0.0, (stop - start) // 8
    if octets:
        distance_vectors.sum_octets(
            points, row, scale, targets, target, cosine, start, octets, octet_sums
        )
        # The order of these additions is NumPy's too.
        total = ((octet_sums[0] + octet_sums[1]) + (octet_sums[2] + octet_sums[3])) + (
            (octet_sums[4] + octet_sums[5]) + (octet_sums[6] + octet_sums[7])
        )
    first = start + 8 * octets
    if first < stop:
        terms = octet_sums
        distance_vectors.last_terms(
            points, row, scale, targets, target, cosine, first, stop - first, terms
        )
        for j in range(stop - first):
            total += terms[j]
    return total


@compiled
def _pairwise_sum(
    points: Any, row: int, scale: float, targets: Any, target: Any, cosine: Any, parts: Any
) -> Any:
    """Add up the terms of a distance in the order of NumPy's sum of a contiguous row."""
    blocks, sums, waiting = parts.blocks, parts.block_sums, 0
    for number in range(len(blocks)):
        start, stop = blocks[number, 0], blocks[number, 1]
        total = _sum_block(
            points, row, scale, targets, target, cosine, start, stop, parts.octet_sums
        )
        for _ in range(blocks[number, 2]):
            waiting -= 1
            total = sums[waiting] + total
        sums[waiting] = total
        waiting += 1
    return sums[0]


@inlined
def distance_to(points: Any, row: int, scale: float, centers: Any, center: Any, parts: Any) -> Any:
    """Return the exact distance of a row and a center, with the bits of the NumPy backend.

    Args:
        points: (n, d) rows.
        row: Index of the row.
        scale: The factor of the row (see `row_scale`).
        centers: With `exact` and `cosine`, as in `kernels.PackedCenters`.
        center: Index of the center.
        parts: Work arrays.
    """
    cosine, d = centers.cosine, points.shape[1]
    if len(parts.blocks) == 1:  # the same bits in half the time
        total = _sum_block(
            points, row, scale, centers.exact, center, cosine, 0, d, parts.octet_sums
        )
    else:
        total = _pairwise_sum(points, row, scale, centers.exact, center, cosine, parts)
    return from_total(total, cosine)


@inlined
def from_total(total: float, cosine: bool) -> Any:
    """Return a distance, given the sum of its terms."""
    if cosine:
        total = 1.0 - total
        total = 0.0 if total < 0.0 else 2.0 if total > 2.0 else total
    return total


@inlined
def row_scale(points: Any, row: int, centers: Any, parts: Any) -> Any:
    """Return the factor of a row: 1 / |x| as `inverse_norms` computes it for cosine, else 1."""
    if not centers.cosine:
        return 1.0
    # The squared distance to zero is |x|^2, added up in NumPy's order.
    # Without `np.bool_` and `np.int64`, Numba would compile the sum again for these constants.
    square = _pairwise_sum(points, row, 1.0, centers.zero, np.int64(0), np.bool_(False), parts)
    # The square overflows: the row has no direction that can be computed.
    if square == np.inf:
        return np.nan
    return 1.0 / np.sqrt(SMALLEST_SQUARED_NORM if square < SMALLEST_SQUARED_NORM else square)
