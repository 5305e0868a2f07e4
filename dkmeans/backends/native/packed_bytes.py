"""Centers rounded to bytes: when first scores in 8 bits save time, and the layout of the bytes.

`packing` calls these functions. `eight_bits` has what the kernels do with bytes; docs/decisions/033
proves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from dkmeans.backends.native import eight_bits, matrix, processor
from dkmeans.backends.native.first_scores import ByteCenters
from dkmeans.backends.native.panels import (
    aligned_zeros,
    joined,
    pad_to_panels,
    padded_count,
    panels_of,
)
from dkmeans.backends.native.tile_vectors import Tile
from dkmeans.backends.rounding import SLACK
from dkmeans.state import FloatArray

# Least columns, centers and products (centers x columns) from which first scores were measured to
# save time; the last two by whether a matrix unit is used. Below `_TOO_MANY_COLUMNS` the
# int32 sums and `SLACK` are proven to suffice (docs/decisions/033).
_BYTE_COLUMNS, _TOO_MANY_COLUMNS = 16, 2**15
_BYTE_CENTERS, _BYTE_PRODUCTS = {False: 128, True: 512}, {False: 2**13, True: 2**16}
# Least products for second nearest centers, by vectors: more, as each row has candidates.
_BYTE_PRODUCTS_FOR_TWO = 2**14
# A matrix unit treats the smallest numbers (subnormal ones) as zero, and factors of bytes may
# become such numbers. Bytes and the matrix unit are used only if the length of the longest center
# is above this, and below the reciprocal of this.
_SMALLEST_NORM = 2.0**-60


def is_in_range(largest_norm: float) -> bool:
    """Return whether centers up to this length may be scored in bytes or by a matrix unit."""
    return _SMALLEST_NORM < largest_norm < 1 / _SMALLEST_NORM


def suits_bytes(tile: Tile, k: int, d: int, largest_norm: float) -> bool:
    """Return whether first scores of such centers can be computed in 8 bits, and save time."""
    by_vectors, by_matrix = processor.multiplies_bytes(), "+amx-int8" in processor.features()
    has_products = by_matrix if tile.matrix_panels else by_vectors
    is_possible = d < _TOO_MANY_COLUMNS and is_in_range(largest_norm) and has_products
    return is_possible and _gains_by_bytes(tile, k, d)


def _gains_by_bytes(tile: Tile, k: int, d: int) -> bool:
    with_matrix = bool(tile.matrix_panels)
    if tile.second and (with_matrix or k * d < _BYTE_PRODUCTS_FOR_TWO):
        return False  # by a matrix unit it was not measured
    is_large = k >= _BYTE_CENTERS[with_matrix] and k * d >= _BYTE_PRODUCTS[with_matrix]
    return is_large and d >= _BYTE_COLUMNS


def packed_in_bytes(
    negative: Callable[[], Iterator[FloatArray]],
    shape: tuple[int, int],
    largest_norm: float,
    tile: Tile,
) -> ByteCenters:
    """Round negative centers to bytes.

    Args:
        negative: Returns the (k, d) negative centers, as `some_at_a_time` cuts them.
        shape: (k, d).
        largest_norm: Length of the longest center.
        tile: The shape of a tile.
    """
    step = np.float32(max(float(np.abs(piece).max()) for piece in negative()))
    step /= np.float32(eight_bits.LARGEST)
    row_offset = eight_bits.row_offset(bool(tile.matrix_panels))
    offsets: list[NDArray[np.int32]] = []
    largest_lost = 0.0

    def quads() -> Iterator[NDArray[np.int32]]:
        nonlocal largest_lost
        for piece in negative():
            unpadded = np.rint(piece / step)
            lost = np.linalg.norm(piece - unpadded.astype(np.float64) * step, axis=1)
            largest_lost = max(largest_lost, float(lost.max()))
            rounded = pad_to_panels(unpadded.astype(np.int8), tile, 0)
            offsets.append(-row_offset * rounded.sum(axis=1, dtype=np.int32))
            yield _in_quads(rounded, tile)

    # The last bits of a score have the number of its center in its panel. Fewer than eight further
    # roundings come from the center, the row, the two factors, the product and the sum.
    rounding = (2 * len(tile.centers) + 16) * float(np.finfo(np.float32).eps)
    return ByteCenters(
        quads=joined(quads(), padded_count(shape[0], tile) * _quads(shape[1], tile), np.int32),
        offsets=np.concatenate(offsets),
        step=step,
        largest_norm=SLACK * largest_norm,
        largest_lost=SLACK * largest_lost,
        rounding=SLACK * rounding,
        lines=_in_lines(negative, shape),
    )


def _in_lines(
    negative: Callable[[], Iterator[FloatArray]], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Return (k, d) centers as float32, padded by zeros to whole lines."""
    (k, d), start = shape, 0
    lines = aligned_zeros((k, padded_to_lines(d)), np.float32)
    for piece in negative():
        lines[start : start + len(piece), :d] = piece
        start += len(piece)
    return lines


def padded_to_lines(d: int) -> int:
    """Return the number of columns with which `eight_bits.score_center` takes rows of d columns."""
    return -(-d // eight_bits.LINE) * eight_bits.LINE


def _quads(d: int, tile: Tile) -> int:
    """Return the number of quads of features of a center: a matrix unit has whole groups."""
    group = matrix.GROUP_QUADS if tile.matrix_panels else 1
    return -(-d // (eight_bits.QUAD * group)) * group


def _in_quads(rounded: NDArray[np.int8], tile: Tile) -> NDArray[np.int32]:
    """Return (k, d) int8 centers, in whole panels, as int32 in the order of the kernel's loads."""
    quads = _quads(rounded.shape[1], tile)
    features = eight_bits.QUAD * quads - rounded.shape[1]
    in_quads = np.pad(rounded, ((0, 0), (0, features))).view(np.int32)
    if not tile.matrix_panels:
        return panels_of(in_quads, tile)
    group = matrix.GROUP_QUADS
    return in_quads.reshape(-1, 2, matrix.LINES, quads // group, group).transpose(0, 3, 1, 2, 4)
