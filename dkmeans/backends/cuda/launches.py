"""The functions of the backend as sequences of kernel launches, for any device.

`backend` runs them on the GPU, and tests run the same launches and kernels on the host. Rows come
to the device in pieces of bounded size. How rows are cut into pieces, and the order in which they
are added up, depend on the shapes and the nearest centers alone, so GPUs of one model give sums
with the same bits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import DTypeLike

from dkmeans.backends.rounding import QUIET, shifted
from dkmeans.distance import Centers, Distance, cosine_inertia
from dkmeans.state import FloatArray, IndexArray, PartialSums

# Largest size of a piece of rows on the device, with the results for these rows.
PIECE_BYTES = 32 * 2**20
# Part of it for the results of one row: nearest center, limit of scores, places in lists and in the
# sort.
_RESULT_BYTES = 64
# The same as in `kernels.cu`.
THREADS, SLICE_ROWS, FEW_CENTERS = 256, 512, 16
# Compiler options for rows of a dtype.
DEFINES = {
    np.dtype(np.float32): ("-DSCALAR=float", "-DSINGLE"),
    np.dtype(np.float64): ("-DSCALAR=double",),
}
# The kernels `score_N`, by their number of centers at a time, and the rows of one of their blocks.
# The same sizes as in the `SCORE` lines of `kernels.cu`.
_TILE_ROWS = {16: 256, 64: 128, 128: 128}
# Centers are padded to a multiple of this, so that every kernel's last panel is whole.
_PADDED_CENTERS = 128
# More blocks than a device runs at a time. Block b resolves the ambiguous rows b, b + blocks, ...
_RESOLVE_BLOCKS = 2048
_WARP_THREADS = 32
# Scores may overflow unless their bound is below the dtype's largest number divided by this.
_OVERFLOW_DIVISOR = 8

# The null pointer: a kernel's argument where it gets no array.
_NULL = np.uint64(0)


class KernelDevice(Protocol):
    """A device that runs kernels, and holds the arrays that the kernels read."""

    @property
    def xp(self) -> Any:
        """Namespace of the device's arrays, with NumPy's functions."""
        ...

    def stream(self) -> AbstractContextManager[object]:
        """Return a context in which the thread's launches and array functions run in order."""
        ...

    def launch(self, kernel: str, dtype: DTypeLike, blocks: int, *arguments: Any) -> None:
        """Start a kernel for rows of a dtype, in blocks of `THREADS` threads."""
        ...

    def pieces(self, points: FloatArray, max_rows: int) -> Iterator[Any]:
        """Yield the (n, d) rows on the device, at most `max_rows` at a time.

        A piece is valid until the next one is asked for.
        """
        ...

    def synchronize(self) -> None:
        """Wait for everything that the calling thread has started."""
        ...

    def to_host(self, values: Any) -> FloatArray:
        """Wait until an array of the device is computed, and return a copy on the host."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _DeviceCenters:
    """Centers on the device, prepared for the kernels.

    Attributes:
        weights: (d, w) minus the shifted centers, in the rows' dtype; w >= k.
        halves: (w,) |c|^2 / 2, 0 for cosine; infinity for the padding after the last center.
        shift: (d,) subtracted from every row before it is scored.
        exact: (d, k) float64, the centers for exact distances.
        rounding: Bound on the rounding error of scores: the fields of the kernels' `Rounding`.
        shape: (k, d).
        cosine: True if rows are scaled to length one.
    """

    weights: Any
    halves: Any
    shift: Any
    exact: Any
    rounding: tuple[np.float64, ...]
    shape: tuple[int, int]
    cosine: bool

    @classmethod
    def of(cls, centers: Centers, dtype: np.dtype[Any], xp: Any) -> _DeviceCenters:
        """Prepare centers for rows of a dtype."""
        prepared = shifted(centers, dtype)
        k, d = prepared.values.shape
        width = -(-k // _PADDED_CENTERS) * _PADDED_CENTERS
        # Padding has the score infinity, so it is never the nearest center.
        weights, halves = np.zeros((d, width), dtype), np.full(width, np.inf, dtype)
        weights[:, :k], halves[:k] = -prepared.values.T, prepared.halves
        rounding = *prepared.rounding, float(np.finfo(dtype).max) / _OVERFLOW_DIVISOR
        put = xp.asarray
        # A copy: the kernels read (d, k) in C order, and a transposed view is not.
        exact = put(prepared.exact.T.copy())
        return cls(
            put(weights),
            put(halves),
            put(prepared.shift),
            exact,
            tuple(map(np.float64, rounding)),
            (k, d),
            prepared.cosine,
        )


class _DeviceCentersCache:
    """Cache of prepared centers; an entry lives as long as its `Centers`.

    All chunks of an iteration use the same centers.
    """

    def __init__(self, device: KernelDevice) -> None:
        self._device = device
        self._prepared: WeakKeyDictionary[Centers, dict[Any, _DeviceCenters]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @QUIET
    def __call__(self, centers: Centers, dtype: np.dtype[Any]) -> _DeviceCenters:
        """Return the centers prepared for rows of a dtype."""
        with self._lock:
            by_dtype = self._prepared.setdefault(centers, {})
            if dtype not in by_dtype:
                by_dtype[dtype] = _DeviceCenters.of(centers, dtype, self._device.xp)
                # Other threads will use the arrays on other streams: the copies must be done.
                self._device.synchronize()
            return by_dtype[dtype]


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """A piece of the rows on the device.

    Attributes:
        points: (n, d) rows.
        scales: (n,) float64 factors that scale each row to length one; null if not cosine.
    """

    points: Any
    scales: Any

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The first arguments of every kernel."""
        n, d = self.points.shape
        return self.points, np.int64(n), np.int64(d), self.scales


