"""The kernel `assign_all`: scores all rows against all groups of centers, to make bounds anew.

Called by `bounds` for rows without bounds, and where bounds have become loose. It works through
tiles of rows like `kernels.assign`, with a matrix unit if there is one. The cluster indices are the
same; what `reassign` needs in the next iterations comes with them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dkmeans.backends.native import group_vectors, matrix, sum_vectors, tile_vectors
from dkmeans.backends.native.ambiguous_rows import NO_CENTER
from dkmeans.backends.native.compilation import inlined, kernel
from dkmeans.backends.native.group_vectors import GROUP
from dkmeans.backends.native.kernels import Scratch, Sums
from dkmeans.backends.native.reassign import (
    BlockScratch,
    GroupedCenters,
    Movement,
    RowBounds,
    encoded,
    lay,
    lower_of_score,
    nearest_exactly,
    upper_bound,
)
from dkmeans.backends.native.tile_vectors import Tile
from dkmeans.backends.native.tiles import cache_lines, load_tile, multiply, prefetch_part, split
from dkmeans.state import FloatArray, IndexArray


class TileScoring(NamedTuple):
    """What tiles need to be scored against groups, beside `GroupedCenters`.

    Attributes:
        error_factor: As in `kernels.PackedCenters`, for vectors or for a matrix unit.
        error_squares: Relative error of a row's squared length.
        registers, biases: As in `kernels.PackedCenters`, with the centers group by group. Empty
            without a matrix unit.
    """

    error_factor: float
    error_squares: float
    registers: IndexArray
    biases: FloatArray


class GroupScratch(NamedTuple):
    """Work arrays for tiles of t rows, beside `kernels.Scratch`.

    Attributes:
        squares: (t,) float32. What is added to twice a score to make a squared distance.
        lower: (groups padded to an even number, t) uint16. Bounds of the rows.
    """

    squares: FloatArray
    lower: NDArray[np.uint16]


@inlined
def rank_tile(
    points: Any, next_start: int, lines: Any, centers: Any, scoring: Any, movement: Any,
    scratch: Any, group_scratch: Any, tile: Any,
) -> None:  # fmt: skip
    """Score the tile against all groups; find the error bound of each row and its bounds.

    The loop over the panels is that of `kernels._score`, where it is explained.

    Args:
        points: The rows.
        next_start: The row with which the next tile begins.
        lines: Number of cache lines of the next tile, which are prefetched.
        centers: The centers.
        scoring: The same centers for tiles.
        movement: How far they have moved.
        scratch: Work arrays for tiles, with the tile in `rows`.
        group_scratch: More of them.
        tile: The shape of a tile.
    """
    d, size = points.shape[1], len(scratch.indices)
    ranked, margins, squares = scratch.ranked, scratch.margins, group_scratch.squares
    lower, groups = group_scratch.lower, len(group_scratch.lower)
    split(d, scratch, tile)
    tile_vectors.squared_norms(scratch.rows, d, squares, tile)
    for place in range(size):
        square = np.float64(squares[place])
        norm = np.sqrt(square)
        score_size = norm * centers.largest_norm + centers.largest_half
        error = scoring.error_factor * score_size + centers.error_floor
        error += centers.error_exact * (norm + centers.largest_norm) ** 2
        error += scoring.error_squares * square
        # The comparison is false for NaN. An infinite margin makes bounds zero and the row
        # ambiguous.
        margins[place] = error if score_size < centers.score_limit else np.inf
        squares[place] = square + centers.own_square
        ranked[0, place] = ranked[1, place] = ranked[2, place] = np.inf
        scratch.panels[0, place] = 0
    # A panel is one group, for a matrix unit two.
    panels = groups // 2 if len(tile.matrix_panels) else len(centers.members) // GROUP
    for panel in range(panels):
        if len(tile.matrix_panels):
            multiply(d, panel, scoring, scratch, tile)
            if panel:
                group_vectors.rank_stored_groups(
                    panel - 1, scratch.scores, squares, margins, movement.added, ranked,
                    scratch.panels, lower, tile,
                )  # fmt: skip
            matrix.store_scores(panel, scratch.scores, tile)
        else:
            group_vectors.rank_group(
                scratch.rows, centers.weights, centers.halves, panel, d, squares, margins,
                movement.added, ranked, scratch.panels, lower, tile,
            )  # fmt: skip
        prefetch_part(points, next_start, lines, panel, panels)
    if len(tile.matrix_panels):
        group_vectors.rank_stored_groups(
            panels - 1, scratch.scores, squares, margins, movement.added, ranked, scratch.panels,
            lower, tile,
        )  # fmt: skip


@inlined
def resolve(
    points: Any, row: int, place: int, centers: Any, movement: Any, bounds: Any, scratch: Any,
    group_scratch: Any, block: Any,
) -> Any:  # fmt: skip
    """Return the nearest center of a row of the tile, and write the row's lower bounds."""
    for column in range(bounds.lower.shape[1]):
        bounds.lower[row, column] = group_scratch.lower[column, place]
    margin, limit = scratch.margins[place], scratch.ranked[0, place] + scratch.margins[place]
    if not scratch.ranked[1, place] > limit:
        slot = np.int64(0)
        lay(points, row, slot, np.int64(0), centers, block)
        block.margins[slot] = margin
        return nearest_exactly(points, slot, NO_CENTER, limit, centers, movement, bounds, block)
    # The number of the center is in the last bits of the score.
    group = np.int64(scratch.panels[0, place])
    number = np.int64(scratch.ranked_bits[0, place] & (GROUP - 1))
    block.squares[0], block.margins[0] = group_scratch.squares[place], margin
    low = lower_of_score(scratch.ranked[2, place], 0, block) + movement.added[group]
    bounds.lower[row, group] = encoded(low, block)
    return centers.members[group * GROUP + number]


