"""An implementation with the functions of the array API standard alone, for arrays on any device.

The CUDA backend uses it on GPUs that cannot run its kernels. One matrix product scores a block of
rows against all centers. Another adds the rows up, multiplied by a matrix of ones and zeros. The
few rows whose two least scores are closer than their rounding error are resolved exactly by NumPy
on the host, which has all rows anyway. No n x k array exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dkmeans.backends import numpy as on_host
from dkmeans.backends.rounding import QUIET, Rounding, shifted
from dkmeans.distance import (
    SMALLEST_SQUARED_NORM,
    Centers,
    cosine_inertia,
)
from dkmeans.state import FloatArray, IndexArray, PartialSums

# Elements of a block of scores: enough to keep a GPU busy, and 15 MB with all that goes with it.
_BLOCK_ELEMENTS = 3 * 2**18


class ArrayDevice(Protocol):
    """A device for arrays, and the library that computes with them."""

    @property
    def xp(self) -> Any:
        """Namespace of the library's functions, of the array API standard."""
        ...

    def put(self, values: NDArray[Any]) -> Any:
        """Copy an array of the host to the device."""
        ...

    def get(self, array: Any) -> NDArray[Any]:
        """Copy an array of the device to the host."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _ArrayCenters:
    """Centers on the device, prepared for scoring rows.

    Attributes:
        weights: (d, k) the shifted centers, in the rows' dtype.
        halves: (k,) |c|^2 / 2; 0 for cosine.
        shift: (d,) subtracted from every row before it is scored.
        exact: (k, d) float64, the centers for exact distances.
        numbers: (k,) the cluster indices 0 to k - 1.
        rounding: Bound on the rounding error of scores.
        cosine: True if rows are scaled to length one.
    """

    weights: Any
    halves: Any
    shift: Any
    exact: Any
    numbers: Any
    rounding: Rounding
    cosine: bool

    @classmethod
    def of(cls, centers: Centers, dtype: np.dtype[Any], device: ArrayDevice) -> _ArrayCenters:
        """Prepare centers for rows of a dtype."""
        prepared, put = shifted(centers, dtype), device.put
        return cls(
            put(np.ascontiguousarray(prepared.values.T.astype(dtype))),
            put(prepared.halves.astype(dtype)),
            put(prepared.shift),
            put(prepared.exact),
            put(np.arange(len(prepared.exact))),
            prepared.rounding,
            prepared.cosine,
        )


class ArrayApi:
    """The functions of `Implementation`, computed on a device.

    Args:
        device: The device.
    """

    def __init__(self, device: ArrayDevice) -> None:
        self._device, self._xp = device, device.xp

    @QUIET
    def partial_sums(self, points: FloatArray, centers: Centers) -> PartialSums:
        """Assign each of the (n, d) rows to its nearest center; return sums, counts and inertia."""
        prepared = _ArrayCenters.of(centers, points.dtype, self._device)
        return self._sums_of(
            points, self._nearest_index(points, centers, prepared), centers, prepared
        )

    @QUIET
    def assign(
        self, points: FloatArray, centers: Centers
    ) -> tuple[PartialSums, IndexArray, FloatArray]:
        """Return the results of `partial_sums` and `nearest` in one pass."""
        prepared = _ArrayCenters.of(centers, points.dtype, self._device)
        index = self._nearest_index(points, centers, prepared)
        sums = self._sums_of(points, index, centers, prepared)
        return sums, index, self._nearest_distances(points, index, prepared)

    @QUIET
    def nearest(self, points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
        """Return each row's nearest center, (n,) int64, and distance to it, (n,) float64."""
        prepared = _ArrayCenters.of(centers, points.dtype, self._device)
        index = self._nearest_index(points, centers, prepared)
        return index, self._nearest_distances(points, index, prepared)

    @QUIET
    def distances(self, points: FloatArray, centers: Centers) -> FloatArray:
        """Return the distance of each row to every center, (n, k) float32."""
        prepared = _ArrayCenters.of(centers, points.dtype, self._device)
        result = np.empty((len(points), len(centers.values)), np.float32)
        for part in _blocks(points, points.shape[1]):
            rows = self._exact_rows(points[part], prepared)
            # One center at a time: all centers at once would need an (n, k, d) array.
            for center in range(len(centers.values)):
                one = prepared.exact[center : center + 1, :]
                result[part, center] = self._device.get(self._distances_to(rows, one, prepared))
        return result

    def _nearest_index(
        self, points: FloatArray, centers: Centers, prepared: _ArrayCenters
    ) -> IndexArray:
        """Return the index of each row's nearest center, (n,) int64."""
        result = np.empty(len(points), np.int64)
        for part in _blocks(points, len(centers.values) + points.shape[1]):
            index, ambiguous = map(self._device.get, self._scored(points[part], prepared))
            result[part] = index
            if ambiguous.any():
                rows = part.start + np.flatnonzero(ambiguous)
                result[rows], _ = on_host.nearest(points[rows], centers)
        return result

    def _scored(self, block: FloatArray, prepared: _ArrayCenters) -> tuple[Any, Any]:
        """Score a block of b rows.

        Returns:
            The index of each row's least score, (b,), and whether the row is ambiguous, (b,) bool.
        """
        xp, bound = self._xp, prepared.rounding
        rows = self._device.put(block)
        if prepared.cosine:
            rows = xp.astype(self._exact_rows(block, prepared), rows.dtype)
        else:
            rows = rows - prepared.shift
        scores = prepared.halves - xp.matmul(rows, prepared.weights)
        index = xp.argmin(scores, axis=1)
        least = xp.min(scores, axis=1)
        is_least = xp.expand_dims(index, axis=1) == prepared.numbers
        second = xp.min(xp.where(is_least, xp.full_like(scores, xp.inf), scores), axis=1)
        lengths = xp.sqrt(xp.sum(rows * rows, axis=1))
        margins = bound.factor * (lengths * bound.largest + bound.half) + bound.floor
        # The negation makes a row ambiguous if a score or a margin is NaN.
        return index, xp.logical_not(second > least + margins)

    def _sums_of(
        self, points: FloatArray, index: IndexArray, centers: Centers, prepared: _ArrayCenters
    ) -> PartialSums:
        """Add up the rows of each center, as residuals x - c or, for cosine, at length one."""
        xp, (k, d) = self._xp, centers.values.shape
        sums, inertia = np.zeros((k, d)), 0.0
        for part in _blocks(points, k + d):
            block_index = self._device.put(index[part])
            rows = self._exact_rows(points[part], prepared)
            if not prepared.cosine:
                rows = rows - xp.take(prepared.exact, block_index, axis=0)
                inertia += float(self._device.get(xp.sum(rows * rows)))
            is_assigned = xp.astype(
                xp.expand_dims(prepared.numbers, axis=1) == block_index, xp.float64
            )
            sums += self._device.get(xp.matmul(is_assigned, rows))
        counts = np.bincount(index, minlength=k).astype(np.int64, copy=False)
        if prepared.cosine:
            return PartialSums(sums, counts, cosine_inertia(sums, counts, centers))
        sums += counts[:, None] * centers.values.astype(np.float64)
        return PartialSums(sums, counts, inertia)

    def _nearest_distances(
        self, points: FloatArray, index: IndexArray, prepared: _ArrayCenters
    ) -> FloatArray:
        """Return the distance of each row to its nearest center, (n,) float64."""
        result = np.empty(len(points))
        for part in _blocks(points, points.shape[1]):
            others = self._xp.take(prepared.exact, self._device.put(index[part]), axis=0)
            rows = self._exact_rows(points[part], prepared)
            result[part] = self._device.get(self._distances_to(rows, others, prepared))
        return result

    def _distances_to(self, rows: Any, others: Any, prepared: _ArrayCenters) -> Any:
        """Return the distance of each exact row to its center in `others`, (b, d) or (1, d)."""
        xp = self._xp
        if prepared.cosine:
            return xp.clip(1.0 - xp.sum(rows * others, axis=1), 0.0, 2.0)
        rows = rows - others
        return xp.sum(rows * rows, axis=1)

    def _exact_rows(self, block: FloatArray, prepared: _ArrayCenters) -> Any:
        """Return rows on the device for exact distances: float64, at length one for cosine."""
        xp = self._xp
        rows = xp.astype(self._device.put(block), xp.float64)
        if not prepared.cosine:
            return rows
        squares = xp.sum(rows * rows, axis=1, keepdims=True)
        # A row whose square overflows has no direction that could be computed. NaN shows this; the
        # division by infinity would make it a zero row.
        squares = xp.where(xp.isinf(squares), xp.full_like(squares, xp.nan), squares)
        return rows / xp.sqrt(xp.clip(squares, SMALLEST_SQUARED_NORM, None))


def _blocks(points: FloatArray, elements_per_row: int) -> Iterator[slice]:
    """Return slices that cut rows into blocks of about `_BLOCK_ELEMENTS` elements."""
    size = max(1, _BLOCK_ELEMENTS // elements_per_row)
    return (slice(start, start + size) for start in range(0, len(points), size))
