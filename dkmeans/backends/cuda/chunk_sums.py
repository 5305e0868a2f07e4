"""The rows of a chunk are added up on the device: their sums for each center, and their squares.

Values are added as whole numbers on a grid. What a grid cannot hold is left to the host, which
adds it afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from dkmeans.backends.addition import plus_rest, rest_of_squares
from dkmeans.backends.cuda.device_centers import DeviceCenters
from dkmeans.backends.cuda.device_sums import DeviceSums, carry
from dkmeans.backends.cuda.few_centers import power_of_two
from dkmeans.backends.cuda.kernel_device import NULL, THREADS, KernelDevice
from dkmeans.backends.cuda.pieces import DevicePiece
from dkmeans.exact import ExactSums
from dkmeans.exact_total import ExactTotal, total_of
from dkmeans.grid import PIECE_ROWS, PLANE_BITS, Grid
from dkmeans.state import FloatArray, IndexArray, PartialSums

# Values that a block of `add_rows` adds, about, and rows that a thread of `add_squares` adds up.
_BLOCK_VALUES, _SQUARED_ROWS = 2**13, 128
# Values of rows that the host adds at a time: each needs some 100 bytes meanwhile.
_LEFT_VALUES = 2**20
# Largest size of all copies of the sums, unless one is larger: a GPU's second-level cache holds it.
_COPIES_BYTES = 2**25
# Exponents of high^2, high low twice, and low^2, relative to the square of the grid's unit.
_EXPONENTS_OF_PRODUCTS = (0, 1 - PLANE_BITS, -2 * PLANE_BITS)


class ChunkSums:
    """Sums of the rows of a chunk while they are added up, as `kernels.cu` describes them.

    Args:
        device: The device.
        points: (n, d) rows of the chunk, on the host.
        prepared: The centers.
    """

    def __init__(self, device: KernelDevice, points: FloatArray, prepared: DeviceCenters) -> None:
        self._device, self._points, self._prepared = device, points, prepared
        xp, (k, d) = device.xp, prepared.shape
        copy = 2 * k * d + k
        most = max(1, _COPIES_BYTES // (copy * np.dtype(np.int64).itemsize))
        few, rows_of_copy = prepared.few, PIECE_ROWS
        if few is not None:
            most, rows_of_copy = most if few.has_copies else 1, few.rows_of_copy
        copies = min(most, max(1, -(-len(points) // rows_of_copy)))
        self._grid = prepared.grid_for(points)
        # (d,) float64 2^-exponent of each column; null for cosine.
        self._powers = NULL if prepared.cosine else xp.asarray(self._grid.scales)
        # The values of `DeviceSums`, and further copies of planes 0 and -1 and the counts.
        self._values = xp.zeros(copy + k * d, np.int64)
        self._copies = xp.zeros((copies - 1, copy), np.int64), np.int64(copies)
        self._left, self._added = _none_left(device, len(points)), 0
        # The largest number of rows whose sums do not overflow the copies.
        self._rows_at_once = copies * rows_of_copy

    def add(self, piece: DevicePiece, nearest: Any) -> None:
        """Add the rows of a piece to the sums of their nearest centers.

        Args:
            piece: The rows.
            nearest: (n,) nearest centers; not read where the kernel of few centers finds them.
        """
        few, rows_at_once = self._prepared.few, self._rows_at_once
        if few is None:
            rows_at_once = self._count(nearest)
        for start in range(0, len(piece.points), rows_at_once):
            rows = slice(start, start + rows_at_once)
            part = piece.part(rows)
            if few is None:
                self._add_rows(part, nearest[rows])
            else:
                few.add(self._device, part.arguments, self._grid, self._arguments)
            carry(self._device, self._prepared.shape, self._values, self._copies)
            self._added += len(part.points)

    def _count(self, nearest: Any) -> int:
        """Count the rows of each center; return how many rows the sums have room for at a time."""
        device, n, k = self._device, len(nearest), self._prepared.shape[0]
        counts = device.xp.zeros(k, np.int64)
        device.launch("count_rows", np.float32, -(-n // THREADS), nearest, np.int64(n), counts)
        self._values[-k:] += counts
        if n <= self._rows_at_once:
            return n
        # Carrying takes long for many centers, which seldom have so many rows each.
        most = int(device.to_host(counts.max()))
        return n if most <= PIECE_ROWS else self._rows_at_once

    def _add_rows(self, piece: DevicePiece, nearest: Any) -> None:
        """Add the rows to the sums of their nearest centers."""
        n, d = piece.points.shape
        block_rows = power_of_two(-(-_BLOCK_VALUES // d))
        self._device.launch(
            "add_rows", piece.points.dtype, -(-n // block_rows), *piece.arguments, nearest,
            np.int64(block_rows), *self._arguments,
        )  # fmt: skip

    @property
    def _arguments(self) -> tuple[Any, ...]:
        """The last arguments of the kernels that add rows."""
        k, added = np.int64(self._prepared.shape[0]), np.int64(self._added)
        return k, self._powers, self._values, *self._copies, added, self._left

    def left_rows(self) -> IndexArray:
        """Return the numbers of the rows with values that are left to the host.

        Waits for all launches of the thread. CUDA reports their errors only then.
        """
        return _left_rows(self._device, self._left, len(self._points))

    def with_rest(self, left: IndexArray, index: IndexArray) -> DeviceSums:
        """Return the sums of the chunk, with values added that were left to the host.

        Args:
            left: (m,) numbers of the rows with such values.
            index: (m,) their nearest centers.

        Raises:
            NotFinite: a row is not finite.
        """
        points, prepared = self._points, self._prepared
        found = DeviceSums(self._values, self._grid, prepared.shape, self._device)
        if not len(left):
            return found
        rest = ExactSums.zero(prepared.shape, self._grid)
        for places in _cut(np.arange(len(left)), points.shape[1]):
            # The kernels add both parts of float32 values too, as of float64 values.
            rows = points[left[places]].astype(np.float64)
            rest = plus_rest(rest, rows, index[places], prepared.distance)
        return replace(found, rest=PartialSums(rest, np.zeros(prepared.shape[0], np.int64)))


def squares_of(device: KernelDevice, points: FloatArray, piece_bytes: int) -> ExactTotal:
    """Return the exact sum of the squares of all values of the (n, d) rows.

    Args:
        device: The device.
        points: The rows, on the host.
        piece_bytes: Largest size of a piece of rows on the device.
    """
    grid, (n, d), first = Grid.of(points), points.shape, 0
    rows_of_block = _SQUARED_ROWS * max(1, THREADS // d)
    most = max(1, piece_bytes // (d * points.itemsize))
    with device.stream():
        xp = device.xp
        powers, left = xp.asarray(grid.scales), _none_left(device, n)
        digits = xp.zeros((len(_EXPONENTS_OF_PRODUCTS), 4, d), np.uint64)
        for rows in device.pieces(points, most):
            blocks = -(-len(rows) // rows_of_block) * -(-d // THREADS)
            device.launch(
                "add_squares", rows.dtype, blocks, rows, np.int64(len(rows)), np.int64(d),
                np.int64(rows_of_block), powers, np.int64(first), digits, left,
            )  # fmt: skip
            first += len(rows)
        left_rows = _left_rows(device, left, n)
        total = _total_of_digits(device.to_host(digits), grid)
    for some in _cut(left_rows, d):
        values = points[some].astype(np.float64)
        _, is_left = grid.split(values)
        total += rest_of_squares(values[is_left])
    return total


def _none_left(device: KernelDevice, n: int) -> Any:
    """Return bits that say that no row of a chunk has values that are left."""
    return device.xp.zeros(1 + -(-n // 32), np.uint32)


def _left_rows(device: KernelDevice, left: Any, n: int) -> IndexArray:
    """Return the numbers of the rows whose bits say that values are left."""
    if not device.to_host(left[:1])[0]:
        return np.empty(0, np.int64)
    bits = device.to_host(left[1:]).view(np.uint8)
    return np.flatnonzero(np.unpackbits(bits, count=n, bitorder="little"))


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
