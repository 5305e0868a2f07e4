"""Tiles of rows: loading a tile, and the steps that all scorings share.

`kernels`, `first_scores`, `ambiguous_rows`, `all_pairs` and `reassign_few` call these functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dkmeans.backends.native import llvm_code, matrix, tile_vectors
from dkmeans.backends.native.compilation import inlined
from dkmeans.backends.native.exact_distances import row_scale
from dkmeans.backends.native.llvm_code import CACHE_LINE_BYTES

# Side of the squares for rows with fewer columns than a vector has lanes, as the length of a tuple
# (see `Tile`).
_SMALL_SIDE = (None,) * 4


@inlined
def load_tile(points: Any, start: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Copy the rows from `start` on into the tile, scaled and shifted: `rows[feature][place]`.

    The last row fills the places after the end of the data.
    """
    n = len(points)
    for place in range(len(scratch.indices)):
        scratch.indices[place] = min(start + place, n - 1)
    load_listed(points, centers, scratch, tile)


@inlined
def load_listed(points: Any, centers: Any, scratch: Any, tile: Any) -> None:
    """Copy the rows that `scratch.indices` lists into the tile, as `load_tile` does."""
    d, side, size = points.shape[1], len(tile.lanes), len(scratch.indices)
    rows, indices, scales, shift = scratch.rows, scratch.indices, scratch.scales, centers.shift
    if centers.cosine:
        for place in range(size):
            scratch.exact_scales[place] = row_scale(
                points, indices[place], centers, scratch.distance_parts
            )
            scales[place] = scratch.exact_scales[place]
    # Four cases: squares as wide as a vector; squares of 4 for rows with fewer columns; and rows
    # narrower than every square, loaded with a mask, in squares of 2 or of 4.
    if d >= side:
        for place in range(0, size, side):
            for column in range(0, d, side):
                # The last square may overlap the one before: it writes the same values again, and
                # the last columns need no code of their own.
                first = min(column, d - side)
                tile_vectors.transpose_square(
                    points, indices, place, first, scales, shift, rows, size, tile.lanes
                )
    elif d >= len(_SMALL_SIDE):
        for place in range(0, size, len(_SMALL_SIDE)):
            for column in range(0, d, len(_SMALL_SIDE)):
                first = min(column, d - len(_SMALL_SIDE))
                tile_vectors.transpose_square(
                    points, indices, place, first, scales, shift, rows, size, _SMALL_SIDE
                )
    elif side < len(_SMALL_SIDE):
        for place in range(0, size, side):
            tile_vectors.transpose_narrow(
                points, indices, place, scales, shift, rows, size, tile.lanes
            )
    else:
        for place in range(0, size, len(_SMALL_SIDE)):
            tile_vectors.transpose_narrow(
                points, indices, place, scales, shift, rows, size, _SMALL_SIDE
            )


@inlined
def split(d: int, scratch: Any, tile: Any) -> None:
    """Split a tile of rows into bfloat16, for a matrix unit."""
    if len(tile.matrix_panels):
        whole = d // matrix.GROUP_FEATURES
        if whole:
            matrix.split_whole(scratch.rows, whole, scratch.pairs, tile)
        if d % matrix.GROUP_FEATURES:
            first, line = matrix.GROUP_FEATURES * whole, matrix.GROUP_LINES * whole
            matrix.split_rest(scratch.rows, d, first, scratch.pairs, line, tile)


@inlined
def multiply(d: int, panel: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Compute the scores of a tile and a panel of 32 centers, in the matrix unit's registers.

    The features are whole groups, and a rest of fewer features (see `matrix`).
    """
    whole = d // matrix.GROUP_FEATURES
    rest_pairs = (d % matrix.GROUP_FEATURES + 1) // 2
    rest = -(-matrix.PRODUCTS * rest_pairs // matrix.LINES)
    first = panel * (matrix.GROUP_REGISTERS * whole + matrix.REST_REGISTERS * rest)
    matrix.load_biases(centers.biases, panel, tile)
    if whole:
        matrix.multiply_whole(scratch.pairs, centers.registers, first, whole, tile)
    if rest:
        line = matrix.GROUP_LINES * whole
        first += matrix.GROUP_REGISTERS * whole
        matrix.multiply_rest(scratch.pairs, line, centers.registers, first, rest, tile)


# The caller may pass `scratch.margins` as `squares`: each |x|^2 is read before its bound is
# written. The bound is infinite where scores may overflow or are NaN: such a row is always
# ambiguous.
@inlined
def begin_ranking(d: int, centers: Any, squares: Any, scratch: Any, tile: Any) -> None:
    """Compute the error bound of each row's scores, and reset the least scores.

    Args:
        d: Number of columns.
        centers: The centers.
        squares: (t,) T, overwritten: |x|^2 of each row.
        scratch: Work arrays, with the tile in `rows`.
        tile: The shape of the tile.
    """
    ranked, margins = scratch.ranked, scratch.margins
    tile_vectors.squared_norms(scratch.rows, d, squares, tile)
    for place in range(len(scratch.indices)):
        norm = np.sqrt(squares[place])
        score_size = norm * centers.largest_norm + centers.largest_half
        distance_size = (norm + centers.largest_norm) ** 2
        # The comparison is false for NaN, which counts as too large.
        is_safe = score_size < centers.score_limit
        error = centers.error_factor * score_size + centers.error_floor
        margins[place] = error + centers.error_exact * distance_size if is_safe else np.inf
        ranked[0, place] = ranked[1, place] = ranked[2, place] = ranked[3, place] = np.inf
        ranked[4, place] = ranked[5, place] = np.inf
        # Scores that are NaN replace nothing: their rows keep these panels.
        scratch.panels[0, place] = scratch.panels[1, place] = 0


@inlined
def cache_lines(points: Any, size: int) -> Any:
    """Return the number of cache lines of a tile of so many rows, for `prefetch_part`."""
    return size * points.shape[1] // (CACHE_LINE_BYTES // points.itemsize)


@inlined
def prefetch_part(points: Any, start: int, lines: Any, part: int, num_parts: int) -> None:
    """Prefetch one of several equal parts of a tile, so that memory is read while scores are made.

    Args:
        points: (n, d) rows.
        start: Index of the first row of the tile.
        lines: Number of the tile's cache lines (`cache_lines`). Computed before the loop over the
            parts: inside, LLVM would divide again for each part.
        part: Number of the part.
        num_parts: Number of parts.
    """
    # The rows of a tile are contiguous in `points`: a tile is one range of cache lines.
    first, elements = start * points.shape[1], CACHE_LINE_BYTES // points.itemsize
    for line in range(part * lines // num_parts, (part + 1) * lines // num_parts):
        llvm_code.prefetch(points, first + line * elements)


@inlined
def panel_width(tile: Any) -> Any:
    """Return the number of centers that are ranked at a time."""
    panels = 1 if len(tile.in_bytes) else max(len(tile.matrix_panels), 1)
    return len(tile.centers) * panels
