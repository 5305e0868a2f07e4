"""The NumPy backend: the reference and the fallback.

A block of rows is scored against all centers by one matrix product, |c|^2 / 2 - x.c (Euclidean)
or -x.c (cosine), in the data's dtype and on data shifted to the centers' mean. The score decides
every row but those whose two best scores are closer than their rounding error: these are decided
by float64 distances, (x - c)^2 or 1 - x.c. Blocks live in cache; nothing n x k exists.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from threadpoolctl import threadpool_info

from dkmeans.backends.rounding import Rounding, shifted
from dkmeans.distance import (
    Centers,
    Distance,
    cosine_inertia,
    directions,
    inverse_norms,
    squared_norms,
)
from dkmeans.state import FloatArray, IndexArray, PartialSums

# Elements of a block of scores: 2 MB in float32, about a core's second-level cache.
_BLOCK_ELEMENTS = 2**19
# Elements of the float64 rows that are gathered at a time: more for fewer calls than for the cache.
_GATHER_ELEMENTS = 2**19
# Rows of one matrix product: OpenBLAS multiplies matrices this small without copying them first.
_TILE = 32
_CACHE_LINE = 64

# Rows that are not finite, or too large to square, are found and named by the caller.
_QUIET = np.errstate(all="ignore")


class _Scratch(threading.local):
    """Buffers that a thread keeps: the first touch of fresh memory costs many times a reuse."""

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> FloatArray:
        """An array of this shape and dtype, with whatever its last user left in it."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if name not in self._kept or self._kept[name].nbytes < size:
            self._kept[name] = _aligned(size)
        return self._kept[name][:size].view(dtype).reshape(shape)


_scratch = _Scratch()


