"""The NumPy backend: the reference for the others, and the fallback where they cannot be used.

One matrix product scores a block of rows against all centers, in the rows' dtype: the scores are
|c|^2 / 2 - x.c (Euclidean) or -x.c (cosine). For the Euclidean distance the mean of the centers is
subtracted from rows and centers first. For most rows the center with the least score is the
nearest. Rows whose two least scores are closer than their rounding error are ambiguous. They are
resolved exactly by float64 distances, (x - c)^2 or 1 - x.c. Blocks fit a core's cache, and only
`distances` makes an n x k array.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from threadpoolctl import threadpool_info

from dkmeans.backends.addition import as_added, grid_for, plus_rest, rest_of_squares, whole_parts
from dkmeans.backends.moments import add_measures, add_squares
from dkmeans.backends.rounding import QUIET, Rounding, exact_rows, shifted
from dkmeans.backends.weighted import add_products, partial_sums_of, total_of_products
from dkmeans.distance import Centers, Distance, inverse_norms, squared_norms
from dkmeans.exact import ExactSums, quotients
from dkmeans.exact_grid import Grid, piece_slices, slices, total_of_digits
from dkmeans.exact_total import NOTHING, ExactTotal
from dkmeans.loss import terms
from dkmeans.state import Cached, FloatArray, IndexArray, PartialSums, sum_up

__all__ = [
    "add_measures",
    "add_products",
    "add_squares",
    "assign",
    "assign_two",
    "describe",
    "distances",
    "nearest",
    "nearest_index",
    "nearest_several",
    "nearest_two",
    "partial_sums",
    "quotients",
    "squares",
    "terms",
    "total_of_products",
]

# Elements of a block of rows and their scores: 2 MB in float32, about a core's second-level cache.
_BLOCK_ELEMENTS = 2**19
# Elements of the float64 rows that are gathered at a time: 4 MB, larger than the cache. Fewer calls
# were faster than blocks that fit the cache.
_GATHER_ELEMENTS = 2**19
# Rows of one matrix product: OpenBLAS multiplies matrices this small without copying them first.
_TILE_ROWS = 32
_CACHE_LINE_BYTES = 64
# Arrays of float64 that adding up squares makes for each value.
_DIGITS = 8
_FLOAT32_ROUNDOFF = 2.0**-24
# Elements of the arrays in which several nearest centers of some rows are looked for.
_RANKED_ELEMENTS = 2**21
# Distances in float32 that differ by less may be in the wrong order: relatively, and for cosine
# absolutely, as small cosine distances are differences of numbers near 1.
_UNSURE, _UNSURE_COSINE = 2.0**-20, 2.0**-40
# Largest number of clusters whose indices fit uint16. NumPy sorts uint16 stably by a radix sort, in
# linear time.
_RADIX_CLUSTERS = 2**16


class _Buffers(threading.local):
    """Buffers that each thread reuses: the first access to new memory is slow."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> FloatArray:
        """Return an array in the buffer of this name. Its values are those of the last use."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if name not in self._buffers or self._buffers[name].nbytes < size:
            self._buffers[name] = _aligned(size)
        return self._buffers[name][:size].view(dtype).reshape(shape)


_buffers = _Buffers()


def _aligned(size: int) -> NDArray[np.uint8]:
    """Return `size` bytes that start at a cache line.

    Products of matrices that do not start at a cache line take a third more time.
    """
    raw = np.empty(size + _CACHE_LINE_BYTES, np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE_BYTES
    return raw[start : start + size]


@QUIET
def partial_sums(points: FloatArray, centers: Centers) -> PartialSums:
    """Assign each of the (n, d) rows to its nearest center; return exact sums and counts.

    For cosine, rows of length one are added, rounded to the grid of directions.
    """
    return _sums_of(points, nearest_index(points, centers), centers)


def sums_by_bounds(
    points: FloatArray, centers: Centers, found: Cached | None, start: Hashable
) -> tuple[PartialSums, None, int]:
    """Return the results of `partial_sums`; this backend has no bounds."""
    return partial_sums(points, centers), None, 0


def nearest_by_bounds(
    points: FloatArray, centers: Centers, found: Cached | None, start: Hashable
) -> tuple[IndexArray, None, int]:
    """Return the results of `nearest_index`; this backend has no bounds."""
    return nearest_index(points, centers), None, 0


@QUIET
def weighted_sums(
    points: FloatArray,
    weights: FloatArray,
    index: IndexArray,
    centers: Centers,
    found: Cached | None,
) -> tuple[PartialSums, None]:
    """Return the partial sums of rows with weights; this backend keeps nothing."""
    k = len(centers.values)
    if centers.distance is Distance.COSINE:
        points = as_added(points, centers.distance)
    counts = np.bincount(index, minlength=k).astype(np.int64, copy=False)
    return partial_sums_of(add_products(points, weights, index, k), counts), None


@QUIET
def assign(points: FloatArray, centers: Centers) -> tuple[PartialSums, IndexArray, FloatArray]:
    """Return the results of `partial_sums` and `nearest` in one pass."""
    index = nearest_index(points, centers)
    return _sums_of(points, index, centers), index, _nearest_distances(points, index, centers)


@QUIET
def squares(points: FloatArray) -> ExactTotal:
    """Return the exact sum of the squares of all values of the (n, d) rows."""
    grid, found = Grid.of(points), NOTHING
    for block in _blocks(len(points), points.shape[1] * _DIGITS):
        products, left = grid.digit_products(points[block])
        found += total_of_digits(products, grid, points.dtype) + rest_of_squares(
            points[block][left]
        )
    return found


def _sums_of(points: FloatArray, index: IndexArray, centers: Centers) -> PartialSums:
    """Return the partial sums of rows whose nearest centers are known."""
    k = len(centers.values)
    counts = np.bincount(index, minlength=k).astype(np.int64, copy=False)
    grid = grid_for(points, centers)
    sums = [
        _add_up(points[piece], index[piece], k, grid, centers.distance)
        for piece in piece_slices(len(points))
    ]
    return PartialSums(sum_up(sums), counts)


@QUIET
def nearest(points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
    """Return each row's nearest center, (n,) int64, and distance to it, (n,) float64."""
    index = nearest_index(points, centers)
    return index, _nearest_distances(points, index, centers)


