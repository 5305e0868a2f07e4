"""Draws of rows by their weights, on the workers and from the weights alone.

Each row has a priority w / u, with its weight w and a random value u (`draws.Seed`), and the rows
of the largest priorities are drawn: priority sampling (Duffield, Lund and Thorup 2007). Only the
weights are read for that. Rows with a weight are those of a weight above zero. Only these are
numbered, so rows of weight zero change no draw.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import LoadedChunk
from dkmeans.data.row_weights import weights_of
from dkmeans.executors import Executor
from dkmeans.initialization.draws import Seed
from dkmeans.state import FloatArray, IndexArray


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """Numbers of the rows of a batch, counted among those with a weight.

    Attributes:
        numbers: (c,) number of the first row of each chunk in the batch.
        firsts: (c,) the same, counted among the rows with a weight.
        total: Number of all rows with a weight.
    """

    numbers: IndexArray
    firsts: IndexArray
    total: int

    @classmethod
    def of(cls, batch: Batch, executor: Executor) -> Ranks:
        """Count the rows with a weight in each chunk of a batch."""
        counts = list(executor.map(_count, weights_of(batch), None))
        *firsts, total = accumulate(counts, initial=0)
        numbers = np.cumsum(batch.sizes()) - batch.sizes()
        return cls(numbers, np.array(firsts, np.int64), total)

    def first(self, number: int) -> int:
        """Return `firsts` of the chunk whose first row has this number in the batch."""
        return int(self.firsts[np.searchsorted(self.numbers, number)])

    def renumbered(self, batch: Batch) -> Batch:
        """Return the batch in chunks whose `number` counts only rows with a weight.

        They have no pieces, whose numbers would count the other rows of their chunk too.
        """
        pairs = zip(batch, self.firsts.tolist(), strict=True)
        return Batch(
            tuple(
                replace(chunk, offset=first - chunk.start, piece_rows=None)
                for chunk, first in pairs
            )
        )


def _count(loaded: LoadedChunk, _: None) -> int:
    return int(np.count_nonzero(loaded.points))


@dataclass(frozen=True, slots=True, eq=False)
class _WeightedDraw:
    """Which rows to draw.

    Attributes:
        ranks: Numbers of the rows.
        seed: Seed of the rows' random values.
        most: Number of rows to keep; None for all.
    """

    ranks: Ranks
    seed: Seed
    most: int | None


@dataclass(frozen=True, slots=True, eq=False)
class _Leaders:
    """The rows with the largest priorities, in that order: a monoid under `+`.

    Attributes:
        most: Largest number of them; None for all.
        priorities: (m,) their priorities.
        numbers: (m,) their numbers in the batch.
        weights: (m,) their weights.
    """

    most: int | None
    priorities: FloatArray
    numbers: IndexArray
    weights: FloatArray

    def __add__(self, other: _Leaders) -> _Leaders:
        return _Leaders(
            self.most,
            np.concatenate([self.priorities, other.priorities]),
            np.concatenate([self.numbers, other.numbers]),
            np.concatenate([self.weights, other.weights]),
        ).cut()

    def cut(self) -> _Leaders:
        """Return the leaders among these rows; of equal priorities the first rows."""
        order = np.lexsort((self.numbers, -self.priorities))[: self.most]
        return _Leaders(self.most, self.priorities[order], self.numbers[order], self.weights[order])


def _leaders_of(loaded: LoadedChunk, draw: _WeightedDraw) -> _Leaders:
    """Return the leaders among the rows of a chunk of weights. Runs on a worker."""
    weights, number = loaded.points[:, 0], loaded.chunk.number
    some = np.flatnonzero(weights)
    ranks = draw.ranks.first(number) + np.arange(len(some))
    with np.errstate(over="ignore"):  # losses of such weights are refused later
        priorities = weights[some] / draw.seed.uniform(ranks)
    return _Leaders(draw.most, priorities, number + some, weights[some]).cut()


@dataclass(frozen=True, slots=True, eq=False)
class WeightedRows:
    """Rows that were drawn by weight.

    Attributes:
        numbers: (m,) numbers of the rows in their batch, by falling priority; ascending if all rows
            with a weight are returned.
        weights: (m,) float64, the weight that each of them stands for.
    """

    numbers: IndexArray
    weights: FloatArray


def draw_by_weight(batch: Batch, most: int | None, seed: Seed, executor: Executor) -> WeightedRows:
    """Draw different rows of a batch by their weights; return all that have a weight if they fit.

    A drawn row stands for itself and for rows that were not drawn: its weight is then the priority
    of the first row that was not drawn, if that is larger than its own weight. Sums over the drawn
    rows are unbiased estimates of sums over all.

    Args:
        batch: The batch.
        most: Largest number of rows; None for no limit.
        seed: Seed of the draws.
        executor: Where weights are read.
    """
    ranks, numbered = Ranks.of(batch, executor), weights_of(batch.numbered())
    is_draw = most is not None and ranks.total > most
    draw = _WeightedDraw(ranks, seed, most + 1 if is_draw and most is not None else None)
    (leaders,) = executor.map_reduce(_leaders_of, [numbered], draw).totals
    numbers, weights = leaders.numbers, leaders.weights
    if not is_draw:
        order = np.argsort(numbers)
        return WeightedRows(numbers[order], weights[order])
    return WeightedRows(numbers[:-1], np.maximum(weights[:-1], leaders.priorities[-1]))
