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
from dkmeans.backends.cuda.kernel_device import COUNTED_ROWS, NULL, THREADS, KernelDevice
from dkmeans.backends.cuda.pieces import DevicePiece
from dkmeans.exact import ExactSums
from dkmeans.exact_grid import PLANE_BITS, Grid, slices
from dkmeans.exact_total import ExactTotal, total_of
from dkmeans.state import FloatArray, IndexArray, PartialSums

# Rows that a thread of `add_rows` adds up: fewer where there would be few blocks.
_LEAST_RUN, _MOST_RUN, _FEW_BLOCKS = 8, 64, 512
# Rows that a thread of `add_squares` adds up.
_SQUARED_ROWS = 128
# Values of rows that the host adds at a time: each needs some 100 bytes meanwhile.
_LEFT_VALUES = 2**20
# Exponents of high^2, high low twice, and low^2, relative to the square of the grid's unit.
_EXPONENTS_OF_PRODUCTS = (0, 1 - PLANE_BITS, -2 * PLANE_BITS)


class ChunkSums:
    """Sums of the rows of a chunk while they are added up, as `kernels/sums.cu` describes them.

    Args:
        device: The device.
        points: (n, d) rows of the chunk, on the host.
        prepared: The centers.
    """

    def __init__(self, device: KernelDevice, points: FloatArray, prepared: DeviceCenters) -> None:
        self._device, self._points, self._prepared = device, points, prepared
        xp, (k, d), few = device.xp, prepared.shape, prepared.few
        self._grid = prepared.grid_for(points)
        # (d,) float64 2^-exponent of each column; null if the kernel does not read them.
        reads = not prepared.cosine and (few is None or few.reads_powers)
        self._powers = xp.asarray(self._grid.scales) if reads else NULL
        # The values of `DeviceSums`.
        self._values = xp.zeros(3 * k * d + k, np.int64)
        self._left, self._added = _none_left(device, len(points)), 0

    def add(self, piece: DevicePiece, nearest: Any) -> None:
        """Add the rows of a piece to the sums of their nearest centers.

        Args:
            piece: The rows, at most 2^30.
            nearest: (n,) nearest centers; not read where the kernel of few centers finds them.
        """
        few, k = self._prepared.few, np.int64(self._prepared.shape[0])
        sums = k, self._powers, self._values, np.int64(self._added), self._left
        if few is None:
            self._add_rows(piece, nearest, sums)
        else:
            few.add(self._device, piece.arguments, self._grid, sums)
        carry(self._device, self._prepared.shape, self._values)
        self._added += len(piece.points)

    def _add_rows(self, piece: DevicePiece, nearest: Any, sums: tuple[Any, ...]) -> None:
        """Count the rows of each center, order the rows by their centers, and add them up."""
        device, xp, k = self._device, self._device.xp, sums[0]
        n, d = piece.points.shape
        counts, order = xp.zeros(int(k), np.int64), xp.empty(n, np.uint32)
        blocks = -(-n // COUNTED_ROWS)
        device.launch("count_rows", np.float32, blocks, nearest, np.int64(n), k, counts)
        self._values[-int(k) :] += counts
        places = xp.cumsum(counts) - counts
        device.launch("order_rows", np.float32, blocks, nearest, np.int64(n), k, places, order)
        runs_of_block, groups = max(1, THREADS // d), -(-d // THREADS)
        run = min(_MOST_RUN, max(_LEAST_RUN, n // (_FEW_BLOCKS * runs_of_block)))
        blocks = -(-n // (run * runs_of_block)) * groups
        device.launch(
            "add_rows", piece.points.dtype, blocks, *piece.arguments, nearest, order,
            np.int64(run), *sums,
        )  # fmt: skip

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
    """Return the exact sum of the squares of all values of the (n, d) rows, which the host has."""
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
    return (rows[some] for some in slices(len(rows), width, _LEFT_VALUES))


def _total_of_digits(digits: FloatArray, grid: Grid) -> ExactTotal:
    """Return the exact sum of squares that `add_squares` has added up, (3, 4, d) uint64."""
    # float64 holds 32 bits exactly, but not 64.
    halves = np.stack([digits & 0xFFFFFFFF, digits >> PLANE_BITS]).astype(np.float64)
    places = np.arange(2)[:, None] + np.arange(digits.shape[1])
    exponents = PLANE_BITS * places[:, None] + np.array(_EXPONENTS_OF_PRODUCTS)[:, None]
    return total_of(halves, exponents[..., None] + 2 * grid.exponents)
