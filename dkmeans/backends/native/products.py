"""The kernel that adds up rows times their weights, and moves them between clusters.

`moving_products` calls it, and the kernel that finds these rows. It does what
`backends.weighted.add_products` does with NumPy. Numba compiles both when rows have weights for
the first time.
"""

from __future__ import annotations

from typing import Any

from dkmeans.backends.native import product_vectors
from dkmeans.backends.native.compilation import kernel
from dkmeans.backends.native.product_vectors import GROUP
from dkmeans.backends.native.vectors import trailing_zeros

# Hash of the files whose code is compiled into these kernels (see `compilation`).
INTRINSICS = "6513e000257c"


@kernel
def find_changes(before: Any, after: Any, changes: Any, mask: Any) -> Any:
    """Find the rows whose clusters have changed, and return their number.

    Args:
        before: (n,) int32, clusters.
        after: (n,) int32, clusters.
        changes: (n,) int64, overwritten: it begins with these rows.
        mask: (1,) int64, overwritten.
    """
    found = 0
    whole = len(before) // GROUP * GROUP
    for start in range(0, whole, GROUP):
        product_vectors.compare(before, after, start, mask)
        left = mask[0]
        while left:
            changes[found] = start + trailing_zeros(left)
            found += 1
            left &= left - 1
    for row in range(whole, len(before)):
        if before[row] != after[row]:
            changes[found] = row
            found += 1
    return found


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
    is_left: Any,
) -> None:
    """Move rows times their weights from the sums of clusters to those of others, and count them.

    Args:
        points: (n, d) rows, at least one, C-contiguous.
        weights: (n,) float64, above zero.
        before: (n,) int32, the clusters whose sums become smaller; -1 for rows that are in none.
        after: (n,) int32, the clusters whose sums grow.
        counts: (k,) int64, changed: the numbers of rows of the clusters.
        scales: (d + 1 padded to a multiple of 8,) float64, factors that make products on the grid
            integers; the last one is that of the weights themselves.
        unit: (d + 1 padded,) float64, 1 in column d and 0 in all others.
        planes: (p, k, d + 1 padded) int64, changed: planes 0, -1, ... Column d is that of the
            weights.
        errors: A tuple: empty if no product has more bits than float64, and p is 2; of length one
            if rounding errors are added too, and p is 4.
        used_bits: (8,) int64: the bits that are added to plane -1 are set.
        is_left: (n,) uint8, set to 1 for rows that the planes do not hold, and that are in no sum;
            for other rows that move, set to 0.
    """
    for row in range(len(before)):
        if before[row] >= 0:
            counts[before[row]] -= 1
        counts[after[row]] += 1
    first, second, third, fourth = planes[0], planes[1], planes[-2], planes[-1]
    product_vectors.move_products(
        points, weights, before, after, scales, unit, first, second, third, fourth, errors,
        used_bits, is_left,
    )  # fmt: skip
