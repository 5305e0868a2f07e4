"""The first centers: given, drawn at random, k-means++, or from a callable.

Nothing here depends on how rows are cut into chunks or on who reads them: draws are of row numbers,
and the rows drawn are brought together. Batches are looked at, not used up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from dkmeans.batches import Batch
from dkmeans.chunks import Chunk, finite_points
from dkmeans.distance import Distance, directions, project, squared_norms
from dkmeans.errors import Invalid, InvalidData
from dkmeans.executors import Executor
from dkmeans.points import point_dtype
from dkmeans.state import FloatArray, IndexArray
from dkmeans.views import Picked

RANDOM = "random"
KMEANS_PLUS_PLUS = "kmeans_plus_plus"

# k-means++ looks at a first batch of up to this many rows whole, and at so many for each center;
# of a larger one at a uniform sample of that size, which fits the driver's memory.
_SEEDING_ROWS = 2**17
_SEEDING_ROWS_PER_CENTER = 32

# Between the seeds of two starts: whoever counts seeds up from 0 meets no start of another seed.
_SEED_STRIDE = 2**32

Initializer = Callable[[FloatArray, int], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Initialization:
    """How to find the first centers.

    Attributes:
        source: (k, d) centers, a name, or a callable of a batch's rows and the number missing.
        num_clusters: How many to find.
        retries: Candidates beyond the first at each pick of k-means++; negative: 2 + floor(ln k).
        seed: Of the random draws; None draws one.
    """

    source: FloatArray | str | Initializer
    num_clusters: int
    distance: Distance
    retries: int
    seed: int | None

    def of_start(self, number: int) -> Initialization:
        """How the start of this number is found: that of number 0 is this one.

        It is what `seed + number * 2**32` gives alone.
        """
        return self if self.seed is None else replace(self, seed=self.seed + number * _SEED_STRIDE)

    def find(
        self, batches: Iterator[Batch], rows: int | None, executor: Executor
    ) -> tuple[FloatArray, Iterator[Batch]]:
        """The (k, d) first centers in the data's dtype, and all the batches, seen ones included.

        Args:
            batches: What training will go over.
            rows: How many rows they have before they begin again; None where that is not known.
            executor: Where rows are read.

        Raises:
            ValueError: the rows are too few, too narrow, or not finite; the callable gave no rows
                or too many.
        """
        first = next(batches, None)
        if first is None:
            raise InvalidData("the input must have at least one batch of rows, got none")
        dtype = np.result_type(*{point_dtype(source.dtype) for source in first.sources()})
        width = first.source.width
        batches = chain([first], batches)
        seen: list[Batch] = []
        if isinstance(self.source, np.ndarray):
            if self.source.shape[1] != width:
                raise Invalid(
                    f"initial_clusters must be as wide as the rows, {width} columns, got "
                    f"{self.source.shape[1]}"
                )
            centers = self.source
        elif self.source == KMEANS_PLUS_PLUS:
            centers = self._plus_plus(first, executor)
        else:
            centers, seen = self._collect(batches, rows, executor)
        # Normalised whatever their source: cosine distance knows directions only.
        return project(centers, self.distance).astype(dtype), chain(seen, batches)

    def _plus_plus(self, batch: Batch, executor: Executor) -> FloatArray:
        k, rows, rng = self.num_clusters, batch.rows, np.random.default_rng(self.seed)
        if rows < k:
            raise InvalidData(
                f"kmeans_plus_plus needs a first batch of at least num_clusters = {k} rows, got "
                f"{rows}"
            )
        most = max(_SEEDING_ROWS, _SEEDING_ROWS_PER_CENTER * k)
        sample = np.arange(rows) if rows <= most else np.sort(rng.choice(rows, most, replace=False))
        points = _fetch(batch, sample, executor)
        if self.distance is Distance.COSINE:
            points = directions(points)
        retries = self.retries if self.retries >= 0 else 2 + math.floor(math.log(k))
        picked: FloatArray = points[plus_plus(points, k, 1 + retries, rng)]
        return picked

    def _collect(
        self, batches: Iterator[Batch], available: int | None, executor: Executor
    ) -> tuple[FloatArray, list[Batch]]:
        """Centers from successive batches until there are enough."""
        draw = partial(_at_random, np.random.default_rng(self.seed))
        if callable(self.source):
            draw = partial(_by_call, self.source)
        found: list[FloatArray] = []
        seen: list[Batch] = []
        missing, rows = self.num_clusters, 0
        while missing:
            batch = next(batches, None) if available is None or rows < available else None
            if batch is None:
                raise InvalidData(
                    f"initialization needs num_clusters = {self.num_clusters} centers, and the "
                    f"input's {rows} rows gave {self.num_clusters - missing}"
                )
            seen.append(batch)
            found.append(draw(batch, missing, executor))
            missing, rows = missing - len(found[-1]), rows + batch.rows
        return np.concatenate(found), seen


def plus_plus(points: FloatArray, k: int, candidates: int, rng: np.random.Generator) -> IndexArray:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007, section 2.2 and the remark in section 5).

    At every pick candidates are drawn with probability proportional to the squared distance to the
    nearest center so far (uniformly at first, and where all are zero), and the one that leaves the
    least sum of squared distances is kept.

    Args:
        points: (n, d) rows, n >= k.
        k: How many to pick.
        candidates: How many to draw at every pick.
        rng: Where the draws come from.

    Returns:
        (k,) int64 row numbers.
    """
    points = points.astype(np.float64)
    points -= points.mean(axis=0)
    norms = squared_norms(points)
    nearest = np.full(len(points), np.inf)
    picked = np.empty(k, np.int64)
    for i in range(k):
        total = nearest.sum()
        if i == 0 or not total > 0:
            drawn = rng.integers(len(points), size=candidates)
        else:
            drawn = np.searchsorted(np.cumsum(nearest), rng.random(candidates) * total, "right")
            drawn = np.minimum(drawn, np.flatnonzero(nearest)[-1])
        closer = np.minimum(_squared_distances(points, norms, drawn), nearest)
        best = int(np.argmin(closer.sum(axis=1)))
        picked[i], nearest = drawn[best], closer[best]
    return picked


