"""The kernel that adds up rows times their weights, called by `backend.add_products`.

It does what `backends.weighted.add_products` does with NumPy. Numba compiles it when rows have
weights for the first time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from dkmeans.backends.native.kernels import inlined, kernel
from dkmeans.exact import PLANE_BITS, WINDOW_BITS

# Constants of `exact` are compiled in. A change of them needs a change of this file, so that the
# cache on disk of Numba becomes invalid.
_WINDOW, _NEXT_PLANE = 2.0**WINDOW_BITS, 2.0**PLANE_BITS
# A product of at least so many units of the grid has all its 53 bits in planes 0 and -1; in planes
# 0 to -2; and, with its error of 53 bits more, in planes 0 to -3.
_TWO_PLANES, _THREE_PLANES, _FOUR_PLANES = 2.0**21, 2.0**-11, 2.0**10


@intrinsic  # type: ignore[untyped-decorator]
def _error(_context: Any, _x: Any, _weight: Any, _product: Any) -> Any:
    """Return x times a weight minus the rounded product, which is exact by a fused operation.

    The halves of `exact.two_product` would overflow from 2^997 on.
    """

    def codegen(_: Any, builder: Any, __: Any, values: Any) -> Any:
        x, weight, product = values
        return builder.fma(x, weight, builder.fneg(product))

    return types.float64(types.float64, types.float64, types.float64), codegen


@inlined
def _rest(value: float) -> Any:
    """Return what is left of a number for the next plane, in units of that plane."""
    return (value - np.float64(np.int64(value))) * _NEXT_PLANE


@inlined
def _add(planes: Any, cluster: int, j: int, value: float, number: int) -> None:
    """Add a product to planes 0 to 1 - number: what is left of it after them is zero."""
    planes[0, cluster, j] += np.int64(value)
    if number > 1:
        second = _rest(value)
        planes[1, cluster, j] += np.int64(second)
        if number > 2:
            planes[2, cluster, j] += np.int64(_rest(second))


@inlined
def _add_with_error(planes: Any, cluster: int, j: int, value: float, error: float) -> None:
    """Add a product and its error, in units of plane -1, to all four planes."""
    second, next_error = _rest(value), _rest(error)
    planes[0, cluster, j] += np.int64(value)
    planes[1, cluster, j] += np.int64(second) + np.int64(error)
    planes[2, cluster, j] += np.int64(_rest(second)) + np.int64(next_error)
    planes[3, cluster, j] += np.int64(_rest(next_error))


@inlined
def _look_at(points: Any, row: int, weight: float, scales: Any, smallest: float) -> Any:
    """Return how many products of a row are no whole numbers, and how many are not in a range.

    The range is from `smallest` to the end of the window, in units of the grid; zeros are in it.
    """
    value = weight * scales[points.shape[1]]
    fractions = np.int64(value != np.trunc(value))
    off = np.int64(not (smallest <= value < _WINDOW))
    # Sums of integers become code with vectors; `any` of conditions does not.
    for j in range(points.shape[1]):
        x = np.float64(points[row, j])
        value = x * weight * scales[j]
        size = abs(value)
        fractions += np.int64(value != np.trunc(value))
        off += np.int64(not ((size < _WINDOW) & ((size >= smallest) | (x == 0.0))))
    return fractions, off


# Two passes for each row, both without branches, so that they become code with vectors. The first
# pass finds out whether all products lie on the grid, and whether all are whole numbers. The second
# pass adds. A product of a float32 and a weight of 24 bits has no error.
@kernel
def add_products(
    points: Any, weights: Any, index: Any, scales: Any, planes: Any, is_left: Any
) -> Any:
    """Add the products of rows and weights to the planes of their clusters.

    Args:
        points: (n, d), C-contiguous.
        weights: (n,) float64, above zero.
        index: (n,) int64, the cluster of each row.
        scales: (d + 1,) float64, factors that make products on the grid integers.
        planes: (4, k, d + 1) int64, planes 0 to -3. The last column gets the weights.
        is_left: (n,) uint8, set to 1 for rows that are not added, else to 0.

    Returns:
        The number of planes that were used.
    """
    n, d = points.shape
    used = 1
    for row in range(n):
        weight, cluster = weights[row], index[row]
        has_errors = points.itemsize > 4 or weight != np.float64(np.float32(weight))
        needed = _FOUR_PLANES if has_errors else _TWO_PLANES
        fractions, off = _look_at(points, row, weight, scales, needed)
        is_small = off != 0 and not has_errors
        if is_small:
            fractions, off = _look_at(points, row, weight, scales, _THREE_PLANES)
        is_left[row] = off != 0
        if off:
            continue
        if has_errors:
            used = 4
            for j in range(d):
                x = np.float64(points[row, j])
                product = x * weight
                error = _error(x, weight, product) * scales[j] * _NEXT_PLANE
                _add_with_error(planes, cluster, j, product * scales[j], error)
            _add_with_error(planes, cluster, d, weight * scales[d], 0.0)
        elif not fractions:
            for j in range(d):
                _add(planes, cluster, j, np.float64(points[row, j]) * weight * scales[j], 1)
            _add(planes, cluster, d, weight * scales[d], 1)
        elif not is_small:
            used = max(used, 2)
            for j in range(d):
                _add(planes, cluster, j, np.float64(points[row, j]) * weight * scales[j], 2)
            _add(planes, cluster, d, weight * scales[d], 2)
        else:
            used = max(used, 3)
            for j in range(d):
                _add(planes, cluster, j, np.float64(points[row, j]) * weight * scales[j], 3)
            _add(planes, cluster, d, weight * scales[d], 3)
    return used
