"""The search for the nearest centers of rows on the device.

Scores in float16 rule out almost all centers, and exact distances decide among the others
(docs/decisions/016).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dkmeans.backends.cuda.device_centers import DeviceCenters, DeviceCentersCache, narrow
from dkmeans.backends.cuda.kernel_device import (
    BLOCK_ROWS,
    MOST_DIGITS,
    NULL,
    OCTET,
    SLAB,
    STAGE_COLUMNS,
    STAGES,
    THREADS,
    WARP_THREADS,
    KernelDevice,
)
from dkmeans.backends.cuda.pieces import DevicePiece

# Shared memory of the stages of one block: tiles of rows and of centers, 16 bytes for each thread.
_STAGE_TILES = (128 + 256) // SLAB
_SCORE_BYTES = STAGES * _STAGE_TILES * (STAGE_COLUMNS // SLAB) * WARP_THREADS * 16
# More blocks than a device runs at a time, where the host does not know the number of pairs.
_PAIR_BLOCKS = 2048
# Room for pairs of ambiguous rows and centers: this many for each row, and at least so many.
_PAIRS_PER_ROW, _FEWEST_PAIRS = 8, 4096
# If more of the rows are ambiguous with one digit, two digits are faster than all their pairs.
_MOST_AMBIGUOUS = 0.4


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


class NearestCenters:
    """The search for nearest centers on a device.

    Args:
        device: The device.
        prepared: Cache of prepared centers, which makes their digits.
    """

    def __init__(self, device: KernelDevice, prepared: DeviceCentersCache) -> None:
        self._device, self._prepared = device, prepared

    def __call__(self, piece: DevicePiece, prepared: DeviceCenters) -> Any:
        """Return the index of each row's nearest center, (n,) int64 on the device.

        All rows are scored with one digit. Where two scores are too close, the exact distances of
        the few centers that may be the nearest decide. Rows with too many such centers are scored
        again with two digits. Exact distances to all centers decide what is left.
        """
        xp, n = self._device.xp, len(piece.points)
        if prepared.shape[0] == 1:
            return xp.zeros(n, np.int64)
        nearest, rows = xp.empty(n, np.int64), _Listed(NULL, n)
        for digits in range(prepared.digits, MOST_DIGITS + 1):
            ambiguous = self._score(piece, rows, digits, prepared, nearest)
            if digits == 1 and ambiguous.count > _MOST_AMBIGUOUS * n:
                prepared.digits, rows = MOST_DIGITS, ambiguous
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
        self, piece: DevicePiece, rows: _Listed, digits: int, prepared: DeviceCenters, nearest: Any
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
        self, piece: DevicePiece, rows: _Listed, digits: int, prepared: DeviceCenters, nearest: Any
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
            "measure_pairs", dtype, min(_PAIR_BLOCKS, -(-capacity * OCTET // THREADS)),
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
        self, piece: DevicePiece, rows: _Listed, digits: int, prepared: DeviceCenters
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the margins of some rows, and the first arguments of the kernels that score."""
        xp, product = self._device.xp, self._prepared.product(prepared, digits)
        ratios, margins = (xp.empty(rows.count, np.float32) for _ in range(2))
        packed = narrow(
            self._device, piece.points, piece.scales, (rows.numbers, rows.count), prepared.slabs,
            prepared.shift, product.lengths, digits, (ratios, margins, NULL),
        )  # fmt: skip
        sizes = packed.shape[1], product.tiles, prepared.slabs, 1 if digits == 1 else 3
        return margins, (
            packed, product.packed, *map(np.int64, sizes), product.halves, ratios,
            np.int64(rows.count), np.int64(prepared.shape[0]),
        )  # fmt: skip

    def _multiply(
        self, kernel: str, rows: _Listed, prepared: DeviceCenters, *arguments: Any
    ) -> None:
        """Start a kernel that scores rows against all centers."""
        panel = prepared.panel
        self._device.launch(
            f"{kernel}_{panel}", np.float32, -(-rows.count // BLOCK_ROWS[panel]), *arguments,
            shared_bytes=_SCORE_BYTES,
        )  # fmt: skip