def _squared_distances(points: FloatArray, norms: FloatArray, rows: IndexArray) -> FloatArray:
    """Squared distances of all (n, d) float64 points to some of them, (m, n).

    The expanded form loses its digits where a distance is small: there it is measured again.
    """
    others = points[rows]
    scale = norms + norms[rows, None]
    squares: FloatArray = scale - 2 * (others @ points.T)
    which, row = np.nonzero(squares < 1e3 * np.finfo(np.float64).eps * scale)
    for start in range(0, len(row), 2**12):
        piece = slice(start, start + 2**12)
        squares[which[piece], row[piece]] = squared_norms(points[row[piece]] - others[which[piece]])
    return squares


def _at_random(
    rng: np.random.Generator, batch: Batch, missing: int, executor: Executor
) -> FloatArray:
    rows = batch.rows
    if rows <= missing:
        return _fetch(batch, np.arange(rows), executor)
    return _fetch(batch, rng.choice(rows, missing, replace=False), executor)


def _by_call(function: Initializer, batch: Batch, missing: int, executor: Executor) -> FloatArray:
    points = _fetch(batch, np.arange(batch.rows), executor)
    given = np.asarray(function(points, missing))
    given = given.reshape(0, points.shape[1]) if given.size == 0 else given
    must = f"0 to {missing} finite rows of {points.shape[1]} columns"
    if given.ndim != 2 or given.dtype.kind not in "fiub" or given.shape[1] != points.shape[1]:
        raise Invalid(f"initial_clusters must return {must}, got an array of shape {given.shape}")
    if len(given) > missing:
        raise Invalid(f"initial_clusters must return {must}, got {len(given)} rows")
    if not np.isfinite(given).all():
        raise Invalid(f"initial_clusters must return {must}, got values that are not finite")
    return given.astype(points.dtype, copy=False)


def _fetch(batch: Batch, numbers: IndexArray, executor: Executor) -> FloatArray:
    """The rows of a batch by their numbers, in the order asked for, in this process's memory."""
    starts = np.concatenate([[0], np.cumsum(batch.sizes())])
    order = np.argsort(numbers, kind="stable")
    wanted = numbers[order]
    picked = []
    for which in np.unique(np.searchsorted(starts, wanted, "right") - 1).tolist():
        chunk, (start, stop) = batch[which], starts[which : which + 2]
        low, high = np.searchsorted(wanted, [start, stop])
        if high - low == chunk.rows:
            picked.append(chunk)
        else:
            source = Picked(chunk, tuple((wanted[low:high] - start).tolist()))
            picked.append(Chunk(source, 0, source.rows))
    width = batch.source.width
    rows = np.concatenate(list(executor.map(finite_points, picked, width)))
    restored: FloatArray = np.empty_like(rows)
    restored[order] = rows
    return restored
