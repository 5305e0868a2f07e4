"""Greedy k-means++ over rows in memory: measured exactly, where float32 cannot rule it out.

A row that is picked comes nearer to few others: after i picks to about one in i. So candidates are
compared with all rows in float32, with a proven margin, and only the pairs that pass are measured,
in float64. What is found is thereby a property of the rows: blocks, threads and the library that
multiplies matrices leave no trace in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from dkmeans.distance import squared_norms
from dkmeans.executors import cores
from dkmeans.state import FloatArray, IndexArray

R = TypeVar("R")

# Rows that are compared by one matrix product, and pairs that are measured at a time.
_BLOCK_ROWS = 2**14
_PIECE_PAIRS = 2**11


def plus_plus(
    points: FloatArray,
    k: int,
    candidates: int,
    rng: np.random.Generator,
    weights: FloatArray | None = None,
) -> IndexArray:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007, section 2.2 and the remark in section 5).

    At every pick candidates are drawn with probability proportional to weight times the squared
    distance to the nearest center so far (to weight at first, and uniformly where all are zero),
    and the one that leaves the least weighted sum of squared distances is kept.

    Args:
        points: (n, d) rows, n >= k.
        k: How many to pick.
        candidates: How many to draw at every pick.
        rng: Where the draws come from.
        weights: (n,) float64, not negative, not all zero: how many rows each stands for; None: one.

    Returns:
        (k,) int64 row numbers.
    """
    chances = None if weights is None else weights / weights.sum()
    weights = np.ones(len(points)) if weights is None else weights
    picked = np.empty(k, np.int64)
    with cores.computing, ThreadPoolExecutor(cores.usable_cores()) as pool:
        search = _Search(_Table.of(points), weights, pool)
        picked[0] = search.begin(rng.choice(len(points), candidates, p=chances))
        for i in range(1, k):
            picked[i] = search.keep(search.draw(candidates, rng))
    return picked


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Rows made ready to be compared by one matrix product.

    Attributes:
        points: (n, d) as they are.
        ready: (n, d + 2) float32: the rows x less their mean and scaled to be below one, then 1,
            then |x|^2 less the squared distance to the nearest pick.
        squares: (n,) float64: |x|^2 of those, less what rounding may move distances by.
        scale: What they were multiplied by, a power of two.
    """

    points: FloatArray
    ready: FloatArray
    squares: FloatArray
    scale: float

    @classmethod
    def of(cls, points: FloatArray) -> _Table:
        """Rows are off by a rounding of each, and their products by one for each column.

        That is less than (d + 10) u (|x|^2 + |c|^2) (Higham, Accuracy and Stability of Numerical
        Algorithms, section 3.1), of which eight times as much is taken off.
        """
        n, d = points.shape
        shifted = points - points.mean(axis=0, dtype=np.float64)
        scale = 2.0 ** -int(np.frexp(np.abs(shifted).max())[1])
        ready = np.ones((n, d + 2), np.float32)
        ready[:, :d] = shifted * scale
        margin = 4 * (d + 10) * float(np.finfo(np.float32).eps)
        squares = squared_norms(ready[:, :d].astype(np.float64)) * (1 - margin)
        return cls(points, ready, squares, scale)

    def approach(self, rows: IndexArray, nearest: FloatArray) -> None:
        """Note the squared distances of some rows to the nearest pick."""
        floor = self.ready.shape[1] * float(np.finfo(np.float32).tiny)
        self.ready[rows, -1] = self.squares[rows] - nearest * self.scale**2 - floor

    def may_be_closer(self, others: IndexArray, rows: slice) -> FloatArray:
        """Which rows x of a block may be closer to a row c than to their pick, (b, m)."""
        weights = -2 * self.ready[others].T
        weights[-2], weights[-1] = self.squares[others], 1
        return np.asarray(self.ready[rows] @ weights <= 0)

    def measure(self, rows: IndexArray, others: IndexArray) -> FloatArray:
        """The squared distance of each of these rows to its partner, (p,) float64."""
        apart = np.empty(len(rows))
        for start in range(0, len(rows), _PIECE_PAIRS):
            pairs = slice(start, start + _PIECE_PAIRS)
            ours = self.points[rows[pairs]].astype(np.float64)
            ours -= self.points[others[pairs]]
            apart[pairs] = squared_norms(ours)
        return apart


@dataclass(frozen=True, slots=True, eq=False)
class _Closer:
    """Rows of a block that are closer to a candidate than to any pick, as pairs of the two.

    Attributes:
        candidate: (p,) the candidate's place among those drawn.
        row: (p,) the row's number.
        apart: (p,) float64, their squared distance.
        gains: (m,) float64: by candidate, how much less the sum of squared distances would be.
    """

    candidate: IndexArray
    row: IndexArray
    apart: FloatArray
    gains: FloatArray


class _Search:
    """The picks so far, as the squared distance of each row to the nearest of them."""

    def __init__(self, table: _Table, weights: FloatArray, pool: ThreadPoolExecutor) -> None:
        self._table, self._weights, self._pool = table, weights, pool
        self._nearest = np.empty(len(weights))
        self._starts = range(0, len(weights), _BLOCK_ROWS)

    def begin(self, drawn: IndexArray) -> int:
        """The row number of the candidate that is picked first."""
        least = math.inf
        for candidate in np.unique(drawn):
            apart = self._distances(candidate)
            total = float(np.add.reduce(self._weights * apart))
            if total < least:
                least, picked, self._nearest = total, int(candidate), apart
        self._table.approach(np.arange(len(self._nearest)), self._nearest)
        return picked

    def draw(self, count: int, rng: np.random.Generator) -> IndexArray:
        """So many row numbers, in proportion to weight times squared distance."""
        stops = np.cumsum(self._weights * self._nearest)
        if not stops[-1] > 0:
            return rng.integers(len(stops), size=count)
        drawn = np.searchsorted(stops, rng.random(count) * stops[-1], "right")
        # Rounded, a number below one times the sum may be the sum: the last row of any weight.
        return np.asarray(np.minimum(drawn, np.searchsorted(stops, stops[-1])))

    def keep(self, drawn: IndexArray) -> int:
        """The row number of the candidate that gains most, which is picked thereby."""
        found = self._in_blocks(partial(self._closer, drawn))
        best = int(np.argmax(sum(each.gains for each in found)))
        for each in found:
            mine = each.candidate == best
            rows = each.row[mine]
            self._nearest[rows] = each.apart[mine]
            self._table.approach(rows, each.apart[mine])
        return int(drawn[best])

    def _closer(self, drawn: IndexArray, start: int) -> _Closer:
        block = slice(start, start + _BLOCK_ROWS)
        maybe = self._table.may_be_closer(drawn, block)
        row, candidate = np.divmod(np.flatnonzero(maybe), maybe.shape[1])
        row += start
        apart = self._table.measure(row, drawn[candidate])
        gains = self._nearest[row] - apart
        sums = np.bincount(candidate, self._weights[row] * np.maximum(gains, 0.0), len(drawn))
        closer = np.flatnonzero(gains > 0)
        return _Closer(candidate[closer], row[closer], apart[closer], sums)

    def _distances(self, candidate: np.int64) -> FloatArray:
        """The squared distance of every row to one, (n,) float64."""

        def measure(start: int) -> FloatArray:
            rows = np.arange(start, min(start + _BLOCK_ROWS, len(self._weights)))
            return self._table.measure(rows, np.full(len(rows), candidate))

        return np.concatenate(self._in_blocks(measure))

    def _in_blocks(self, function: Callable[[int], R]) -> list[R]:
        """A function of the first row of each block, in order."""
        one = len(self._starts) == 1  # not worth waking a thread for
        return list((map if one else self._pool.map)(function, self._starts))
