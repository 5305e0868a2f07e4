"""Moments of clusters: all that the indices of a clustering need to know about the rows.

A worker computes the moments of a chunk, and the sum of all is a property of the set of rows, with
the same bits for any chunks (docs/decisions/024).

    moments = moments_of(points, weights, sums, index, distances, centers)
    total = moments + others
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dkmeans.backends import select
from dkmeans.backends.rounding import exact_rows
from dkmeans.distance import Centers, Distance
from dkmeans.exact import ExactSums
from dkmeans.state import FloatArray, IndexArray, PartialSums

# Measures of a row, in the order of their columns.
DISTANCE, LENGTH, SILHOUETTE, AMBIGUOUS = range(4)
NUM_MEASURES = 4
# A row is ambiguous if its second nearest center is farther than its nearest one by at most this.
_AMBIGUOUS_RATIO = 1.05


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Moments of the rows of each cluster about its center: a monoid under `+`.

    For the cosine distance, rows and centers are those of length one.

    Attributes:
        rows: (k, d) the sums of the rows times their weights.
        weights: (k, 1) the sums of the weights of the rows: their number without any.
        squares: (k, d) the sums of the squared differences from the center, times the weights of
            the rows; (k, 0) if they are not needed.
        measures: (k, 4) the sums of the four measures of the rows, times their weights.
        radius: (k,) the largest Euclidean distance of a row of positive weight from its center.
    """

    rows: ExactSums
    weights: ExactSums
    squares: ExactSums
    measures: ExactSums
    radius: FloatArray

    @classmethod
    def zero(cls, shape: tuple[int, int], *, with_squares: bool) -> Moments:
        """Return the moments of no rows, for centers of this (k, d) shape."""
        k, d = shape
        widths = d, 1, d * with_squares, NUM_MEASURES
        rows, weights, squares, measures = (ExactSums.zero((k, width)) for width in widths)
        return cls(rows, weights, squares, measures, np.zeros(k))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.rows + other.rows,
            self.weights + other.weights,
            self.squares + other.squares,
            self.measures + other.measures,
            np.maximum(self.radius, other.radius),
        )


def moments_of(
    points: FloatArray,
    weights: FloatArray | None,
    sums: PartialSums,
    index: IndexArray,
    distances: FloatArray,
    centers: Centers,
    *,
    with_squares: bool,
) -> Moments:
    """Return the moments of some rows.

    Args:
        points: (n, d) rows.
        weights: (n,) their weights, above zero; None if each is one.
        sums: Their partial sums.
        index: (n,) the nearest center of each row.
        distances: (n, 2) the distances to the nearest and second nearest center; (n, 1) if there is
            one center.
        centers: The centers.
        with_squares: True if the squared differences from the centers are needed.

    Raises:
        NotFinite: a moment is too large for float64.
    """
    values = exact_rows(centers.values, centers.distance)
    if not with_squares:
        points, values = points[:, :0], values[:, :0]
    elif centers.distance is Distance.COSINE:
        points = exact_rows(points, Distance.COSINE)
    measures, radius = _measures(distances, centers), np.zeros(len(values))
    np.maximum.at(radius, index, measures[LENGTH])
    factors = np.ones(len(points)) if weights is None else weights
    moments = select(centers.backend).add_moments(points, factors, index, values, measures)
    width = points.shape[1]
    squares, of_measures = moments.columns(slice(width)), moments.columns(slice(width, None))
    return Moments(sums.sums, sums.cluster_weights, squares, of_measures, radius)


def _measures(distances: FloatArray, centers: Centers) -> FloatArray:
    """Return the measures of each row, (4, n) float64.

    The silhouette is the simplified one (Hruschka, de Castro and Campello, Evolutionary algorithms
    for clustering gene-expression data, 2004): 1 - a / b, where a and b are the Euclidean distances
    to the nearest and second nearest center; 0 where both are zero.
    """
    measures = np.zeros((NUM_MEASURES, len(distances)))
    # The squared Euclidean distance of two rows of length one is twice their cosine distance.
    factor = 2.0 if centers.distance is Distance.COSINE else 1.0
    measures[DISTANCE] = distances[:, 0]
    nearest = np.sqrt(factor * measures[DISTANCE], out=measures[LENGTH])
    if distances.shape[1] > 1:
        second, silhouette = np.sqrt(factor * distances[:, 1]), measures[SILHOUETTE]
        silhouette[:] = 1.0
        np.divide(nearest, second, out=silhouette, where=second > 0)
        np.subtract(1.0, silhouette, out=silhouette)
        measures[AMBIGUOUS] = second <= _AMBIGUOUS_RATIO * nearest
    return measures
