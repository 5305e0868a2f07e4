"""The kernel that adds up moments of rows about their centers, called by `backend.add_moments`.

It does what `backends.moments.add_moments` does with NumPy. Numba compiles it when clusters are
judged for the first time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dkmeans.backends.native.kernels import kernel
from dkmeans.exact import PLANE_BITS, WINDOW_BITS

# Constants of `exact` are compiled in. A change of them needs a change of this file, so that the
# cache on disk of Numba becomes invalid.
_WINDOW, _NEXT_PLANE = 2.0**WINDOW_BITS, 2.0**PLANE_BITS


# The inner loops have no branches, so that they become code with vectors; whole vectors, as columns
# are padded. A row is added as a whole, or left as a whole.
@kernel
def add_moments(
    points: Any,
    weights: Any,
    index: Any,
    centers: Any,
    measures: Any,
    scales: Any,
    words: Any,
    planes: Any,
    is_left: Any,
) -> None:
    """Add the moments of rows to the planes of their clusters.

    Args:
        points: (n, d), C-contiguous.
        weights: (n,) float64, above zero.
        index: (n,) int64, the cluster of each row.
        centers: (k, d) float64.
        measures: (m, n) float64.
        scales: (d + m padded to a multiple of 8,) float64, factors that make moments on the grid
            integers.
        words: (4, d + m padded) float64, a work array of zeros: the moments of a row, and what they
            add to each plane.
        planes: (3, k, d + m padded) int64, planes 0 to -2.
        is_left: (n,) uint8, set to 1 for rows that are not added, else to 0.
    """
    (n, d), m, columns = points.shape, len(measures), len(scales)
    for row in range(n):
        weight, cluster, off = weights[row], index[row], np.int64(0)
        for j in range(d):
            difference = np.float64(points[row, j]) - centers[cluster, j]
            words[3, j] = difference * difference * weight
        for j in range(m):
            words[3, d + j] = measures[j, row] * weight
        for j in range(columns):
            value = words[3, j]
            scaled = value * scales[j]
            first = np.trunc(scaled)
            rest = (scaled - first) * _NEXT_PLANE
            second = np.trunc(rest)
            rest = (rest - second) * _NEXT_PLANE
            third = np.trunc(rest)
            words[0, j], words[1, j], words[2, j] = first, second, third
            is_lost = (scaled == 0.0) & (value != 0.0)
            # The negation also selects values that are NaN.
            off += np.int64(not ((abs(scaled) < _WINDOW) & (rest == third) & (not is_lost)))
        is_left[row] = off != 0
        if off:
            continue
        for j in range(columns):
            planes[0, cluster, j] += np.int64(words[0, j])
        for j in range(columns):
            planes[1, cluster, j] += np.int64(words[1, j])
        for j in range(columns):
            planes[2, cluster, j] += np.int64(words[2, j])
