"""Sums of rows times their weights: exact, as all sums are.

A backend finds the nearest centers of rows with weights as those of any other rows. Then the
functions here add up the products w x of weights and values by `add_products` and
`total_of_products`, which NumPy and the compiled code each have. A product is taken as the sum of
two float64, so nothing is dropped (docs/decisions/018). All weights are positive: rows without a
weight have been left out.
"""

from __future__ import annotations

import numpy as np

from dkmeans.backends.protocol import Backend
from dkmeans.backends.rounding import QUIET
from dkmeans.exact import ExactSums, in_pieces
from dkmeans.exact_grid import PLANE_BITS, WINDOW_BITS, BoolArray, Grid, NotFinite, slices
from dkmeans.exact_total import NOTHING, ExactTotal, total_of_weighted_squares
from dkmeans.float_pairs import two_product
from dkmeans.state import FloatArray, IndexArray, PartialSums

# Planes that products are added to: 0, -1, -2 and -3.
PLANES = 4
# Weights differ more in size than the values of a column do: so many bits of the window are left
# for weights above the usual one, beside those that a grid leaves for values.
_SPARE_BITS = 2
# With these exponents, a product that is `_SMALLEST_ON_GRID` units of the grid or more is a normal
# float64, and so is its error.
_LEAST_EXPONENT, _MOST_EXPONENT = -800, 960
_SMALLEST_ON_GRID = 2.0**-100
# Squares of smaller numbers are not taken as pairs of float64, whose error would underflow.
_LEAST_SQUARED = 2.0**-400
# Products that are computed at a time by NumPy, and squares that a backend gets at a time.
_PRODUCTS_AT_ONCE, _SQUARES_AT_ONCE = 2**17, 2**20
# Values of which a core's cache holds a few arrays.
_IN_CACHE = 2**14


def partial_sums_of(sums: ExactSums, counts: IndexArray) -> PartialSums:
    """Return sums as `add_products` returns them, and numbers of rows, as partial sums."""
    of_rows, of_weights = sums.columns(slice(-1)), sums.columns(slice(-1, None))
    return PartialSums(of_rows, counts, weights=of_weights)


def sums_of_weights(backend: Backend, weights: FloatArray, index: IndexArray, k: int) -> ExactSums:
    """Return the sums of the (n,) weights of the rows of each of k clusters, (k, 1)."""
    zeros = np.zeros((len(weights), 1), np.float32)
    return backend.add_products(zeros, weights, index, k).columns(slice(-1, None))


def weighted_total(backend: Backend, values: FloatArray, weights: FloatArray) -> ExactTotal:
    """Return the exact sum of the products of (n,) values and weights.

    Raises:
        NotFinite: a value is not finite.
    """
    return backend.total_of_products(values[:, None], weights, of_squares=False)


@QUIET
def weighted_squares(backend: Backend, points: FloatArray, weights: FloatArray) -> ExactTotal:
    """Return the exact sum of the squares of all values of the (n, d) rows times their weights.

    Raises:
        NotFinite: a value is not finite, or float64 cannot hold its square.
    """
    if points.dtype == np.float32:  # the square has 48 bits, and no error
        return backend.total_of_products(points, weights, of_squares=True)
    total = NOTHING
    for block in slices(len(points), points.shape[1], _SQUARES_AT_ONCE):
        values, factors = points[block], weights[block]
        tiny = (np.abs(values) < _LEAST_SQUARED) & (values != 0)
        if tiny.any():
            rows, columns = np.nonzero(tiny)
            total += total_of_weighted_squares(values[rows, columns], factors[rows])
            values = np.where(tiny, 0.0, values)
        for part in _square_pairs(values):
            total += backend.total_of_products(part, factors, of_squares=False)
    return total


