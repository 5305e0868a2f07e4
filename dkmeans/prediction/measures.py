"""Measures of an evaluation, all computed in one pass: the score, and what indices need.

`stream.scores` maps `measure` over the chunks of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dkmeans.backends import select
from dkmeans.backends.moments import DISTANCE, MOMENT_PLANES
from dkmeans.data.chunks import LoadedChunk
from dkmeans.distance import Centers
from dkmeans.exact import ExactSums
from dkmeans.exact_grid import NotFinite
from dkmeans.exact_total import ExactTotal
from dkmeans.indices.cluster_moments import Moments, moments_of
from dkmeans.indices.contingency import Contingency, contingency_of
from dkmeans.indices.row_sample import RowSample, sample_of
from dkmeans.prediction.per_chunk import score, score_of
from dkmeans.state import FloatArray, Growing, IndexArray, PartialSums, Score


@dataclass(frozen=True, slots=True, eq=False)
class Measuring:
    """What to measure.

    Attributes:
        centers: The centers that are evaluated.
        with_moments: True if indices need the moments of clusters.
        with_rows: False if none of these indices needs the sums of the rows.
        with_second: False if none of these indices needs the distances to second nearest centers.
        with_squares: True if they also need the squared differences of the columns.
        against: Centers of another model to compare with; None for none.
        with_sample: True if an index needs a sample of the rows.
        batch: Number of the batch that is measured.
    """

    centers: Centers
    with_moments: bool = False
    with_rows: bool = True
    with_second: bool = True
    with_squares: bool = False
    against: Centers | None = None
    with_sample: bool = False
    batch: int = 0

    @property
    def sums_per_value(self) -> int:
        """Number of sums that each value of a row is added to."""
        return self.with_moments * (self.with_rows + MOMENT_PLANES * self.with_squares)

    @property
    def shape(self) -> tuple[int, int] | None:
        """Number of clusters of both models; None if nothing is compared."""
        if self.against is None:
            return None
        return len(self.centers.values), len(self.against.values)


@dataclass(frozen=True, slots=True, eq=False)
class Measures(Growing):
    """Measures of some rows: a monoid under `+`.

    Attributes:
        score: Loss of the centers.
        moments: Moments of the clusters; None if they are not needed.
        contingency: Table of the clusters of both models; None if nothing is compared.
        sample: Sample of the rows; None if it is not needed.
    """

    score: Score
    moments: Moments | None = None
    contingency: Contingency | None = None
    sample: RowSample | None = None

    @classmethod
    def zero(cls, task: Measuring) -> Measures:
        """Return the measures of no rows."""
        moments = None
        if task.with_moments:
            moments = Moments.zero(
                task.centers.values.shape,
                with_rows=task.with_rows,
                with_squares=task.with_squares,
            )
        sample = RowSample.zero(task.centers.width) if task.with_sample else None
        return cls(Score(), moments, task.shape and Contingency.zero(task.shape), sample)

    def _plus(self, other: Measures, plus: Callable[[Any, Any], Any]) -> Measures:
        return Measures(
            self.score + other.score,
            self.moments and other.moments and plus(self.moments, other.moments),
            self.contingency and other.contingency and self.contingency + other.contingency,
            self.sample and other.sample and self.sample + other.sample,
        )


def measure(loaded: LoadedChunk, task: Measuring) -> Measures:
    """Return the measures of a chunk. Runs on a worker.

    Raises:
        InvalidData: the rows are not as wide as the centers, or not finite.
    """
    if not (task.with_moments or task.with_sample or task.shape):
        return Measures(score(loaded, task.centers))
    points, weights, centers = loaded.of_width(task.centers.width), loaded.weights, task.centers
    if not len(points):  # none of the rows has a weight
        return Measures.zero(task)
    try:
        sums, index, distances = _assigned(points, weights, task)
        if not np.isfinite(distances).all():
            raise loaded.complaint()
        moments = contingency = None
        if sums is not None:
            moments = moments_of(
                points, weights, sums, index, distances, centers, with_squares=task.with_squares
            )
    except NotFinite:
        raise loaded.complaint() from None
    if task.against is not None and task.shape is not None:
        backend = select(task.against.backend)
        others = backend.nearest_index(points, task.against)
        contingency = contingency_of(index, others, weights, task.shape, backend)
    sample = sample_of(loaded, index, task.batch) if task.with_sample else None
    if moments is not None and weights is None:  # their distances are added up already
        total = Score(ExactTotal.of(len(points)), moments.total_of(DISTANCE))
    else:
        total = score_of(loaded, distances[0], centers)
    return Measures(total, moments, contingency, sample)


def _assigned(
    points: FloatArray, weights: FloatArray | None, task: Measuring
) -> tuple[PartialSums | None, IndexArray, FloatArray]:
    """Return the partial sums if moments need them, the nearest centers, and the distances.

    Returns:
        The sums, the indices, (n,) int64, and the distances, (1, n) or, for moments that need
        second nearest centers, (2, n) float64.

    Raises:
        NotFinite: the rows cannot be added up.
    """
    centers, k = task.centers, len(task.centers.values)
    backend = select(centers.backend)
    with_two = task.with_moments and task.with_second and k > 1
    if task.with_moments and task.with_rows and weights is None:
        if with_two:
            return backend.assign_two(points, centers)
        sums, index, nearest = backend.assign(points, centers)
        return sums, index, nearest[None]
    if with_two:
        two, of_two = backend.nearest_two(points, centers)
        index, distances = np.ascontiguousarray(two[:, 0]), of_two.T
    else:
        index, nearest = backend.nearest(points, centers)
        distances = nearest[None]
    if not task.with_moments:
        return None, index, distances
    if weights is None:
        counts = np.bincount(index, minlength=k)
        return PartialSums(ExactSums.zero((k, 0)), counts), index, distances
    sums = backend.weighted_sums(points, weights, index, centers, None)[0]
    if not task.with_rows:
        sums = replace(sums, sums=ExactSums.zero((k, 0)))
    return sums, index, distances
