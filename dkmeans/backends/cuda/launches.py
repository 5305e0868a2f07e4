"""The functions of the backend as sequences of kernel launches, for any device.

`backend` runs them on the GPU, and tests run the same launches and kernels on the host. Rows come
to the device in pieces of bounded size. They are added up exactly, as whole numbers, so neither the
pieces nor the order of the rows change a bit (docs/decisions/004).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from math import frexp, ldexp
from typing import Any, NamedTuple, Protocol, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import DTypeLike

from dkmeans.backends.addition import grid_for, plus_rest, rest_of_squares
from dkmeans.backends.rounding import QUIET, shifted
from dkmeans.distance import Centers, Distance
from dkmeans.exact import PIECE_ROWS, PLANE_BITS, ExactSums, ExactTotal, Grid, total_of
from dkmeans.state import FloatArray, IndexArray, PartialSums

# Largest size of a piece of rows on the device, with the results for these rows, if the device
# does not name another one.
PIECE_BYTES = 2**30
# Part of it for the results of one row: nearest center, ratio, margin and places in lists.
_RESULT_BYTES = 64
# The same as in `kernels.cu`.
THREADS, FEW_CENTERS, FEW_COLUMNS, FEW_ROWS = 256, 16, 32, 4096
STAGE_COLUMNS, STAGES = 32, 4
_SLAB, _KEPT_SLABS, _WARP_THREADS, _OCTET = 16, 8, 32, 8
# Compiler options for rows of a dtype.
DEFINES = {
    np.dtype(np.float32): ("-DSCALAR=float", "-DSINGLE"),
    np.dtype(np.float64): ("-DSCALAR=double",),
}
# The kernels `score_N` and `list_pairs_N`, by their number of centers at a time, and the rows of
# one of their blocks. The same sizes as in the `SCORE` lines of `kernels.cu`.
_BLOCK_ROWS = {128: 256, 256: 128}
# Shared memory of the stages of one block: tiles of rows and of centers, 16 bytes for each thread.
_STAGE_TILES = (128 + 256) // _SLAB
_SCORE_BYTES = STAGES * _STAGE_TILES * (STAGE_COLUMNS // _SLAB) * _WARP_THREADS * 16
# The kernels `add_few_N`, by the columns that they have registers for.
_FEW_WIDTHS = (8, 16, FEW_COLUMNS)
# Arrays of a single copy begin at multiples of this.
_ALIGNMENT = 256
# Limits of exponents of two, and the exponent of the largest value of the centers, as in
# `kernels.cu`.
_LEAST_EXPONENT, _MOST_EXPONENT, _TOP_EXPONENT = -126, 126, 15
# More blocks than a device runs at a time, where the host does not know the number of pairs.
_PAIR_BLOCKS = 2048
# Room for pairs of ambiguous rows and centers: this many for each row, and at least so many.
_PAIRS_PER_ROW, _FEWEST_PAIRS = 8, 4096
_MOST_DIGITS, _FLOAT16_BYTES = 2, 2
# If more of the rows are ambiguous with one digit, two digits are faster than all their pairs.
_MOST_AMBIGUOUS = 0.4
# Values that a block of `add_rows` adds, about, and rows that a thread of `add_squares` adds up.
_BLOCK_VALUES, _SQUARED_ROWS = 2**13, 128
# Values of rows that the host adds at a time: each needs some 100 bytes meanwhile.
_LEFT_VALUES = 2**20
# Largest size of all copies of the sums, unless one is larger: a GPU's second-level cache holds it.
_COPIES_BYTES = 2**25
# The grid of the last chunk is used again if no column's exponent is farther from its own. So the
# sums of most chunks are on one grid, and can be added on the device.
_SIMILAR_EXPONENTS = 2
# Numbers of plane 1 below this are added to plane 0, which then stays below 2^62.
_FEW_CARRIED = 2**28
# Exponents of high^2, high low twice, and low^2, relative to the square of the grid's unit.
_EXPONENTS_OF_PRODUCTS = (0, 1 - PLANE_BITS, -2 * PLANE_BITS)
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

    @property
    def shared_bytes(self) -> int:
        """Largest dynamic shared memory of a block."""
        ...

    def stream(self) -> AbstractContextManager[object]:
        """Return a context in which the thread's launches and array functions run in order."""
        ...

    def launch(
        self, kernel: str, dtype: DTypeLike, blocks: int, *arguments: Any, shared_bytes: int = 0
    ) -> None:
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
class DeviceSums:
    """Partial sums that stay on the device until they are needed on the host.

    Attributes:
        values: (3 k d + k,) int64 on the device: planes 1, 0 and -1 of the sums, each (k, d), and
            the counts. The numbers are below 2^62.
        grid: The exponents of plane 0.
        shape: (k, d).
        device: The device.
        rest: Sums that are on the host already, of other rows and values; None if there are none.
    """

    values: Any
    grid: Grid
    shape: tuple[int, int]
    device: KernelDevice
    rest: PartialSums | None = None

    def __add__(self, other: DeviceSums) -> DeviceSums:
        if not np.array_equal(self.grid.exponents, other.grid.exponents):
            return replace(self, rest=_sum_of(self.rest, other.on_host()))
        with self.device.stream():
            values = self.values + other.values
            _carry(self.device, self.shape, values, (_NULL, np.int64(1)))
        return replace(self, values=values, rest=_sum_of(self.rest, other.rest))

    def on_host(self) -> PartialSums:
        """Return the same sums in the memory of the host."""
        device, xp, size = self.device, self.device.xp, 3 * self.shape[0] * self.shape[1]
        with device.stream():
            upper, middle, lower = self.values[:size].reshape(3, *self.shape)
            ends = [end for plane in (upper, lower) for end in (plane.min(), plane.max())]
            least, most, *others = device.to_host(xp.stack(ends)).tolist()
            if max(-least, most) < _FEW_CARRIED and (least or most):
                # In place, because the memory may be full. The planes stand for the same sums.
                upper <<= PLANE_BITS
                middle += upper
                upper[...] = least = most = 0
            planes = {0: device.to_host(middle)}
            if least or most:
                planes[1] = device.to_host(upper)
            if any(others):
                planes[-1] = device.to_host(lower)
            counts = device.to_host(self.values[size:])
        sums = PartialSums(ExactSums(self.grid, planes), counts)
        return sums if self.rest is None else sums + self.rest