def _square_pairs(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the squares of (n, d) float64 values as rounded squares and their errors."""
    squares, errors = np.empty(values.shape), np.empty(values.shape)
    for some in slices(len(values), values.shape[1], _IN_CACHE):
        squares[some], errors[some] = two_product(values[some], values[some])
    return squares, errors


def product_grid(points: FloatArray, weights: FloatArray) -> Grid:
    """Return a grid for the products of (n, d) rows and (n,) weights, and for the weights."""
    of_weights, of_one = (Grid.of(part).exponents for part in (weights[:, None], np.ones((1, 1))))
    # The exponents of the weights' grid without its bits are those of usual weights.
    of_products = Grid.of(points).exponents + of_weights - of_one
    exponents = np.concatenate([of_products, of_weights]) + _SPARE_BITS
    return Grid(np.clip(exponents, _LEAST_EXPONENT, _MOST_EXPONENT))


def with_ones(points: FloatArray) -> FloatArray:
    """Return the (n, d) rows with a column of ones after their own: its sums are of weights."""
    return np.concatenate([points, np.ones((len(points), 1), points.dtype)], axis=1)


@QUIET
def add_products(points: FloatArray, weights: FloatArray, index: IndexArray, k: int) -> ExactSums:
    """Return the sums of (n, d) rows times their weights for each of k clusters, by NumPy.

    Args:
        points: (n, d) rows.
        weights: (n,) float64, their weights, finite and above zero.
        index: (n,) the cluster of each row.
        k: Number of clusters.

    Returns:
        The sums, (k, d + 1): the last column has the sums of the weights.

    Raises:
        NotFinite: a value is not finite.
    """
    grid = product_grid(points, weights)
    sums = ExactSums.zero((k, points.shape[1] + 1), grid)
    for block in slices(len(points), points.shape[1], _PRODUCTS_AT_ONCE):
        rows, factors, clusters = with_ones(points[block]), weights[block], index[block]
        parts, left = _product_parts(rows, factors, grid)
        order = np.argsort(clusters, kind="stable")
        used, starts = np.unique(clusters[order], return_index=True)
        planes = {}
        for number, part in enumerate(parts):
            plane = np.zeros(sums.shape, np.int64)
            plane[used] = np.add.reduceat(part[order].astype(np.int64), starts, axis=0)
            planes[-number] = plane
        sums += ExactSums(grid, planes)
        sums = plus_left(sums, rows, factors, clusters, left)
    return sums


def total_of_products(values: FloatArray, weights: FloatArray, *, of_squares: bool) -> ExactTotal:
    """Return the exact sum of all values of (n, d) rows times their weights, by NumPy.

    Args:
        values: (n, d) rows.
        weights: (n,) float64, their weights, finite and above zero.
        of_squares: True to take the squares of the values, which must be float32.

    Raises:
        NotFinite: a value, or its square, is not finite.
    """
    total = NOTHING
    for block in slices(len(values), values.shape[1], _PRODUCTS_AT_ONCE):
        factors = np.square(values[block], dtype=np.float64) if of_squares else values[block]
        sums = add_products(factors, weights[block], np.zeros(len(factors), np.int64), 1)
        total += sums.columns(slice(-1)).total()
    return total


def _product_parts(
    points: FloatArray, weights: FloatArray, grid: Grid
) -> tuple[list[FloatArray], BoolArray]:
    """Return what products add to the planes, as integers in float64, and which are left."""
    values = points.astype(np.float64)
    product, error = two_product(values, weights[:, None])
    scaled = product * grid.scales
    size = np.abs(scaled)
    left = ~((size < 2.0**WINDOW_BITS) & ((size >= _SMALLEST_ON_GRID) | (values == 0)))
    parts = [np.zeros(points.shape) for _ in range(PLANES)]
    # The error is at most 2^-7 of a unit: it begins with the next plane.
    for first, rest in ((0, scaled), (1, error * grid.scales * 2.0**PLANE_BITS)):
        for part in parts[first : first + PLANES - 1]:
            whole = np.trunc(rest)
            part += whole
            rest = (rest - whole) * 2.0**PLANE_BITS
        left |= rest != 0
    for part in parts:
        part[left] = 0.0
    return parts, left


def plus_left(
    sums: ExactSums, points: FloatArray, weights: FloatArray, index: IndexArray, left: BoolArray
) -> ExactSums:
    """Return the sums with those products added that do not lie on the grid.

    Args:
        sums: Sums of all other products.
        points: (n, d) rows.
        weights: (n,) their weights.
        index: (n,) the cluster of each row.
        left: (n, d) True for each product to add.

    Raises:
        NotFinite: a value is not finite.
    """
    for row, column in in_pieces(np.nonzero(left), _PRODUCTS_AT_ONCE):
        values = points[row, column]
        if not np.isfinite(values).all():
            raise NotFinite
        sums = sums.plus_products(index[row], column, values, weights[row])
    return sums
