"""Exact distances of rows and centers, with the bits of the NumPy backend.

The kernels call these functions for ambiguous rows, and `tile_distances` for rows of many columns.
Columns are added up in the order in which NumPy adds them up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dkmeans.backends.native import distance_vectors
from dkmeans.backends.native.compilation import compiled, inlined
from dkmeans.distance import SMALLEST_SQUARED_NORM
from dkmeans.state import FloatArray, IndexArray

# NumPy adds up at most this many elements in eight parallel sums; it halves longer arrays.
PAIRWISE_BLOCK = 128
# Entries of the stacks: more than the halvings of a row of any width.
_STACK_DEPTH = 64


class DistanceParts(NamedTuple):
    """Work arrays for one distance: sums over parts of the columns.

    Attributes:
        octet_sums: (8,) float64. Parallel sums.
        spans: (64, 3) int64. Spans of columns that are still to be added up: start, stop, depth.
        span_sums: (64,) float64. Finished sums of spans.
        span_depths: (64,) int64. Depths of these spans.
    """

    octet_sums: FloatArray
    spans: IndexArray
    span_sums: FloatArray
    span_depths: IndexArray


def new_distance_parts() -> DistanceParts:
    """Return work arrays for rows of any width."""
    return DistanceParts(
        octet_sums=np.empty(8),
        spans=np.empty((_STACK_DEPTH, 3), np.int64),
        span_sums=np.empty(_STACK_DEPTH),
        span_depths=np.empty(_STACK_DEPTH, np.int64),
    )


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
    """Add up the terms of a distance in the order of NumPy's sum of a contiguous row.

    NumPy halves a span of columns that is longer than a block, and adds up the sums of the halves.
    The recursion is a loop here, as a kernel must not be recursive. `spans` is the stack of spans
    that are still to be added up. `span_sums` is the stack of sums of left halves, each waiting for
    the sum of its right half. Spans are taken from left to right. So a new sum belongs to the sum
    on top of the stack exactly if the two have the same depth in the tree.
    """
    octet_sums, spans, sums, depths = parts
    spans[0, 0], spans[0, 1], spans[0, 2] = 0, points.shape[1], 0
    pending, waiting = 1, 0
    while pending:
        pending -= 1
        start, stop, depth = spans[pending, 0], spans[pending, 1], spans[pending, 2]
        if stop - start > PAIRWISE_BLOCK:
            middle = start + (stop - start) // 2 // 8 * 8
            # The right half first: the left half is then on top of the stack.
            spans[pending, 0], spans[pending, 1], spans[pending, 2] = middle, stop, depth + 1
            pending += 1
            spans[pending, 0], spans[pending, 1], spans[pending, 2] = start, middle, depth + 1
            pending += 1
            continue
        total = _sum_block(points, row, scale, targets, target, cosine, start, stop, octet_sums)
        while waiting and depths[waiting - 1] == depth:
            waiting -= 1
            total, depth = sums[waiting] + total, depth - 1
        sums[waiting], depths[waiting] = total, depth
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
    if d <= PAIRWISE_BLOCK:  # one block: the same bits in half the time
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