class Launches:
    """The functions of `Implementation`, computed by kernels on a device.

    Args:
        device: The device.
    """

    def __init__(self, device: KernelDevice) -> None:
        self._device = device
        self._prepared = _DeviceCentersCache(device)

    @QUIET
    def partial_sums(self, points: FloatArray, centers: Centers) -> PartialSums:
        """Assign each of the (n, d) rows to its nearest center; return sums, counts and inertia."""
        with self._device.stream():
            prepared = self._prepared(centers, points.dtype)
            (k, d) = prepared.shape
            totals = self._device.xp.zeros((k, d + 2))
            for piece in self._pieces(points, prepared):
                self._add_up(piece, self._nearest(piece, prepared), prepared, totals)
            result = self._device.to_host(totals)
        return _sums_of(result, centers)

    @QUIET
    def assign(
        self, points: FloatArray, centers: Centers
    ) -> tuple[PartialSums, IndexArray, FloatArray]:
        """Return the results of `partial_sums` and `nearest` in one pass."""
        index, distances, start = np.empty(len(points), np.int64), np.empty(len(points)), 0
        with self._device.stream():
            prepared = self._prepared(centers, points.dtype)
            (k, d) = prepared.shape
            totals = self._device.xp.zeros((k, d + 2))
            for piece in self._pieces(points, prepared):
                nearest = self._nearest(piece, prepared)
                self._add_up(piece, nearest, prepared, totals)
                # The right side is evaluated left to right: from the old `start` to the new one.
                rows = slice(start, start := start + len(nearest))
                index[rows], distances[rows] = self._to_host(piece, nearest, prepared)
            result = self._device.to_host(totals)
        return _sums_of(result, centers), index, distances

    def nearest(self, points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
        """Return each row's nearest center, (n,) int64, and distance to it, (n,) float64."""
        index, distances, start = np.empty(len(points), np.int64), np.empty(len(points)), 0
        with self._device.stream():
            prepared = self._prepared(centers, points.dtype)
            for piece in self._pieces(points, prepared):
                nearest = self._nearest(piece, prepared)
                # The right side is evaluated left to right: from the old `start` to the new one.
                rows = slice(start, start := start + len(nearest))
                index[rows], distances[rows] = self._to_host(piece, nearest, prepared)
        return index, distances

    def distances(self, points: FloatArray, centers: Centers) -> FloatArray:
        """Return the distance of each row to every center, (n, k) float32."""
        result, start = np.empty((len(points), len(centers.values)), np.float32), 0
        with self._device.stream():
            prepared = self._prepared(centers, points.dtype)
            k = prepared.shape[0]
            for piece in self._pieces(points, prepared, k * result.itemsize):
                distances = self._device.xp.empty((len(piece.points), k), np.float32)
                arguments = *self._exact_arguments(prepared), distances
                self._launch("measure_all", piece, distances.size, *arguments)
                result[start : start + len(distances)] = self._device.to_host(distances)
                start += len(distances)
        return result

    def _pieces(
        self, points: FloatArray, prepared: _DeviceCenters, result_bytes: int = _RESULT_BYTES
    ) -> Iterator[_Piece]:
        """Yield the rows in pieces with their scales.

        Args:
            points: (n, d) rows on the host.
            prepared: The centers.
            result_bytes: Size of the results for one row.
        """
        xp, row_bytes = self._device.xp, points.shape[1] * points.itemsize + result_bytes
        for rows in self._device.pieces(points, max(1, PIECE_BYTES // row_bytes)):
            piece = _Piece(rows, xp.empty(len(rows)) if prepared.cosine else _NULL)
            if prepared.cosine:
                self._launch("find_scales", piece, len(rows))
            yield piece

    def _nearest(self, piece: _Piece, prepared: _DeviceCenters) -> Any:
        """Return the index of each row's nearest center, (n,) int64 on the device.

        `score_N` writes the indices of the least scores, a bound for each row, and a list of the
        ambiguous rows. `resolve` replaces the indices of the rows in this list. The length of the
        list stays on the device, so the host does not wait between the two.
        """
        xp, (n, dtype) = self._device.xp, (len(piece.points), piece.points.dtype)
        nearest, ambiguous = xp.empty(n, np.int64), xp.empty(n, np.int64)
        limits, num_ambiguous = xp.empty(n, dtype), xp.zeros(1, np.uint64)
        k, panel = prepared.shape[0], _panel(prepared.shape[0], dtype)
        width = np.int64(prepared.weights.shape[1])
        score_arguments = prepared.shift, prepared.weights, prepared.halves, width
        self._device.launch(
            f"score_{panel}", dtype, -(-n // _TILE_ROWS[panel]), *piece.arguments,
            *score_arguments, np.int64(k), *prepared.rounding, nearest, limits, ambiguous,
            num_ambiguous,
        )  # fmt: skip
        self._device.launch(
            "resolve", dtype, min(n, _RESOLVE_BLOCKS), *piece.arguments, *score_arguments,
            *self._exact_arguments(prepared), limits, ambiguous, num_ambiguous, nearest,
        )  # fmt: skip
        return nearest

    def _to_host(
        self, piece: _Piece, nearest: Any, prepared: _DeviceCenters
    ) -> tuple[IndexArray, FloatArray]:
        """Return each row's nearest center and the distance to it, on the host."""
        distances = self._device.xp.empty(len(nearest))
        arguments = *self._exact_arguments(prepared), nearest, distances
        self._launch("measure_nearest", piece, len(nearest), *arguments)
        return self._device.to_host(nearest), self._device.to_host(distances)

    def _add_up(self, piece: _Piece, nearest: Any, prepared: _DeviceCenters, totals: Any) -> None:
        """Add a piece to the totals, (k, d + 2): the sums, the squares and the counts."""
        add = self._add_few if prepared.shape[0] <= FEW_CENTERS else self._add_sorted
        parts, firsts = add(piece, nearest, prepared)
        k, columns = totals.shape
        self._device.launch(
            "reduce", piece.points.dtype, k, parts, firsts, np.int64(columns),
            _columns_at_once(columns), totals,
        )  # fmt: skip

    def _add_few(self, piece: _Piece, nearest: Any, prepared: _DeviceCenters) -> tuple[Any, Any]:
        """Add up slices of neighboring rows, for few centers.

        Returns:
            The parts (one row for each slice and center: sums, squares, count) and the number of
            each center's first part.
        """
        (k, d), blocks = prepared.shape, -(-len(nearest) // SLICE_ROWS)
        # Every center has a part in every slice, also without rows: `add_few` writes all of them.
        parts = self._device.xp.empty((k * blocks, d + 2))
        exact = self._exact_arguments(prepared)
        self._device.launch(
            "add_few", piece.points.dtype, blocks,
            *piece.arguments, *exact, nearest, _columns_at_once(d), parts,
        )  # fmt: skip
        return parts, self._device.xp.arange(k + 1, dtype=np.int64) * blocks

    def _add_sorted(self, piece: _Piece, nearest: Any, prepared: _DeviceCenters) -> tuple[Any, Any]:
        """Sort the rows by center, and add up slices of the rows of one center.

        Returns:
            The parts (one row for each slice: sums, squares, count) and the number of each center's
            first part.
        """
        xp, n, (k, d) = self._device.xp, len(nearest), prepared.shape
        # Key: center * n + row. All keys differ, so there is one way to sort them.
        keys = xp.sort(nearest * n + xp.arange(n, dtype=np.int64))
        bounds = xp.searchsorted(keys, xp.arange(k + 1, dtype=np.int64) * n).astype(np.int64)
        firsts = xp.zeros(k + 1, np.int64)
        firsts[1:] = xp.cumsum(-(-xp.diff(bounds) // SLICE_ROWS))
        # Full slices, and at most one partial slice for each center that has rows. The host would
        # have to wait for the real number of slices.
        slices = n // SLICE_ROWS + min(n, k)
        parts = xp.empty((slices, d + 2))
        self._device.launch(
            "add_sorted", piece.points.dtype, slices, *piece.arguments,
            *self._exact_arguments(prepared), keys, bounds, firsts, _columns_at_once(d), parts,
        )  # fmt: skip
        return parts, firsts

    def _exact_arguments(self, prepared: _DeviceCenters) -> tuple[Any, Any]:
        return prepared.exact, np.int64(prepared.shape[0])

    def _launch(self, kernel: str, piece: _Piece, threads: int, *arguments: Any) -> None:
        """Start a kernel whose threads do not work together, with at least `threads` threads."""
        blocks = -(-threads // THREADS)
        self._device.launch(kernel, piece.points.dtype, blocks, *piece.arguments, *arguments)


def _sums_of(totals: FloatArray, centers: Centers) -> PartialSums:
    """Return the partial sums; `totals`, (k, d + 2), has sums of residuals, squares and counts."""
    d = centers.width
    sums, counts = np.ascontiguousarray(totals[:, :d]), totals[:, d + 1].astype(np.int64)
    if centers.distance is Distance.COSINE:
        return PartialSums(sums, counts, cosine_inertia(sums, counts, centers))
    sums += counts[:, None] * centers.values.astype(np.float64)
    return PartialSums(sums, counts, float(totals[:, d].sum()))


def _panel(k: int, dtype: np.dtype[Any]) -> int:
    """Return the number of centers that are scored at a time.

    128 centers of float64 need more shared memory than a block has.
    """
    largest = 64 if dtype == np.float64 else 128
    return next((panel for panel in _TILE_ROWS if k <= panel < largest), largest)


def _columns_at_once(columns: int) -> np.int64:
    """Return the number of columns that a block adds up at a time, a power of two."""
    return np.int64(min(_WARP_THREADS, 1 << (columns - 1).bit_length()))
