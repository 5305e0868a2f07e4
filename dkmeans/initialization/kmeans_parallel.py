"""k-means|| (Bahmani, Moseley, Vattani, Kumar and Vassilvitskii 2012): seeding in a few passes.

A round goes over all rows once. It finds how far each is from the candidates so far and draws more
in proportion to that (Algorithm 2); in the end each candidate weighs as many rows as it is nearest
to, and weighted k-means++ picks the centers among them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import count
from typing import cast

import numpy as np

from dkmeans.backends import select
from dkmeans.data.batches import Batch
from dkmeans.data.cache import row_cache
from dkmeans.data.chunks import Chunk
from dkmeans.distance import Centers, Distance, directions, project
from dkmeans.errors import InvalidData
from dkmeans.executors import Executor
from dkmeans.initialization.draws import Draw, Drawn, Seed, meaningful
from dkmeans.initialization.kmeans_plus_plus import plus_plus
from dkmeans.state import FloatArray, IndexArray

# Of Lloyd's iterations over the candidates.
_ITERATIONS = 5


@dataclass(frozen=True, slots=True)
class Rounds:
    """How candidates are drawn.

    Attributes:
        oversampling: How many are to be expected of a round, as a multiple of k.
        rounds: How many rounds there are.
    """

    oversampling: float
    rounds: int


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """What a worker notes of a chunk's rows, so that the next round asks for new candidates only.

    Attributes:
        candidates: How many candidates the rows have been compared with: the first ones.
        index: (n,) int32, the nearest of them.
        apart: (n,) float64, the distance to it.
    """

    candidates: int
    index: IndexArray
    apart: FloatArray

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return self.index.nbytes + self.apart.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What a pass over the rows is to find out.

    Attributes:
        candidates: All candidates so far.
        latest: Those of the round before.
        draw: Which rows to draw, in proportion to their distances; in the last pass none.
    """

    candidates: Centers
    latest: Centers
    draw: Draw


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a pass over some rows has found out: a monoid under `+`.

    Attributes:
        weights: (c,) int64, how many rows each candidate is the nearest of.
        drawn: The rows drawn.
    """

    weights: IndexArray
    drawn: Drawn

    def __add__(self, other: Seen) -> Seen:
        return Seen(self.weights + other.weights, self.drawn + other.drawn)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Rows among which the centers are, and how many rows each of them is the nearest of."""

    rows: FloatArray
    weights: IndexArray


def find_candidates(
    rows: Batch,
    first: Centers,
    k: int,
    rounds: Rounds,
    seed: Seed,
    executor: Executor,
) -> Candidates:
    """At least k different candidates, each of which is the nearest of some row.

    Where the rounds find fewer, one more draws what is missing.

    Args:
        rows: The `numbered` rows.
        first: The first candidates, which are different rows of these.
        k: How many must be found.
        rounds: How to draw more.
        seed: Of the draws.
        executor: Where rows are read.

    Raises:
        InvalidData: there are fewer than k different rows, or one is not finite.
    """
    found = latest = first.values
    sure = len(found)
    for number in count():
        draw = _draw_of(number, rounds, k, sure, first.distance, seed)
        look = Look(replace(first, values=found), replace(first, values=latest), draw)
        (seen,) = executor.map_reduce(look_at, [rows], look)
        latest, won = seen.drawn.different(), int(np.count_nonzero(seen.weights))
        sure = won + len(latest)
        is_all = not seen.drawn.total > 0 or (draw.is_exact and len(latest) < draw.count)
        if is_all and sure < k:
            raise InvalidData(
                f"num_clusters = {k} needs as many different rows, and the {rows.rows} rows that "
                f"initialization looked at have {sure}"
            )
        if won >= k and not len(latest) and (is_all or draw.is_exact):
            break
        found = np.concatenate([found, latest])
    return Candidates(found, seen.weights)


