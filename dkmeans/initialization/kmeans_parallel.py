"""k-means|| (Bahmani, Moseley, Vattani, Kumar and Vassilvitskii 2012): seeding in a few epochs.

Each round is one epoch on the workers: it computes the distance of each row to the nearest
candidate so far, and draws more candidates in proportion to these distances (Algorithm 2 of the
paper). In the end the weight of a candidate is the number of rows that it is nearest to, and
weighted k-means++ on the driver picks the centers among the candidates. If rows have weights, they
are drawn in proportion to distance times weight, and candidates get the sums of these weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dkmeans.backends import select, select_processor
from dkmeans.backends.weighted import sums_of_weights
from dkmeans.data.batches import Batch
from dkmeans.data.cache import row_cache
from dkmeans.data.chunks import LoadedChunk
from dkmeans.distance import LEAST_SQUARED, Centers, Distance, directions, project
from dkmeans.errors import InvalidData, counted
from dkmeans.exact import ExactSums
from dkmeans.executors import Executor
from dkmeans.executors.reduction import participant
from dkmeans.initialization.draws import (
    Draw,
    Drawn,
    Seed,
    as_weights,
    has_direction,
    lengthened,
)
from dkmeans.initialization.kmeans_plus_plus import plus_plus
from dkmeans.state import FloatArray, IndexArray

# Iterations of Lloyd's algorithm over the candidates, after k-means++ has picked among them.
_LLOYD_ITERATIONS = 5


@dataclass(frozen=True, slots=True)
class Rounds:
    """Number and size of the rounds.

    Attributes:
        oversampling: Expected number of candidates of a round, as a multiple of k.
        rounds: Number of rounds.
    """

    oversampling: float
    rounds: int


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """Nearest candidates of a chunk's rows, cached on the worker between rounds.

    Attributes:
        candidates: Number of candidates, from the first on, that the rows were compared with.
        index: (n,) int32, the nearest of them.
        distances: (n,) float64, the distance to it.
    """

    candidates: int
    index: IndexArray
    distances: FloatArray

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.index.nbytes + self.distances.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """Task of one epoch over the rows.

    Attributes:
        candidates: All candidates so far.
        latest: The candidates that the last round drew: the last rows of `candidates`.
        draw: Which rows to draw, in proportion to their distances. Its `count` is 0 if no rows are
            missing.
    """

    candidates: Centers
    latest: Centers
    draw: Draw


@dataclass(frozen=True, slots=True, eq=False)
class RoundResult:
    """Result of a round for some rows: a monoid under `+`.

    Attributes:
        weights: (c, 1), the sum of the weights of the rows that each candidate is nearest to: their
            number, if rows have no weights.
        drawn: The drawn rows.
    """

    weights: ExactSums
    drawn: Drawn

    def __add__(self, other: RoundResult) -> RoundResult:
        return RoundResult(self.weights + other.weights, self.drawn + other.drawn)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The candidates, among which the centers are picked.

    Attributes:
        rows: (c, d) the candidates.
        weights: (c,), the number of rows that each candidate is nearest to, or the sum of their
            weights.
    """

    rows: FloatArray
    weights: NDArray[Any]


def find_candidates(
    rows: Batch,
    first: Centers,
    k: int,
    rounds: Rounds,
    seed: Seed,
    executor: Executor,
) -> Candidates:
    """Find candidates, of which at least k are different and each the nearest one of some row.

    Every turn of the loop weighs the candidates found so far and draws the next ones. Two numbers
    decide when to stop. `used` candidates are the nearest of some row, so they are different. The
    rows drawn in this turn (`latest`) are different from each other and from all candidates, so
    `distinct = used + len(latest)` different rows are known. The loop ends when k candidates are
    used, none were drawn, and either the rounds are over or no other row exists.

    After the rounds an exact draw asks for the rows that are missing. If it returns fewer, or if
    all distances are zero, no more different rows exist.

    For cosine, zero rows are at distance one from every candidate. Their weight in the draws is
    zero, and they do not count as candidates: otherwise the distances would never all be zero. For
    the same reason, rows too short for cosine are scaled to length one before they become
    candidates.

    Args:
        rows: The `numbered` rows.
        first: The first candidates, different rows of these.
        k: Number of candidates that must be found.
        rounds: Number and size of the rounds.
        seed: Seed of the draws.
        executor: Where rows are read.

    Raises:
        InvalidData: there are fewer than k different rows, or a row is not finite.
    """
    candidates = latest = lengthened(first.values, first.distance)
    is_usable = has_direction(first.values, first.distance)
    distinct = len(candidates)
    for number in count():
        draw = _draw_of(number, rounds, k, distinct, first.distance, seed)
        task = Round(replace(first, values=candidates), replace(first, values=latest), draw)
        (result,) = executor.map_reduce(run_round, [rows], task).totals
        weights = np.where(is_usable, result.weights.rounded()[:, 0], 0)
        latest, used = result.drawn.different(), int(np.count_nonzero(weights))
        distinct = used + len(latest)
        # All distances are zero, or an exact draw found too few: no other different rows exist.
        all_known = not result.drawn.total.units or (draw.is_exact and len(latest) < draw.count)
        if all_known and distinct < k:
            remark = _which_differ(candidates, first.distance)
            raise InvalidData(
                f"the rows must have at least as many different ones as there are clusters, {k}; "
                f"{counted(rows.rows, 'row')} that initialization looked at gave {distinct}{remark}"
            )
        if used >= k and not len(latest) and (all_known or draw.is_exact):
            break
        # All drawn rows have a direction: others have no weight.
        is_usable = np.concatenate([is_usable, np.ones(len(latest), bool)])
        latest = lengthened(latest, first.distance)
        candidates = np.concatenate([candidates, latest])
    return Candidates(candidates, weights)


