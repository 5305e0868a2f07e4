"""The two distances, and the centers that rows are compared with.

Cosine distance is 1 - u.v over rows of length one. The rest of the library needs to know only how
rows become such rows (`directions`) and which centers the means become (`project`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

import numpy as np

from dkmeans.exact import (
    NOTHING,
    ExactSums,
    ExactTotal,
    Grid,
    sum_of_pairs,
    total_of,
    two_product,
    two_sum,
)
from dkmeans.state import FloatArray, PartialSums

# Rows with a squared length below this count as zero, as in the documented estimator.
SMALLEST_SQUARED_NORM = 1e-12
# Cosine distances up to this are rounding errors between rows of the same direction. The distance
# between a direction and its float32 rounding is smaller.
SAME_DIRECTION = 2.0**-46


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
    """Return |x|^2 of each of the (n, d) float64 rows, (n,).

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


def inertia(sums: PartialSums, centers: Centers) -> float:
    """Return the sum of the distances of rows to their nearest centers, rounded once."""
    return max(0.0, float(sums.squares + loss_of_sums(sums, centers)))


@np.errstate(all="ignore")
def loss_of_sums(sums: PartialSums, centers: Centers) -> ExactTotal:
    """Return the loss less the squares of the rows: what the sums of the rows add to it.

    For the Euclidean distance this is the sum of c.(n c - 2 s) over all centers c with n rows whose
    sum is s; for cosine, of n - c.s. With weights, n is the sum of the weights of those rows. The
    terms are pairs of float64, good to 2^-95 of their size: if rows share an offset, the terms are
    far larger than the loss. Where a term overflows, it is computed as a fraction.
    """
    cosine = centers.distance is Distance.COSINE
    exact = directions(centers.values) if cosine else centers.values.astype(np.float64)
    weights = ExactSums.zero((len(exact), 1)) if cosine else sums.cluster_weights
    total, highs, lows = NOTHING, [], []
    for some in sums.sums.blocks():
        of_some = sums.sums.clusters(some), weights.clusters(some), exact[some]
        high, low, others = _terms(*of_some, factor=1 if cosine else 2)
        highs.append(high)
        lows.append(low)
        total += others
    pairs = sum_of_pairs(np.array(highs), np.array(lows))
    total += total_of(np.array(pairs), 2 * sums.sums.grid.exponents)
    if cosine:
        total += sums.cluster_weights.total()
    return total


def _terms(
    sums: ExactSums, weights: ExactSums, centers: FloatArray, *, factor: int
) -> tuple[FloatArray, FloatArray, ExactTotal]:
    """Return the sum of c.(n c - factor s) over some centers, for each column.

    Args:
        sums: The sums s.
        weights: (k, 1) the weights n.
        centers: (k, d) float64, the centers c.
        factor: The factor.

    Returns:
        Pairs of float64, high and low, (d,) each, in units of the square of the sums' grid; and the
        terms that pairs do not hold.
    """
    high, low, is_sure = sums.pairs()
    scaled = np.ldexp(centers, -sums.grid.exponents)
    weight, weight_rest, is_sure_weight = weights.pairs()
    weight, weight_rest = (np.ldexp(part, weights.grid.exponents) for part in (weight, weight_rest))
    product, error = two_product(weight, scaled)
    error += weight_rest * scaled
    first, rest = two_sum(product, -factor * high)
    value, value_error = two_product(first, scaled)
    value_error += (rest + error - factor * low) * scaled
    is_sure &= is_sure_weight & np.isfinite(value) & np.isfinite(value_error)
    pairs = sum_of_pairs(np.where(is_sure, value, 0.0), np.where(is_sure, value_error, 0.0))
    others = NOTHING
    for cluster, column in np.argwhere(~is_sure):
        center = Fraction(float(centers[cluster, column]))
        weighted = weights.exact(cluster, 0) * center
        others += ExactTotal.of(center * (weighted - factor * sums.exact(cluster, column)))
    return *pairs, others
