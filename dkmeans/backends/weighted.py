"""Sums of rows times their weights: exact, as all sums are.

A backend finds the nearest centers of rows with weights as those of any other rows. Then the
functions here add up the products w x of weights and values by `add_products`, which NumPy and the
compiled code each have. A product is taken as the sum of two float64, so nothing is dropped
(docs/decisions/018). All weights are positive: rows without a weight have been left out.

    sums = weighted_sums(select(), rows, weights, index, centers)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dkmeans.backends.addition import BoolArray, as_added
from dkmeans.backends.protocol import Backend
from dkmeans.backends.rounding import QUIET
from dkmeans.distance import Centers, Distance
from dkmeans.exact import (
    NOTHING,
    PLANE_BITS,
    WINDOW_BITS,
    ExactSums,
    ExactTotal,
    Grid,
    NotFinite,
    total_of_weighted_squares,
    two_product,
)
from dkmeans.state import FloatArray, IndexArray, PartialSums

# Planes that products are added to: 0, -1, -2 and -3.
PLANES = 4
# Weights differ more in size than the values of a column do: so many bits of the window are left
# for weights above the usual one, beside those that a grid leaves for values.
_SPARE_BITS = 2
# With these exponents, a product that is `SMALLEST_ON_GRID` units of the grid or more is a normal
# float64, and so is its error.
_LEAST_EXPONENT, _MOST_EXPONENT = -800, 960
SMALLEST_ON_GRID = 2.0**-100
# Squares of smaller numbers are not taken as pairs of float64, whose error would underflow.
_LEAST_SQUARED = 2.0**-400
# Products that are computed at a time by NumPy.
_PRODUCTS_AT_ONCE = 2**17


@QUIET
def weighted_sums(
    backend: Backend,
    points: FloatArray,
    weights: FloatArray,
    index: IndexArray,
    centers: Centers,
) -> PartialSums:
    """Return the partial sums of rows with weights, without squares.

    Args:
        backend: The backend that adds up.
        points: (n, d) rows.
        weights: (n,) float64, their weights, finite and above zero.
        index: (n,) the nearest center of each row.
        centers: The centers.

    Raises:
        NotFinite: a value is not finite, or for cosine a row is too long to have a direction.
    """
    k = len(centers.values)
    if centers.distance is Distance.COSINE:
        points = as_added(points, centers.distance)
    return PartialSums(
        backend.add_products(points, weights, index, k),
        np.bincount(index, minlength=k).astype(np.int64, copy=False),
        weights=sums_of_weights(backend, weights, index, k),
    )


def sums_of_weights(backend: Backend, weights: FloatArray, index: IndexArray, k: int) -> ExactSums:
    """Return the sums of the (n,) weights of the rows of each of k clusters, (k, 1)."""
    return backend.add_products(np.ones((len(weights), 1), np.float32), weights, index, k)


def weighted_total(backend: Backend, values: FloatArray, weights: FloatArray) -> ExactTotal:
    """Return the exact sum of the products of (n,) values and weights.

    Raises:
        NotFinite: a value is not finite.
    """
    return _total_of_rows(backend, values[:, None], weights)


@QUIET
def weighted_squares(backend: Backend, points: FloatArray, weights: FloatArray) -> ExactTotal:
    """Return the exact sum of the squares of all values of the (n, d) rows times their weights.

    Raises:
        NotFinite: a value is not finite, or float64 cannot hold its square.
    """
    total = NOTHING
    for block in _blocks(points):
        values, factors = points[block].astype(np.float64), weights[block]
        rows, columns = np.nonzero((values != 0) & (np.abs(values) < _LEAST_SQUARED))
        if len(rows):
            total += total_of_weighted_squares(values[rows, columns], factors[rows])
            values[rows, columns] = 0.0
        # The square of a float32 has 48 bits, and no error.
        square, error = two_product(values, values)
        total += _total_of_rows(backend, square, factors)
        if points.dtype == np.float64:
            total += _total_of_rows(backend, error, factors)
    return total


def _total_of_rows(backend: Backend, values: FloatArray, weights: FloatArray) -> ExactTotal:
    return backend.add_products(values, weights, np.zeros(len(values), np.int64), 1).total()


def product_grid(points: FloatArray, weights: FloatArray) -> Grid:
    """Return a grid for the products of (n, d) rows and their (n,) weights."""
    # The exponents of the weights' grid without its bits: those of usual weights.
    usual = Grid.of(weights[:, None]).exponents - Grid.of(np.ones((1, 1))).exponents
    exponents = Grid.of(points).exponents + usual + _SPARE_BITS
    return Grid(np.clip(exponents, _LEAST_EXPONENT, _MOST_EXPONENT))


@QUIET
def add_products(points: FloatArray, weights: FloatArray, index: IndexArray, k: int) -> ExactSums:
    """Return the sums of the (n, d) rows times their weights for each of k clusters, by NumPy.

    Args:
        points: (n, d) rows.
        weights: (n,) float64, their weights, finite and above zero.
        index: (n,) the cluster of each row.
        k: Number of clusters.

    Raises:
        NotFinite: a value is not finite.
    """
    grid = product_grid(points, weights)
    sums = ExactSums.zero((k, points.shape[1]), grid)
    for block in _blocks(points):
        parts, left = _product_parts(points[block], weights[block], grid)
        order = np.argsort(index[block], kind="stable")
        clusters, starts = np.unique(index[block][order], return_index=True)
        planes = {}
        for number, part in enumerate(parts):
            plane = np.zeros(sums.shape, np.int64)
            plane[clusters] = np.add.reduceat(part[order].astype(np.int64), starts, axis=0)
            planes[-number] = plane
        sums += ExactSums(grid, planes)
        sums = plus_left(sums, points[block], weights[block], index[block], left)
    return sums


def _product_parts(
    points: FloatArray, weights: FloatArray, grid: Grid
) -> tuple[list[FloatArray], BoolArray]:
    """Return what products add to the planes, as integers in float64, and which are left."""
    values = points.astype(np.float64)
    product, error = two_product(values, weights[:, None])
    scaled = product * grid.scales
    size = np.abs(scaled)
    left = ~((size < 2.0**WINDOW_BITS) & ((size >= SMALLEST_ON_GRID) | (values == 0)))
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
    rows, columns = np.nonzero(left)
    for start in range(0, len(rows), _PRODUCTS_AT_ONCE):
        some = slice(start, start + _PRODUCTS_AT_ONCE)
        row, column = rows[some], columns[some]
        values = points[row, column]
        if not np.isfinite(values).all():
            raise NotFinite
        sums = sums.plus_products(index[row], column, values, weights[row])
    return sums


def _blocks(points: FloatArray) -> Iterator[slice]:
    """Yield slices that cut (n, d) rows into blocks of about `_PRODUCTS_AT_ONCE` values."""
    size = max(1, _PRODUCTS_AT_ONCE // points.shape[1])
    return (slice(start, start + size) for start in range(0, len(points), size))
