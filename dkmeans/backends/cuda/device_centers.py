"""Centers as the kernels read them, prepared once for all chunks of an iteration.

The kernels of few centers read them as they are. All others read their digits in float16: a row is
scored against the digits, and exact distances decide what the scores leave open
(docs/decisions/016).
"""

from __future__ import annotations

import threading
from functools import cached_property
from math import frexp, ldexp
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import numpy as np

from dkmeans.backends.addition import grid_for
from dkmeans.backends.cuda.few_centers import few_centers
from dkmeans.backends.cuda.kernel_device import (
    BLOCK_ROWS,
    KEPT_SLABS,
    NULL,
    OCTET,
    SLAB,
    STAGE_COLUMNS,
    THREADS,
    WARP_THREADS,
    KernelDevice,
    power_of_two,
)
from dkmeans.backends.rounding import QUIET
from dkmeans.distance import Centers, Distance
from dkmeans.exact_grid import Grid
from dkmeans.state import FloatArray

# Limits of exponents of two, and the exponent of the largest value of the centers, as in
# `kernels/narrow.cu`.
_LEAST_EXPONENT, _MOST_EXPONENT, _TOP_EXPONENT = -126, 126, 15
# The grid of the last chunk is used again if no column's exponent is farther from its own. So the
# sums of most chunks are on one grid, and can be added on the device.
_SIMILAR_EXPONENTS = 2


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


class DeviceCenters:
    """Centers on the device, prepared for rows of a dtype.

    Attributes:
        shape: (k, d).
        distance: The distance.
        cosine: True if rows are scaled to length one.
        few: The centers as the kernels of few centers read them; None if they are too many or too
            wide.
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
        self.panel = next((size for size in BLOCK_ROWS if k <= size), max(BLOCK_ROWS))
        self.digits, self.grid = 1, cast(Grid | None, None)
        self.few = few_centers(centers, dtype, device)
        self.exact = self._widened() if self.few is None else self.few.exact

    def _widened(self) -> Any:
        """Return the centers for exact distances, (k, d) float64."""
        device, values, (k, d) = self._device, self._centers.values, self.shape
        values = device.xp.asarray(np.ascontiguousarray(values))
        exact, blocks = device.xp.empty((k, d)), -(-k * d // THREADS)
        device.launch("widen", values.dtype, blocks, values, np.int64(k * d), exact)
        if self.cosine:
            scales, sizes = device.xp.empty(k), (np.int64(k), np.int64(d))
            blocks = -(-k * OCTET // THREADS)
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
        return -(-self.shape[1] // STAGE_COLUMNS) * (STAGE_COLUMNS // SLAB)

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
            self._device, padded, NULL, (NULL, len(padded)), self.slabs, shift,
            (np.int64(exponent), *unknown), digits, (NULL, NULL, lengths),
        )  # fmt: skip
        largest = xp.concatenate([lengths[:k].max(axis=0), halves[:k].max()[None]])
        scalars = map(np.float32, self._device.to_host(largest))
        return _Product(packed, len(padded) // SLAB, halves, (np.int64(exponent), *scalars))


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
    tiles, blocks_warps = -(-count // SLAB), THREADS // WARP_THREADS
    # As many warps as read all slabs of a tile once, a power of two.
    warps = min(blocks_warps, power_of_two(-(-slabs // KEPT_SLABS)))
    packed = device.xp.empty((digits, tiles, slabs, WARP_THREADS, 4), np.uint32)
    device.launch(
        "narrow", points.dtype, -(-tiles * warps // blocks_warps), points,
        np.int64(points.shape[1]), scales, numbers, np.int64(count), np.int64(slabs), shift,
        *lengths, np.int64(digits), np.int64(warps), packed, *results,
    )  # fmt: skip
    return packed


class DeviceCentersCache:
    """Cache of prepared centers; an entry lives as long as its `Centers`.

    All chunks of an iteration use the same centers.
    """

    def __init__(self, device: KernelDevice) -> None:
        self._device = device
        self._prepared: WeakKeyDictionary[Centers, dict[Any, DeviceCenters]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @QUIET
    def __call__(self, centers: Centers, dtype: np.dtype[Any]) -> DeviceCenters:
        """Return the centers prepared for rows of a dtype."""
        with self._lock:
            by_dtype = self._prepared.setdefault(centers, {})
            if dtype not in by_dtype:
                by_dtype[dtype] = DeviceCenters(centers, dtype, self._device)
                # Other threads will use the arrays on other streams: the copies must be done.
                self._device.synchronize()
            return by_dtype[dtype]

    def product(self, prepared: DeviceCenters, digits: int) -> _Product:
        """Return prepared centers as 1 or 2 digits in float16."""
        with self._lock:
            if digits not in prepared.products:
                prepared.products[digits] = prepared.product(digits)
                # For other threads, as above. Waiting each time would wait for this thread's rows.
                self._device.synchronize()
            return prepared.products[digits]