def _aligned(size: int) -> NDArray[np.uint8]:
    """So many bytes that begin a cache line: products of matrices that do not take a third more."""
    raw = np.empty(size + _CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE
    return raw[start : start + size]


@_QUIET
def partial_sums(points: FloatArray, centers: Centers) -> PartialSums:
    """The sums, counts and inertia of the (n, d) rows; see `Backend`.

    Rows are added as residuals x - c, exact in float64 for float32 data, so that neither the sums
    nor the inertia lose digits to an offset that all rows share.
    """
    return _sums_of(points, _winners(points, centers), centers)


@_QUIET
def assign(points: FloatArray, centers: Centers) -> tuple[PartialSums, IndexArray, FloatArray]:
    """In one pass what `partial_sums` and `nearest` give; see `Backend`."""
    index = _winners(points, centers)
    return _sums_of(points, index, centers), index, _apart(points, index, centers)


def _sums_of(points: FloatArray, index: IndexArray, centers: Centers) -> PartialSums:
    counts = np.bincount(index, minlength=len(centers.values)).astype(np.int64, copy=False)
    if centers.distance is Distance.COSINE:
        blocks = _blocks(len(points), points.shape[1])
        scales = np.concatenate([inverse_norms(points[block]) for block in blocks])
        sums, _ = _add_up(points, index, counts, None, scales)
        return PartialSums(sums, counts, cosine_inertia(sums, counts, centers))
    origins = centers.values.astype(np.float64)
    sums, inertia = _add_up(points, index, counts, origins, None)
    sums += counts[:, None] * origins
    return PartialSums(sums, counts, inertia)


@_QUIET
def nearest(points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
    """Each row's winner and its distance to it; see `Backend`."""
    index = _winners(points, centers)
    return index, _apart(points, index, centers)


def _apart(points: FloatArray, index: IndexArray, centers: Centers) -> FloatArray:
    """Each row's distance to the center that won it, (n,) float64."""
    apart = np.empty(len(points))
    exact = _exact_rows(centers.values, centers.distance)
    piece = max(1, _GATHER_ELEMENTS // points.shape[1])
    for start in range(0, len(points), piece):
        rows = slice(start, start + piece)
        block = _exact_rows(points[rows], centers.distance)
        apart[rows] = _exact_distances(block, exact[index[rows]], centers.distance)
    return apart


@_QUIET
def distances(points: FloatArray, centers: Centers) -> FloatArray:
    """Each row's distance to every center, (n, k) float32; see `Backend`."""
    result = np.empty((len(points), len(centers.values)), np.float32)
    exact = _exact_rows(centers.values, centers.distance)
    shift = exact.mean(axis=0)
    for rows in _blocks(len(points), len(exact) + points.shape[1]):
        block = _exact_rows(points[rows], centers.distance)
        if centers.distance is Distance.COSINE:
            result[rows] = np.clip(1.0 - block @ exact.T, 0.0, 2.0)
            continue
        block, others = block - shift, exact - shift
        scale = squared_norms(block)[:, None] + squared_norms(others)
        squares = scale - 2.0 * (block @ others.T)
        # Where the difference has lost more digits than float32 has, it is measured.
        lost = len(shift) * 2.0**-24 * scale
        row, center = np.nonzero(~(squares > lost))
        for pairs in _blocks(len(row), len(shift)):
            apart = block[row[pairs]] - others[center[pairs]]
            squares[row[pairs], center[pairs]] = squared_norms(apart)
        result[rows] = squares
    return result


def describe() -> dict[str, Any]:
    """What this machine would run; see `Backend`."""
    libraries = {
        f"{found['internal_api']} {found['version']} for {found.get('architecture', 'any')}"
        for found in threadpool_info()
        if found["user_api"] == "blas"
    }
    return {"numpy": np.__version__, "matrix products by": " and ".join(sorted(libraries))}


@dataclass(frozen=True, slots=True, eq=False)
class _Scorer:
    """Centers made ready to score blocks of rows by one matrix product.

    Attributes:
        weights: (d + 1, k): minus the shifted centers, and below them |c|^2 / 2.
        shift: (d,) what is taken off every row first.
        bound: How far apart two scores must be.
        exact: (k, d) float64 centers for the rows that the scores cannot decide.
    """

    weights: FloatArray
    shift: FloatArray
    bound: Rounding
    exact: FloatArray
    distance: Distance

    @classmethod
    def of(cls, centers: Centers, dtype: np.dtype[np.floating]) -> _Scorer:
        made = shifted(centers, dtype)
        k, d = made.values.shape
        weights = _aligned((d + 1) * k * dtype.itemsize).view(dtype).reshape(d + 1, k)
        weights[:-1], weights[-1] = -made.values.T, made.halves
        return cls(weights, made.shift, made.rounding, made.exact, centers.distance)

    def score(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The scores of (b, d) rows, (b, k), and the squares of their lengths as scored, (b,).

        The scores are in a buffer of the thread's: they last until it scores again.
        """
        b, d = points.shape
        k = len(self.exact)
        tiles = -(-b // _TILE)
        rows = _scratch.array("rows", (tiles * _TILE, d + 1), points.dtype)
        if self.distance is Distance.COSINE:
            scales = inverse_norms(points)[:, None]
            np.multiply(points, scales, out=rows[:b, :-1], casting="same_kind")
        else:
            np.subtract(points, self.shift, out=rows[:b, :-1])
        rows[:b, -1] = 1
        rows[b:] = 0
        scores = _scratch.array("scores", (tiles, _TILE, k), points.dtype)
        np.matmul(rows.reshape(tiles, _TILE, d + 1), self.weights, out=scores)
        return scores.reshape(-1, k)[:b], np.vecdot(rows[:b, :-1], rows[:b, :-1])

    def margins(self, squares: FloatArray) -> FloatArray:
        """How far apart two scores of a row must be to be told apart for sure, (b,)."""
        to = squares.dtype.type
        bound = self.bound
        sizes = np.sqrt(squares) * to(bound.largest) + to(bound.half)
        return np.asarray(to(bound.factor) * sizes + to(bound.floor))


def _winners(points: FloatArray, centers: Centers) -> IndexArray:
    """The index of each row's nearest center, (n,) int64."""
    n, d = points.shape
    k = len(centers.values)
    index = np.zeros(n, np.int64)
    if k == 1:
        return index
    least, second, squares = (np.empty(n, points.dtype) for _ in range(3))
    scorer = _Scorer.of(centers, points.dtype)
    for block in _blocks(n, k + d):
        scores, squares[block] = scorer.score(points[block])
        least[block] = _take_least(scores, index[block])
        second[block] = _take_least(scores, np.empty(len(scores), np.int64))
    limits = least + scorer.margins(squares)
    # Written so that a score or a limit that is not finite counts as undecided.
    undecided = np.flatnonzero(~(second > limits))
    for block in _blocks(len(undecided), k + d):
        rows = undecided[block]
        scores, _ = scorer.score(points[rows])
        index[rows] = _exact_winners(points[rows], ~(scores > limits[rows, None]), scorer)
    return index


def _take_least(scores: FloatArray, index: IndexArray) -> FloatArray:
    """Write where each row's least (b, k) score is to `index`, and put infinity in its place.

    Returns:
        (b,) the least scores.
    """
    np.argmin(scores, axis=1, out=index)
    places = np.arange(0, scores.size, scores.shape[1]) + index
    flat = scores.reshape(-1)
    least: FloatArray = flat.take(places)
    flat[places] = np.inf
    return least


def _exact_winners(points: FloatArray, close: FloatArray, scorer: _Scorer) -> IndexArray:
    """The nearest of each row's `close` (b, k) centers, in float64, the lowest among equals."""
    row, center = np.nonzero(close)
    apart = np.empty(len(row))
    piece = max(1, _GATHER_ELEMENTS // points.shape[1])
    for start in range(0, len(row), piece):
        pairs = slice(start, start + piece)
        rows = _exact_rows(points[row[pairs]], scorer.distance)
        apart[pairs] = _exact_distances(rows, scorer.exact[center[pairs]], scorer.distance)
    least = np.minimum.reduceat(apart, np.flatnonzero(np.diff(row, prepend=-1)))
    # A row that is not finite has no least: its first close center stands in.
    winners = np.flatnonzero((apart == least[row]) | np.isnan(least[row]))
    return center[winners[np.flatnonzero(np.diff(row[winners], prepend=-1))]]


def _add_up(
    points: FloatArray,
    index: IndexArray,
    counts: IndexArray,
    origins: FloatArray | None,
    scales: FloatArray | None,
) -> tuple[FloatArray, float]:
    """Add up each cluster's rows, less its origin (k, d) or times their scales (n,), in float64.

    Rows are taken in the order of their clusters, in groups of equal size that a batched product
    with ones adds up; a cluster's last group is filled with zeros.

    Returns:
        The (k, d) sums, and the sum of the squares of all that was added.
    """
    k, d = len(counts), points.shape[1]
    sums, squares = np.zeros((k, d)), 0.0
    size = _group_size(len(points) // k)
    owner, members, filler = _groups(index, counts, size)
    step = max(1, _GATHER_ELEMENTS // (size * d))
    taken = _scratch.array("taken", (min(step, len(owner)) * size, d), points.dtype)
    values = _scratch.array("values", (min(step, len(owner)), size, d), np.float64)
    ones = np.ones((1, size))
    for start in range(0, len(owner), step):
        groups = slice(start, min(start + step, len(owner)))
        count = groups.stop - start
        rows, residuals = taken[: count * size], values[:count]
        np.take(points, members[groups].ravel(), axis=0, out=rows, mode="clip")
        np.copyto(residuals, rows.reshape(residuals.shape))
        if origins is not None:
            residuals -= origins[owner[groups], None]
        if scales is not None:
            residuals *= scales[members[groups], None]
        residuals[filler[groups]] = 0.0
        starts = np.flatnonzero(np.diff(owner[groups], prepend=-1))
        totals = np.matmul(ones, residuals)[:, 0]
        sums[owner[groups][starts]] += np.add.reduceat(totals, starts, axis=0)
        # Row by row: one long product BLAS may deal to threads, and the bits with it.
        squares += float(np.add.reduce(np.vecdot(residuals, residuals), axis=None))
    return sums, squares


def _group_size(rows_per_cluster: int) -> int:
    """A power of two, small enough that few of a group's places stay empty."""
    return 1 << min(5, max(0, rows_per_cluster.bit_length() - 3))


def _groups(
    index: IndexArray, counts: IndexArray, size: int
) -> tuple[IndexArray, IndexArray, FloatArray]:
    """Deal rows into groups of `size` that each belong to one cluster.

    Returns:
        Each group's cluster (g,), its rows (g, size), and which places are fillers (g, size).
    """
    # A stable sort of small integers is a radix sort: linear, and rows stay in order.
    order = np.argsort(index.astype(np.uint16) if len(counts) <= 2**16 else index, kind="stable")
    groups = -(-counts // size)
    owner = np.repeat(np.arange(len(counts)), groups)
    nth = np.arange(len(owner)) - (np.cumsum(groups) - groups)[owner]
    ends = np.cumsum(counts)[owner]
    places = (ends - counts[owner] + nth * size)[:, None] + np.arange(size)
    filler = places >= ends[:, None]
    return owner, order[np.minimum(places, len(index) - 1)], filler


def _exact_rows(rows: FloatArray, distance: Distance) -> FloatArray:
    """The (n, d) rows as exact distances want them, float64."""
    return directions(rows) if distance is Distance.COSINE else rows.astype(np.float64)


def _exact_distances(rows: FloatArray, others: FloatArray, distance: Distance) -> FloatArray:
    """The distance of each of the (n, d) float64 rows to its partner in `others`, (n,)."""
    if distance is Distance.COSINE:
        products = np.add.reduce(rows * others, axis=1)
        return np.asarray(np.clip(1.0 - products, 0.0, 2.0))
    return squared_norms(rows - others)


def _blocks(n: int, elements_per_row: int) -> Iterator[slice]:
    """Slices that cut n rows into blocks of about `_BLOCK_ELEMENTS`."""
    size = max(_TILE, _BLOCK_ELEMENTS // elements_per_row // _TILE * _TILE)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
