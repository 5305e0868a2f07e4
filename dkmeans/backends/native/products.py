"""The kernel that adds up rows times their weights, and moves them between clusters.

`moving_products` calls it. `backends.weighted.add_products` computes the same sums with NumPy.
Numba compiles the kernel at its first call.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dkmeans.backends.native import product_vectors
from dkmeans.backends.native.compilation import inlined, kernel
from dkmeans.backends.native.llvm_code import prefetch, trailing_zeros
from dkmeans.backends.native.product_vectors import GROUP
from dkmeans.state import IndexArray

# Rows of a block: those that have changed are listed first, then moved.
_BLOCK = 1024


class MoveScratch(NamedTuple):
    """Work arrays of `move_products`.

    Attributes:
        changes: (b,) int64, the rows of a block that have changed.
        is_left: (b,) uint8, 1 for listed rows with a product that is not on the grid, else 0.
        mask: (1,) int64, bit i is set if row i of 16 has changed.
    """

    changes: IndexArray
    is_left: IndexArray
    mask: IndexArray


def new_scratch() -> MoveScratch:
    """Return new work arrays."""
    return MoveScratch(
        np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.uint8), np.empty(1, np.int64)
    )


@kernel
def move_products(
    points: Any,
    weights: Any,
    before: Any,
    after: Any,
    counts: Any,
    scales: Any,
    unit: Any,
    planes: Any,
    errors: Any,
    used_bits: Any,
    left: Any,
    scratch: Any,
) -> int:
    """Move rows times their weights between the sums of clusters, and update the counts.

    Rows that stay in their cluster are passed over.

    Args:
        points: (n, d) rows, C-contiguous.
        weights: (n,) float64, above zero.
        before: (n,) int32, the clusters whose sums become smaller; -1 for rows that are in none.
            Overwritten by `after`.
        after: (n,) int32, the clusters whose sums grow.
        counts: (k,) int64, changed: the numbers of rows of the clusters.
        scales: (d + 1 padded to a multiple of 8,) float64, factors that make products on the grid
            integers; the last one is that of the weights themselves.
        unit: (d + 1 padded,) float64, 1 in column d and 0 in all others.
        planes: (p, k, d + 1 padded) int64, changed: planes 0, -1, ... Column d is that of the
            weights.
        errors: A tuple: empty if no product has more bits than float64, and p is 2; of length one
            if rounding errors are added too, and p is 4.
        used_bits: (8,) int64: the bits that are added to the last plane are set.
        left: (n,) int64, overwritten: it begins with the rows that have changed and that the planes
            do not hold. They are counted, but in no plane: the caller adds them.
        scratch: Work arrays, a `MoveScratch`.

    Returns:
        Number of rows in `left`.
    """
    # With two planes, `third` and `fourth` are not used.
    first, second, third, fourth = planes[0], planes[1], planes[-2], planes[-1]
    changes, is_left, num_left = scratch.changes, scratch.is_left, 0
    for start in range(0, len(before), len(changes)):
        stop = min(start + len(changes), len(before))
        found = find_changes(points, weights, before, after, start, stop, scratch)
        if found == 0:
            continue
        product_vectors.move_products(
            points, weights, changes, found, before, after, scales, unit, first, second, third,
            fourth, errors, used_bits, is_left,
        )  # fmt: skip
        for place in range(found):
            row = changes[place]
            if before[row] >= 0:
                counts[before[row]] -= 1
            counts[after[row]] += 1
            before[row] = after[row]
            if is_left[place]:
                left[num_left] = row
                num_left += 1
    return num_left


@inlined
def find_changes(
    points: Any, weights: Any, before: Any, after: Any, start: int, stop: int, scratch: Any
) -> int:
    """List the rows from `start` to `stop` whose clusters have changed, and return their number.

    They are far apart in memory: each is fetched as soon as it is found, but for the last ones.
    """
    found, width, changes, mask = 0, points.shape[1], scratch.changes, scratch.mask
    whole = start + (stop - start) // GROUP * GROUP
    for first in range(start, whole, GROUP):
        product_vectors.compare(before, after, first, mask)
        others = mask[0]
        while others:
            row = first + trailing_zeros(others)
            prefetch(points, row * width)
            prefetch(weights, row)
            changes[found] = row
            found += 1
            others &= others - 1
    for row in range(whole, stop):
        if before[row] != after[row]:
            changes[found] = row
            found += 1
    return found
