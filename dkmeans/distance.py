"""The two distances, and the centers that rows are compared with.

Cosine distance is 1 - u.v over rows of length one. The rest of the library needs to know only how
rows become such rows (`directions`) and which centers the means become (`project`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

import numpy as np

from dkmeans.exact import Elements, ExactSums, first_column, where
from dkmeans.exact_total import NOTHING, ExactTotal, total_of
from dkmeans.float_pairs import Pairs, halves, sum_of_pairs, two_product, two_sum
from dkmeans.grid import BoolArray, Grid
from dkmeans.state import FloatArray, IndexArray, PartialSums

# Rows with a squared length below this count as zero, as in the documented estimator.
SMALLEST_SQUARED_NORM = 1e-12
# Squares of smaller numbers are no normal float64 numbers.
LEAST_SQUARED = 2.0**-511
# Cosine distances up to this are rounding errors between rows of the same direction. The distance
# between a direction and its float32 rounding is smaller.
SAME_DIRECTION = 2.0**-46
# Weights below this times a center of 26 bits are float64 numbers.
SHORT_WEIGHT = 2.0**27


class Distance(StrEnum):
    """The documented names of the distances."""

    SQUARED_EUCLIDEAN = "squared_euclidean"
    COSINE = "cosine"


@dataclass(frozen=True, slots=True)
class Computation:
    """Distance and backend of a fit: the one place that holds them, and makes its `Centers`.

    Attributes:
        distance: The distance between rows and centers.
        backend: Name of the backend; None leaves the choice to each worker.
    """

    distance: Distance
    backend: str | None = None

    def centers(self, values: FloatArray, grid: Grid | None = None) -> Centers:
        """Return the (k, d) values as centers of this computation."""
        return Centers(values, self.distance, self.backend, grid)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Centers:
    """Centers as they travel to the workers, with all that is needed to compare rows with them.

    Attributes:
        values: (k, d) float32 or float64.
        distance: The distance between rows and centers.
        backend: Name of the backend; None leaves the choice to each worker.
        grid: Grid of sums of the same rows, if there are any; it affects only the speed.
    """

    values: FloatArray
    distance: Distance
    backend: str | None = None
    grid: Grid | None = None

    @property
    def width(self) -> int:
        """Number of columns, d."""
        return int(self.values.shape[1])

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(self.values.nbytes)


def squared_norms(rows: FloatArray) -> FloatArray:
    """Return |x|^2 of each of the (n, d) rows, (n,), in their dtype.

    The bits of a row's result do not depend on the other rows. That is why neither `einsum` nor
    BLAS is used: `einsum` buffers wide rows across their ends, and BLAS splits rows over threads.
    """
    return np.asarray(np.add.reduce(np.square(rows), axis=1))


def inverse_norms(rows: FloatArray) -> FloatArray:
    """Return 1 / |x| of each of the (n, d) rows, (n,) float64.

    The result is finite for a zero row, and NaN for a row whose squared length is infinite: its
    direction cannot be computed.
    """
    squares = squared_norms(rows.astype(np.float64))
    squares[np.isinf(squares)] = np.nan
    return np.asarray(1.0 / np.sqrt(np.maximum(squares, SMALLEST_SQUARED_NORM)))


def directions(rows: FloatArray) -> FloatArray:
    """Return the (n, d) rows scaled to length one, float64; a zero row stays zero."""
    rows = rows.astype(np.float64)
    return np.asarray(rows * inverse_norms(rows)[:, None])


def project(means: FloatArray, distance: Distance) -> FloatArray:
    """Return the (k, d) centers that belong to these means: for cosine, the means' directions."""
    return directions(means) if distance is Distance.COSINE else means


def inertia(sums: PartialSums, centers: Centers, terms_of: Terms | None = None) -> float:
    """Return the sum of the distances of rows to their nearest centers, rounded once.

    Args:
        sums: The sums of the rows.
        centers: The centers.
        terms_of: The function that finds most of the terms; None for `terms`.
    """
    return max(0.0, float(sums.squares + loss_of_sums(sums, centers, terms_of)))


@np.errstate(all="ignore")
def loss_of_sums(sums: PartialSums, centers: Centers, terms_of: Terms | None = None) -> ExactTotal:
    """Return the loss less the squares of the rows: what the sums of the rows add to it.

    For the Euclidean distance this is the sum of c.(n c - 2 s) over all centers c with n rows whose
    sum is s; for cosine, of n - c.s. With weights, n is the sum of the weights of those rows. The
    terms are pairs of float64, good to 2^-95 of their size: if rows share an offset, the terms are
    far larger than the loss. Where a term overflows, it is computed as a fraction.

    Args:
        sums: The sums of the rows.
        centers: The centers.
        terms_of: The function that finds most of the terms; None for `terms`.
    """
    terms_of = terms_of or terms
    cosine = centers.distance is Distance.COSINE
    weights = ExactSums.zero((len(centers.values), 1)) if cosine else sums.cluster_weights
    factor, parts, total = 1 if cosine else 2, [], NOTHING
    for piece, of_rows in sums.sums.pieces():
        exact = project(centers.values[piece].astype(np.float64), centers.distance)
        of_piece = weights.clusters(piece)
        *pairs, left = terms_of(of_rows, of_piece, exact, factor)
        parts.append(pairs)
        for elements in where(left):
            total += _total_of_terms(of_rows, of_piece, exact[elements], elements, factor)
    high, low = map(np.concatenate, zip(*parts, strict=True))
    total += total_of(np.array(sum_of_pairs(high, low)), 2 * sums.sums.grid.exponents)
    if cosine:
        total += sums.cluster_weights.total()
    return total