def _nearest_distances(points: FloatArray, index: IndexArray, centers: Centers) -> FloatArray:
    """Return the distance of each row to its nearest center, (n,) float64."""
    result = np.empty(len(points))
    exact = exact_rows(centers.values, centers.distance)
    for rows in slices(len(points), points.shape[1], _GATHER_ELEMENTS):
        block = exact_rows(points[rows], centers.distance)
        result[rows] = exact_distances(block, exact[index[rows]], centers.distance)
    return result


def nearest_two(points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
    """Return each row's two nearest centers, (n, 2) int64, and distances, (n, 2) float64."""
    return nearest_several(points, centers, 2, distances)


@QUIET
def assign_two(points: FloatArray, centers: Centers) -> tuple[PartialSums, IndexArray, FloatArray]:
    """Return the results of `partial_sums`, and the distances to two centers, (2, n)."""
    index, found = nearest_two(points, centers)
    return _sums_of(points, index[:, 0], centers), index[:, 0], found.T


def nearest_several(
    points: FloatArray,
    centers: Centers,
    most: int,
    measure: Callable[[FloatArray, Centers], FloatArray],
) -> tuple[IndexArray, FloatArray]:
    """Return the nearest centers of each row and the distances to them, the nearest first.

    Float32 distances choose the candidates. Their order is that of float64 distances, and of the
    indices among equals, as for the nearest center (docs/decisions/001).

    Args:
        points: (n, d) rows.
        centers: The centers, at least `most`.
        most: Number of centers for each row.
        measure: The function `distances` of a backend.

    Returns:
        The indices, (n, most) int64, and the distances, (n, most) float64.
    """
    index = np.empty((len(points), most), np.int64)
    found = np.empty((len(points), most))
    for rows in slices(len(points), max(centers.values.shape), _RANKED_ELEMENTS):
        rough = measure(points[rows], centers)
        index[rows], found[rows] = _ranked(points[rows], centers, most, rough)
    return index, found


@QUIET
def _ranked(
    points: FloatArray, centers: Centers, most: int, rough: FloatArray
) -> tuple[IndexArray, FloatArray]:
    """Return the nearest centers of a block of rows, by all its distances in float32."""
    is_cosine = centers.distance is Distance.COSINE
    last = np.partition(rough, most - 1, axis=1)[:, most - 1, None].astype(np.float64)
    floor = _UNSURE_COSINE if is_cosine else float(np.finfo(np.float32).tiny)
    # The negation also selects distances that are NaN.
    count = int((~(rough > last * (1 + _UNSURE) + floor)).sum(axis=1).max())
    candidates = np.argpartition(rough, count - 1, axis=1)[:, :count]
    rows = exact_rows(points, centers.distance)
    others = exact_rows(centers.values, centers.distance)
    exact = np.stack(
        [exact_distances(rows, others[which], centers.distance) for which in candidates.T], axis=1
    )
    order = np.lexsort((candidates, exact), axis=1)[:, :most]
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(exact, order, 1)


@QUIET
def distances(points: FloatArray, centers: Centers) -> FloatArray:
    """Return the distance of each row to every center, (n, k) float32.

    Squared Euclidean distances are |x|^2 + |c|^2 - 2 x.c by one matrix product, of rows and centers
    less the mean of the centers. Where these terms cancel so far that the rest could be wrong in
    float32, x - c is squared instead.
    """
    result = np.empty((len(points), len(centers.values)), np.float32)
    exact = exact_rows(centers.values, centers.distance)
    shift = exact.mean(axis=0)
    for rows in _blocks(len(points), len(exact) + points.shape[1]):
        block = exact_rows(points[rows], centers.distance)
        if centers.distance is Distance.COSINE:
            result[rows] = np.clip(1.0 - block @ exact.T, 0.0, 2.0)
            continue
        moved, others = block - shift, exact - shift
        scale = squared_norms(moved)[:, None] + squared_norms(others)
        squares = scale - 2.0 * (moved @ others.T)
        # The rounding error of `squares` is about d 2^-53 `scale`. Above this threshold it is less
        # than the rounding error of float32.
        threshold = len(shift) * _FLOAT32_ROUNDOFF * scale
        # The negation also selects distances that are NaN.
        row, center = np.nonzero(~(squares > threshold))
        for pairs in _blocks(len(row), len(shift)):
            # Not of the moved rows: an outlier among the centers makes the shift so large that
            # subtracting it rounds away the digits in which a row and a center differ.
            differences = block[row[pairs]] - exact[center[pairs]]
            squares[row[pairs], center[pairs]] = squared_norms(differences)
        result[rows] = squares
    return result


def describe() -> dict[str, Any]:
    """Return the versions of NumPy and of its BLAS library."""
    libraries = {
        f"{library['internal_api']} {library['version']} for {library.get('architecture', 'any')}"
        for library in threadpool_info()
        if library["user_api"] == "blas"
    }
    return {"numpy": np.__version__, "matrix products by": " and ".join(sorted(libraries))}


@dataclass(frozen=True, slots=True, eq=False)
class _Scorer:
    """Centers prepared for scoring blocks of rows by one matrix product.

    Attributes:
        weights: (d + 1, k): minus the shifted centers, and |c|^2 / 2 as the last row. Rows get a
            last column of ones, so one product computes the whole score.
        shift: (d,) subtracted from every row before it is scored.
        rounding: Bound on the rounding error of scores.
        exact: (k, d) float64, the centers for exact distances.
        distance: The distance of the centers.
    """

    weights: FloatArray
    shift: FloatArray
    rounding: Rounding
    exact: FloatArray
    distance: Distance

    @classmethod
    def of(cls, centers: Centers, dtype: np.dtype[np.floating]) -> _Scorer:
        """Prepare centers for rows of a dtype."""
        prepared = shifted(centers, dtype)
        k, d = centers.values.shape
        weights = _aligned((d + 1) * k * dtype.itemsize).view(dtype).reshape(d + 1, k)
        weights[:-1], weights[-1] = -prepared.values().T, prepared.halves
        return cls(weights, prepared.shift, prepared.rounding, prepared.exact(), centers.distance)

    def score(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the scores of (b, d) rows, (b, k), and the rows' squared lengths, (b,).

        The squared lengths are those of the shifted or scaled rows. The scores are in a buffer of
        the thread: they are overwritten when the thread scores again.
        """
        b, d = points.shape
        k = len(self.exact)
        # Zeros fill up the last tile, so that all products have the same size.
        tiles = -(-b // _TILE_ROWS)
        rows = _buffers.array("rows", (tiles * _TILE_ROWS, d + 1), points.dtype)
        if self.distance is Distance.COSINE:
            scales = inverse_norms(points)[:, None]
            np.multiply(points, scales, out=rows[:b, :-1], casting="same_kind")
        else:
            np.subtract(points, self.shift, out=rows[:b, :-1])
        rows[:b, -1] = 1
        rows[b:] = 0
        scores = _buffers.array("scores", (tiles, _TILE_ROWS, k), points.dtype)
        np.matmul(rows.reshape(tiles, _TILE_ROWS, d + 1), self.weights, out=scores)
        return scores.reshape(-1, k)[:b], np.vecdot(rows[:b, :-1], rows[:b, :-1])

    def margins(self, squares: FloatArray) -> FloatArray:
        """Return by how much two scores of each row must differ for a certain order, (b,)."""
        scalar = squares.dtype.type
        rounding, lengths = self.rounding, np.sqrt(squares)
        largest = scalar(rounding.largest)
        of_scores = scalar(rounding.factor) * (lengths * largest + scalar(rounding.half))
        of_distances = scalar(rounding.exact) * np.square(lengths + largest)
        return np.asarray(of_scores + scalar(rounding.floor) + of_distances)


@QUIET
def nearest_index(points: FloatArray, centers: Centers) -> IndexArray:
    """Return the index of each row's nearest center, (n,) int64."""
    n, d = points.shape
    k = len(centers.values)
    index = np.zeros(n, np.int64)
    if k == 1:  # there is no second score to compare with
        return index
    least, second, squares = (np.empty(n, points.dtype) for _ in range(3))
    scorer = _Scorer.of(centers, points.dtype)
    for block in _blocks(n, k + d):
        scores, squares[block] = scorer.score(points[block])
        least[block] = _pop_least(scores, index[block])
        # The index of the second least score is not needed.
        second[block] = _pop_least(scores, np.empty(len(scores), np.int64))
    limits = least + scorer.margins(squares)
    # The negation makes a row ambiguous if a score or a limit is NaN.
    ambiguous = np.flatnonzero(~(second > limits))
    # The scores above were overwritten block by block: those of ambiguous rows are computed again.
    for block in _blocks(len(ambiguous), k + d):
        rows = ambiguous[block]
        scores, _ = scorer.score(points[rows])
        index[rows] = _resolve(points[rows], ~(scores > limits[rows, None]), scorer)
    return index


def _pop_least(scores: FloatArray, index: IndexArray) -> FloatArray:
    """Write the index of each row's least score to `index`; replace that score by infinity.

    The scores are (b, k). A second call finds the second least scores.

    Returns:
        The least scores, (b,).
    """
    np.argmin(scores, axis=1, out=index)
    # Places of the least scores in the flat array.
    places = np.arange(0, scores.size, scores.shape[1]) + index
    flat = scores.reshape(-1)
    least: FloatArray = flat.take(places)
    flat[places] = np.inf
    return least


def _resolve(points: FloatArray, candidates: FloatArray, scorer: _Scorer) -> IndexArray:
    """Return each row's nearest center by exact distances, (b,); the lowest index among equals.

    The pairs of rows and candidates are one long list, sorted by row and then by center. So the
    pairs of a row are neighbors, and the first of them with the least distance is the result.

    Args:
        points: (b, d) ambiguous rows.
        candidates: (b, k) bool, the centers that may be nearest; at least one for each row.
        scorer: The centers.
    """
    row, center = np.nonzero(candidates)
    distances = np.empty(len(row))
    for pairs in slices(len(row), points.shape[1], _GATHER_ELEMENTS):
        rows = exact_rows(points[row[pairs]], scorer.distance)
        distances[pairs] = exact_distances(rows, scorer.exact[center[pairs]], scorer.distance)
    # Every row has a candidate, so least[i] belongs to row i.
    least = np.minimum.reduceat(distances, np.flatnonzero(np.diff(row, prepend=-1)))
    # A row that is not finite has no least distance: it is assigned to its first candidate.
    nearest_pairs = np.flatnonzero((distances == least[row]) | np.isnan(least[row]))
    return center[nearest_pairs[np.flatnonzero(np.diff(row[nearest_pairs], prepend=-1))]]


def _add_up(
    points: FloatArray, index: IndexArray, k: int, grid: Grid, distance: Distance
) -> ExactSums:
    """Add up the rows of each cluster.

    Rows are gathered in the order of their clusters, in groups of equal size. A batched product
    with ones adds up the groups: integers of 46 bits, of which float64 holds the sums. Zeros fill
    the last group of a cluster.

    Args:
        points: (n, d) rows, at most `PIECE_ROWS`.
        index: (n,) cluster index of each row.
        k: Number of clusters.
        grid: The grid.
        distance: The distance.
    """
    d, counts = points.shape[1], np.bincount(index, minlength=k)
    size = _group_size(len(points) // k)
    clusters, members, is_padding = _groups(index, counts, size)
    step = max(1, _GATHER_ELEMENTS // (size * d))
    gathered = _buffers.array("gathered", (min(step, len(clusters)) * size, d), points.dtype)
    ones = np.ones((1, size))
    planes: defaultdict[int, IndexArray] = defaultdict(lambda: np.zeros((k, d), np.int64))
    has_rest = np.zeros(len(points), bool)
    for start in range(0, len(clusters), step):
        groups = slice(start, min(start + step, len(clusters)))
        num_groups = groups.stop - start
        rows = gathered[: num_groups * size]
        # With mode="raise" NumPy would write to a temporary copy of `out`.
        np.take(points, members[groups].ravel(), axis=0, out=rows, mode="clip")
        parts, left = whole_parts(rows, grid, distance)
        # The places of padding hold other rows.
        has_rest[members[groups][left.any(axis=1).reshape(num_groups, size)]] = True
        starts = np.flatnonzero(np.diff(clusters[groups], prepend=-1))
        for number, part in enumerate(parts):
            integers = part.reshape(num_groups, size, d)
            integers[is_padding[groups]] = 0.0
            totals = np.matmul(ones, integers)[:, 0].astype(np.int64)
            # Each cluster occurs once in `starts`, so += loses nothing.
            planes[-number][clusters[groups][starts]] += np.add.reduceat(totals, starts, axis=0)
    sums = ExactSums(grid, dict(planes))
    rest = np.flatnonzero(has_rest)
    return plus_rest(sums, points[rest], index[rest], distance)


def _group_size(rows_per_cluster: int) -> int:
    """Return a power of two, small enough that padding fills few places of the groups."""
    # Between an eighth and a quarter of the mean number of rows of a cluster; from 1 to 32.
    return 1 << min(5, max(0, rows_per_cluster.bit_length() - 3))


def _groups(
    index: IndexArray, counts: IndexArray, size: int
) -> tuple[IndexArray, IndexArray, FloatArray]:
    """Divide rows into groups of `size`, each with rows of one cluster.

    The groups are in the order of the clusters. The rows of a cluster keep their order.

    Returns:
        The cluster of each group, (g,), the rows of each group, (g, size), and the places of
        padding, (g, size) bool.
    """
    keys = index.astype(np.uint16) if len(counts) <= _RADIX_CLUSTERS else index
    order = np.argsort(keys, kind="stable")
    groups = -(-counts // size)
    clusters = np.repeat(np.arange(len(counts)), groups)
    # Number of each group within its cluster.
    nth = np.arange(len(clusters)) - (np.cumsum(groups) - groups)[clusters]
    ends = np.cumsum(counts)[clusters]
    places = (ends - counts[clusters] + nth * size)[:, None] + np.arange(size)
    is_padding = places >= ends[:, None]
    # Places of padding may lie after the end. Any row will do there: `_add_up` sets it to zero.
    return clusters, order[np.minimum(places, len(index) - 1)], is_padding


def exact_distances(rows: FloatArray, others: FloatArray, distance: Distance) -> FloatArray:
    """Return the distance of each (n, d) float64 row to its center in `others`, (n, d)."""
    if distance is Distance.COSINE:
        products = np.add.reduce(rows * others, axis=1)
        return np.asarray(np.clip(1.0 - products, 0.0, 2.0))
    return squared_norms(rows - others)


def _blocks(n: int, elements_per_row: int) -> Iterator[slice]:
    """Return slices that cut n rows into blocks of about `_BLOCK_ELEMENTS` elements."""
    size = max(_TILE_ROWS, _BLOCK_ELEMENTS // elements_per_row // _TILE_ROWS * _TILE_ROWS)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
