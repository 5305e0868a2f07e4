"""Moments of clusters: what all indices but the sampled silhouette need to know about the rows.

A worker computes the moments of a chunk, and the sum of all is a property of the set of rows, with
the same bits for any chunks (docs/decisions/024).

    moments = moments_of(points, weights, sums, index, distances, centers)
    total = moments + others
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dkmeans.backends import select
from dkmeans.backends.moments import NUM_MEASURES
from dkmeans.distance import Centers, Distance
from dkmeans.exact import ExactSums
from dkmeans.exact_total import ExactTotal
from dkmeans.state import FloatArray, Growing, IndexArray, PartialSums


@dataclass(frozen=True, slots=True, eq=False)
class Moments(Growing):
    """Moments of the rows of each cluster about its center: a monoid under `+`.

    For the cosine distance, rows and centers are those of length one.

    Attributes:
        rows: (k, d) the sums of the rows times their weights; (k, 0) if they are not needed.
        weights: (k, 1) the sums of the weights of the rows: their number without any.
        squares: (k, d) the sums of the squared differences from the center, times the weights of
            the rows; (k, 0) if they are not needed.
        measures: (k, 4) the sums of the measures of the rows (distance, length, silhouette,
            ambiguous; see `backends.moments`), times their weights.
        radius: (k,) the largest Euclidean distance of a row of positive weight from its center.
    """

    rows: ExactSums
    weights: ExactSums
    squares: ExactSums
    measures: ExactSums
    radius: FloatArray

    @classmethod
    def zero(cls, shape: tuple[int, int], *, with_rows: bool, with_squares: bool) -> Moments:
        """Return the moments of no rows, for centers of this (k, d) shape."""
        k, d = shape
        widths = d * with_rows, 1, d * with_squares, NUM_MEASURES
        rows, weights, squares, measures = (ExactSums.zero((k, width)) for width in widths)
        return cls(rows, weights, squares, measures, np.zeros(k))

    def total_of(self, measure: int) -> ExactTotal:
        """Return the sum of a measure over all rows, times their weights."""
        return self.measures.columns(slice(measure, measure + 1)).total()

    def _plus(self, other: Moments, plus: Callable[[Any, Any], Any]) -> Moments:
        return Moments(
            plus(self.rows, other.rows),
            plus(self.weights, other.weights),
            plus(self.squares, other.squares),
            plus(self.measures, other.measures),
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
        sums: Their partial sums; without columns if the sums of the rows are not needed.
        index: (n,) the nearest center of each row.
        distances: (2, n) the distances to the nearest and second nearest center; (1, n) if there is
            one center, or no index needs the second one.
        centers: The centers.
        with_squares: True if the squared differences from the centers are needed.

    Raises:
        NotFinite: a moment is too large for float64.
    """
    backend, k = select(centers.backend), len(centers.values)
    factors = np.ones(len(points)) if weights is None else weights
    # The squared Euclidean distance of two rows of length one is twice their cosine distance.
    factor = 2.0 if centers.distance is Distance.COSINE else 1.0
    measures, radius = backend.add_measures(distances, factors, index, k, factor)
    squares = ExactSums.zero((k, 0))
    if with_squares:
        squares = backend.add_squares(points, factors, index, centers)
    return Moments(sums.sums, sums.cluster_weights, squares, measures, radius)
