"""Greedy k-means++ over rows in memory.

The driver uses it for the first batch, and `kmeans_parallel` for its weighted candidates. After i
picks, a new pick is the nearest one for only about n / i of the n rows. So candidates are compared
with all rows in float32, with a proven margin, and only the distances of the pairs that pass are
computed in float64. The result therefore depends on the rows alone, not on blocks, threads or the
library that multiplies matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from dkmeans.distance import squared_norms
from dkmeans.errors import InvalidData
from dkmeans.exact_grid import slices
from dkmeans.executors import cores
from dkmeans.machine import usable_cores
from dkmeans.state import FloatArray, IndexArray

R = TypeVar("R")

# Number of rows that are compared by one matrix product.
_BLOCK_ROWS = 2**14
# Size of the float64 rows that are held at a time, in each of several arrays and threads.
_BLOCK_BYTES = 2**20
# Squares of differences in this range are normal float64 numbers.
_LEAST_SPREAD, _LARGEST_SPREAD = 2.0**-511, 2.0**511


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Return slices that cut rows into blocks of about `_BLOCK_BYTES` in float64."""
    return slices(rows, width, _BLOCK_BYTES // 8)


def plus_plus(
    points: FloatArray,
    k: int,
    candidates: int,
    rng: np.random.Generator,
    weights: FloatArray | None = None,
) -> IndexArray:
    """Pick rows by greedy k-means++.

    At every pick, candidates are drawn with probability proportional to weight times squared
    distance to the nearest pick so far. (The first candidates are drawn by weight, and any
    candidates uniformly if all distances are zero.) The candidate with the least weighted sum of
    squared distances is picked. Source: Arthur and Vassilvitskii 2007, section 2.2 and the remark
    in section 5.

    Args:
        points: (n, d) rows, n >= k.
        k: Number of picks.
        candidates: Number of candidates at every pick.
        rng: Random generator of the draws.
        weights: (n,) float64, not negative and not all zero: the number of rows that each row
            stands for. None for one each.

    Returns:
        (k,) int64 row numbers.

    Raises:
        InvalidData: float64 cannot hold the squares of the rows' differences.
    """
    chances = None
    if weights is None:
        weights = np.ones(len(points))
    else:
        # Scaled so that no sum of weights overflows. A factor that is a power of two changes no
        # draw.
        weights = np.ldexp(weights, -np.frexp(weights.max())[1])
        chances = weights / weights.sum()
    picked = np.empty(k, np.int64)
    with cores.computing, ThreadPoolExecutor(usable_cores()) as pool:
        search = _Search(_Table.of(points), weights, pool)
        picked[0] = search.begin(rng.choice(len(points), candidates, p=chances))
        for i in range(1, k):
            picked[i] = search.pick(search.draw(candidates, rng))
    return picked


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Rows prepared for comparison with candidates by one matrix product.

    A row x is closer to a candidate c than to its nearest pick p if |x|^2 - 2 x.c + |c|^2 is less
    than |x - p|^2. With (x, 1, |x|^2 - |x - p|^2) as the prepared row and (-2 c, |c|^2, 1) as the
    candidate's column, the condition is that their inner product is below zero.

    Attributes:
        points: (n, d) rows as they are.
        prepared: (n, d + 2) float32: rows x minus their mean and scaled below one, then 1, then
            |x|^2 minus the squared distance to the nearest pick.
        squares: (n,) float64, |x|^2 of the prepared rows minus the rounding margin.
        scale: Power of two by which the prepared rows were multiplied, and by which `distances`
            multiplies differences before it squares them.
    """

    points: FloatArray
    prepared: FloatArray
    squares: FloatArray
    scale: float

    @classmethod
    def of(cls, points: FloatArray) -> _Table:
        """Prepare rows.

        Rounding each row, and each of the d + 2 products, moves a comparison by less than (d + 10)
        u (|x|^2 + |c|^2), where u = eps / 2 is the unit roundoff of float32 (Higham, Accuracy and
        Stability of Numerical Algorithms, section 3.1). The margin is eight times that, and is
        subtracted from the squares.

        Raises:
            InvalidData: the rows differ by so much or so little that float64 cannot hold the
                squares of their differences.
        """
        n, d = points.shape
        blocks = list(row_blocks(n, d))
        with np.errstate(over="ignore", invalid="ignore"):
            mean = points.mean(axis=0, dtype=np.float64)
            # `max` of NumPy: unlike Python's, it is NaN if one of the values is.
            spread = float(np.max([np.abs(points[block] - mean).max() for block in blocks]))
        if not _LEAST_SPREAD <= spread <= _LARGEST_SPREAD:
            _check_equal(points, spread)
            mean, spread = points[0].astype(np.float64), 0.0
        scale = 2.0 ** -int(np.frexp(spread)[1])
        prepared = np.ones((n, d + 2), np.float32)
        squares = np.empty(n)
        for block in blocks:
            prepared[block, :d] = (points[block] - mean) * scale
            squares[block] = squared_norms(prepared[block, :d].astype(np.float64))
        margin = 4 * (d + 10) * float(np.finfo(np.float32).eps)
        squares *= 1 - margin
        return cls(points, prepared, squares, scale)

    def set_nearest(self, rows: IndexArray, nearest: FloatArray) -> None:
        """Set the squared distances of some rows to their nearest picks."""
        # Numbers too small for a normal float32 have an absolute error, whatever their size.
        floor = self.prepared.shape[1] * float(np.finfo(np.float32).tiny)
        self.prepared[rows, -1] = self.squares[rows] - nearest - floor

    def may_be_closer(self, candidates: IndexArray, rows: slice) -> FloatArray:
        """Return a (b, m) bool array for b rows and m candidates.

        It is True where the candidate may be closer than the row's nearest pick.
        """
        columns = -2 * self.prepared[candidates].T
        columns[-2], columns[-1] = self.squares[candidates], 1
        return np.asarray(self.prepared[rows] @ columns <= 0)

    def distances(self, rows: IndexArray, others: IndexArray) -> FloatArray:
        """Return the squared distance of each row to its partner in `others`, (p,) float64.

        The distances are those of the scaled rows. Scaling by a power of two rounds nothing, and
        sums of the squares neither overflow nor vanish.
        """
        found = np.empty(len(rows))
        for pairs in row_blocks(len(rows), self.points.shape[1]):
            differences = self.points[rows[pairs]].astype(np.float64)
            differences -= self.points[others[pairs]]
            differences *= self.scale
            found[pairs] = squared_norms(differences)
        return found


def _check_equal(points: FloatArray, spread: float) -> None:
    """Refuse rows that are not all equal, and whose differences float64 cannot square.

    Args:
        points: (n, d) rows.
        spread: Largest difference between a value and the mean of its column, for the message.

    Raises:
        InvalidData: two rows differ.
    """
    if (points == points[0]).all():
        return
    raise InvalidData(
        "initialization needs rows whose largest difference from their mean is "
        f"{_LEAST_SPREAD:.3g} to {_LARGEST_SPREAD:.3g}, so that float64 holds its square; got "
        f"{spread:.3g}, for values up to {np.abs(points).max():.6g}. Scale the columns first"
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Closer:
    """Pairs of a block's rows and candidates that are closer than the row's nearest pick.

    Attributes:
        candidate: (p,) place of the candidate among those drawn.
        row: (p,) row number.
        distance: (p,) float64, squared distance of the two.
        gains: (m,) float64, by candidate: how much it would reduce the sum of squared distances.
    """

    candidate: IndexArray
    row: IndexArray
    distance: FloatArray
    gains: FloatArray


class _Search:
    """The picks so far, as the squared distance of each row to its nearest pick."""

    def __init__(self, table: _Table, weights: FloatArray, pool: ThreadPoolExecutor) -> None:
        self._table, self._weights, self._pool = table, weights, pool
        self._nearest = np.empty(len(weights))
        self._starts = range(0, len(weights), _BLOCK_ROWS)

    def begin(self, drawn: IndexArray) -> int:
        """Pick the first row among candidates, and return its number."""
        least = math.inf
        for candidate in np.unique(drawn):
            distances = self._distances_to(candidate)
            total = float(np.add.reduce(self._weights * distances))
            if total < least:
                least, picked, self._nearest = total, int(candidate), distances
        self._table.set_nearest(np.arange(len(self._nearest)), self._nearest)
        return picked

    def draw(self, count: int, rng: np.random.Generator) -> IndexArray:
        """Return row numbers drawn in proportion to weight times squared distance."""
        stops = np.cumsum(self._weights * self._nearest)
        if not stops[-1] > 0:
            return rng.integers(len(stops), size=count)
        drawn = np.searchsorted(stops, rng.random(count) * stops[-1], "right")
        # The random number is below 1, but its product with the sum may round up to the sum. The
        # last row that can be drawn is taken then.
        return np.asarray(np.minimum(drawn, np.searchsorted(stops, stops[-1])))

    def pick(self, drawn: IndexArray) -> int:
        """Pick the candidate with the largest gain, and return its row number."""
        found = self._in_blocks(partial(self._closer, drawn))
        best = int(np.argmax(sum(each.gains for each in found)))
        for each in found:
            is_best = each.candidate == best
            rows = each.row[is_best]
            self._nearest[rows] = each.distance[is_best]
            self._table.set_nearest(rows, each.distance[is_best])
        return int(drawn[best])

    def _closer(self, drawn: IndexArray, start: int) -> _Closer:
        block = slice(start, start + _BLOCK_ROWS)
        maybe = self._table.may_be_closer(drawn, block)
        row, candidate = np.divmod(np.flatnonzero(maybe), maybe.shape[1])
        row += start
        distance = self._table.distances(row, drawn[candidate])
        gains = self._nearest[row] - distance
        sums = np.bincount(candidate, self._weights[row] * np.maximum(gains, 0.0), len(drawn))
        closer = np.flatnonzero(gains > 0)
        return _Closer(candidate[closer], row[closer], distance[closer], sums)

    def _distances_to(self, candidate: np.int64) -> FloatArray:
        """Return the squared distance of every row to one row, (n,) float64."""

        def of_block(start: int) -> FloatArray:
            rows = np.arange(start, min(start + _BLOCK_ROWS, len(self._weights)))
            return self._table.distances(rows, np.full(len(rows), candidate))

        return np.concatenate(self._in_blocks(of_block))

    def _in_blocks(self, function: Callable[[int], R]) -> list[R]:
        """Call a function with the number of each block's first row, and return the results."""
        is_single = len(self._starts) == 1  # not worth waking a thread
        return list((map if is_single else self._pool.map)(function, self._starts))