def _carry(
    device: KernelDevice, shape: tuple[int, int], values: Any, copies: tuple[Any, Any]
) -> None:
    """Add up the copies of sums of (k, d) centers, in place, and make room for more rows."""
    k, d = map(np.int64, shape)
    blocks = -(-int(k * d + k) // THREADS)
    device.launch("carry", np.float32, blocks, k, d, values, *copies)


def _sum_of(one: PartialSums | None, other: PartialSums | None) -> PartialSums | None:
    """Return the sum of two parts that may be missing."""
    return other if one is None else one if other is None else one + other


class _Product(NamedTuple):
    """Centers as `score_N` reads them.

    Attributes:
        packed: The digits, written by `narrow`.
        tiles: Number of tiles of 16 centers, with the padding.
        halves: (16 tiles,) float32 |c|^2 / 2, scaled by 2^(2 exponent); infinity for the padding.
        lengths: The exponent and the four lengths that `narrow` gets for the rows.
    """

    packed: Any
    tiles: int
    halves: Any
    lengths: tuple[Any, ...]


class _Few(NamedTuple):
    """Few centers as `add_few_N` reads them.

    Attributes:
        kernel: Name of the kernel.
        shared_bytes: Dynamic shared memory of a block.
        exact: (k, d) float64, the centers for exact distances.
        arrays: The shift, the weights and the halves.
        numbers: The bound on the error of scores, the stride, and the columns and centers
            at once.
    """

    kernel: str
    shared_bytes: int
    exact: Any
    arrays: Sequence[Any]
    numbers: tuple[Any, ...]


class _DeviceCenters:
    """Centers on the device, prepared for rows of a dtype.

    Attributes:
        shape: (k, d).
        distance: The distance.
        cosine: True if rows are scaled to length one.
        few: The centers as `add_few_N` reads them; None if they are too many or too wide.
        exact: (k, d) float64, the centers for exact distances.
        panel: Number of centers that are scored at a time.
        digits: Number of digits with which rows are scored first. One is enough for most data.
        grid: Grid of the last chunk; None before the first one.
        products: What `product` has returned, by the number of digits.
    """

    def __init__(self, centers: Centers, dtype: np.dtype[Any], device: KernelDevice) -> None:
        self._device, self._centers, self._dtype = device, centers, dtype
        self.products: dict[int, _Product] = {}
        self.shape: tuple[int, int] = centers.values.shape
        k = self.shape[0]
        self.distance = centers.distance
        self.cosine = self.distance is Distance.COSINE
        self.panel = next((size for size in _BLOCK_ROWS if k <= size), max(_BLOCK_ROWS))
        self.digits, self.grid = 1, cast(Grid | None, None)
        self.few = self._prepared_few()
        self.exact = self._widened() if self.few is None else self.few.exact

    def _widened(self) -> Any:
        """Return the centers for exact distances, (k, d) float64."""
        device, values, (k, d) = self._device, self._centers.values, self.shape
        values = device.xp.asarray(np.ascontiguousarray(values))
        exact, blocks = device.xp.empty((k, d)), -(-k * d // THREADS)
        device.launch("widen", values.dtype, blocks, values, np.int64(k * d), exact)
        if self.cosine:
            scales, sizes = device.xp.empty(k), (np.int64(k), np.int64(d))
            blocks = -(-k * _OCTET // THREADS)
            device.launch("find_scales", np.float64, blocks, exact, *sizes, scales)
            exact *= scales[:, None]
        return exact

    @cached_property
    def shift(self) -> Any:
        """(d,) subtracted from every row before it is scored, in the rows' dtype."""
        xp, d = self._device.xp, self.shape[1]
        # Rows and centers must move by the same vector, so it is rounded to the rows' dtype.
        return (xp.zeros(d) if self.cosine else self.exact.mean(axis=0)).astype(self._dtype)

    def grid_for(self, points: FloatArray) -> Grid:
        """Return a grid for (n, d) rows: that of the last chunk if it is similar to their own."""
        own, last = grid_for(points, self._centers), self.grid
        if last is None or abs(own.exponents - last.exponents).max() > _SIMILAR_EXPONENTS:
            self.grid = last = own
        return last

    @property
    def slabs(self) -> int:
        """Number of slabs of 16 columns, a multiple of what a stage has."""
        return -(-self.shape[1] // STAGE_COLUMNS) * (STAGE_COLUMNS // _SLAB)

    @QUIET
    def product(self, digits: int) -> _Product:
        """Return the centers as 1 or 2 digits in float16."""
        xp, (k, d) = self._device.xp, self.shape
        shift = self.shift.astype(np.float64)
        # The padding lies at the shift, so that its digits are zeros.
        padded = xp.empty((-(-k // self.panel) * self.panel, d))
        padded[:k], padded[k:] = self.exact, shift
        moved = padded - shift
        _, above = frexp(float(self._device.to_host(abs(moved).max())))
        exponent = min(max(_TOP_EXPONENT - above, _LEAST_EXPONENT), _MOST_EXPONENT)
        halves = xp.full(len(padded), np.inf, np.float32)
        halves[:k] = (
            0.0 if self.cosine else (moved * moved).sum(axis=1)[:k] * ldexp(0.5, 2 * exponent)
        )
        lengths, unknown = xp.empty((len(padded), 3), np.float32), (np.float32(0),) * 4
        packed = narrow(
            self._device, padded, _NULL, (_NULL, len(padded)), self.slabs, shift,
            (np.int64(exponent), *unknown), digits, (_NULL, _NULL, lengths),
        )  # fmt: skip
        largest = xp.concatenate([lengths[:k].max(axis=0), halves[:k].max()[None]])
        scalars = map(np.float32, self._device.to_host(largest))
        return _Product(packed, len(padded) // _SLAB, halves, (np.int64(exponent), *scalars))

    @QUIET
    def _prepared_few(self) -> _Few | None:
        """Return the centers as `add_few_N` reads them; None if they are too many or too wide."""
        k, d = self.shape
        if k > FEW_CENTERS or d > FEW_COLUMNS:
            return None
        width, dtype = next(width for width in _FEW_WIDTHS if d <= width), self._dtype
        # Rows of whole chunks of 16 bytes are an odd number of chunks apart, others of values.
        chunk = 16 // dtype.itemsize
        stride = (d // chunk | 1) * chunk if d % chunk == 0 else d | 1
        doubles = k * d + k * d % 2 + THREADS * self.cosine
        shared = 8 * doubles + 2 * THREADS * stride * dtype.itemsize
        if shared > self._device.shared_bytes:
            return None
        prepared = shifted(self._centers, dtype)
        weights, shift = np.zeros((FEW_CENTERS, width), dtype), np.zeros(width, dtype)
        # The padding after the last center is never the nearest.
        halves = np.full(FEW_CENTERS, np.inf, dtype)
        weights[:k, :d], halves[:k] = -prepared.values, prepared.halves
        shift[:d] = prepared.shift
        limit = float(np.finfo(dtype).max) / _OVERFLOW_DIVISOR
        bound = tuple(map(np.float64, (*prepared.rounding, limit)))
        arrays = self._uploaded(prepared.exact, shift, weights, halves)
        kernel = f"add_few_{'cosine_' * self.cosine}{width}"
        numbers = *bound, np.int64(stride), np.int64(_power_of_two(d)), np.int64(_power_of_two(k))
        return _Few(kernel, shared, arrays[0], arrays[1:], numbers)

    def _uploaded(self, *arrays: FloatArray) -> list[Any]:
        """Return arrays on the device, after a single copy."""
        arrays = tuple(map(np.ascontiguousarray, arrays))
        sizes = [-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays]
        ends = np.cumsum(sizes)
        staged = np.zeros(ends[-1], np.uint8)
        for array, end, size in zip(arrays, ends, sizes, strict=True):
            start = end - size
            staged[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        memory = self._device.xp.asarray(staged)
        return [
            memory[end - size : end - size + array.nbytes].view(array.dtype).reshape(array.shape)
            for array, end, size in zip(arrays, ends, sizes, strict=True)
        ]


def narrow(
    device: KernelDevice,
    points: Any,
    scales: Any,
    rows: tuple[Any, int],
    slabs: int,
    shift: Any,
    lengths: tuple[Any, ...],
    digits: int,
    results: tuple[Any, Any, Any],
) -> Any:
    """Round rows to float16, and return them as the tensor cores read them.

    Args:
        device: The device.
        points: (any, d) rows.
        scales: Factors of cosine, or the null pointer.
        rows: The numbers of the rows to round, or the null pointer for all; and how many.
        slabs: Number of slabs of 16 columns.
        shift: (d,) subtracted from the rows.
        lengths: The centers' exponent and lengths.
        digits: Number of digits, 1 or 2.
        results: Arrays for the ratios, the margins, and the lengths of centers, or null pointers.
    """
    numbers, count = rows
    tiles, blocks_warps = -(-count // _SLAB), THREADS // _WARP_THREADS
    # As many warps as read all slabs of a tile once, a power of two.
    warps = min(blocks_warps, _power_of_two(-(-slabs // _KEPT_SLABS)))
    packed = device.xp.empty((digits, tiles, slabs, _WARP_THREADS, 4), np.uint32)
    device.launch(
        "narrow", points.dtype, -(-tiles * warps // blocks_warps), points,
        np.int64(points.shape[1]), scales, numbers, np.int64(count), np.int64(slabs), shift,
        *lengths, np.int64(digits), np.int64(warps), packed, *results,
    )  # fmt: skip
    return packed


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
                by_dtype[dtype] = _DeviceCenters(centers, dtype, self._device)
                # Other threads will use the arrays on other streams: the copies must be done.
                self._device.synchronize()
            return by_dtype[dtype]

    def product(self, prepared: _DeviceCenters, digits: int) -> _Product:
        """Return prepared centers as 1 or 2 digits in float16."""
        with self._lock:
            if digits not in prepared.products:
                prepared.products[digits] = prepared.product(digits)
                # For other threads, as above. Waiting each time would wait for this thread's rows.
                self._device.synchronize()
            return prepared.products[digits]


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
        """The first arguments of every kernel on rows."""
        n, d = self.points.shape
        return self.points, np.int64(n), np.int64(d), self.scales

    def part(self, rows: slice) -> _Piece:
        """Return some rows of the piece."""
        return _Piece(self.points[rows], self.scales if self.scales is _NULL else self.scales[rows])


@dataclass(slots=True, eq=False)
class _ChunkSums:
    """Sums of the rows of a chunk while they are added up, as `kernels.cu` describes them.

    Attributes:
        grid: The exponents of plane 0.
        powers: (d,) float64 2^-exponent of each column; null for cosine.
        values: (3 k d + k,) int64, the values of `DeviceSums`.
        copies: (any, 2 k d + k) int64, further copies of planes 0 and -1 and the counts.
        left: Bits of the rows with values that are left to the host.
        first: Number of rows that were added.
    """

    grid: Grid
    powers: Any
    values: Any
    copies: Any
    left: Any
    first: int = 0

    @property
    def rows_at_once(self) -> int:
        """Largest number of rows whose sums do not overflow the copies."""
        return (1 + len(self.copies)) * PIECE_ROWS

    @property
    def all_copies(self) -> tuple[Any, Any]:
        """The further copies and the number of all, as kernels get them."""
        return self.copies, np.int64(1 + len(self.copies))


@dataclass(frozen=True, slots=True, eq=False)
class _Listed:
    """Some rows of a piece.

    Attributes:
        numbers: (any,) int64 numbers of the rows in the piece; null for all rows.
        count: Number of these rows.
        limits: (any,) float32: centers with a larger score cannot be the nearest. None if the rows
            are not scored yet.
    """

    numbers: Any
    count: int
    limits: Any = None


class Launches:
    """The functions of `Implementation`, computed by kernels on a device.

    Args:
        device: The device.
        piece_bytes: Largest size of a piece of rows on the device, with its results.
    """

    def __init__(self, device: KernelDevice, piece_bytes: int = PIECE_BYTES) -> None:
        self._device, self._piece_bytes = device, piece_bytes
        self._prepared = _DeviceCentersCache(device)

    @QUIET
    def partial_sums(self, points: FloatArray, centers: Centers) -> DeviceSums:
        """Assign each of the (n, d) rows to its nearest center; return exact sums and counts."""
        with self._device.stream():
            prepared = self._prepared(centers, points.dtype)
            sums = self._zero(points, prepared)
            for piece in self._pieces(points, prepared):
                self._add_piece(piece, None, prepared, sums)
            left = self._left_rows(sums.left, len(points))
        index = self.nearest(points[left], centers)[0] if len(left) else left
        return self._with_rest(sums, points, left, index, prepared)

    @QUIET
    def assign(
        self, points: FloatArray, centers: Centers
    ) -> tuple[PartialSums, IndexArray, FloatArray]:
        """Return the results of `partial_sums` and `nearest` in one pass."""
        index, distances, start = np.empty(len(points), np.int64), np.empty(len(points)), 0
        with self._device.stream():
            prepared = self._prepared(centers, points.dtype)
            sums = self._zero(points, prepared)
            for piece in self._pieces(points, prepared):
                nearest = self._nearest(piece, prepared)
                self._add_piece(piece, nearest, prepared, sums)
                # The right side is evaluated left to right: from the old `start` to the new one.
                rows = slice(start, start := start + len(nearest))
                index[rows], distances[rows] = self._to_host(piece, nearest, prepared)
            left = self._left_rows(sums.left, len(points))
        on_device = self._with_rest(sums, points, left, index[left], prepared)
        return on_device.on_host(), index, distances

    @QUIET
    def squares(self, points: FloatArray) -> ExactTotal:
        """Return the exact sum of the squares of all values of the (n, d) rows."""
        grid, (n, d), first = Grid.of(points), points.shape, 0
        rows_of_block = _SQUARED_ROWS * max(1, THREADS // d)
        most = max(1, self._piece_bytes // (d * points.itemsize))
        with self._device.stream():
            xp = self._device.xp
            powers, left = xp.asarray(grid.scales), self._none_left(n)
            digits = xp.zeros((len(_EXPONENTS_OF_PRODUCTS), 4, d), np.uint64)
            for rows in self._device.pieces(points, most):
                blocks = -(-len(rows) // rows_of_block) * -(-d // THREADS)
                self._device.launch(
                    "add_squares", rows.dtype, blocks, rows, np.int64(len(rows)), np.int64(d),
                    np.int64(rows_of_block), powers, np.int64(first), digits, left,
                )  # fmt: skip
                first += len(rows)
            left_rows = self._left_rows(left, n)
            total = _total_of_digits(self._device.to_host(digits), grid)
        for some in _cut(left_rows, d):
            values = points[some].astype(np.float64)
            _, is_left = grid.split(values)
            total += rest_of_squares(values[is_left])
        return total

    def nearest(self, points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
        """Return each row's nearest center, (n,) int64, and distance to it, (n,) float64."""
        index, distances, start = np.empty(len(points), np.int64), np.empty(len(points)), 0
        with self._device.stream():
            prepared = self._prepared(centers, points.dtype)
            for piece in self._pieces(points, prepared):
                nearest = self._nearest(piece, prepared)
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
                arguments = prepared.exact, np.int64(k), distances
                self._launch("measure_all", piece, distances.size * _OCTET, *arguments)
                result[start : start + len(distances)] = self._device.to_host(distances)
                start += len(distances)
        return result

    def _pieces(
        self, points: FloatArray, prepared: _DeviceCenters, result_bytes: int = 0
    ) -> Iterator[_Piece]:
        """Yield the rows in pieces with their scales.

        Args:
            points: (n, d) rows on the host.
            prepared: The centers.
            result_bytes: Size of the results for one row beside those that every row has.
        """
        # Always room for two digits: whether they are needed is known later.
        xp, slab_bytes = self._device.xp, _MOST_DIGITS * _SLAB * _FLOAT16_BYTES
        row_bytes = points.shape[1] * points.itemsize + prepared.slabs * slab_bytes
        most = max(1, self._piece_bytes // (row_bytes + _RESULT_BYTES + result_bytes))
        for rows in self._device.pieces(points, most):
            piece = _Piece(rows, xp.empty(len(rows)) if prepared.cosine else _NULL)
            if prepared.cosine:
                self._launch("find_scales", _Piece(rows, piece.scales), len(rows) * _OCTET)
            yield piece

    # --- Nearest centers ---

    def _nearest(self, piece: _Piece, prepared: _DeviceCenters) -> Any:
        """Return the index of each row's nearest center, (n,) int64 on the device.

        All rows are scored with one digit. Where two scores are too close, the exact distances of
        the few centers that may be the nearest decide. Rows with too many such centers are scored
        again with two digits. Exact distances to all centers decide what is left.
        """
        xp, n = self._device.xp, len(piece.points)
        if prepared.shape[0] == 1:
            return xp.zeros(n, np.int64)
        nearest, rows = xp.empty(n, np.int64), _Listed(_NULL, n)
        for digits in range(prepared.digits, _MOST_DIGITS + 1):
            ambiguous = self._score(piece, rows, digits, prepared, nearest)
            if digits == 1 and ambiguous.count > _MOST_AMBIGUOUS * n:
                prepared.digits, rows = _MOST_DIGITS, ambiguous
                continue
            if ambiguous.count:
                rows = self._decide(piece, ambiguous, digits, prepared, nearest)
            if not ambiguous.count or not rows.count:
                return nearest
        k = np.int64(prepared.shape[0])
        self._device.launch(
            "resolve", piece.points.dtype, rows.count, *piece.arguments, rows.numbers,
            prepared.exact, k, nearest,
        )  # fmt: skip
        return nearest

    def _score(
        self, piece: _Piece, rows: _Listed, digits: int, prepared: _DeviceCenters, nearest: Any
    ) -> _Listed:
        """Write the center of the least score of some rows; return the ambiguous ones."""
        xp = self._device.xp
        ambiguous, limits = xp.empty(rows.count, np.int64), xp.empty(rows.count, np.float32)
        count = xp.zeros(1, np.uint64)
        margins, arguments = self._narrowed(piece, rows, digits, prepared)
        self._multiply(
            "score", rows, prepared, *arguments, margins, rows.numbers, nearest, ambiguous, limits,
            count,
        )  # fmt: skip
        return _Listed(ambiguous, int(self._device.to_host(count)[0]), limits)

    def _decide(
        self, piece: _Piece, rows: _Listed, digits: int, prepared: _DeviceCenters, nearest: Any
    ) -> _Listed:
        """Write the nearest center of ambiguous rows by exact distances; return what is left."""
        xp, dtype = self._device.xp, piece.points.dtype
        capacity = max(_FEWEST_PAIRS, _PAIRS_PER_ROW * rows.count)
        pairs, count = xp.empty((capacity, 2), np.uint32), xp.zeros(1, np.uint64)
        dropped, most = xp.zeros(rows.count, np.uint32), np.int64(capacity)
        _, arguments = self._narrowed(piece, rows, digits, prepared)
        found = pairs, most, count
        self._multiply(
            "list_pairs", rows, prepared, *arguments, rows.limits, most, pairs, count, dropped
        )
        distances = xp.empty(capacity)
        least = xp.full(rows.count, np.float64(np.inf).view(np.uint64), np.uint64)
        best = xp.full(rows.count, prepared.shape[0], np.uint64)
        self._device.launch(
            "measure_pairs", dtype, min(_PAIR_BLOCKS, -(-capacity * _OCTET // THREADS)),
            *piece.arguments, rows.numbers, prepared.exact, *found, distances, least,
        )  # fmt: skip
        blocks = min(_PAIR_BLOCKS, -(-capacity // THREADS))
        self._device.launch("pick_pairs", dtype, blocks, *found, distances, least, best)
        left, num_left = xp.empty(rows.count, np.int64), xp.zeros(1, np.uint64)
        self._device.launch(
            "place_pairs", dtype, -(-rows.count // THREADS), rows.numbers, np.int64(rows.count),
            np.int64(prepared.shape[0]), best, dropped, nearest, left, num_left,
        )  # fmt: skip
        return _Listed(left, int(self._device.to_host(num_left)[0]))

    def _narrowed(
        self, piece: _Piece, rows: _Listed, digits: int, prepared: _DeviceCenters
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the margins of some rows, and the first arguments of the kernels that score."""
        xp, product = self._device.xp, self._prepared.product(prepared, digits)
        ratios, margins = (xp.empty(rows.count, np.float32) for _ in range(2))
        packed = narrow(
            self._device, piece.points, piece.scales, (rows.numbers, rows.count), prepared.slabs,
            prepared.shift, product.lengths, digits, (ratios, margins, _NULL),
        )  # fmt: skip
        sizes = packed.shape[1], product.tiles, prepared.slabs, 1 if digits == 1 else 3
        return margins, (
            packed, product.packed, *map(np.int64, sizes), product.halves, ratios,
            np.int64(rows.count), np.int64(prepared.shape[0]),
        )  # fmt: skip

    def _multiply(
        self, kernel: str, rows: _Listed, prepared: _DeviceCenters, *arguments: Any
    ) -> None:
        """Start a kernel that scores rows against all centers."""
        panel = prepared.panel
        self._device.launch(
            f"{kernel}_{panel}", np.float32, -(-rows.count // _BLOCK_ROWS[panel]), *arguments,
            shared_bytes=_SCORE_BYTES,
        )  # fmt: skip

    def _to_host(
        self, piece: _Piece, nearest: Any, prepared: _DeviceCenters
    ) -> tuple[IndexArray, FloatArray]:
        """Return each row's nearest center and the distance to it, on the host."""
        distances = self._device.xp.empty(len(nearest))
        arguments = prepared.exact, nearest, distances
        self._launch("measure_nearest", piece, len(nearest) * _OCTET, *arguments)
        return self._device.to_host(nearest), self._device.to_host(distances)

    # --- Sums ---

    def _zero(self, points: FloatArray, prepared: _DeviceCenters) -> _ChunkSums:
        """Return sums to which no row of a chunk has been added."""
        xp, (k, d), grid = self._device.xp, prepared.shape, prepared.grid_for(points)
        copy = 2 * k * d + k
        most = max(1, _COPIES_BYTES // (copy * np.dtype(np.int64).itemsize))
        copies = min(most, max(1, -(-len(points) // PIECE_ROWS)))
        return _ChunkSums(
            grid,
            _NULL if prepared.cosine else xp.asarray(grid.scales),
            xp.zeros(copy + k * d, np.int64),
            xp.zeros((copies - 1, copy), np.int64),
            self._none_left(len(points)),
        )

    def _add_piece(
        self, piece: _Piece, nearest: Any, prepared: _DeviceCenters, sums: _ChunkSums
    ) -> None:
        """Add the rows of a piece to the sums; `nearest` is None if it is not known."""
        if nearest is None and prepared.few is None:
            nearest = self._nearest(piece, prepared)
        k = np.int64(prepared.shape[0])
        for start in range(0, len(piece.points), sums.rows_at_once):
            rows = slice(start, start + sums.rows_at_once)
            part = piece.part(rows)
            arguments = (
                k, sums.powers, sums.values, *sums.all_copies, np.int64(sums.first), sums.left,
            )  # fmt: skip
            if prepared.few is None:
                self._add_rows(part, nearest[rows], arguments)
            else:
                self._add_few(part, prepared.few, arguments)
            _carry(self._device, prepared.shape, sums.values, sums.all_copies)
            sums.first += len(part.points)

    def _add_few(self, piece: _Piece, few: _Few, sums: tuple[Any, ...]) -> None:
        """Find the nearest of few centers, and add the rows to their sums."""
        self._device.launch(
            few.kernel, piece.points.dtype, -(-len(piece.points) // FEW_ROWS), *piece.arguments,
            few.exact, *few.arrays, *few.numbers, *sums, shared_bytes=few.shared_bytes,
        )  # fmt: skip

    def _add_rows(self, piece: _Piece, nearest: Any, sums: tuple[Any, ...]) -> None:
        """Add the rows to the sums of their nearest centers."""
        n, d = piece.points.shape
        block_rows = _power_of_two(-(-_BLOCK_VALUES // d))
        self._device.launch(
            "add_rows", piece.points.dtype, -(-n // block_rows), *piece.arguments, nearest,
            np.int64(block_rows), *sums,
        )  # fmt: skip

    def _none_left(self, n: int) -> Any:
        """Return bits that say that no row of a chunk has values that are left."""
        return self._device.xp.zeros(1 + -(-n // 32), np.uint32)

    def _left_rows(self, left: Any, n: int) -> IndexArray:
        """Return the numbers of the rows with values that are left to the host.

        Waits for all launches of the thread. CUDA reports their errors only then.
        """
        if not self._device.to_host(left[:1])[0]:
            return np.empty(0, np.int64)
        bits = self._device.to_host(left[1:]).view(np.uint8)
        return np.flatnonzero(np.unpackbits(bits, count=n, bitorder="little"))

    def _with_rest(
        self,
        sums: _ChunkSums,
        points: FloatArray,
        left: IndexArray,
        index: IndexArray,
        prepared: _DeviceCenters,
    ) -> DeviceSums:
        """Return the sums of a chunk, with values added that were left to the host.

        Args:
            sums: The sums of all other values.
            points: (n, d) rows.
            left: (m,) numbers of the rows with such values.
            index: (m,) their nearest centers.
            prepared: The centers.

        Raises:
            NotFinite: a row is not finite.
        """
        found = DeviceSums(sums.values, sums.grid, prepared.shape, self._device)
        if not len(left):
            return found
        rest = ExactSums.zero(prepared.shape, sums.grid)
        for places in _cut(np.arange(len(left)), points.shape[1]):
            # The kernels add both parts of float32 values too, as of float64 values.
            rows = points[left[places]].astype(np.float64)
            rest = plus_rest(rest, rows, index[places], prepared.distance)
        return replace(found, rest=PartialSums(rest, np.zeros(prepared.shape[0], np.int64)))

    def _launch(self, kernel: str, piece: _Piece, threads: int, *arguments: Any) -> None:
        """Start a kernel on the rows of a piece with at least `threads` threads."""
        blocks = -(-threads // THREADS)
        self._device.launch(kernel, piece.points.dtype, blocks, *piece.arguments, *arguments)


def _power_of_two(number: int) -> int:
    """Return the least power of two that is not below a number."""
    return 1 << (number - 1).bit_length()


def _cut(rows: IndexArray, width: int) -> Iterator[IndexArray]:
    """Return the numbers of rows of so many columns in pieces that the host adds at a time."""
    size = max(1, _LEFT_VALUES // width)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _total_of_digits(digits: FloatArray, grid: Grid) -> ExactTotal:
    """Return the exact sum of squares that `add_squares` has added up, (3, 4, d) uint64."""
    # float64 holds 32 bits exactly, but not 64.
    halves = np.stack([digits & 0xFFFFFFFF, digits >> PLANE_BITS]).astype(np.float64)
    places = np.arange(2)[:, None] + np.arange(digits.shape[1])
    exponents = PLANE_BITS * places[:, None] + np.array(_EXPONENTS_OF_PRODUCTS)[:, None]
    return total_of(halves, exponents[..., None] + 2 * grid.exponents)
