"""Work arrays of the kernels, for each thread, and sums that they add to.

`backend` and `bounds` take work arrays from `ScratchPerThread`, and sums from `zero_sums`.
"""

from __future__ import annotations

import math
import threading
from mmap import ACCESS_COPY, mmap
from typing import Any

import numpy as np

from dkmeans.backends.native import eight_bits, matrix
from dkmeans.backends.native.exact_distances import new_distance_parts
from dkmeans.backends.native.first_scores import ByteScratch
from dkmeans.backends.native.kernels import PackedCenters, Scratch, Sums
from dkmeans.backends.native.llvm_code import CACHE_LINE_BYTES
from dkmeans.backends.native.packed_bytes import padded_to_lines
from dkmeans.backends.native.panels import (
    aligned_empty,
    aligned_zeros,
    padded_scales,
    pair_lines,
)
from dkmeans.backends.native.reassign import GroupedCenters
from dkmeans.backends.native.tile_vectors import PROBED_PANELS, Tile
from dkmeans.exact_grid import Grid
from dkmeans.state import FloatArray, IndexArray

# Features of the smallest square that is transposed: not less than `tiles._SMALL_SIDE`.
_SMALLEST_TILE_FEATURES = 4
# From so many sums on, 32 MB, memory that is not used is left untouched.
_MANY_SUMS = 2**22
# A chunk with less than so many rows for each cluster leaves most of the clusters without rows.
_FEW_ROWS = 0.5


class ScratchPerThread(threading.local):
    """Work arrays of each thread, for the last two shapes that it used.

    The first access to new memory is many times slower than later ones. Predictions use two shapes:
    one for the nearest centers and one for all distances.
    """

    def __init__(self) -> None:
        self._scratch: dict[Any, Scratch] = {}
        self._in_bytes: dict[Any, ByteScratch] = {}

    def __call__(self, tile: Tile, packed: PackedCenters | GroupedCenters) -> Scratch:
        """Return the calling thread's work arrays for such tiles and centers."""
        d, dtype, row_dtype = packed.exact.shape[1], packed.weights.dtype, packed.shift.dtype
        # Cosine writes to `exact_scales`, which must stay 1 for the other distance.
        shape = tile, dtype, row_dtype, d, packed.cosine
        if shape not in self._scratch:
            last = list(self._scratch.items())[-1:]
            self._scratch = dict([*last, (shape, _new_scratch(tile, dtype, row_dtype, d))])
        return self._scratch[shape]

    def in_bytes(self, tile: Tile, packed: PackedCenters) -> ByteScratch | tuple[()]:
        """Return the thread's work arrays for first scores in 8 bits; empty without such scores."""
        if not tile.in_bytes:
            return ()
        shape = tile, packed.exact.shape
        if shape not in self._in_bytes:
            last = list(self._in_bytes.items())[-1:]
            self._in_bytes = dict([*last, (shape, _new_byte_scratch(tile, *packed.exact.shape))])
        return self._in_bytes[shape]


def _new_scratch(tile: Tile, dtype: np.dtype[Any], row_dtype: np.dtype[Any], d: int) -> Scratch:
    size, centers = len(tile.lanes) * len(tile.vectors), len(tile.centers)
    ranked, integers = aligned_empty((6, size), dtype), np.dtype(f"i{dtype.itemsize}")
    # Vectors store distances of one panel, a matrix unit the scores of two groups of panels.
    scores = centers * size * max(1, 2 * len(tile.matrix_panels))
    return Scratch(
        rows=aligned_empty((max(d, _SMALLEST_TILE_FEATURES) * size,), dtype),
        indices=np.empty(size, np.int64),
        exact_scales=np.ones(size),
        scales=np.ones(size, row_dtype),
        margins=np.empty(size, dtype),
        ranked=ranked,
        ranked_bits=ranked.view(integers),
        panels=aligned_empty((3, size), integers),
        nearest=np.empty(size, np.int64),
        second=np.empty(size, np.int64),
        probe_scores=np.empty(PROBED_PANELS * centers, dtype),
        scores=aligned_empty((scores,), dtype),
        distance_parts=new_distance_parts(d),
        # Zeros: the lines that fill up the last group are never written, but they are multiplied.
        pairs=aligned_zeros((pair_lines(d) * size * bool(tile.matrix_panels),), np.int32),
        matrix_config=_matrix_config(),
        ambiguous=np.zeros(1, np.int64),
        scored_again=np.zeros(1, np.int64),
        num_rest=np.zeros(1, np.int64),
    )


def _new_byte_scratch(tile: Tile, k: int, d: int) -> ByteScratch:
    size, panels = len(tile.lanes) * len(tile.vectors), -(-k // len(tile.centers))
    quads, products = -(-d // eight_bits.QUAD), 0
    if tile.matrix_panels:
        # It multiplies whole groups of quads, and whole groups of panels.
        quads = -(-quads // matrix.GROUP_QUADS) * matrix.GROUP_QUADS
        panels = -(-panels // matrix.PANELS) * matrix.PANELS
        products = 2 * 2 * matrix.LINES * size
    minima = aligned_empty((panels, 2, size), np.float32)
    return ByteScratch(
        # Zeros, as these quads are not written.
        quads=aligned_zeros((quads * size,), np.int32),
        products=aligned_empty((products,), np.int32),
        steps=np.empty(size, np.float32),
        lost=np.empty(size, np.float32),
        margins=np.empty(size, np.float32),
        minima=minima,
        minima_bits=minima.view(np.int32),
        limits=np.empty(size, np.float32),
        # Zeros: whole vectors after the last column are never written.
        lines=aligned_zeros((size, padded_to_lines(d)), np.float32),
        score=np.empty(1, np.float32),
        again=np.empty((3, size), np.float32),
        found=np.empty((2, size), np.int64),
        mask=np.empty(1, np.int64),
    )


def _matrix_config() -> FloatArray:
    """Return the configuration of the matrix unit: palette 1, eight registers of full size."""
    config = np.zeros(64, np.uint8)
    config[0] = 1
    config[16:32].view(np.uint16)[:] = CACHE_LINE_BYTES
    config[48:56] = matrix.LINES
    return config


def zero_sums(shape: tuple[int, int], grid: Grid, points: FloatArray) -> Sums:
    """Return sums of no rows, for (k, d) centers and for the given rows, at most `PIECE_ROWS`."""
    k, d = shape
    padded = -(-d // 8) * 8
    low_shape = (k, padded) if points.dtype == np.float64 else (0, padded)
    return Sums(
        grid=padded_scales(grid),
        counts=np.zeros(k, np.int64),
        high=_zeros((k, padded), len(points)),
        low=_zeros(low_shape, len(points)),
        rest=np.empty((len(points), 2), np.int64),
    )


def _zeros(shape: tuple[int, int], rows: int) -> IndexArray:
    """Return int64 zeros for sums of so many rows; few rows use little memory of many clusters."""
    if rows >= _FEW_ROWS * shape[0] or math.prod(shape) < _MANY_SUMS:
        return aligned_zeros(shape, np.int64)
    # NumPy asks for pages of 2 MB, which have the sums of so many clusters that all would be used.
    memory = mmap(-1, 8 * math.prod(shape), access=ACCESS_COPY)
    return np.frombuffer(memory, np.int64).reshape(shape)
