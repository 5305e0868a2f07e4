"""AFK-MC^2 (Bachem, Lucic, Hassani and Krause 2016, Fast and provably good seedings for k-means).

One pass draws proposals: half in proportion to the squared distance to the first center, half
uniformly (Algorithm 1, line 3). Each further center is where a Markov chain of some proposals ends,
whose steps ask for the distance to the centers so far of these rows alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dkmeans.backends import select
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.distance import Centers
from dkmeans.executors import Executor
from dkmeans.initialization.draws import Seed, meaningful
from dkmeans.initialization.kmeans_parallel import Rounds, find_candidates
from dkmeans.initialization.sample import fetch
from dkmeans.state import FloatArray, IndexArray

# Proposals of a chain. The paper's quality settles between 50 and 200.
_LENGTH = 100
# Events that are looked for at once where few rows have any left.
_AT_ONCE = 2**12


@dataclass(frozen=True, slots=True, eq=False)
class Proposing:
    """What a pass over the rows is to propose.

    Attributes:
        first: The first center.
        expected: How many proposals of each half are to be expected.
        rows: How many rows there are in all.
        seed: Of the draws.
    """

    first: Centers
    expected: float
    rows: int
    seed: Seed


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """Row numbers drawn with replacement, from two distributions: a monoid under `+`.

    Rows are drawn as often as the events of a Poisson process come before their share of the
    number expected: given how many there are, such draws are independent. An event at time t of a
    row of weight w counts if t < l w / s, that is w / t > s / l, where s is the sum of all weights.
    It is known at the end only, but grows: a part keeps what passes for its own s.

    Attributes:
        task: What was to be proposed.
        total: The sum of the rows' distances to the first center.
        numbers: (m,) row numbers, by weight and then uniformly.
        apart: (m,) the rows' distances to the first center.
        reach: (m,) float64: w / t; infinite for the uniform half, which is settled.
    """

    task: Proposing
    total: float
    numbers: IndexArray
    apart: FloatArray
    reach: FloatArray

    def chances(self) -> FloatArray:
        """How likely each was to be proposed, twice, (m,) float64."""
        even = np.full(len(self.apart), 1.0 / self.task.rows)
        return even + self.apart / self.total if self.total else even

    def __add__(self, other: Proposals) -> Proposals:
        total = self.total + other.total
        reach = np.concatenate([self.reach, other.reach])
        stay = np.flatnonzero(reach > total / self.task.expected)
        numbers = np.concatenate([self.numbers, other.numbers])[stay]
        return Proposals(
            self.task,
            total,
            numbers,
            np.concatenate([self.apart, other.apart])[stay],
            reach[stay],
        )


def propose(chunk: Chunk, task: Proposing) -> Proposals:
    """What is proposed of a chunk, on a worker.

    Raises:
        InvalidData: rows that cannot be read, are not as wide as they should be, or not finite.
    """
    points = chunk.load(task.first.width)
    _, apart = select(task.first.backend).nearest(points, task.first)
    if not np.isfinite(apart).all():
        raise chunk.complaint(points)
    apart = meaningful(apart, task.first.distance)
    total = float(apart.sum())
    numbers = np.arange(chunk.number, chunk.number + chunk.rows)
    near, reach = _events(apart, total / task.expected, numbers, task.seed.of(0))
    each = task.rows / task.expected
    even, _ = _events(np.ones(len(points)), each, numbers, task.seed.of(1))
    which = np.concatenate([near, even])
    reach = np.concatenate([reach, np.full(len(even), np.inf)])
    return Proposals(task, total, numbers[which], apart[which], reach)


def _events(
    weights: FloatArray, bound: float, numbers: IndexArray, seed: Seed
) -> tuple[IndexArray, FloatArray]:
    """The events of each row's process that are before weight / bound: rows, and weight / time."""
    rows: list[IndexArray] = []
    reach: list[FloatArray] = []
    waiting, times, nth = np.flatnonzero(weights > 0), np.zeros(len(weights)), 0
    while len(waiting):
        count = 1 + _AT_ONCE // len(waiting)  # a row far from all others has very many
        waits = -np.log(seed.uniforms(numbers[waiting], nth, count))
        waits[:, 0] += times[waiting]
        when = np.cumsum(waits, axis=1)
        reached = weights[waiting, None] / when
        which, place = np.nonzero(reached > bound)
        rows.append(waiting[which])
        reach.append(reached[which, place])
        times[waiting], nth = when[:, -1], nth + count
        waiting = waiting[reached[:, -1] > bound]
    empty = np.empty(0)
    return np.concatenate([empty.astype(np.int64), *rows]), np.concatenate([empty, *reach])


def end_chains(
    whole: Batch, rows: Batch, first: Centers, k: int, seed: Seed, executor: Executor
) -> FloatArray:
    """The (k, d) centers, different rows; where chains end on a center, k-means|| draws the rest.

    Args:
        whole: All `numbered` rows.
        rows: Those of them that are looked at.
        first: The first center, one of these.
        k: How many are wanted.
        seed: Of the draws.
        executor: Where rows are read.

    Raises:
        InvalidData: there are fewer than k different rows, or one is not finite.
    """
    if k == 1:
        return first.values
    wanted = (k - 1) * _LENGTH
    # The number of events is not settled: so many more that there are too few once in a billion.
    task = Proposing(first, 0.5 * (wanted + 6 * wanted**0.5 + 32), rows.rows, seed.of(0))
    (found,) = executor.map_reduce(propose, [rows], task)
    rng = seed.of(1).generator()
    in_order = np.lexsort((found.reach, found.numbers))  # whatever chunks they came from
    order = np.resize(rng.permutation(in_order), (k - 1, _LENGTH))
    unique, places = np.unique(found.numbers[order], return_inverse=True)
    points = fetch(whole, unique, executor)
    centers = _ends(points, places, found.chances()[order], first, rng)
    if len(centers.values) == k:
        return centers.values
    more = find_candidates(rows, centers, k, Rounds(0.0, 0), seed.of(2), executor)
    return np.asarray(more.rows[more.weights > 0][:k])


def _ends(
    points: FloatArray,
    places: IndexArray,
    chances: FloatArray,
    first: Centers,
    rng: np.random.Generator,
) -> Centers:
    """The first center and where the chains end, one after another, but for ends on a center.

    Args:
        points: (p, d) rows.
        places: (k - 1, m) which of them each chain's proposals are.
        chances: (k - 1, m) how likely these were to be proposed.
        first: The first center.
        rng: Where the draws come from.
    """
    centers = first
    for chain, chance, luck in zip(places, chances, rng.random(places.shape), strict=True):
        proposed = points[chain]
        _, apart = select(first.backend).nearest(proposed, centers)
        end = _end(meaningful(apart, first.distance) / chance, luck)
        if end is not None:
            values = np.concatenate([centers.values, proposed[end, None]])
            centers = replace(first, values=values)
    return centers


def _end(odds: FloatArray, luck: FloatArray) -> int | None:
    """Where a chain ends whose steps have these distances over chances; None: on a center."""
    here = 0
    for there in range(1, len(odds)):
        if odds[there] > luck[there] * odds[here]:
            here = there
    return here if odds[here] > 0 else None
