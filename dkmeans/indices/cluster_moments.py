"""Moments of clusters: all that the indices of a clustering need to know about the rows.

A worker computes the moments of a chunk, and the sum of all is a property of the set of rows, with
the same bits for any chunks (docs/decisions/024).

    moments = moments_of(points, weights, index, distances, centers)
    total = moments + others
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dkmeans.backends import select
from dkmeans.backends.rounding import exact_rows
from dkmeans.backends.weighted import sums_of_weights
from dkmeans.distance import Centers, Distance
from dkmeans.exact import ExactSums
from dkmeans.state import FloatArray, IndexArray

# Measures of a row, in the order of their columns.
DISTANCE, LENGTH, SILHOUETTE, AMBIGUOUS = range(4)
# A row is ambiguous if its second nearest center is farther than its nearest one by at most this.
_AMBIGUOUS_RATIO = 1.05


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Moments of the rows of each cluster about its center: a monoid under `+`.

    For the cosine distance, rows and centers are those of length one.

    Attributes:
        sums: (k, 2 d + 4) exact sums over the rows, times their weights: of the differences from
            the center, of their squares, and of the four measures.
        weights: (k, 1) the sums of the weights of the rows: their number without any.
        radius: (k,) the largest Euclidean distance of a row of positive weight from its center.
    """

    sums: ExactSums
    weights: ExactSums
    radius: FloatArray

    @classmethod
    def zero(cls, shape: tuple[int, int]) -> Moments:
        """Return the moments of no rows, for centers of this (k, d) shape."""
        k, d = shape
        sums = ExactSums.zero((k, 2 * d + 4))
        return cls(sums, ExactSums.zero((k, 1)), np.zeros(k))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.sums + other.sums,
            self.weights + other.weights,
            np.maximum(self.radius, other.radius),
        )


def moments_of(
    points: FloatArray,
    weights: FloatArray | None,
    index: IndexArray,
    distances: FloatArray,
    centers: Centers,
) -> Moments:
    """Return the moments of some rows.

    Args:
        points: (n, d) rows.
        weights: (n,) their weights, above zero; None if each is one.
        index: (n,) the nearest center of each row.
        distances: (n, 2) the distances to the nearest and second nearest center; (n, 1) if there is
            one center.
        centers: The centers.

    Raises:
        NotFinite: a moment is too large for float64.
    """
    k, backend = len(centers.values), select(centers.backend)
    if centers.distance is Distance.COSINE:
        points = exact_rows(points, Distance.COSINE)
    exact, measures = exact_rows(centers.values, centers.distance), _measures(distances, centers)
    radius = np.zeros(k)
    np.maximum.at(radius, index, measures[:, LENGTH])
    if weights is None:
        totals = ExactSums.of_counts(np.bincount(index, minlength=k).astype(np.int64))
    else:
        totals = sums_of_weights(backend, weights, index, k)
    factors = np.ones(len(points)) if weights is None else weights
    sums = backend.add_moments(points, factors, index, exact, measures)
    return Moments(sums, totals, radius)


def _measures(distances: FloatArray, centers: Centers) -> FloatArray:
    """Return the measures of each row, (n, 4) float64.

    The silhouette is the simplified one (Hruschka, de Castro and Campello, Evolutionary algorithms
    for clustering gene-expression data, 2004): 1 - a / b, where a and b are the Euclidean distances
    to the nearest and second nearest center; 0 where both are zero.
    """
    # The squared Euclidean distance of two rows of length one is twice their cosine distance.
    squares = 2.0 * distances if centers.distance is Distance.COSINE else distances
    lengths = np.sqrt(squares)
    measures = np.zeros((len(distances), 4))
    measures[:, DISTANCE], measures[:, LENGTH] = distances[:, 0], lengths[:, 0]
    if distances.shape[1] > 1:
        nearest, second = lengths.T
        ratio = np.divide(nearest, second, out=np.ones(len(second)), where=second > 0)
        measures[:, SILHOUETTE] = 1.0 - ratio
        measures[:, AMBIGUOUS] = second <= _AMBIGUOUS_RATIO * nearest
    return measures
