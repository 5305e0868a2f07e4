"""The kernel `reassign_few`: `reassign` for few centers, or few products for each row.

Called by `bounds`. Such a row is scored against all groups as fast as the groups are found that
could be skipped. So the bounds of 16 rows are compared at a time. Rows whose upper bound reaches a
lower one are suspect: they are scored in tiles, as in `all_pairs`, and all their bounds are
replaced. With one group this is the method of Hamerly (Making k-means even faster, 2010).

The lower bounds are stored group by group, so that one vector holds those of 16 rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dkmeans.backends.native import group_vectors, llvm_code, matrix, sum_vectors
from dkmeans.backends.native.all_pairs import GroupScratch, TileScoring, rank_tile, resolve
from dkmeans.backends.native.compilation import inlined, kernel
from dkmeans.backends.native.group_vectors import GROUP
from dkmeans.backends.native.kernels import Scratch, Sums
from dkmeans.backends.native.reassign import (
    BlockScratch,
    GroupedCenters,
    Movement,
    RowBounds,
    upper_bound,
    upper_of_score,
)
from dkmeans.backends.native.tile_vectors import Tile
from dkmeans.backends.native.tiles import load_listed
from dkmeans.state import IndexArray


@inlined
def _collect(points: Any, first: int, movement: Any, lower: Any, bounds: Any, block: Any) -> Any:
    """List the suspect rows, from a row on, until the list is full.

    The upper bounds of all rows that are looked at are widened by the movement of their centers.

    Returns:
        Their number, and the row after the last one that was looked at.
    """
    (n, d), start, found = points.shape, first, np.int64(0)
    while start < n and found + GROUP <= len(block.suspects):
        group_vectors.find_suspect_rows(
            lower, start, bounds.nearest, movement.of_centers, movement.reach, len(block.lengths),
            bounds.upper, block.masks,
        )  # fmt: skip
        mask = block.masks[0]
        if n - start < GROUP:  # the rest of the 16 are no rows
            mask &= (1 << (n - start)) - 1
        while mask:
            row = start + llvm_code.trailing_zeros(mask)
            mask &= mask - 1
            llvm_code.prefetch(points, row * d)
            block.suspects[found] = row
            found += 1
        start += GROUP
    return found, start


@kernel
def reassign_few(
    points: Any,
    centers: GroupedCenters,
    scoring: TileScoring,
    movement: Movement,
    tile: Tile,
    scratch: Scratch,
    group_scratch: GroupScratch,
    block: BlockScratch,
    bounds: RowBounds,
    lower: IndexArray,
    sums: Sums,
) -> None:
    """Find the nearest center of each row by bounds, and bring bounds and sums up to date.

    Args:
        points: (n, d) S, C-contiguous.
        centers: The centers.
        scoring: The same centers for tiles.
        movement: How far the centers have moved.
        tile: The shape of a tile.
        scratch: Work arrays for tiles.
        group_scratch: More work arrays for tiles.
        block: Work arrays for single rows.
        bounds: The clusters and bounds of the rows.
        lower: (groups, n and at least 16 more) uint16, of which `bounds.lower` is a transposed
            view.
        sums: Sums of the rows by the clusters in `bounds`, in which rows that change their cluster
            are moved; or `kernels.NO_SUMS`.
    """
    n, size, start = len(points), len(scratch.indices), 0
    block.counts[0] = 0
    matrix.configure(scratch.matrix_config, tile)
    while start < n:
        found, start = _collect(points, start, movement, lower, bounds, block)
        block.counts[0] += found
        for first in range(0, found, size):
            count = min(size, found - first)
            # A tile that is not full is filled up with its last row.
            for place in range(size):
                scratch.indices[place] = block.suspects[first + min(place, count - 1)]
            load_listed(points, centers, scratch, tile)
            rank_tile(points, 0, 0, centers, scoring, movement, scratch, group_scratch, tile)
            for place in range(count):
                row, scale = scratch.indices[place], scratch.exact_scales[place]
                before = np.int64(bounds.nearest[row])
                after = resolve(
                    points, row, place, centers, movement, bounds, scratch, group_scratch, block
                )
                # If one score is the least beyond its error, `resolve` has computed no distance.
                best = scratch.ranked[0, place]
                if scratch.ranked[1, place] > best + scratch.margins[place]:
                    bounds.upper[row] = upper_of_score(best, 0, centers, block)
                else:
                    bounds.upper[row] = upper_bound(points, row, scale, after, centers, block)
                if after == before:
                    continue
                bounds.nearest[row] = after
                bounds.sizes[before] -= 1
                bounds.sizes[after] += 1
                if len(sums.high):
                    sum_vectors.move_row(
                        points, row, scale, before, after, centers.cosine, sums.grid, sums.high,
                        sums.low,
                    )  # fmt: skip
    # Each of these rows was scored against all groups.
    block.counts[1] = block.counts[0] * len(block.lengths)
    matrix.release(tile)