def _which_differ(candidates: FloatArray, distance: Distance) -> str:
    """Return which rows count as different, for the message, if that is not plain."""
    if distance is Distance.COSINE:
        return " (by cosine, rows of one direction are equal, and zero rows do not count)"
    largest = float(np.abs(candidates).max())
    if 0 < largest < LEAST_SQUARED:
        return (
            f" (values of {largest:.3g} have squares that float64 does not hold: scale the columns "
            "first)"
        )
    return ""


def _draw_of(
    number: int, rounds: Rounds, k: int, distinct: int, distance: Distance, seed: Seed
) -> Draw:
    """Return the draw of a turn: candidates in the rounds, and after them what is missing.

    Args:
        number: Number of the turn.
        rounds: Number and size of the rounds.
        k: Number of different candidates that must be found.
        distinct: Number of different rows that are known.
        distance: The distance by which rows are equal.
        seed: Seed of the draws.
    """
    if number < rounds.rounds:
        return Draw(seed.of(number), rounds.oversampling * k, False, distance)
    return Draw(seed.of(number), max(0, k - distinct), True, distance)


def run_round(loaded: LoadedChunk, task: Round) -> RoundResult:
    """Return the result of a round for one chunk. Runs on a worker.

    Raises:
        InvalidData: the rows are not as wide as the candidates, or not finite.
    """
    points, chunk = loaded.of_width(task.candidates.width), loaded.chunk
    total = len(task.candidates.values)
    if not len(points):  # none of the rows has a weight
        drawn = Drawn.of(task.draw, np.empty(0), chunk.number, points)
        return RoundResult(ExactSums.zero((total, 1)), drawn)
    # The starts of one fit, and trainings that share their reads, must not take each other's
    # entries. The seed's `entropy`, not its `path`, which differs in each round.
    key = "nearest", participant.get(), task.draw.seed.entropy, chunk.number, chunk.rows
    nearest = _updated(cast(Nearest | None, row_cache.take_entry(key)), points, task)
    if not np.isfinite(nearest.distances).all():
        raise loaded.complaint()
    if task.draw.count:
        # Without its rows in memory, a chunk would not be cut any more.
        row_cache.put_entry(key, nearest, evicts_rows=not chunk.is_piece)
    by_distance = as_weights(nearest.distances, points, task.candidates.distance)
    if loaded.weights is None:
        weights = ExactSums.of_counts(np.bincount(nearest.index, minlength=total))
    else:
        index = nearest.index.astype(np.int64)
        weights = sums_of_weights(select(task.candidates.backend), loaded.weights, index, total)
        by_distance = loaded.weights * by_distance
        if not np.isfinite(by_distance).all():
            raise loaded.complaint()
    return RoundResult(weights, Drawn.of(task.draw, by_distance, chunk.number, points))


def _updated(entry: Nearest | None, points: FloatArray, task: Round) -> Nearest:
    """Return the nearest candidates of rows, comparing them only with candidates that are new.

    Args:
        entry: The cached result of an earlier round; None in the first round, or if the entry was
            evicted or is on another worker.
        points: (n, d) rows.
        task: The round.
    """
    total = len(task.candidates.values)
    if entry is not None and entry.candidates == total:  # the last round drew no candidates
        return entry
    before = total - len(task.latest.values)
    nearest = select(task.candidates.backend).nearest
    # The entry may be older, if another worker computed the chunk in between.
    if entry is None or entry.candidates != before:
        index, distances = nearest(points, task.candidates)
        return Nearest(total, index.astype(np.int32), distances)
    index, distances = nearest(points, task.latest)
    # Among equally near candidates the first counts, as if all had been compared at once.
    closer = distances < entry.distances
    return Nearest(
        total,
        np.where(closer, index + before, entry.index).astype(np.int32),
        np.where(closer, distances, entry.distances),
    )


def pick(candidates: Candidates, k: int, like: Centers, rng: np.random.Generator) -> FloatArray:
    """Pick the (k, d) centers among candidates: greedy k-means++, then a few Lloyd iterations.

    Each pick of k-means++ tries 2 (2 + floor(ln k)) candidates: there are few rows, so a trial
    costs little.

    Args:
        candidates: The candidates, at least k of which have a weight.
        k: Number of centers.
        like: Any centers with the distance and backend to use.
        rng: Random generator of the draws.
    """
    rows, weights = candidates.rows, candidates.weights.astype(np.float64)
    if like.distance is Distance.COSINE:
        rows = directions(rows).astype(rows.dtype)
    trials = 2 * (2 + math.floor(math.log(k)))
    centers = rows[plus_plus(rows, k, trials, rng, weights)]
    for _ in range(_LLOYD_ITERATIONS):
        refined = _refined(centers, rows, weights, like)
        if len(np.unique(refined, axis=0)) < k:  # two centers would be one
            break
        centers = refined
    return centers


def _refined(
    centers: FloatArray, rows: FloatArray, weights: FloatArray, like: Centers
) -> FloatArray:
    """Return each center moved to the weighted mean of its rows; one without weight stays."""
    index, _ = select_processor().nearest(rows, replace(like, values=centers))
    # Sorted by center, so that the rows of a center are one segment for `reduceat`.
    order = np.argsort(index, kind="stable")
    used, starts = np.unique(index[order], return_index=True)
    sums = np.add.reduceat((weights[:, None] * rows)[order], starts)
    total = np.add.reduceat(weights[order], starts)
    weighted = total > 0
    moved = centers.copy()
    moved[used[weighted]] = project(sums[weighted] / total[weighted, None], like.distance)
    return moved
