"""Few centers of narrow rows: one kernel finds the nearest centers and adds up the rows.

`device_centers` prepares few centers with `few_centers`, and `chunk_sums` launches their kernel.
The kernels of float32 rows get the centers as arguments, and add up on the tensor cores. Those of
float64 rows read the centers from memory, and sort the rows of a tile.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from dkmeans.backends.cuda.kernel_device import (
    FEW_CENTERS,
    FEW_COLUMNS,
    FEW_GAP,
    FEW_ROWS,
    FEW_STAGES,
    FEW_TILE,
    THREADS,
    WARP_THREADS,
    KernelDevice,
    power_of_two,
)
from dkmeans.backends.rounding import QUIET, Rounding, Shifted, shifted
from dkmeans.distance import Centers
from dkmeans.exact_grid import PIECE_ROWS, Grid
from dkmeans.state import FloatArray

# The kernels are `add_few_N` and so on, by the columns that they have registers for. Blocks of
# float32 rows that fit a processor at a time, by these columns.
_BLOCKS_OF_PROCESSOR = {8: 2, 16: 2, FEW_COLUMNS: 1}
# The kernels of float32 rows also by the centers that they score.
_CENTERS_AT_ONCE = (8, FEW_CENTERS)
# Arrays of a single copy begin at multiples of this.
_ALIGNMENT = 256
# Scores may overflow unless their bound is below the dtype's largest number divided by this.
_OVERFLOW_DIVISOR = 8
# Half of the centers after the last one for float32 rows: above all scores that do not overflow. An
# infinite one would hide how inaccurately the host's tensor cores add.
_HUGE = 3e38
# Relative errors of a float32 score, beside those of all scores: of a row and of a center, each the
# sum of two bfloat16 numbers; of the last 4 bits, which are the center's number; and of each
# instruction of the tensor cores, as in docs/decisions/016.
_PARTS_ERROR, _NUMBER_ERROR, _PRODUCT_ERROR = 2.0**-16, 15 * 2.0**-23, 20 * 2.0**-23
# Instructions that add up the products of 8 columns.
_PRODUCTS_OF_BLOCK = 2
# What products and parts that underflow lose of a score at most, if rows and centers are no longer
# than one.
_UNDERFLOW = 2.0**-117
# A limit that no squared length is below.
_NO_SQUARE = -1.0
# Covers the rounding of a squared length, and of what it is compared with.
_SLACK = 1 - 2.0**-10
# Warps of a block.
_WARPS = THREADS // WARP_THREADS


def few_centers(centers: Centers, dtype: np.dtype[Any], device: KernelDevice) -> FewCenters | None:
    """Return centers prepared for rows of a dtype; None if they are too many or too wide."""
    k, d = centers.values.shape
    if k > FEW_CENTERS or d > FEW_COLUMNS:
        return None
    width = next(width for width in _BLOCKS_OF_PROCESSOR if d <= width)
    kind = _Singles if dtype == np.float32 else _Doubles
    few = kind(shifted(centers, dtype), width, device)
    return few if few.shared_bytes <= device.shared_bytes else None


@QUIET
def _padded(
    prepared: Shifted, dtype: type, shape: tuple[int, int], padding: float
) -> tuple[FloatArray, ...]:
    """Return minus the shifted centers, (k, width), their halves, (k,), and the shift, (width,).

    Args:
        prepared: The centers, which may be fewer and narrower.
        dtype: Dtype of the result.
        shape: (k, width).
        padding: Half of the centers after the last one, which are never the nearest.
    """
    k, width = shape
    own, d = prepared.centers.values.shape
    weights: FloatArray = np.zeros((k, width), dtype)
    shift: FloatArray = np.zeros(width, dtype)
    halves: FloatArray = np.full(k, padding, dtype)
    weights[:own, :d], halves[:own], shift[:d] = -prepared.values(), prepared.halves, prepared.shift
    return weights, halves, shift


class _Singles:
    """Few centers for float32 rows, which are arguments of the kernel.

    Attributes:
        exact: (k, d) float64 on the device, the centers for exact distances.
        shared_bytes: Dynamic shared memory of a block.
        reads_powers: True if the kernel reads the powers of the grid from memory.

    Args:
        prepared: The centers.
        width: Number of columns that the kernel has registers for.
        device: The device.
    """

    reads_powers = False

    def __init__(self, prepared: Shifted, width: int, device: KernelDevice) -> None:
        k, self._width, cosine = len(prepared.centers.values), width, prepared.cosine
        sizes = _CENTERS_AT_ONCE if not cosine else (FEW_CENTERS,)
        at_once = next(size for size in sizes if k <= size)
        self.exact = device.xp.asarray(prepared.exact())
        self._centers = _padded(prepared, np.float32, (at_once, width), _HUGE)
        self._margin, self._square_limit = _margin(prepared.rounding, width)
        self._kernel = f"add_few_{'cosine_' * cosine}{width}_{at_once}"
        row_bytes = (width + FEW_GAP) * np.dtype(np.float32).itemsize
        self.shared_bytes = _WARPS * FEW_STAGES * FEW_TILE * row_bytes

    def add(
        self, device: KernelDevice, rows: tuple[Any, ...], grid: Grid, sums: tuple[Any, ...]
    ) -> None:
        """Find the nearest centers of rows, and add the rows up.

        Args:
            device: The device.
            rows: The first arguments of every kernel on rows.
            grid: Grid of the sums.
            sums: The last arguments of the kernels that add rows.
        """
        tiles = -(-int(rows[1]) // FEW_TILE)
        # As many blocks as are computed at a time. The sums of a warp have room for 2^16 rows.
        blocks = max(
            device.processors * _BLOCKS_OF_PROCESSOR[self._width],
            -(-tiles // (_WARPS * (PIECE_ROWS // FEW_TILE))),
        )
        powers = np.zeros(self._width)
        powers[: len(grid.exponents)] = grid.scales
        few = _structure(powers, *self._centers, *self._margin, self._square_limit)
        device.launch(
            self._kernel, np.float32, min(blocks, -(-tiles // _WARPS)), *rows, few, self.exact,
            *sums, shared_bytes=self.shared_bytes,
        )  # fmt: skip


@QUIET
def _margin(rounding: Rounding, width: int) -> tuple[tuple[float, float], float]:
    """Return by how much two scores of float32 rows must differ to be certain.

    Args:
        rounding: Bound on the rounding error of scores in float32.
        width: Number of columns that are multiplied.

    Returns:
        What is multiplied by the squared length of a row x, and what is added to that; and a limit
        of the squared length, from which on scores may overflow.
    """
    # |x| is at most x.x / (2 s) + s / 2, for any s. It is near that if s is near |x|.
    size = rounding.largest or 1.0
    per_square = rounding.largest / (2 * size)
    fixed = rounding.largest * size / 2 + rounding.half
    # (|x| + |c|)^2 is at most twice the sum of the squares.
    exact = 2 * rounding.exact
    own = _PARTS_ERROR + _NUMBER_ERROR + width // 8 * _PRODUCTS_OF_BLOCK * _PRODUCT_ERROR
    factor = rounding.factor + 2 * own
    floor = rounding.floor + _UNDERFLOW * (1 + rounding.largest)
    margin = (
        (factor * per_square + exact + _UNDERFLOW) / _SLACK,
        (factor * fixed + floor + exact * rounding.largest**2) / _SLACK,
    )
    most = float(np.finfo(np.float32).max) / _OVERFLOW_DIVISOR
    limit = min((most - fixed) / (per_square or 1.0), most)
    return margin, limit if limit > 0 else _NO_SQUARE


class _Doubles:
    """Few centers for float64 rows, which the kernel reads from memory.

    Args:
        prepared: The centers.
        width: Number of columns that the kernel has registers for.
        device: The device.
    """

    reads_powers = True

    def __init__(self, prepared: Shifted, width: int, device: KernelDevice) -> None:
        k, d = prepared.centers.values.shape
        # Rows of whole chunks of 16 bytes are an odd number of chunks apart, others of values.
        stride = d | 1 if d % 2 else (d // 2 | 1) * 2
        doubles = k * d + k * d % 2 + THREADS * prepared.cosine
        self.shared_bytes = 8 * (doubles + 2 * THREADS * stride)
        weights, halves, shift = _padded(prepared, np.float64, (FEW_CENTERS, width), np.inf)
        self.exact, *self._arrays = _uploaded(device, prepared.exact(), shift, weights, halves)
        limit = float(np.finfo(np.float64).max) / _OVERFLOW_DIVISOR
        rounding = prepared.rounding
        bound = (
            rounding.factor, rounding.floor, rounding.largest, rounding.half, rounding.exact, limit
        )  # fmt: skip
        sizes = stride, power_of_two(d), power_of_two(k)
        self._numbers = *map(np.float64, bound), *map(np.int64, sizes)
        self._kernel = f"add_few_{'cosine_' * prepared.cosine}{width}"

    def add(
        self, device: KernelDevice, rows: tuple[Any, ...], grid: Grid, sums: tuple[Any, ...]
    ) -> None:
        """Find the nearest centers of rows, and add the rows up, as `_Singles.add` does."""
        device.launch(
            self._kernel, np.float64, -(-int(rows[1]) // FEW_ROWS), *rows, self.exact,
            *self._arrays, *self._numbers, *sums, shared_bytes=self.shared_bytes,
        )  # fmt: skip


# Few centers as their kernel reads them.
FewCenters: TypeAlias = _Singles | _Doubles


def _structure(powers: FloatArray, *others: FloatArray | float) -> np.void:
    """Return a structure that a kernel gets by value: float64 powers, and float32 numbers."""
    numbers = np.concatenate([np.ravel(each) for each in others]).astype(np.float32)
    # A structure of 8-byte numbers has a multiple of 8 bytes.
    size = -(-(powers.nbytes + numbers.nbytes) // 8) * 8
    content = powers.tobytes() + numbers.tobytes()
    structure: np.void = np.frombuffer(content.ljust(size, b"\0"), np.dtype((np.void, size)))[0]
    return structure


def _uploaded(device: KernelDevice, *arrays: FloatArray) -> list[Any]:
    """Return arrays on the device, after a single copy."""
    arrays = tuple(map(np.ascontiguousarray, arrays))
    sizes = [-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays]
    ends = np.cumsum(sizes)
    staged = np.zeros(ends[-1], np.uint8)
    for array, end, size in zip(arrays, ends, sizes, strict=True):
        start = end - size
        staged[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
    memory = device.xp.asarray(staged)
    return [
        memory[end - size : end - size + array.nbytes].view(array.dtype).reshape(array.shape)
        for array, end, size in zip(arrays, ends, sizes, strict=True)
    ]