def _draw_of(
    number: int, rounds: Rounds, k: int, sure: int, distance: Distance, seed: Seed
) -> Draw:
    """What is drawn in the pass of this number: candidates, or, after the rounds, what is missing.

    Args:
        number: The pass.
        rounds: How candidates are drawn.
        k: How many different ones must be found.
        sure: How many there are.
        distance: By which rows are copies.
        seed: Of the draws.
    """
    if number < rounds.rounds:
        return Draw(seed.of(number), rounds.oversampling * k, False, distance)
    return Draw(seed.of(number), max(0, k - sure), True, distance)


def look_at(chunk: Chunk, look: Look) -> Seen:
    """What a pass finds out about a chunk, on a worker.

    Raises:
        InvalidData: rows that cannot be read, are not as wide as they should be, or not finite.
    """
    points = chunk.load(look.candidates.width)
    # Starts of one fit have seeds of their own, and must not find each other's notes.
    key = "nearest", look.draw.seed.entropy, chunk.number, chunk.rows
    nearest = _brought_up_to_date(cast(Nearest | None, row_cache.take_entry(key)), points, look)
    if not np.isfinite(nearest.apart).all():
        raise chunk.complaint(points)
    if look.draw.count:
        row_cache.put_entry(key, nearest)
    weights = np.bincount(nearest.index, minlength=nearest.candidates)
    apart = meaningful(nearest.apart, look.candidates.distance)
    return Seen(weights, Drawn.of(look.draw, apart, chunk.number, points))


def _brought_up_to_date(note: Nearest | None, points: FloatArray, look: Look) -> Nearest:
    """How far rows are from the candidates; those noted before are not compared again."""
    all_of_them = len(look.candidates.values)
    if note is not None and note.candidates == all_of_them:
        return note
    latest = all_of_them - len(look.latest.values)
    nearest = select(look.candidates.backend).nearest
    if note is None or note.candidates != latest:
        index, apart = nearest(points, look.candidates)
        return Nearest(all_of_them, index.astype(np.int32), apart)
    index, apart = nearest(points, look.latest)
    # Of equally near ones the earlier stays, as if all had been compared at once.
    closer = apart < note.apart
    return Nearest(
        all_of_them,
        np.where(closer, index + latest, note.index).astype(np.int32),
        np.where(closer, apart, note.apart),
    )


def pick(candidates: Candidates, k: int, like: Centers, rng: np.random.Generator) -> FloatArray:
    """The (k, d) centers of weighted candidates: greedy k-means++, and some iterations of Lloyd's.

    Candidates are few, so each pick tries twice as many as greedy k-means++ does among rows.

    Args:
        candidates: At least k, that have won rows.
        k: How many to pick.
        like: Centers of the distance and the backend to use.
        rng: Where the draws come from.
    """
    rows, weights = candidates.rows, candidates.weights.astype(np.float64)
    if like.distance is Distance.COSINE:
        rows = directions(rows).astype(rows.dtype)
    trials = 2 * (2 + math.floor(math.log(k)))
    centers = rows[plus_plus(rows, k, trials, rng, weights)]
    for _ in range(_ITERATIONS):
        refined = _refined(centers, rows, weights, like)
        if len(np.unique(refined, axis=0)) < k:
            break
        centers = refined
    return centers


def _refined(
    centers: FloatArray, rows: FloatArray, weights: FloatArray, like: Centers
) -> FloatArray:
    """Each center moved to the weighted mean of its rows; one that won none stays."""
    index, _ = select(like.backend).nearest(rows, replace(like, values=centers))
    order = np.argsort(index, kind="stable")
    own, starts = np.unique(index[order], return_index=True)
    sums = np.add.reduceat((weights[:, None] * rows)[order], starts)
    total = np.add.reduceat(weights[order], starts)
    won = total > 0
    moved = centers.copy()
    moved[own[won]] = project(sums[won] / total[won, None], like.distance)
    return moved
