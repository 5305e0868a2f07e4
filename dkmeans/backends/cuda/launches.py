"""The functions of the backend as sequences of kernel launches, for any device.

`backend` runs them on the GPU, and tests run the same launches and kernels on the host.
`device_centers` prepares the centers, `pieces` brings the rows, `nearest_centers` finds their
nearest centers, and `chunk_sums` adds them up.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dkmeans.backends.cuda.chunk_sums import ChunkSums, squares_of
from dkmeans.backends.cuda.device_centers import DeviceCenters, DeviceCentersCache
from dkmeans.backends.cuda.device_sums import DeviceSums
from dkmeans.backends.cuda.kernel_device import OCTET, KernelDevice
from dkmeans.backends.cuda.nearest_centers import NearestCenters
from dkmeans.backends.cuda.pieces import DevicePiece, pieces_of
from dkmeans.backends.rounding import QUIET
from dkmeans.distance import Centers
from dkmeans.exact_total import ExactTotal
from dkmeans.state import FloatArray, IndexArray, PartialSums

# Largest size of a piece of rows on the device, with the results for these rows, if the device
# does not name another one.
PIECE_BYTES = 2**30


class Launches:
    """The functions of `Implementation`, computed by kernels on a device.

    Args:
        device: The device.
        piece_bytes: Largest size of a piece of rows on the device, with its results.
    """

    def __init__(self, device: KernelDevice, piece_bytes: int = PIECE_BYTES) -> None:
        self._device, self._piece_bytes = device, piece_bytes
        self._prepared = DeviceCentersCache(device)
        self._nearest = NearestCenters(device, self._prepared)

    @QUIET
    def partial_sums(self, points: FloatArray, centers: Centers) -> DeviceSums:
        """Assign each of the (n, d) rows to its nearest center; return exact sums and counts."""
        with self._device.stream():
            prepared = self._prepared(centers, points.dtype)
            sums = ChunkSums(self._device, points, prepared)
            # The kernel of few centers finds the nearest ones itself.
            scored, size = prepared.few is None, self._piece_bytes
            for piece in pieces_of(self._device, points, prepared, size, scored=scored):
                sums.add(piece, self._nearest(piece, prepared) if scored else None)
            left = sums.left_rows()
        index = self.nearest(points[left], centers)[0] if len(left) else left
        return sums.with_rest(left, index)

    @QUIET
    def assign(
        self, points: FloatArray, centers: Centers
    ) -> tuple[PartialSums, IndexArray, FloatArray]:
        """Return the results of `partial_sums` and `nearest` in one pass."""
        index, distances, start = np.empty(len(points), np.int64), np.empty(len(points)), 0
        with self._device.stream():
            prepared = self._prepared(centers, points.dtype)
            sums = ChunkSums(self._device, points, prepared)
            for piece in pieces_of(self._device, points, prepared, self._piece_bytes):
                nearest = self._nearest(piece, prepared)
                sums.add(piece, nearest)
                # The right side is evaluated left to right: from the old `start` to the new one.
                rows = slice(start, start := start + len(nearest))
                index[rows], distances[rows] = self._to_host(piece, nearest, prepared)
            left = sums.left_rows()
        return sums.with_rest(left, index[left]).on_host(), index, distances

    @QUIET
    def squares(self, points: FloatArray) -> ExactTotal:
        """Return the exact sum of the squares of all values of the (n, d) rows."""
        return squares_of(self._device, points, self._piece_bytes)

    def nearest(self, points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
        """Return each row's nearest center, (n,) int64, and distance to it, (n,) float64."""
        index, distances, start = np.empty(len(points), np.int64), np.empty(len(points)), 0
        with self._device.stream():
            prepared = self._prepared(centers, points.dtype)
            for piece in pieces_of(self._device, points, prepared, self._piece_bytes):
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
            sizes = self._piece_bytes, k * result.itemsize
            for piece in pieces_of(self._device, points, prepared, *sizes):
                distances = self._device.xp.empty((len(piece.points), k), np.float32)
                arguments = prepared.exact, np.int64(k), distances
                piece.launch(self._device, "measure_all", distances.size * OCTET, *arguments)
                result[start : start + len(distances)] = self._device.to_host(distances)
                start += len(distances)
        return result

    def _to_host(
        self, piece: DevicePiece, nearest: Any, prepared: DeviceCenters
    ) -> tuple[IndexArray, FloatArray]:
        """Return each row's nearest center and the distance to it, on the host."""
        distances = self._device.xp.empty(len(nearest))
        arguments = prepared.exact, nearest, distances
        piece.launch(self._device, "measure_nearest", len(nearest) * OCTET, *arguments)
        return self._device.to_host(nearest), self._device.to_host(distances)
