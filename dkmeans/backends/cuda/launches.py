"""What is launched on a device for some rows, whatever the device: `cuda_kernels.cu` in its order.

Rows come to the device in pieces of a bounded size. How a piece is cut, and in which order it is
added up, depends on the shapes alone, so sums have the same bits on any device of a kind.
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

from dkmeans.backends.rounding import shifted
from dkmeans.distance import Centers, Distance, cosine_inertia
from dkmeans.state import FloatArray, IndexArray, PartialSums

# Of rows, and of what is found for them, so much is on the device at a time.
PIECE_BYTES = 32 * 2**20
# So many of these are for what is found for a row: whose it is, how sure that is, and its place
# among the others.
_FOUND_BYTES = 64
# As in `cuda_kernels.cu`.
THREADS, SLICE, FEW = 256, 512, 16
# What the kernels are compiled with for rows of a dtype.
DEFINED = {
    np.dtype(np.float32): ("-DSCALAR=float", "-DSINGLE"),
    np.dtype(np.float64): ("-DSCALAR=double",),
}
# The kernels that score, by how many centers they take at a time, and their rows.
_TILES = {16: 256, 64: 128, 128: 128}
# Weights are filled up so that every kernel's panels are whole.
_FILLED = 128
# More blocks than a device runs at a time: they take the rows in doubt in turn.
_SETTLERS = 2048
_WARP = 32

# What a kernel takes for no array.
_NOTHING = np.uint64(0)

# Rows that are not finite, or too large to square, are found and named by the caller.
_QUIET = np.errstate(all="ignore")


class Device(Protocol):
    """Where kernels run, and arrays lie that they can read."""

    @property
    def xp(self) -> Any:
        """The namespace of its arrays: NumPy's functions."""
        ...

    def work(self) -> AbstractContextManager[object]:
        """What a thread's launches and arrays belong to."""
        ...

    def launch(self, kernel: str, dtype: DTypeLike, blocks: int, *arguments: Any) -> None:
        """Run a kernel for rows of a dtype, in blocks of `THREADS`; it may only be begun."""
        ...

    def pieces(self, points: FloatArray, most: int) -> Iterator[Any]:
        """The (n, d) rows on the device, at most so many at a time, each until the next."""
        ...

    def finish(self) -> None:
        """Wait for what the calling thread has begun."""
        ...

    def to_host(self, values: Any) -> FloatArray:
        """The values of an array of the device's, once they are there."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Packed:
    """Centers made ready for the kernels, on the device.

    Attributes:
        weights: (d, w) minus the shifted centers, in the rows' dtype; w >= k.
        halves: (w,) |c|^2 / 2, 0 for cosine; infinity behind the last center.
        shift: (d,) what is taken off every row before it is scored.
        exact: (d, k) float64, what exact distances are measured to.
        rounding: How far apart two scores must be to be told apart: the kernels' `Rounding`.
        shape: (k, d).
        cosine: Whether rows are scaled to length one.
    """

    weights: Any
    halves: Any
    shift: Any
    exact: Any
    rounding: tuple[np.float64, ...]
    shape: tuple[int, int]
    cosine: bool

    @classmethod
    def of(cls, centers: Centers, dtype: np.dtype[Any], xp: Any) -> _Packed:
        made = shifted(centers, dtype)
        k, d = made.values.shape
        width = -(-k // _FILLED) * _FILLED
        weights, halves = np.zeros((d, width), dtype), np.full(width, np.inf, dtype)
        weights[:, :k], halves[:k] = -made.values.T, made.halves
        rounding = *made.rounding, float(np.finfo(dtype).max) / 8
        send = xp.asarray
        columns = send(made.exact.T.copy())
        return cls(
            send(weights),
            send(halves),
            send(made.shift),
            columns,
            tuple(map(np.float64, rounding)),
            (k, d),
            made.cosine,
        )


class _Prepared:
    """Packed centers, for as long as the centers live: many chunks meet the same ones."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kept: WeakKeyDictionary[Centers, dict[Any, _Packed]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @_QUIET
    def __call__(self, centers: Centers, dtype: np.dtype[Any]) -> _Packed:
        with self._lock:
            kept = self._kept.setdefault(centers, {})
            if dtype not in kept:
                kept[dtype] = _Packed.of(centers, dtype, self._device.xp)
                self._device.finish()  # other threads will use it
            return kept[dtype]


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Rows on the device: (n, d), and (n,) what scales each to length one, or nothing."""

    points: Any
    scales: Any

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What every kernel takes first."""
        n, d = self.points.shape
        return self.points, np.int64(n), np.int64(d), self.scales


