"""The kernels: functions that Numba compiles, called by `backend`.

The kernel `assign` takes a tile of rows and loops over panels of centers. It computes the scores in
registers and keeps the least scores of each row. A row is ambiguous if its two least scores are
closer than their rounding error. The nearest center of an ambiguous row is found by exact distances
(docs/decisions/001). With `byte_centers`, the functions of `first_scores` do both steps instead.
`assign` then adds the rows of the tile to the sums of their clusters, while these rows are in the
cache. The kernel `square` adds up squares, and `measure` writes all distances. Kernels run without
the GIL and allocate no memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dkmeans.backends.native import matrix, sum_vectors, tile_vectors
from dkmeans.backends.native.ambiguous_rows import NO_CENTER, nearest_exactly, nearest_minimum
from dkmeans.backends.native.compilation import inlined, kernel
from dkmeans.backends.native.exact_distances import DistanceParts, from_total
from dkmeans.backends.native.first_scores import (
    ByteCenters,
    resolve_in_bytes,
    score_in_bytes,
)
from dkmeans.backends.native.sum_vectors import SQUARED_ROWS
from dkmeans.backends.native.tile_distances import write_distances
from dkmeans.backends.native.tile_vectors import Tile
from dkmeans.backends.native.tiles import (
    begin_ranking,
    cache_lines,
    load_tile,
    multiply,
    panel_width,
    prefetch_part,
    split,
)
from dkmeans.state import FloatArray, IndexArray


class PackedCenters(NamedTuple):
    """Centers in the layout that a kernel reads.

    T is the dtype of the scores, S the dtype of the rows. Here a panel has as many centers as
    `Tile.centers`, c, also with a matrix unit.

    Attributes:
        weights: (panels * d * c,) T. The negative shifted centers, panel by panel, and in each
            panel feature by feature. The number of panels is a multiple of `PROBED_PANELS`. Empty
            with `ByteCenters`.
        halves: (panels * c,) T. |c|^2 / 2 of the shifted centers, 0 for cosine. Very large for the
            centers that only fill up a panel; not infinity, which the tag in the last bits would
            turn into NaN (see `ranking.rank`).
        shift: (d,) S, or float64 for `measure`. Subtracted from every row before scoring.
        exact: (k, d) float64, or float32 if these are the centers and large. The centers that exact
            distances are measured to.
        error_factor: Factor in the error bound
            `error_factor * (largest_norm * |x| + largest_half) + error_floor + error_exact *
            (|x| + largest_norm)^2`. Two scores of a row x that differ by more than the bound are
            in the right order.
        error_floor: Term of the error bound for the rounding of the smallest numbers, and for
            cosine of the exact distances.
        error_exact: Factor in the error bound for the rounding of the exact distances.
        largest_norm: Largest |c| of the shifted centers.
        largest_half: Largest |c|^2 / 2.
        score_limit: Scores may overflow if `largest_norm * |x| + largest_half` is not below it.
        cosine: True if rows are scaled to length one.
        zero: (1, d) float64. A center at the origin: |x|^2 is computed as the distance to it.
        registers: int32, for a matrix unit. The negative shifted centers as bfloat16, register by
            register in the order of use. Empty without a matrix unit.
        biases: (panels * c, 16) T, for a matrix unit. Each of `halves`, once for each column of a
            register. Empty without a matrix unit.
    """

    weights: FloatArray
    halves: FloatArray
    shift: FloatArray
    exact: FloatArray
    error_factor: float
    error_floor: float
    error_exact: float
    largest_norm: float
    largest_half: float
    score_limit: float
    cosine: bool
    zero: FloatArray
    registers: IndexArray
    biases: FloatArray


class Scratch(NamedTuple):
    """Work arrays of a kernel, for tiles of t rows; T and S as in `PackedCenters`.

    Attributes:
        rows: (d * t,) T, aligned to a cache line. A tile of rows, feature by feature, with room for
            at least four features.
        indices: (t,) int64. Indices of these rows.
        exact_scales: (t,) float64. Scales of these rows; 1 unless the distance is cosine.
        scales: (t,) S. The same, rounded.
        margins: (t,) T. The error bound of each row.
        ranked: (6, t) T. Least scores of each row, as `ranking.rank` writes them; first scores in 8
            bits write only the two least.
        ranked_bits: (6, t) integers as wide as T. The same memory.
        panels: (3, t) integers as wide as T. Panels of the first three of `ranked`; first scores
            write the first, and with `Tile.second` the second.
        nearest: (t,) int64. Cluster index of each row.
        second: (t,) int64. Index of the second nearest center of each row.
        probe_scores: T. Scores of one row and `PROBED_PANELS` panels.
        scores: T, aligned to a cache line. Scores or distances of a tile and a few panels.
        distance_parts: For exact distances.
        pairs: int32, for a matrix unit, aligned to a cache line. A tile of rows as bfloat16, in
            pairs of features.
        matrix_config: (64,) uint8. Configuration of the matrix unit.
        ambiguous: (1,) int64. Number of ambiguous rows of the last call. Without first scores, the
            number includes the copies of the last row that fill the last tile.
        scored_again: (1,) int64. How often a row and a center were scored again, in the last call.
        num_rest: (1,) int64. Number of rows in `Sums.rest` of the last call.
    """

    rows: FloatArray
    indices: IndexArray
    exact_scales: FloatArray
    scales: FloatArray
    margins: FloatArray
    ranked: FloatArray
    ranked_bits: IndexArray
    panels: IndexArray
    nearest: IndexArray
    second: IndexArray
    probe_scores: FloatArray
    scores: FloatArray
    distance_parts: DistanceParts
    pairs: IndexArray
    matrix_config: IndexArray
    ambiguous: IndexArray
    scored_again: IndexArray
    num_rest: IndexArray


class Sums(NamedTuple):
    """Sums of at most `exact_grid.PIECE_ROWS` rows, which `assign` adds to.

    Attributes:
        grid: (d padded to a multiple of 8,) float64. Factors that make values on the grid integers.
        counts: (k,) int64. Numbers of rows; empty to compute no sums.
        high: (k, d padded) int64. Plane 0.
        low: (k, d padded) int64. Plane -1, for float64 rows.
        rest: (n, 2) int64. Rows that are not in the sums, or rounded to integers, and their
            clusters (see `sum_vectors.add_rows`).
    """

    grid: FloatArray
    counts: IndexArray
    high: IndexArray
    low: IndexArray
    rest: IndexArray


class Second(NamedTuple):
    """Second nearest centers of n rows, written by `assign`.

    Attributes:
        clusters: (n,) int64, the cluster indices; or empty.
        distances: (n,) float64.
    """

    clusters: IndexArray
    distances: FloatArray


_NO_PLANE: IndexArray = np.empty((0, 8), np.int64)
NO_SUMS = Sums(np.empty(0), np.empty(0, np.int64), _NO_PLANE, _NO_PLANE, np.empty((0, 2), np.int64))


# Two algorithms are interleaved in `_score`. The type of the tile selects one when the function is
# compiled, and the code of the other disappears.
#
# * With vectors, `tile_vectors.score_panel` computes the scores of a panel in registers and ranks
#   them there.
# * With a matrix unit, the rows are first split into bfloat16, once for all panels. For each panel
#   the unit starts with the biases, adds the products, and stores the scores to `scratch.scores`.
#   Vectors can read them only hundreds of cycles later. So panel p - 1 is ranked while the unit
#   computes panel p, and the last panel is ranked after the loop. `scratch.scores` has room for two
#   panels, used in turn: ranking panel p - 1 must come before panel p + 1 is stored.
#
# Both must rank every panel exactly once, as `first_scores.score_in_bytes` must.
@inlined
def _score(points: Any, next_start: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Rank the scores of each row of the tile, and compute the error bound of each row.

    Args:
        points: (n, d) rows.
        next_start: Index of the first row of the next tile.
        centers: The centers.
        scratch: Work arrays, with the tile in `rows`.
        tile: The shape of the tile.
    """
    d, size = points.shape[1], len(scratch.indices)
    panels = -(-len(centers.exact) // panel_width(tile))
    rows, ranked = scratch.rows, scratch.ranked
    split(d, scratch, tile)
    begin_ranking(d, centers, scratch.margins, scratch, tile)
    lines = cache_lines(points, size)
    for panel in range(panels):
        if len(tile.matrix_panels):
            multiply(d, panel, centers, scratch, tile)
            if panel:
                matrix.rank_scores(panel - 1, scratch.scores, ranked, scratch.panels, tile)
            matrix.store_scores(panel, scratch.scores, tile)
        else:
            tile_vectors.score_panel(
                rows, centers.weights, centers.halves, panel, d, ranked, scratch.panels, tile
            )
        prefetch_part(points, next_start, lines, panel, panels)
    if len(tile.matrix_panels):
        matrix.rank_scores(panels - 1, scratch.scores, ranked, scratch.panels, tile)


@inlined
def _resolve(points: Any, count: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Write the cluster index of each row of the tile, by scores or by exact distances."""
    ranked, width = scratch.ranked, panel_width(tile)
    ambiguous = 0
    for place in range(len(scratch.indices)):
        # `ranking.rank` has put the number of the center in its panel into the last bits.
        number = scratch.ranked_bits[0, place] & (width - 1)
        scratch.nearest[place] = scratch.panels[0, place] * width + number
        limit = ranked[0, place] + scratch.margins[place]
        # Every score but the least is at least [1] or at least [3] (see `ranking.rank`).
        ambiguous += not (ranked[1, place] > limit and ranked[3, place] > limit)
    # Most tiles have no ambiguous row: a second loop keeps the first one free of branches.
    if ambiguous:
        scratch.ambiguous[0] += ambiguous
        for place in range(count):
            limit = ranked[0, place] + scratch.margins[place]
            if not (ranked[1, place] > limit and ranked[3, place] > limit):
                scratch.nearest[place] = nearest_exactly(
                    points, place, limit, NO_CENTER, centers, scratch, tile
                )


@inlined
def _resolve_second(points: Any, count: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Write the index of the second nearest center of each row, whose nearest center is resolved.

    The two nearest centers have scores up to the limit: the second least score plus the margin. If
    the third least score is above the limit, they are the centers of the two least scores (see
    `ranking.rank`).
    """
    ranked, bits, panels, width = (
        scratch.ranked, scratch.ranked_bits, scratch.panels, panel_width(tile)
    )  # fmt: skip
    unresolved = 0
    for place in range(len(scratch.indices)):
        is_in_another_panel = ranked[1, place] < ranked[3, place]
        panel = panels[1, place] if is_in_another_panel else panels[0, place]
        number = bits[1, place] if is_in_another_panel else bits[3, place]
        one = panels[0, place] * width + (bits[0, place] & (width - 1))
        other = panel * width + (number & (width - 1))
        scratch.second[place] = other if one == scratch.nearest[place] else one
        second, third = _second_and_third(ranked, place)
        unresolved += not third > second + scratch.margins[place]
    # As in `_resolve`, the first loop has no branches.
    if unresolved:
        for place in range(count):
            second, third = _second_and_third(ranked, place)
            limit = second + scratch.margins[place]
            if not third > limit:
                scratch.second[place] = _second_exactly(
                    points, place, limit, centers, scratch, tile
                )


@inlined
def _second_and_third(ranked: Any, place: int) -> Any:
    """Return the second and the third least score of a row; the second may be in another panel."""
    in_another, in_this = ranked[1, place], ranked[3, place]
    is_in_another_panel = in_another < in_this
    others = min(ranked[2, place], in_this), min(in_another, ranked[4, place])
    second = in_another if is_in_another_panel else in_this
    return second, others[0] if is_in_another_panel else others[1]


@inlined
def _second_exactly(
    points: Any, place: int, limit: float, centers: Any, scratch: Any, tile: Any
) -> Any:
    """Return the index of the second nearest center of a row, found by exact distances.

    If no other center has a score up to the limit, only the centers of the three least panel minima
    are compared.
    """
    ranked, nearest = scratch.ranked, scratch.nearest[place]
    if min(ranked[3, place], ranked[5, place]) > limit:
        return nearest_minimum(points, place, nearest, centers, scratch, tile)
    return nearest_exactly(points, place, limit, nearest, centers, scratch, tile)


# --- Kernels ---


@kernel
def assign(
    points: Any,
    centers: PackedCenters,
    byte_centers: ByteCenters | tuple[()],
    tile: Tile,
    scratch: Scratch,
    in_bytes: Any,
    index: Any,
    distance: Any,
    second: Any,
    sums: Any,
) -> Any:
    """Find the nearest center of each row; write it, add the row to the cluster's sums, or both.

    Args:
        points: (n, d) S, C-contiguous.
        centers: The centers.
        byte_centers: The same as bytes, or empty. First scores are computed in 8 bits with them.
        tile: The shape of a tile.
        scratch: Work arrays.
        in_bytes: Work arrays for first scores in 8 bits, as `ByteScratch`; empty without
            `byte_centers`.
        index: (n,) int64 for the cluster indices, or empty.
        distance: (n,) float64 for the distances to the nearest centers, or empty. Needs `index`.
        second: A `Second` for the second nearest of at least two centers; needs `distance`. Empty
            without `Tile.second`.
        sums: The sums that grow, or empty ones.

    Returns:
        The number of rows in `sums.rest`.
    """
    n, size = len(points), len(scratch.indices)
    scratch.ambiguous[0] = scratch.scored_again[0] = scratch.num_rest[0] = 0
    # The configuration of a matrix unit belongs to the thread, so each call configures it.
    matrix.configure(scratch.matrix_config, tile)
    for start in range(0, n, size):
        load_tile(points, start, centers, scratch, tile)
        count = min(size, n - start)
        if len(byte_centers):
            score_in_bytes(points, start + size, centers, byte_centers, scratch, in_bytes, tile)
            resolve_in_bytes(points, count, centers, byte_centers, scratch, in_bytes, tile)
        else:
            _score(points, start + size, centers, scratch, tile)
            _resolve(points, count, centers, scratch, tile)
        if len(sums.counts):
            sum_vectors.add_rows(
                points, start, count, scratch.exact_scales, scratch.nearest, centers.cosine,
                sums.grid, sums.counts, sums.high, sums.low, sums.rest, scratch.num_rest,
            )  # fmt: skip
        # `partial_sums` needs no indices, and `nearest_index` no distances.
        if not len(index):
            continue
        for place in range(count):
            index[start + place] = scratch.nearest[place]
        if not len(distance):
            continue
        write_distances(points, start, count, centers, scratch.nearest, scratch, distance)
        if not len(second):
            continue
        if len(byte_centers):
            for place in range(count):
                scratch.second[place] = in_bytes.found[1, place]
        else:
            _resolve_second(points, count, centers, scratch, tile)
        write_distances(points, start, count, centers, scratch.second, scratch, second.distances)
        if len(second.clusters):
            for place in range(count):
                second.clusters[start + place] = scratch.second[place]
    matrix.release(tile)
    return scratch.num_rest[0]


@kernel
def square(points: Any, grid: Any, block: Any, sums: Any, is_left: Any) -> None:
    """Add up the squares of the rows whose values lie on a grid.

    Args:
        points: (n, d), C-contiguous.
        grid: (d padded to a multiple of 8,) float64 factors that make values integers.
        block: (products, d padded) float64. The sums of `SQUARED_ROWS` rows, which float64 holds.
        sums: (products, d padded) int64 zeros, for the sums of `exact_grid.Grid.digit_products`.
        is_left: (n,) uint8, set to 1 for rows that are not in the sums, else to 0.
    """
    n = len(points)
    for start in range(0, n, SQUARED_ROWS):
        count = min(SQUARED_ROWS, n - start)
        sum_vectors.find_left(points, start, count, grid, is_left)
        sum_vectors.add_squares(points, start, count, grid, is_left, block)
        for product in range(len(sums)):
            for column in range(len(grid)):
                sums[product, column] += np.int64(block[product, column])


@kernel
def measure(
    points: Any, centers: PackedCenters, tile: Tile, scratch: Scratch, distances: Any
) -> None:
    """Write the distance of each row to every center.

    Args:
        points: (n, d), C-contiguous.
        centers: The centers, packed in float64 and not shifted.
        tile: The shape of a tile of float64.
        scratch: Work arrays.
        distances: (n, k) float32 for the distances.
    """
    n, d = points.shape
    k, width, size = len(centers.exact), len(tile.centers), len(tile.lanes) * len(tile.vectors)
    for start in range(0, n, size):
        load_tile(points, start, centers, scratch, tile)
        for first in range(0, k, width):
            tile_vectors.measure(
                scratch.rows, centers.weights, first, d, centers.cosine, scratch.scores, tile
            )
            # Neither copies of the last row nor centers that fill up the panel are written.
            for place in range(min(size, n - start)):
                for center in range(min(width, k - first)):
                    value = from_total(scratch.scores[center * size + place], centers.cosine)
                    distances[start + place, first + center] = value
