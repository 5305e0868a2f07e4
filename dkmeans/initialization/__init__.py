"""The first centers: given, from a callable, drawn at random, or by a way of seeding.

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

from dkmeans.data.batches import Batch
from dkmeans.data.points import point_dtype
from dkmeans.distance import Centers, Distance, directions, project
from dkmeans.errors import Invalid, InvalidData
from dkmeans.executors import Executor
from dkmeans.initialization.chains import end_chains
from dkmeans.initialization.draws import Seed
from dkmeans.initialization.kmeans_parallel import Rounds, find_candidates, pick
from dkmeans.initialization.kmeans_plus_plus import plus_plus
from dkmeans.initialization.sample import fetch, one_pass, sample
from dkmeans.state import FloatArray

RANDOM = "random"
KMEANS_PLUS_PLUS = "kmeans_plus_plus"
KMEANS_PARALLEL = "k-means||"
AFK_MC2 = "afk-mc2"
NAMES = (RANDOM, KMEANS_PLUS_PLUS, KMEANS_PARALLEL, AFK_MC2)

# k-means++ looks at a first batch of up to this many rows whole, and at so many for each center;
# of a larger one at a uniform sample of that size, which fits the driver's memory.
_SEEDING_ROWS = 2**17
_SEEDING_ROWS_PER_CENTER = 32

# Between the seeds of two starts: whoever counts seeds up from 0 meets no start of another seed.
_SEED_STRIDE = 2**32

__all__ = ["NAMES", "RANDOM", "Initialization", "Rounds"]

Initializer = Callable[[FloatArray, int], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Initialization:
    """How to find the first centers.

    Attributes:
        source: (k, d) centers, a name, or a callable of a batch's rows and the number missing.
        num_clusters: How many to find.
        retries: Candidates beyond the first at each pick of k-means++; negative: 2 + floor(ln k).
        seed: Of the random draws; None draws one.
        rounds: How k-means|| draws candidates.
        most_rows: How many rows k-means|| and AFK-MC^2 look at; None: all of a pass.
        backend: What computes; None leaves it to each worker.
    """

    source: FloatArray | str | Initializer
    num_clusters: int
    distance: Distance
    retries: int
    seed: int | None
    rounds: Rounds
    most_rows: int | None
    backend: str | None

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
        elif self.source in (KMEANS_PARALLEL, AFK_MC2):
            whole, seen = one_pass(batches, rows)
            centers = self._in_passes(whole, executor)
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
        points = fetch(batch, sample, executor)
        if self.distance is Distance.COSINE:
            points = directions(points)
        retries = self.retries if self.retries >= 0 else 2 + math.floor(math.log(k))
        picked: FloatArray = points[plus_plus(points, k, 1 + retries, rng)]
        return picked

    def _in_passes(self, whole: Batch, executor: Executor) -> FloatArray:
        """Centers by going over all rows, or a sample of them, a few times."""
        k, seed = self.num_clusters, Seed.fresh(self.seed)
        rows = sample(whole, self.most_rows, seed.of(0).generator())
        if rows.rows < k:
            raise InvalidData(
                f"{self.source} needs at least num_clusters = {k} rows, got {rows.rows}"
            )
        number = seed.of(1).generator().integers(rows.rows, size=1)
        first = Centers(fetch(rows, number, executor), self.distance, self.backend)
        if self.source == AFK_MC2:
            return end_chains(whole, rows, first, k, seed.of(2), executor)
        found = find_candidates(rows, first, k, self.rounds, seed.of(2), executor)
        return pick(found, k, first, seed.of(3).generator())

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


def _at_random(
    rng: np.random.Generator, batch: Batch, missing: int, executor: Executor
) -> FloatArray:
    rows = batch.rows
    if rows <= missing:
        return fetch(batch, np.arange(rows), executor)
    return fetch(batch, rng.choice(rows, missing, replace=False), executor)


def _by_call(function: Initializer, batch: Batch, missing: int, executor: Executor) -> FloatArray:
    points = fetch(batch, np.arange(batch.rows), executor)
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
