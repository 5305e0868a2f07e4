"""Packing: centers in the layout that the kernels read on this processor.

`packed_centers` calls `for_scores`, `backend` calls `for_distances`, and `groups` packs centers in
groups with the functions here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from dkmeans.backends.native import matrix, processor
from dkmeans.backends.native.first_scores import ByteCenters
from dkmeans.backends.native.kernels import PackedCenters
from dkmeans.backends.native.packed_bytes import is_in_range, packed_in_bytes, suits_bytes
from dkmeans.backends.native.panels import (
    aligned,
    in_panels,
    joined,
    pad_to_panels,
    pair_lines,
    some_at_a_time,
    tile_of,
)
from dkmeans.backends.native.runner import kernel_array
from dkmeans.backends.native.tile_vectors import Tile
from dkmeans.backends.rounding import SLACK, Shifted, exact_rows, shifted
from dkmeans.distance import Centers, Distance
from dkmeans.state import FloatArray

# Weights where bytes take their place.
_NO_WEIGHTS: FloatArray = np.empty(0, np.float32)
# Registers and biases without a matrix unit.
NO_REGISTERS: tuple[FloatArray, FloatArray] = np.empty(0, np.int32), np.empty(0, np.float32)
# With at least so many centers and columns a matrix unit was measured to be faster than vectors.
_MATRIX_CENTERS, _MATRIX_COLUMNS = 64, 16
# From so many values on, 16 MB as float32, centers are large: a copy in float64 is avoided.
_LARGE_CENTERS = 2**22


class Scoring(NamedTuple):
    """A method to compute scores.

    Attributes:
        dtype: The dtype of the scores.
        by_matrix: True if a matrix unit computes the scores where there is one; False if vectors
            do.
        in_bytes: True if the first scores are computed in 8 bits where that saves time, and some of
            them again in float32.
    """

    dtype: np.dtype[Any]
    by_matrix: bool
    in_bytes: bool = False


class Packing(NamedTuple):
    """Centers that are packed for scores.

    Attributes:
        tile: The shape of a tile, with `matrix_panels` if a matrix unit computes the scores.
        centers: The centers.
        in_bytes: The centers as bytes; empty without first scores in 8 bits.
    """

    tile: Tile
    centers: PackedCenters
    in_bytes: ByteCenters | tuple[()]


def for_scores(centers: Centers, tile: Tile, scoring: Scoring, dtype: np.dtype[Any]) -> Packing:
    """Pack centers for scores |c|^2 / 2 - x.c, on data shifted to the centers' mean."""
    prepared, cosine = shifted(centers, dtype), centers.distance is Distance.COSINE
    (k, d), rounding = centers.values.shape, prepared.rounding
    limits = np.finfo(scoring.dtype)
    factor = error_factor(d, len(tile.centers), float(limits.eps))
    if scoring.by_matrix:
        tile = tile_for(k, d, rounding.largest)._replace(second=tile.second)
    if scoring.in_bytes and suits_bytes(tile, k, d, rounding.largest):
        tile = tile._replace(in_bytes=(None,))

    def negative() -> Iterator[FloatArray]:
        for some in some_at_a_time(k, tile):
            values = prepared.values(some)
            yield np.negative(values, dtype=scoring.dtype, casting="same_kind")

    # Centers that fill up a panel get a score so large that they are never the nearest.
    halves = pad_to_panels(prepared.halves, tile, float(limits.max) / 4).astype(scoring.dtype)
    registers, biases = NO_REGISTERS
    in_bytes: ByteCenters | tuple[()] = ()
    if tile.in_bytes:
        in_bytes = packed_in_bytes(negative, (k, d), rounding.largest, tile)
    elif tile.matrix_panels:
        factor = matrix_error_factor(d, matrix.PANELS * len(tile.centers))
        registers, biases = registers_of(negative(), halves, d, tile)
    packed = PackedCenters(
        weights=_NO_WEIGHTS
        if tile.in_bytes
        else in_panels(negative(), (k, d), scoring.dtype, tile),
        halves=halves,
        shift=prepared.shift,
        exact=_exact(prepared, tile),
        error_factor=factor,
        # Exact distances 1 - x.c are rounded too, whatever the size of the scores.
        error_floor=d * float(limits.tiny) + rounding.exact * cosine,
        error_exact=rounding.exact,
        largest_norm=rounding.largest,
        largest_half=rounding.half,
        score_limit=float(limits.max) / 16,
        cosine=cosine,
        zero=np.zeros((1, d)),
        registers=registers,
        biases=biases,
    )
    return Packing(tile, packed, in_bytes)


def _exact(prepared: Shifted, tile: Tile) -> FloatArray:
    """Return centers for exact distances: float64, but large float32 centers as they are.

    Not all float32 centers, because kernels are compiled for each of the two: cosine needs float64.
    """
    values = prepared.centers.values
    if values.dtype == np.float32 and values.size >= _LARGE_CENTERS and not prepared.cosine:
        return kernel_array(values)
    exact = np.empty(values.shape)
    for some in some_at_a_time(len(values), tile):
        exact[some] = prepared.exact(some)
    return exact