@kernel
def assign_all(
    points: Any,
    centers: GroupedCenters,
    scoring: TileScoring,
    movement: Movement,
    tile: Tile,
    scratch: Scratch,
    group_scratch: GroupScratch,
    block: BlockScratch,
    bounds: RowBounds,
    sums: Sums,
) -> None:
    """Find the nearest center of each row by scores of all pairs, and make its bounds.

    Args:
        points: (n, d) S, C-contiguous.
        centers: The centers.
        scoring: The same centers for tiles.
        movement: How far they have moved.
        tile: The shape of a tile.
        scratch: Work arrays for tiles.
        group_scratch: More of them.
        block: Work arrays for single rows.
        bounds: The clusters and bounds of the rows.
        sums: With counts, sums of no rows, to which all rows are added. Without counts, sums of the
            rows by the clusters in `bounds`, in which rows that change their cluster are moved; or
            `NO_SUMS`.
    """
    n, size = len(points), len(scratch.indices)
    adds = len(sums.counts) > 0
    moves = len(sums.high) > 0 and not adds
    scratch.num_rest[0] = 0
    matrix.configure(scratch.matrix_config, tile)
    lines = cache_lines(points, size)
    for start in range(0, n, size):
        load_tile(points, start, centers, scratch, tile)
        rank_tile(
            points, start + size, lines, centers, scoring, movement, scratch, group_scratch, tile
        )
        count = min(size, n - start)
        for place in range(count):
            row, scale = start + place, scratch.exact_scales[place]
            after = resolve(
                points, row, place, centers, movement, bounds, scratch, group_scratch, block
            )
            before = np.int64(bounds.nearest[row])
            bounds.upper[row] = upper_bound(points, row, scale, after, centers, block)
            scratch.nearest[place] = bounds.nearest[row] = after
            bounds.sizes[before] -= 1
            bounds.sizes[after] += 1
            if moves and after != before:
                sum_vectors.move_row(
                    points, row, scale, before, after, centers.cosine, sums.grid, sums.high,
                    sums.low,
                )  # fmt: skip
        if adds:
            sum_vectors.add_rows(
                points, start, count, scratch.exact_scales, scratch.nearest, centers.cosine,
                sums.grid, sums.counts, sums.high, sums.low, sums.rest, scratch.num_rest,
            )  # fmt: skip
    matrix.release(tile)
