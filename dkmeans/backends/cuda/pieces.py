"""Rows on the device, in pieces of bounded size.

Sums are exact, so neither the pieces nor the order of the rows change a bit (docs/decisions/004).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dkmeans.backends.cuda.device_centers import DeviceCenters
from dkmeans.backends.cuda.kernel_device import (
    MOST_DIGITS,
    NULL,
    OCTET,
    SLAB,
    THREADS,
    KernelDevice,
)
from dkmeans.state import FloatArray

# Size of the results of one scored row: nearest center, ratio, margin and places in lists.
_RESULT_BYTES = 64
_FLOAT16_BYTES = 2
# Size of the factor of a row for cosine.
_SCALE_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False)
class DevicePiece:
    """A piece of the rows on the device.

    Attributes:
        points: (n, d) rows.
        scales: (n,) float64 factors that scale each row to length one; null if the distance is not
            cosine, or if the kernels scale the rows themselves.
    """

    points: Any
    scales: Any

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The first arguments of every kernel on rows."""
        n, d = self.points.shape
        return self.points, np.int64(n), np.int64(d), self.scales

    def launch(self, device: KernelDevice, kernel: str, threads: int, *arguments: Any) -> None:
        """Start a kernel on the rows of the piece with at least `threads` threads."""
        blocks = -(-threads // THREADS)
        device.launch(kernel, self.points.dtype, blocks, *self.arguments, *arguments)


def pieces_of(
    device: KernelDevice,
    points: FloatArray,
    prepared: DeviceCenters,
    piece_bytes: int,
    result_bytes: int = 0,
    *,
    scored: bool = True,
) -> Iterator[DevicePiece]:
    """Yield the rows in pieces with their scales.

    Args:
        device: The device.
        points: (n, d) rows on the host.
        prepared: The centers.
        piece_bytes: Largest size of a piece with its results.
        result_bytes: Size of the results for one row beside those that every scored row has.
        scored: False if the rows are not scored in float16.
    """
    row_bytes = points.shape[1] * points.itemsize + result_bytes
    if scored:
        # Always room for two digits: whether they are needed is known later.
        row_bytes += prepared.slabs * MOST_DIGITS * SLAB * _FLOAT16_BYTES + _RESULT_BYTES
    # The kernels of few centers scale the rows themselves.
    with_scales = scored and prepared.cosine
    most = max(1, piece_bytes // (row_bytes + _SCALE_BYTES * with_scales))
    for rows in device.pieces(points, most):
        piece = DevicePiece(rows, device.xp.empty(len(rows)) if with_scales else NULL)
        if with_scales:
            piece.launch(device, "find_scales", len(rows) * OCTET)
        yield piece
