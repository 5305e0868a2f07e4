"""Moments of rows about the centers of their clusters: exact sums, by which clusters are judged.

A row x of the weight w in a cluster with the center c adds w (x - c)^2 in each column, and its
measures times w, such as its distance. Each of these values is rounded to float64, which depends on
the row alone, and the values are added up exactly. So moments are the same for any chunks. The
differences from the centers keep the digits that an offset of all rows would cost the squares.

    squares = select().add_squares(rows, weights, index, centers)
    measures, lengths = select().add_measures(distances, weights, index, k, 1.0)
"""

from __future__ import annotations

import numpy as np

from dkmeans.backends.addition import GridPerCenters, plus_rows
from dkmeans.backends.rounding import QUIET, exact_rows
from dkmeans.distance import Centers, Distance
from dkmeans.exact import ExactSums
from dkmeans.exact_grid import Grid, slices
from dkmeans.state import FloatArray, IndexArray

# Measures of a row, in the order of their columns.
DISTANCE, LENGTH, SILHOUETTE, AMBIGUOUS = range(4)
NUM_MEASURES = 4
# A row is ambiguous if its second nearest center is farther than its nearest one by at most this.
AMBIGUOUS_RATIO = 1.05

# Planes that moments are added to: 0, -1 and -2.
MOMENT_PLANES = 3
# Squares of differences have few usual values: so many bits of the window are left for larger ones,
# beside those that a grid leaves for values.
_SPARE_BITS = 16
_MOST_EXPONENT = 960
# Rows that a grid is made from, and values that NumPy adds up at a time.
_SAMPLED_ROWS, _VALUES_AT_ONCE = 32, 2**17


_grids_of_squares = GridPerCenters(4)


@QUIET
def add_squares(
    points: FloatArray, weights: FloatArray, index: IndexArray, centers: Centers
) -> ExactSums:
    """Return the sums of squared differences from the centers for each cluster, by NumPy.

    Args:
        points: (n, d) rows.
        weights: (n,) float64, their weights, finite and above zero.
        index: (n,) the cluster of each row.
        centers: The centers. For cosine, rows and centers are scaled to length one first.

    Returns:
        The sums, (k, d).

    Raises:
        NotFinite: a square is too large for float64.
    """
    values = exact_rows(centers.values, centers.distance)
    rows = judged_rows(points, centers)
    sums = ExactSums.zero(values.shape, square_grid(rows, weights, index, values, centers))
    for some in slices(len(rows), rows.shape[1], _VALUES_AT_ONCE):
        sums = plus_squares(sums, rows[some], weights[some], index[some], values)
    return sums


def judged_rows(points: FloatArray, centers: Centers) -> FloatArray:
    """Return the rows whose differences from the centers are squared: for cosine of length one."""
    return exact_rows(points, Distance.COSINE) if centers.distance is Distance.COSINE else points


def plus_squares(
    sums: ExactSums, rows: FloatArray, weights: FloatArray, index: IndexArray, values: FloatArray
) -> ExactSums:
    """Return the sums with the squares of some rows added, wherever these lie on the grid.

    Args:
        sums: The sums.
        rows: (n, d), as `judged_rows` returns them.
        weights: As in `add_squares`.
        index: As in `add_squares`.
        values: (k, d) float64, the centers as exact distances are measured to them.

    Raises:
        NotFinite: a square is too large for float64.
    """
    squares = _squares_of(rows, weights, index, values)
    return plus_rows(sums, squares, index, Distance.SQUARED_EUCLIDEAN)


def square_grid(
    rows: FloatArray,
    weights: FloatArray,
    index: IndexArray,
    values: FloatArray,
    centers: Centers,
) -> Grid:
    """Return a grid for the squared differences of (n, d) rows, by those of some of the rows.

    The arguments are those of `plus_squares`, and the centers that `values` are of.
    """
    some = _sampled(len(rows))
    own = _grid_of(_squares_of(rows[some], weights[some], index[some], values))
    return _grids_of_squares(centers, own)


def _squares_of(
    rows: FloatArray, weights: FloatArray, index: IndexArray, values: FloatArray
) -> FloatArray:
    """Return what each row adds to the squares of its cluster, (n, d) float64."""
    differences = rows - values[index]
    return np.asarray(differences * differences * weights[:, None])


@QUIET
def add_measures(
    distances: FloatArray, weights: FloatArray, index: IndexArray, k: int, factor: float
) -> tuple[ExactSums, FloatArray]:
    """Return the sums of the rows' measures for each cluster, by NumPy; and the largest lengths.

    The measures are the distance to the nearest center, its length, the silhouette, and 1 if the
    row is ambiguous. The silhouette is the simplified one (Hruschka, de Castro and Campello,
    Evolutionary algorithms for clustering gene-expression data, 2004): 1 - a / b, where a and b are
    the Euclidean distances to the nearest and second nearest center; 0 where both are zero.

    Args:
        distances: (2, n) float64, finite, the distances to the nearest and second nearest center;
            (1, n) if there is one center, or the last two measures are not needed: they are 0.
        weights: (n,) float64, the weights of the rows, finite and above zero.
        index: (n,) the cluster of each row.
        k: Number of clusters.
        factor: Factor that makes a distance the square of a length.

    Returns:
        The sums, (k, 4), and the largest length of a row of each cluster, (k,); 0 without rows.

    Raises:
        NotFinite: a measure is too large for float64.
    """
    sums = ExactSums.zero((k, NUM_MEASURES), measure_grid(distances, weights, factor))
    lengths = np.zeros(k)
    for some in slices(distances.shape[1], NUM_MEASURES, _VALUES_AT_ONCE):
        sums = plus_measures(sums, distances[:, some], weights[some], index[some], factor)
        np.maximum.at(lengths, index[some], np.sqrt(factor * distances[0, some]))
    return sums, lengths


def plus_measures(
    sums: ExactSums, distances: FloatArray, weights: FloatArray, index: IndexArray, factor: float
) -> ExactSums:
    """Return the sums with the measures of some rows added, wherever these lie on the grid.

    Raises:
        NotFinite: a measure is too large for float64.
    """
    values = _measures_of(distances, weights, factor)
    return plus_rows(sums, values, index, Distance.SQUARED_EUCLIDEAN)


def measure_grid(distances: FloatArray, weights: FloatArray, factor: float) -> Grid:
    """Return a grid for the measures of rows, by those of some of the rows."""
    some = _sampled(distances.shape[1])
    return _grid_of(_measures_of(distances[:, some], weights[some], factor))


def _measures_of(distances: FloatArray, weights: FloatArray, factor: float) -> FloatArray:
    """Return what each row adds to the measures of its cluster, (n, 4) float64."""
    measures = np.zeros((NUM_MEASURES, distances.shape[1]))
    measures[DISTANCE] = distances[0]
    length = np.sqrt(factor * distances[0], out=measures[LENGTH])
    if len(distances) > 1:
        second, silhouette = np.sqrt(factor * distances[1]), measures[SILHOUETTE]
        silhouette[:] = 1.0
        np.divide(length, second, out=silhouette, where=second > 0)
        np.subtract(1.0, silhouette, out=silhouette)
        measures[AMBIGUOUS] = second <= AMBIGUOUS_RATIO * length
    return np.asarray((measures * weights).T)


def _sampled(rows: int) -> slice:
    return slice(None, None, -(-rows // _SAMPLED_ROWS) or 1)


def _grid_of(values: FloatArray) -> Grid:
    exponents = Grid.of(values).exponents + _SPARE_BITS
    return Grid(np.minimum(exponents, _MOST_EXPONENT))