def terms(
    sums: ExactSums, weights: ExactSums, centers: FloatArray, factor: int
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return the sum of c.(n c - factor s) over the centers of each block, for each column.

    Args:
        sums: The sums s, all in planes, (k, d).
        weights: (k, 1) the weights n.
        centers: (k, d) float64, the centers c.
        factor: The factor.

    Returns:
        Pairs of float64, high and low, (b, d) each for b blocks of `ExactSums.blocks`, in units of
        the square of the sums' grid; and where terms are not in them, (k, d).
    """
    high, low, left = [], [], np.empty(centers.shape, bool)
    for some in sums.blocks():
        of_some = sums.clusters(some), weights.clusters(some), centers[some]
        value, error, is_in = _terms_of_block(*of_some, factor)
        of_block = sum_of_pairs(np.where(is_in, value, 0.0), np.where(is_in, error, 0.0))
        high.append(of_block[0])
        low.append(of_block[1])
        left[some] = ~is_in
    return np.array(high), np.array(low), left


def _terms_of_block(sums: ExactSums, weights: ExactSums, centers: FloatArray, factor: int) -> Pairs:
    """Return the terms c.(n c - factor s) of a block as pairs, and where they are accurate."""
    (total, is_whole), (weight, is_whole_weight) = sums.whole(), weights.whole()
    scaled = centers * sums.grid.scales
    is_short = is_whole_weight & (weight < SHORT_WEIGHT) & (halves(scaled)[1] == 0)
    is_in = is_whole & is_short
    if 2 * np.count_nonzero(is_in) > is_in.size:
        # Most sums are whole numbers, and centers have the 24 bits of a float32: fewer operations
        # find the same pairs.
        product = weight * np.ldexp(1.0, weights.grid.exponents) * scaled
        first, rest = two_sum(product, -factor * total)
        value, (high, low) = first * scaled, halves(first)
        error = ((high * scaled - value) + low * scaled) + rest * scaled
        return value, error, is_in & np.isfinite(value) & np.isfinite(error)
    of_weights = weights.pairs(...), weights.grid.exponents
    return _pairs_of_terms(sums.pairs(...), *of_weights, scaled, factor)


# `terms`, or a function that does the same.
Terms = Callable[[ExactSums, ExactSums, FloatArray, int], tuple[FloatArray, FloatArray, BoolArray]]


def _total_of_terms(
    sums: ExactSums, weights: ExactSums, centers: FloatArray, some: Elements, factor: int
) -> ExactTotal:
    """Return the sum of some terms c.(n c - factor s).

    Args:
        sums: The sums s.
        weights: (k, 1) the weights n.
        centers: (m,) float64, the centers c of the terms.
        some: The clusters and columns of the terms.
        factor: The factor.
    """
    exponents = sums.grid.exponents[some[1]]
    of_weights = weights.pairs(first_column(some)), weights.grid.exponents
    scaled = np.ldexp(centers, -exponents)
    value, error, is_sure = _pairs_of_terms(sums.pairs(some), *of_weights, scaled, factor)
    total = total_of(np.stack([value[is_sure], error[is_sure]]), 2 * exponents[is_sure])
    for i in np.flatnonzero(~is_sure):
        cluster, column, center = some[0][i], some[1][i], Fraction(float(centers[i]))
        weighted = weights.exact(cluster, 0) * center
        total += ExactTotal.of(center * (weighted - factor * sums.exact(cluster, column)))
    return total


def _pairs_of_terms(
    sums: Pairs, weights: Pairs, exponents: IndexArray, scaled: FloatArray, factor: int
) -> Pairs:
    """Return c.(n c - factor s) as pairs of float64, in units of the square of the sums' grid.

    Args:
        sums: The sums s.
        weights: The weights n.
        exponents: Those of the grid of the weights.
        scaled: The centers c, in units of the sums' grid.
        factor: The factor.
    """
    high, low, is_sure = sums
    weight, weight_rest = (np.ldexp(part, exponents) for part in weights[:2])
    product, error = two_product(weight, scaled)
    error += weight_rest * scaled
    first, rest = two_sum(product, -factor * high)
    value, value_error = two_product(first, scaled)
    value_error += (rest + error - factor * low) * scaled
    is_sure = is_sure & weights[2] & np.isfinite(value) & np.isfinite(value_error)
    return value, value_error, is_sure
