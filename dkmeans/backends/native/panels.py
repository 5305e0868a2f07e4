"""The layout of rows and centers for the kernels: tiles, panels, and memory on cache lines.

A tile is a few rows, a panel is a few centers (`tile_vectors.Tile`). The kernels read centers panel
by panel, and in each panel feature by feature. `packing`, `packed_bytes` and `scratch` lay out what
the kernels read and write.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans.backends.native import matrix, processor
from dkmeans.backends.native.llvm_code import CACHE_LINE_BYTES
from dkmeans.backends.native.tile_vectors import PROBED_PANELS, Tile
from dkmeans.exact_grid import Grid
from dkmeans.state import FloatArray

# Number of centers that are laid out at a time, about.
_CENTERS_AT_ONCE = 1024


def tile_of(dtype: DTypeLike) -> Tile:
    """Return the tile whose scores fit the vector registers, with room for rows and centers.

    Processors with AVX-512 and ARM processors have 32 of these registers, others have 16.
    """
    has_32 = processor.vector_bytes() == 64 or processor.is_arm()
    count, centers = (2, 8) if has_32 else (3, 4)
    lanes = processor.vector_bytes() // np.dtype(dtype).itemsize
    return Tile((None,) * lanes, (None,) * count, (None,) * centers)


def aligned_empty(
    shape: tuple[int, ...], dtype: DTypeLike, new: Callable[..., NDArray[Any]] = np.empty
) -> NDArray[Any]:
    """Return memory aligned to a cache line: loads that touch two lines take twice as long."""
    spare = new(math.prod(shape) + CACHE_LINE_BYTES // np.dtype(dtype).itemsize, dtype)
    begin = -spare.ctypes.data % CACHE_LINE_BYTES // spare.itemsize
    return spare[begin : begin + math.prod(shape)].reshape(shape)


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return zeros aligned to a cache line."""
    return aligned_empty(shape, dtype, np.zeros)


def aligned(values: FloatArray) -> FloatArray:
    """Return a copy in one dimension, aligned to a cache line."""
    return joined([values], values.size, values.dtype)


def joined(pieces: Iterable[FloatArray], size: int, dtype: DTypeLike) -> FloatArray:
    """Return pieces of this size in total as one array, aligned to a cache line."""
    whole, start = aligned_empty((size,), dtype), 0
    for piece in pieces:
        stop = start + piece.size
        whole[start:stop].reshape(piece.shape)[...] = piece
        start = stop
    return whole


def some_at_a_time(k: int, tile: Tile) -> list[slice]:
    """Return slices that cut k centers into pieces.

    Temporary arrays for all large centers at once would take ten times their memory.
    """
    size = group_of(tile) * max(1, _CENTERS_AT_ONCE // group_of(tile))
    return [slice(start, start + size) for start in range(0, k, size)]


def in_panels(
    pieces: Iterable[FloatArray], shape: tuple[int, int], dtype: DTypeLike, tile: Tile
) -> FloatArray:
    """Return (k, d) rows in one dimension: panel by panel, within each panel feature by feature.

    Args:
        pieces: The rows, as `some_at_a_time` cuts them.
        shape: (k, d).
        dtype: The dtype of the rows.
        tile: The shape of a tile.
    """
    panels = (panels_of(pad_to_panels(piece, tile, 0), tile) for piece in pieces)
    return joined(panels, padded_count(shape[0], tile) * shape[1], dtype)


def panels_of(rows: FloatArray, tile: Tile) -> FloatArray:
    """Return (k, d) rows of whole panels: panel by panel, within each panel feature by feature."""
    return rows.reshape(-1, len(tile.centers), rows.shape[1]).swapaxes(1, 2)


def group_of(tile: Tile) -> int:
    """Return the number of centers in `PROBED_PANELS` panels."""
    return PROBED_PANELS * len(tile.centers)


def padded_count(k: int, tile: Tile) -> int:
    """Return a number of centers, filled up to whole groups of `PROBED_PANELS` panels."""
    group = group_of(tile)
    return -(-k // group) * group


def pad_to_panels(rows: FloatArray, tile: Tile, value: float) -> FloatArray:
    """Append rows of this value until there are whole groups of `PROBED_PANELS` panels."""
    longer = np.full((padded_count(len(rows), tile), *rows.shape[1:]), value, rows.dtype)
    longer[: len(rows)] = rows
    return longer


def pair_lines(d: int) -> int:
    """Return the number of lines that a tile's pairs of features take for a matrix unit."""
    whole, rest = divmod(d, matrix.GROUP_FEATURES)
    rest_lines = matrix.PRODUCTS * ((rest + 1) // 2)
    return matrix.GROUP_LINES * whole + -(-rest_lines // matrix.LINES) * matrix.LINES


def padded(count: int) -> int:
    """Return the least multiple of eight that is not below a number."""
    return -(-count // 8) * 8


def padded_scales(grid: Grid) -> FloatArray:
    """Return the factors of a grid, filled up with zeros to a multiple of eight columns."""
    scales = np.zeros(padded(len(grid.exponents)))  # `pad` would take ten times as long
    scales[: len(grid.exponents)] = grid.scales
    return scales
