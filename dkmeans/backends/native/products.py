"""The kernel that adds up rows times their weights, called by `backend.add_products`.

It does what `backends.weighted.add_products` does with NumPy. Numba compiles it when rows have
weights for the first time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dkmeans.backends.native.kernels import inlined, kernel
from dkmeans.backends.weighted import SMALLEST_ON_GRID
from dkmeans.exact import PLANE_BITS, WINDOW_BITS

_WINDOW, _NEXT_PLANE = 2.0**WINDOW_BITS, 2.0**PLANE_BITS
# Factor by which a float64 is cut into halves of 26 bits (`exact.two_product`).
_CUT = 2.0**27 + 1


@inlined
def _halves(value: float) -> Any:
    """Return the upper 26 bits of a value, and the rest."""
    scaled = value * _CUT
    high = scaled - (scaled - value)
    return high, value - high


@inlined
def _error(x: float, high: float, low: float, product: float) -> Any:
    """Return x times a weight, given as two halves, minus the rounded product of the two."""
    x_high, x_low = _halves(x)
    return ((x_high * high - product) + x_high * low + x_low * high) + x_low * low


@inlined
def _rest(value: float) -> Any:
    """Return what is left of a number for the next plane, in units of that plane."""
    return (value - np.trunc(value)) * _NEXT_PLANE


# Two passes for each row, both without branches, so that they become code with vectors. The first
# pass finds out whether all products lie on the grid, and which planes they need: plane 0 alone for
# whole numbers, planes 0 to -2 if the products have no error, else all four. The second pass adds.
@kernel
def add_products(
    points: Any, weights: Any, index: Any, scales: Any, planes: Any, is_left: Any
) -> Any:
    """Add the products of rows and weights to the planes of their clusters.

    Args:
        points: (n, d), C-contiguous.
        weights: (n,) float64, above zero.
        index: (n,) int64, the cluster of each row.
        scales: (d,) float64, factors that make products on the grid integers.
        planes: (4, k, d) int64, planes 0 to -3.
        is_left: (n,) uint8, set to 1 for rows that are not added, else to 0.

    Returns:
        The number of planes that were used.
    """
    n, d = points.shape
    used = 1
    for row in range(n):
        weight, cluster = weights[row], index[row]
        high, low = _halves(weight)
        off, fractions, errors, left = 0, 0, 0, 0
        for j in range(d):
            x = np.float64(points[row, j])
            product = x * weight
            value = product * scales[j]
            size = abs(value)
            off |= not ((size < _WINDOW) & ((size >= SMALLEST_ON_GRID) | (x == 0.0)))
            error = _error(x, high, low, product) * scales[j] * _NEXT_PLANE
            fractions |= value != np.trunc(value)
            errors |= error != 0.0
            left |= _rest(_rest(_rest(value))) != 0.0
            left |= _rest(_rest(_rest(error))) != 0.0
        is_left[row] = off | left
        if off | left:
            continue
        if not (fractions | errors):
            for j in range(d):
                value = np.float64(points[row, j]) * weight * scales[j]
                planes[0, cluster, j] += np.int64(value)
        elif not errors:
            used = max(used, 3)
            for j in range(d):
                value = np.float64(points[row, j]) * weight * scales[j]
                second = _rest(value)
                planes[0, cluster, j] += np.int64(value)
                planes[1, cluster, j] += np.int64(second)
                planes[2, cluster, j] += np.int64(_rest(second))
        else:
            used = 4
            for j in range(d):
                x = np.float64(points[row, j])
                product = x * weight
                value = product * scales[j]
                error = _error(x, high, low, product) * scales[j] * _NEXT_PLANE
                second, next_error = _rest(value), _rest(error)
                planes[0, cluster, j] += np.int64(value)
                planes[1, cluster, j] += np.int64(second) + np.int64(error)
                planes[2, cluster, j] += np.int64(_rest(second)) + np.int64(next_error)
                planes[3, cluster, j] += np.int64(_rest(next_error))
    return used
