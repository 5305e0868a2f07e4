"""Moments of rows about the centers of their clusters: exact sums, by which clusters are judged.

A row x of the weight w in a cluster with the center c adds w (x - c)^2 in each column, and its
measures times w, such as its distance. Each of these values is rounded to float64, which depends on
the row alone, and the values are added up exactly. So moments are the same for any chunks. The
differences from the centers keep the digits that an offset of all rows would cost the squares.

    sums = select().add_moments(rows, weights, index, centers, distances[None])
"""

from __future__ import annotations

import numpy as np

from dkmeans.backends.addition import plus_rows
from dkmeans.backends.rounding import QUIET
from dkmeans.distance import Distance
from dkmeans.exact import ExactSums, Grid
from dkmeans.state import FloatArray, IndexArray

# Planes that moments are added to: 0, -1 and -2.
MOMENT_PLANES = 3
# Squares of differences have few usual values: so many bits of the window are left for larger ones,
# beside those that a grid leaves for values.
_SPARE_BITS = 16
_MOST_EXPONENT = 960
# Rows that a grid is made from, and values that NumPy adds up at a time.
_SAMPLED_ROWS, _VALUES_AT_ONCE = 32, 2**17


@QUIET
def add_moments(
    points: FloatArray,
    weights: FloatArray,
    index: IndexArray,
    centers: FloatArray,
    measures: FloatArray,
) -> ExactSums:
    """Return the moments of rows for each cluster, by NumPy.

    Args:
        points: (n, d) rows.
        weights: (n,) float64, their weights, finite and above zero.
        index: (n,) the cluster of each row.
        centers: (k, d) float64, the centers.
        measures: (m, n) float64, finite numbers about each row.

    Returns:
        The sums, (k, d + m): of the squared differences, and of the measures.

    Raises:
        NotFinite: a moment is too large for float64.
    """
    grid = moment_grid(points, weights, index, centers, measures)
    sums = ExactSums.zero((len(centers), len(grid.exponents)), grid)
    size = max(1, _VALUES_AT_ONCE // len(grid.exponents))
    for start in range(0, len(points), size):
        some = slice(start, start + size)
        sums = plus_left_moments(
            sums, points[some], weights[some], index[some], centers, measures[:, some]
        )
    return sums


def plus_left_moments(
    sums: ExactSums,
    points: FloatArray,
    weights: FloatArray,
    index: IndexArray,
    centers: FloatArray,
    measures: FloatArray,
) -> ExactSums:
    """Return the sums with the moments of some rows added, wherever these lie on the grid.

    Raises:
        NotFinite: a moment is too large for float64.
    """
    values = _values_of(points, weights, index, centers, measures)
    return plus_rows(sums, values, index, Distance.SQUARED_EUCLIDEAN)


def moment_grid(
    points: FloatArray,
    weights: FloatArray,
    index: IndexArray,
    centers: FloatArray,
    measures: FloatArray,
) -> Grid:
    """Return a grid for the moments of (n, d) rows, by those of some of the rows."""
    some = slice(None, None, -(-len(points) // _SAMPLED_ROWS) or 1)
    values = _values_of(points[some], weights[some], index[some], centers, measures[:, some])
    exponents = Grid.of(values).exponents + _SPARE_BITS
    return Grid(np.minimum(exponents, _MOST_EXPONENT))


def _values_of(
    points: FloatArray,
    weights: FloatArray,
    index: IndexArray,
    centers: FloatArray,
    measures: FloatArray,
) -> FloatArray:
    """Return what each row adds to the moments of its cluster, (n, d + m) float64."""
    differences, weight = points - centers[index], weights[:, None]
    return np.concatenate([differences * differences * weight, measures.T * weight], axis=1)
