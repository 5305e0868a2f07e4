"""Initialization: the first centers of a fit.

Centers are given as an array, drawn at random from the first batches (`random_rows`), picked by
k-means++ in the driver's memory (`kmeans_plus_plus`), or found by k-means|| on the workers
(`kmeans_parallel`). `training` calls `Initialization.find` for each start.

Nothing here depends on how rows are cut into chunks, or on which worker reads them: draws are of
row numbers (`draws`), and the drawn rows are brought together (`sample`). Batches that are looked
at are not used up: training sees them again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from dkmeans.data.batches import Batch
from dkmeans.data.points import as_dtype, point_dtype
from dkmeans.distance import Computation, Distance, directions, project
from dkmeans.errors import NO_BATCHES, Invalid, InvalidData, counted
from dkmeans.executors import Executor
from dkmeans.initialization import random_rows
from dkmeans.initialization.draws import Seed
from dkmeans.initialization.kmeans_parallel import Rounds, find_candidates, pick
from dkmeans.initialization.kmeans_plus_plus import plus_plus, row_blocks
from dkmeans.initialization.random_rows import Initializer
from dkmeans.initialization.sample import fetch, one_epoch, sample
from dkmeans.initialization.weighted_draws import Ranks, draw_by_weight
from dkmeans.state import FloatArray, IndexArray

RANDOM = "random"
KMEANS_PLUS_PLUS = "kmeans_plus_plus"
KMEANS_PARALLEL = "k-means||"
NAMES = (RANDOM, KMEANS_PLUS_PLUS, KMEANS_PARALLEL)
# Names of earlier versions, and what replaces them.
REPLACED = {"afk-mc2": KMEANS_PARALLEL}

# k-means++ uses all rows of a first batch of up to this many rows, or this many for each center.
# Of a larger batch it uses a uniform sample of that size, which fits the driver's memory.
_SAMPLE_ROWS = 2**17
_SAMPLE_ROWS_PER_CENTER = 32

# Distance between the seeds of two starts. Users count seeds up from 0: no start of one seed has
# the seed of another fit.
_SEED_STRIDE = 2**32

__all__ = ["NAMES", "RANDOM", "REPLACED", "Initialization", "Initializer", "Rounds", "of_dtype"]


@dataclass(frozen=True, slots=True, eq=False)
class Initialization:
    """Method and parameters by which the first centers are found.

    Attributes:
        source: (k, d) centers, one of `NAMES`, or a function of a batch's rows and the number of
            centers that are still missing.
        num_clusters: Number of centers.
        computation: The distance, and the backend that computes it.
        retries: Number of additional candidates at each pick of k-means++; a negative number means
            2 + floor(ln k) additional ones.
        seed: Seed of the random generator; None draws one.
        rounds: Rounds of k-means||.
        most_rows: Largest number of rows that k-means|| uses; None for all rows of an epoch.
    """

    source: FloatArray | str | Initializer
    num_clusters: int
    computation: Computation
    retries: int
    seed: int | None
    rounds: Rounds
    most_rows: int | None

    def of_start(self, number: int) -> Initialization:
        """Return the initialization of one of several starts.

        It finds what a single start with `seed + number * 2**32` finds.
        """
        return self if self.seed is None else replace(self, seed=self.seed + number * _SEED_STRIDE)

    def find(
        self, batches: Iterator[Batch], rows: int | None, executor: Executor
    ) -> tuple[FloatArray, Iterator[Batch]]:
        """Return the (k, d) first centers in the dtype of the data, and all batches.

        Args:
            batches: The batches that training will use.
            rows: Number of rows of an epoch; None if it is not known.
            executor: Where rows are read.

        Returns:
            The centers, and the batches from the first one on.

        Raises:
            ValueError: there are too few rows, they have another width than given centers, or are
                not finite; or the function returned no usable rows.
        """
        first = next(batches, None)
        if first is None:
            raise InvalidData(NO_BATCHES)
        dtype, width = _dtype_of(first), first.source.width
        batches = chain([first], of_dtype(batches, dtype, "the first batch's"))
        seen: list[Batch] = []
        if isinstance(self.source, np.ndarray):
            if self.source.shape[1] != width:
                raise Invalid(
                    f"initial_clusters must be as wide as the rows, {counted(width, 'column')}, "
                    f"got {self.source.shape[1]}"
                )
            centers = as_dtype(self.source, dtype, "initial_clusters")
        elif self.source == KMEANS_PLUS_PLUS:
            centers = self._by_kmeans_plus_plus(first, executor)
        elif self.source == KMEANS_PARALLEL:
            epoch, seen = one_epoch(batches, rows)
            centers = self._by_kmeans_parallel(epoch, executor)
        else:
            function = self.source if callable(self.source) else None
            centers, seen = random_rows.collect(
                batches, rows, self.num_clusters, function, self.seed, executor
            )
        # Centers from any source are projected: cosine distance uses only their direction.
        with np.errstate(over="ignore"):
            projected = project(centers, self.computation.distance).astype(dtype, copy=False)
        if not np.isfinite(projected).all():  # a squared length overflowed
            if isinstance(self.source, str):
                raise first[0].complaint(centers)
            raise InvalidData(
                f"values of initial_clusters are up to {np.abs(centers).max():g}, too large for "
                "squared lengths to be finite; scale them first"
            )
        return projected, chain(seen, batches)

    def _by_kmeans_plus_plus(self, batch: Batch, executor: Executor) -> FloatArray:
        k, rng = self.num_clusters, np.random.default_rng(self.seed)
        most = max(_SAMPLE_ROWS, _SAMPLE_ROWS_PER_CENTER * k)
        drawn, weights = self._sample(batch, most, rng, executor)
        if len(drawn) < k:
            kind = "rows" if weights is None else "rows with a weight"
            raise InvalidData(
                f"kmeans_plus_plus needs a first batch of at least num_clusters = {k} {kind}, got "
                f"{len(drawn)}"
            )
        points = fetch(batch, drawn, executor)
        if self.computation.distance is Distance.COSINE:
            units = np.empty(points.shape)
            with np.errstate(over="ignore"):
                for block in row_blocks(*points.shape):
                    units[block] = directions(points[block])
            if not np.isfinite(units).all():  # a squared length overflowed
                raise batch[0].complaint(points)
            points = units
        retries = self.retries if self.retries >= 0 else 2 + math.floor(math.log(k))
        picked: FloatArray = points[plus_plus(points, k, 1 + retries, rng, weights)]
        return picked

    def _sample(
        self, batch: Batch, most: int, rng: np.random.Generator, executor: Executor
    ) -> tuple[IndexArray, FloatArray | None]:
        """Return the numbers of at most so many rows of a batch, and the weights they stand for."""
        if batch.has_weights:
            drawn = draw_by_weight(batch, most, Seed.fresh(self.seed), executor)
            return drawn.numbers, drawn.weights
        rows = batch.rows
        if rows <= most:
            return np.arange(rows), None
        return np.sort(rng.choice(rows, most, replace=False)), None

    def _by_kmeans_parallel(self, epoch: Batch, executor: Executor) -> FloatArray:
        # Every use of the seed has a purpose of its own, so that draws stay independent.
        k, seed = self.num_clusters, Seed.fresh(self.seed)
        rows = sample(epoch, self.most_rows, seed.of(0).generator())
        if rows.has_weights:
            ranks, kind = Ranks.of(rows, executor), "rows with a weight"
            number = draw_by_weight(rows, 1, seed.of(1), executor).numbers
            available, numbered = ranks.total, ranks.renumbered(rows)
        else:
            available, kind, numbered = rows.rows, "rows", rows
            number = seed.of(1).generator().integers(available, size=1)
        if available < k:
            raise InvalidData(
                f"{self.source} needs at least num_clusters = {k} {kind}, got {available}"
            )
        first = self.computation.centers(fetch(rows, number, executor))
        found = find_candidates(numbered, first, k, self.rounds, seed.of(2), executor)
        return pick(found, k, first, seed.of(3).generator())


def _dtype_of(batch: Batch) -> np.dtype[Any]:
    """Return the dtype in which the rows of a batch are computed."""
    return np.result_type(*{point_dtype(source.dtype) for source in batch.sources()})


def of_dtype(batches: Iterator[Batch], dtype: np.dtype[Any], whose: str) -> Iterator[Batch]:
    """Yield batches after checking that the centers' dtype can hold their rows.

    Args:
        batches: The batches.
        dtype: Dtype of the centers.
        whose: What gave the centers their dtype, for the message.

    Raises:
        InvalidData: the centers are float32 and a batch is float64.
    """
    checked: Batch | None = None  # a table that repeats is often the same batch again
    for batch in batches:
        if batch is not checked and not np.can_cast(found := _dtype_of(batch), dtype):
            raise InvalidData(
                f"all batches must be of {whose} dtype, {dtype}, which is also that of the "
                f"centers; got a batch of {found}. Convert all batches to one dtype"
            )
        checked = batch
        yield batch
