"""The same by the functions of the array API standard alone, for arrays on any device.

A block of rows is scored against all centers by one matrix product, and added up by another, with
ones where a row's winner is. Rows whose two best scores are closer than their rounding error are
decided by NumPy on the host, where all rows come from: they are few. What a GPU does whose kernels
cannot be used, and nothing n x k exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dkmeans.backends import numpy as on_host
from dkmeans.backends.rounding import Rounding, shifted
from dkmeans.distance import (
    SMALLEST_SQUARED_NORM,
    Centers,
    cosine_inertia,
)
from dkmeans.state import FloatArray, IndexArray, PartialSums

# Elements of a block of scores: enough to keep a GPU busy, and 15 MB with all that goes with it.
_BLOCK_ELEMENTS = 3 * 2**18

# Rows that are not finite, or too large to square, are found and named by the caller.
_QUIET = np.errstate(all="ignore")


class Device(Protocol):
    """Where arrays lie, and the library that computes with them."""

    @property
    def xp(self) -> Any:
        """The library's namespace, of the array API standard."""
        ...

    def put(self, values: NDArray[Any]) -> Any:
        """An array of the host's, there."""
        ...

    def get(self, array: Any) -> NDArray[Any]:
        """An array from there, on the host."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Packed:
    """Centers on the device, made ready to score rows.

    Attributes:
        weights: (d, k) the shifted centers, in the rows' dtype.
        halves: (k,) |c|^2 / 2; 0 for cosine.
        shift: (d,) what is taken off every row before it is scored.
        exact: (k, d) float64.
        numbers: (k,) each center's own number.
        bound: How far apart two scores must be.
        cosine: Whether rows are scaled to length one.
    """

    weights: Any
    halves: Any
    shift: Any
    exact: Any
    numbers: Any
    bound: Rounding
    cosine: bool

    @classmethod
    def of(cls, centers: Centers, dtype: np.dtype[Any], device: Device) -> _Packed:
        made, put = shifted(centers, dtype), device.put
        return cls(
            put(np.ascontiguousarray(made.values.T.astype(dtype))),
            put(made.halves.astype(dtype)),
            put(made.shift),
            put(made.exact),
            put(np.arange(len(made.exact))),
            made.rounding,
            made.cosine,
        )


class ArrayApi:
    """See the module's docstring, and `Backend` for what it can do.

    Args:
        device: Where it computes.
    """

    def __init__(self, device: Device) -> None:
        self._device, self._xp = device, device.xp

    @_QUIET
    def partial_sums(self, points: FloatArray, centers: Centers) -> PartialSums:
        """The sums, counts and inertia of the (n, d) rows."""
        packed = _Packed.of(centers, points.dtype, self._device)
        return self._sums_of(points, self._winners(points, centers, packed), centers, packed)

    @_QUIET
    def assign(
        self, points: FloatArray, centers: Centers
    ) -> tuple[PartialSums, IndexArray, FloatArray]:
        """In one pass what `partial_sums` and `nearest` give."""
        packed = _Packed.of(centers, points.dtype, self._device)
        index = self._winners(points, centers, packed)
        sums = self._sums_of(points, index, centers, packed)
        return sums, index, self._apart(points, index, packed)

    @_QUIET
    def nearest(self, points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
        """Each row's winner, (n,) int64, and its distance to it, (n,) float64."""
        packed = _Packed.of(centers, points.dtype, self._device)
        index = self._winners(points, centers, packed)
        return index, self._apart(points, index, packed)

    @_QUIET
    def distances(self, points: FloatArray, centers: Centers) -> FloatArray:
        """Each row's distance to every center, (n, k) float32: a column at a time."""
        packed = _Packed.of(centers, points.dtype, self._device)
        found = np.empty((len(points), len(centers.values)), np.float32)
        for part in _blocks(points, points.shape[1]):
            rows = self._exact(points[part], packed)
            for center in range(len(centers.values)):
                one = packed.exact[center : center + 1, :]
                found[part, center] = self._device.get(self._apart_from(rows, one, packed))
        return found

    def _winners(self, points: FloatArray, centers: Centers, packed: _Packed) -> IndexArray:
        found = np.empty(len(points), np.int64)
        for part in _blocks(points, len(centers.values) + points.shape[1]):
            index, undecided = map(self._device.get, self._scored(points[part], packed))
            found[part] = index
            if undecided.any():
                rows = part.start + np.flatnonzero(undecided)
                found[rows], _ = on_host.nearest(points[rows], centers)
        return found

    def _scored(self, block: FloatArray, packed: _Packed) -> tuple[Any, Any]:
        """For each row where its least score is, and whether the next one is too close to it."""
        xp, bound = self._xp, packed.bound
        rows = self._device.put(block)
        if packed.cosine:
            rows = xp.astype(self._exact(block, packed), rows.dtype)
        else:
            rows = rows - packed.shift
        scores = packed.halves - xp.matmul(rows, packed.weights)
        index = xp.argmin(scores, axis=1)
        least = xp.min(scores, axis=1)
        is_least = xp.expand_dims(index, axis=1) == packed.numbers
        second = xp.min(xp.where(is_least, xp.full_like(scores, xp.inf), scores), axis=1)
        lengths = xp.sqrt(xp.sum(rows * rows, axis=1))
        margins = bound.factor * (lengths * bound.largest + bound.half) + bound.floor
        # Written so that a score or a margin that is not finite counts as undecided.
        return index, xp.logical_not(second > least + margins)

    def _sums_of(
        self, points: FloatArray, index: IndexArray, centers: Centers, packed: _Packed
    ) -> PartialSums:
        """What each center wins, added up as residuals x - c, or as rows of length one."""
        xp, (k, d) = self._xp, centers.values.shape
        sums, inertia = np.zeros((k, d)), 0.0
        for part in _blocks(points, k + d):
            mine = self._device.put(index[part])
            rows = self._exact(points[part], packed)
            if not packed.cosine:
                rows = rows - xp.take(packed.exact, mine, axis=0)
                inertia += float(self._device.get(xp.sum(rows * rows)))
            won = xp.astype(xp.expand_dims(packed.numbers, axis=1) == mine, xp.float64)
            sums += self._device.get(xp.matmul(won, rows))
        counts = np.bincount(index, minlength=k).astype(np.int64, copy=False)
        if packed.cosine:
            return PartialSums(sums, counts, cosine_inertia(sums, counts, centers))
        sums += counts[:, None] * centers.values.astype(np.float64)
        return PartialSums(sums, counts, inertia)

    def _apart(self, points: FloatArray, index: IndexArray, packed: _Packed) -> FloatArray:
        """Each row's distance to the center that won it, (n,) float64."""
        found = np.empty(len(points))
        for part in _blocks(points, points.shape[1]):
            others = self._xp.take(packed.exact, self._device.put(index[part]), axis=0)
            rows = self._exact(points[part], packed)
            found[part] = self._device.get(self._apart_from(rows, others, packed))
        return found

    def _apart_from(self, rows: Any, others: Any, packed: _Packed) -> Any:
        """The distance of each exact row to its partner, or to the only one there is."""
        xp = self._xp
        if packed.cosine:
            return xp.clip(1.0 - xp.sum(rows * others, axis=1), 0.0, 2.0)
        rows = rows - others
        return xp.sum(rows * rows, axis=1)

    def _exact(self, block: FloatArray, packed: _Packed) -> Any:
        """The rows on the device as exact distances want them, float64."""
        xp = self._xp
        rows = xp.astype(self._device.put(block), xp.float64)
        if not packed.cosine:
            return rows
        squares = xp.sum(rows * rows, axis=1, keepdims=True)
        # A row too long to square has no direction, not none.
        squares = xp.where(xp.isinf(squares), xp.full_like(squares, xp.nan), squares)
        return rows / xp.sqrt(xp.clip(squares, SMALLEST_SQUARED_NORM, None))


def _blocks(points: FloatArray, elements_per_row: int) -> Iterator[slice]:
    """Slices that cut rows into blocks of about `_BLOCK_ELEMENTS`."""
    size = max(1, _BLOCK_ELEMENTS // elements_per_row)
    return (slice(start, start + size) for start in range(0, len(points), size))