def for_distances(centers: Centers, tile: Tile) -> PackedCenters:
    """Pack centers in float64 and without a shift, for `kernels.measure`."""
    exact = np.ascontiguousarray(exact_rows(centers.values, centers.distance))
    k, d = exact.shape
    pieces = (exact[some] for some in some_at_a_time(k, tile))
    return PackedCenters(
        weights=in_panels(pieces, (k, d), exact.dtype, tile),
        halves=np.empty(0),
        shift=np.zeros(d),
        exact=exact,
        error_factor=0.0,
        error_floor=0.0,
        error_exact=0.0,
        largest_norm=0.0,
        largest_half=0.0,
        score_limit=0.0,
        cosine=centers.distance is Distance.COSINE,
        zero=np.zeros((1, d)),
        registers=NO_REGISTERS[0],
        biases=NO_REGISTERS[1],
    )


def error_factor(d: int, panel: int, eps: float) -> float:
    """Return the relative part of the bound on the rounding error of two scores.

    A sum of m rounded products is off by at most m u sum |a b| in any order of adding, fused or not
    (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Four more u come from the
    rounding of the row, its scale, the center and the bias. The number of the center in the last
    bits of a score adds as many eps as a panel has centers. The factor is twice that, as it is for
    two scores, and `SLACK` more.
    """
    return SLACK * (d + 5 + 2 * panel) * eps


def matrix_error_factor(d: int, panel: int) -> float:
    """Return the same for the scores of a matrix unit.

    The unit adds up three times as many products: the terms are 3 d + 5; 10 is rounded up, and
    safe. It leaves out what is below 2^-16 of a row, of a center, and of the product of the two:
    three times 2^-16, for two scores 3 * 2^-15.
    """
    eps = float(np.finfo(np.float32).eps)
    return SLACK * ((matrix.PRODUCTS * d + 10 + 2 * panel) * eps + 3.1 * 2.0**-15)


def tile_for(k: int, d: int, largest_norm: float) -> Tile:
    """Return the tile of float32 scores with such centers: for a matrix unit if one is faster."""
    tile = tile_of(np.float32)
    if is_in_range(largest_norm) and _suits_matrix(tile, k, d):
        return tile._replace(matrix_panels=(None,) * matrix.PANELS)
    return tile


def _suits_matrix(tile: Tile, k: int, d: int) -> bool:
    """Return whether a matrix unit can score such tiles, and is worth its configuration."""
    return len(tile.lanes) == matrix.LINES and processor.matrix_unit() and _is_large(k, d)


def _is_large(k: int, d: int) -> bool:
    return k >= _MATRIX_CENTERS and d >= _MATRIX_COLUMNS


def registers_of(
    pieces: Iterable[FloatArray], halves: FloatArray, d: int, tile: Tile
) -> tuple[FloatArray, FloatArray]:
    """Return negative centers and their halves for a matrix unit: registers, biases.

    Args:
        pieces: The (k, d) negative centers, as `some_at_a_time` cuts them.
        halves: (k,) their halves.
        d: Number of columns.
        tile: The shape of a tile.
    """
    padded = pad_to_panels(halves, tile, float(np.finfo(np.float32).max) / 4)
    biases = np.repeat(padded.astype(np.float32), matrix.LINES)
    registers = (_in_registers(piece, tile) for piece in pieces)
    return joined(registers, len(padded) * pair_lines(d), np.int32), aligned(biases)


def _in_registers(weights: FloatArray, tile: Tile) -> FloatArray:
    """Split (k, d) float32 into sums h + l of two bfloat16, in the order of a matrix unit's loads.

    The outer order is panels of 32 centers. In each panel come the groups of 32 features, h and
    then l, and after them the rest of the features: h, l and h side by side. Each block of
    32 columns takes two registers, one for each half of the centers.
    """
    d, group = weights.shape[1], matrix.GROUP_FEATURES
    high = _to_bfloat16(weights)
    parts = [part.view(np.uint32) >> 16 for part in (high, _to_bfloat16(weights - high))]
    whole = d // group * group
    blocks = [part[:, i : i + group] for i in range(0, whole, group) for part in parts]
    if d > whole:
        # The unit multiplies pairs of features: an odd number of features gets one more, of zeros.
        padded_rest = np.pad(np.stack(parts)[:, :, whole:], ((0, 0), (0, 0), (0, d % 2)))
        rest = np.hstack([padded_rest[0], padded_rest[1], padded_rest[0]])
        blocks.append(np.pad(rest, ((0, 0), (0, -rest.shape[1] % group))))
    features = pad_to_panels(np.hstack(blocks), tile, 0).astype(np.uint16)
    registers = features.reshape(-1, 2, matrix.LINES, features.shape[1] // group, group)
    return registers.view(np.int32).transpose(0, 3, 1, 2, 4)


def _to_bfloat16(values: FloatArray) -> FloatArray:
    """Round float32 to the nearest bfloat16, returned as float32."""
    # Half of the last place is added, then the lower 16 bits are cut: a tie moves away from zero.
    return ((values.view(np.uint32) + np.uint32(2**15)) & np.uint32(2**32 - 2**16)).view(np.float32)