class Launches:
    """The backend's functions, on a device."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._prepared = _Prepared(device)

    @_QUIET
    def partial_sums(self, points: FloatArray, centers: Centers) -> PartialSums:
        """The sums, counts and inertia of the (n, d) rows; see `Backend`."""
        with self._device.work():
            packed = self._prepared(centers, points.dtype)
            (k, d) = packed.shape
            totals = self._device.xp.zeros((k, d + 2))
            for piece in self._pieces(points, packed):
                self._add_up(piece, self._winners(piece, packed), packed, totals)
            found = self._device.to_host(totals)
        return _sums_of(found, centers)

    @_QUIET
    def assign(
        self, points: FloatArray, centers: Centers
    ) -> tuple[PartialSums, IndexArray, FloatArray]:
        """In one pass what `partial_sums` and `nearest` give; see `Backend`."""
        index, apart, start = np.empty(len(points), np.int64), np.empty(len(points)), 0
        with self._device.work():
            packed = self._prepared(centers, points.dtype)
            (k, d) = packed.shape
            totals = self._device.xp.zeros((k, d + 2))
            for piece in self._pieces(points, packed):
                winners = self._winners(piece, packed)
                self._add_up(piece, winners, packed, totals)
                rows = slice(start, start := start + len(winners))
                index[rows], apart[rows] = self._measured(piece, winners, packed)
            found = self._device.to_host(totals)
        return _sums_of(found, centers), index, apart

    def nearest(self, points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
        """Each row's winner and its distance to it; see `Backend`."""
        index, apart, start = np.empty(len(points), np.int64), np.empty(len(points)), 0
        with self._device.work():
            packed = self._prepared(centers, points.dtype)
            for piece in self._pieces(points, packed):
                winners = self._winners(piece, packed)
                rows = slice(start, start := start + len(winners))
                index[rows], apart[rows] = self._measured(piece, winners, packed)
        return index, apart

    def distances(self, points: FloatArray, centers: Centers) -> FloatArray:
        """Each row's distance to every center, (n, k) float32; see `Backend`."""
        found, start = np.empty((len(points), len(centers.values)), np.float32), 0
        with self._device.work():
            packed = self._prepared(centers, points.dtype)
            for piece in self._pieces(points, packed, packed.shape[0] * found.itemsize):
                apart = self._device.xp.empty((len(piece.points), packed.shape[0]), np.float32)
                self._launch("measure_all", piece, apart.size, *self._exact(packed), apart)
                found[start : start + len(apart)] = self._device.to_host(apart)
                start += len(apart)
        return found

    def _pieces(
        self, points: FloatArray, packed: _Packed, beside: int = _FOUND_BYTES
    ) -> Iterator[_Piece]:
        """The rows, piece by piece, with their scales; `beside` are bytes that a row needs more."""
        xp, row_bytes = self._device.xp, points.shape[1] * points.itemsize + beside
        for rows in self._device.pieces(points, max(1, PIECE_BYTES // row_bytes)):
            piece = _Piece(rows, xp.empty(len(rows)) if packed.cosine else _NOTHING)
            if packed.cosine:
                self._launch("find_scales", piece, len(rows))
            yield piece

    def _winners(self, piece: _Piece, packed: _Packed) -> Any:
        """Each row's nearest center, (n,) int64 on the device."""
        xp, (n, dtype) = self._device.xp, (len(piece.points), piece.points.dtype)
        winners, doubts, limits = xp.empty(n, np.int64), xp.empty(n, np.int64), xp.empty(n, dtype)
        in_doubt = xp.zeros(1, np.uint64)
        k, panel = packed.shape[0], _panel(packed.shape[0], dtype)
        width = np.int64(packed.weights.shape[1])
        scored = packed.shift, packed.weights, packed.halves, width
        self._device.launch(
            f"score_{panel}", dtype, -(-n // _TILES[panel]), *piece.arguments, *scored,
            np.int64(k), *packed.rounding, winners, limits, doubts, in_doubt,
        )  # fmt: skip
        self._device.launch(
            "settle", dtype, min(n, _SETTLERS), *piece.arguments, *scored, *self._exact(packed),
            limits, doubts, in_doubt, winners,
        )  # fmt: skip
        return winners

    def _measured(
        self, piece: _Piece, winners: Any, packed: _Packed
    ) -> tuple[FloatArray, FloatArray]:
        """Each row's winner and its distance to it, on the host."""
        found = self._device.xp.empty(len(winners))
        self._launch("measure_winners", piece, len(winners), *self._exact(packed), winners, found)
        return self._device.to_host(winners), self._device.to_host(found)

    def _add_up(self, piece: _Piece, winners: Any, packed: _Packed, totals: Any) -> None:
        """Add a piece's sums, (k, d), squares and counts to the totals, (k, d + 2)."""
        add = self._add_few if packed.shape[0] <= FEW else self._add_sorted
        parts, firsts = add(piece, winners, packed)
        k, wide = totals.shape
        self._device.launch(
            "fold", piece.points.dtype, k, parts, firsts, np.int64(wide), _side(wide), totals
        )

    def _add_few(self, piece: _Piece, winners: Any, packed: _Packed) -> tuple[Any, Any]:
        (k, d), blocks = packed.shape, -(-len(winners) // SLICE)
        parts = self._device.xp.empty((k * blocks, d + 2))
        exact = self._exact(packed)
        self._device.launch(
            "add_few", piece.points.dtype, blocks,
            *piece.arguments, *exact, winners, _side(d), parts,
        )  # fmt: skip
        return parts, self._device.xp.arange(k + 1, dtype=np.int64) * blocks

    def _add_sorted(self, piece: _Piece, winners: Any, packed: _Packed) -> tuple[Any, Any]:
        xp, n, (k, d) = self._device.xp, len(winners), packed.shape
        # No two are equal, so there is one way to sort them.
        order = xp.sort(winners * n + xp.arange(n, dtype=np.int64))
        bounds = xp.searchsorted(order, xp.arange(k + 1, dtype=np.int64) * n).astype(np.int64)
        firsts = xp.zeros(k + 1, np.int64)
        firsts[1:] = xp.cumsum(-(-xp.diff(bounds) // SLICE))
        slices = n // SLICE + min(n, k)  # at the most: their number stays on the device
        parts = xp.empty((slices, d + 2))
        self._device.launch(
            "add_sorted", piece.points.dtype, slices,
            *piece.arguments, *self._exact(packed), order, bounds, firsts, _side(d), parts,
        )  # fmt: skip
        return parts, firsts

    def _exact(self, packed: _Packed) -> tuple[Any, Any]:
        return packed.exact, np.int64(packed.shape[0])

    def _launch(self, kernel: str, piece: _Piece, threads: int, *arguments: Any) -> None:
        """Run a kernel for so many threads that work apart from each other."""
        blocks = -(-threads // THREADS)
        self._device.launch(kernel, piece.points.dtype, blocks, *piece.arguments, *arguments)


def _sums_of(totals: FloatArray, centers: Centers) -> PartialSums:
    """What the (k, d + 2) totals say: sums of residuals, of their squares, and counts."""
    d = centers.width
    sums, counts = np.ascontiguousarray(totals[:, :d]), totals[:, d + 1].astype(np.int64)
    if centers.distance is Distance.COSINE:
        return PartialSums(sums, counts, cosine_inertia(sums, counts, centers))
    sums += counts[:, None] * centers.values.astype(np.float64)
    return PartialSums(sums, counts, float(totals[:, d].sum()))


def _panel(k: int, dtype: np.dtype[Any]) -> int:
    """How many centers are scored at a time; 128 of float64 have no room in a block."""
    largest = 64 if dtype == np.float64 else 128
    return next((panel for panel in _TILES if k <= panel < largest), largest)


def _side(columns: int) -> np.int64:
    """How many columns are added up at a time, a power of two: a warp's, or fewer."""
    return np.int64(min(_WARP, 1 << (columns - 1).bit_length()))
