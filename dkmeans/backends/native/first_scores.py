"""First scores: the scores of a tile in 8 bits, and the nearest centers of its rows by them.

The score of a row x and a center c is |c|^2 / 2 - x.c (for cosine -x.c): the nearest center has the
least score. `kernels.assign` calls `score_in_bytes`, and then `resolve_in_bytes`, where such scores
save time (see `packed_bytes`). First scores decide the nearest center of most rows. For the other
rows they exclude most centers, and the remaining centers are scored again in float32. `eight_bits`
has the instructions, docs/decisions/033 the proof.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dkmeans.backends.native import eight_bits, llvm_code, matrix
from dkmeans.backends.native.compilation import compiled, inlined
from dkmeans.backends.native.exact_distances import distance_to
from dkmeans.backends.native.tiles import begin_ranking, cache_lines, panel_width, prefetch_part
from dkmeans.state import FloatArray, IndexArray

# The smallest normal float32; the squares of a row lose less than this by underflow.
_SMALLEST_SQUARE = 2.0**-126


class ByteCenters(NamedTuple):
    """Centers rounded to bytes, for first scores in 8 bits (see `eight_bits`).

    Attributes:
        quads: int32. The bytes of the negative shifted centers, panel by panel, and in each panel
            quad by quad; for a matrix unit, register by register in the order of use.
        offsets: (panels * c,) int32. Initial values of the products of each center, which cancel
            `eight_bits.row_offset`. For vectors only.
        step: The factor of all centers.
        largest_norm: An upper bound of |c|.
        largest_lost: An upper bound of |c - g|, where g is the rounded center.
        rounding: An upper bound of the relative error of the difference of two first scores,
            without the error of rounding rows and centers to bytes.
        lines: (k, d padded to a multiple of `eight_bits.LINE`) float32. The negative shifted
            centers.
    """

    quads: IndexArray
    offsets: IndexArray
    step: np.float32
    largest_norm: float
    largest_lost: float
    rounding: float
    lines: FloatArray


class ByteScratch(NamedTuple):
    """Work arrays for first scores in 8 bits, for tiles of t rows.

    Attributes:
        quads: int32, aligned to a cache line. A tile of rows as bytes, quad by quad; for a matrix
            unit in whole groups.
        products: (2, 32, t) int32. Products of a tile and two groups of panels, used in turn. Empty
            without a matrix unit.
        steps: (t,) float32. The factor of each row, later times that of the centers.
        lost: (t,) float32. The squared length of what each row loses by rounding.
        margins: (t,) float32. The error bound of the difference of two first scores of each row.
        minima: (panels, 2, t) float32. The least and the second least first score of each panel,
            with the numbers of their centers in the last bits. The least is replaced by infinity
            for a row whose candidates in the panel have been scored.
        minima_bits: int32. The same memory.
        limits: (t,) float32. Centers with a larger first score are excluded. -infinity for rows
            without candidates: copies of the last row, and rows that first scores decide, unless
            `Tile.second` is set.
        lines: (t, d padded as `ByteCenters.lines`) float32. The undecided rows of the tile, scaled
            and shifted.
        score: (1,) float32. The last score of a single center.
        again: (3, t) float32. The least scores of each row among those in float32; the first is
            -infinity if first scores have decided the nearest center.
        found: (2, t) int64. The centers of the first two of `again`; after `_choose` the nearest
            center and, with `Tile.second`, the second nearest.
        mask: (1,) int64. Bit i is set if row i has candidates in the panel.
    """

    quads: IndexArray
    products: IndexArray
    steps: FloatArray
    lost: FloatArray
    margins: FloatArray
    minima: FloatArray
    minima_bits: IndexArray
    limits: FloatArray
    lines: FloatArray
    score: FloatArray
    again: FloatArray
    found: IndexArray
    mask: IndexArray


# With vectors, `eight_bits.score_panel` computes and ranks the scores of a panel in registers. A
# matrix unit stores products of bytes, which are ranked one panel later (see `kernels._score`).
@inlined
def score_in_bytes(
    points: Any, next_start: int, centers: Any, byte_centers: Any, scratch: Any, in_bytes: Any,
    tile: Any,
) -> None:  # fmt: skip
    """Rank the first scores of each row of the tile, and compute the error bounds of each row.

    Args:
        points: (n, d) rows.
        next_start: Index of the first row of the next tile.
        centers: The centers, as `kernels.PackedCenters`.
        byte_centers: The centers as bytes.
        scratch: Work arrays, with the tile in `rows`, as `kernels.Scratch`.
        in_bytes: Work arrays for first scores.
        tile: The shape of the tile.
    """
    d, size = points.shape[1], len(scratch.indices)
    # With a matrix unit, a panel here is `matrix.PANELS` panels of `Tile.centers`: 32 centers.
    panels = -(-len(centers.exact) // (len(tile.centers) * max(len(tile.matrix_panels), 1)))
    eight_bits.round_rows(scratch.rows, d, in_bytes.quads, in_bytes.steps, in_bytes.lost, tile)
    begin_ranking(d, centers, in_bytes.margins, scratch, tile)
    for place in range(size):
        in_bytes.steps[place] *= byte_centers.step
        # `begin_ranking` has written |x|^2 to this array, which gets the error bound below.
        norm = np.sqrt(in_bytes.margins[place])
        in_bytes.margins[place] = scratch.margins[place] + _first_error(
            norm, place, centers, byte_centers, in_bytes
        )
    lines = cache_lines(points, size)
    for panel in range(panels):
        if len(tile.matrix_panels):
            _multiply_bytes(d, panel, byte_centers, in_bytes, tile)
            if panel:
                _rank_products(panel - 1, centers, scratch, in_bytes, tile)
            matrix.store_scores(panel, in_bytes.products, tile)
        else:
            eight_bits.score_panel(
                in_bytes.quads, in_bytes.steps, byte_centers.quads, byte_centers.offsets,
                centers.halves, panel, -(-d // eight_bits.QUAD), scratch.ranked, scratch.panels,
                in_bytes.minima, tile,
            )  # fmt: skip
        prefetch_part(points, next_start, lines, panel, panels)
    if len(tile.matrix_panels):
        _rank_products(panels - 1, centers, scratch, in_bytes, tile)


@inlined
def _multiply_bytes(d: int, panel: int, byte_centers: Any, in_bytes: Any, tile: Any) -> None:
    """Compute the products of a tile and 32 centers in bytes, in the matrix unit's registers."""
    groups = -(-d // (eight_bits.QUAD * matrix.GROUP_QUADS))
    first = panel * matrix.REST_REGISTERS * groups
    matrix.clear(tile)
    matrix.multiply_rest(in_bytes.quads, 0, byte_centers.quads, first, groups, tile)


@inlined
def _rank_products(panel: int, centers: Any, scratch: Any, in_bytes: Any, tile: Any) -> None:
    """Rank the first scores of a tile and 32 centers, whose products are stored."""
    eight_bits.rank_products(
        panel, in_bytes.products, in_bytes.steps, centers.halves, scratch.ranked, scratch.panels,
        in_bytes.minima, tile,
    )  # fmt: skip


@inlined
def _first_error(norm: float, place: int, centers: Any, byte_centers: Any, in_bytes: Any) -> Any:
    """Return by how much the error bound of two first scores exceeds that of float32 scores."""
    score_size = norm * centers.largest_norm + centers.largest_half
    # Squares of the smallest numbers are rounded to zero.
    lost = np.sqrt(np.float64(in_bytes.lost[place]) + _SMALLEST_SQUARE)
    of_rounding = lost * byte_centers.largest_norm + (norm + lost) * byte_centers.largest_lost
    return 2.0 * of_rounding + byte_centers.rounding * score_size


# First scores decide a row if its two least first scores differ by more than their error bound. For
# other rows, first scores exclude centers: a center is not nearest if its first score exceeds the
# least first score by more than the bound. If second nearest centers are needed (`Tile.second`), a
# center is excluded only if its first score exceeds the second least one by more than the bound:
# every row then has candidates, but a decided nearest center is not scored again.
#
# Most candidates have the least first score of their panel. The number of such a center is known,
# and only this center is scored again, in float32. If a panel may have more candidates, all its
# centers are scored again. A first score and a float32 score are in the right order if they differ
# by more than half of the sum of both bounds, so float32 scores exclude further centers. About as
# many rows stay ambiguous as without first scores.
#
# The bound is infinite if scores may overflow or are NaN: such a row is not scored again, as its
# panels may have numbers of centers that do not exist. It gets exact distances to all centers.
@inlined
def resolve_in_bytes(
    points: Any, count: int, centers: Any, byte_centers: Any, scratch: Any, in_bytes: Any, tile: Any
) -> None:
    """Write the nearest center of each row of the tile.

    With `Tile.second`, `found` has the two nearest centers of every row.

    Args:
        points: (n, d) rows.
        count: Number of rows of the tile, without those that fill it up.
        centers: The centers, as `kernels.PackedCenters`.
        byte_centers: The centers as bytes.
        scratch: Work arrays with the ranked scores.
        in_bytes: Work arrays for first scores.
        tile: The shape of the tile.
    """
    ranked, width, undecided, scored = scratch.ranked, panel_width(tile), 0, 0
    for place in range(len(scratch.indices)):
        number = scratch.ranked_bits[0, place] & (width - 1)
        scratch.nearest[place] = scratch.panels[0, place] * width + number
        in_bytes.limits[place] = -np.inf
        margin = in_bytes.margins[place]
        # The negation also selects a row with a score or margin that is NaN.
        is_close = not ranked[1, place] > ranked[0, place] + margin
        if place < count and (is_close or len(tile.second)):
            undecided |= 1 << place
            _reset(place, in_bytes)
            if margin < np.inf:
                scored |= 1 << place
                in_bytes.limits[place] = ranked[len(tile.second), place] + margin
                _copy_row(points, place, centers, scratch, in_bytes, tile)
                # The best candidates first: their scores lower the row's limit.
                nearest = scratch.nearest[place]
                if is_close:
                    _score_again(place, nearest, centers, byte_centers, scratch, in_bytes, tile)
                else:  # no center is nearer, whatever its score
                    in_bytes.again[0, place], in_bytes.found[0, place] = -np.inf, nearest
                if len(tile.second):
                    second = _second_best(place, scratch, tile)
                    _score_again(place, second, centers, byte_centers, scratch, in_bytes, tile)
                    _leave_out(place, second // width, in_bytes)
                _leave_out(place, nearest // width, in_bytes)
    if scored:
        _score_candidates(scored, centers, byte_centers, scratch, in_bytes, tile)
    while undecided:
        place = llvm_code.trailing_zeros(undecided)
        undecided &= undecided - 1
        _choose(points, place, centers, scratch, in_bytes, tile)
        scratch.nearest[place] = in_bytes.found[0, place]


@inlined
def _reset(place: Any, in_bytes: Any) -> None:
    """Reset the limit and the least float32 scores of a row: no center is excluded."""
    in_bytes.limits[place] = np.inf
    in_bytes.again[0, place] = in_bytes.again[1, place] = in_bytes.again[2, place] = np.inf
    in_bytes.found[0, place] = in_bytes.found[1, place] = 0


@inlined
def _copy_row(
    points: Any, place: Any, centers: Any, scratch: Any, in_bytes: Any, tile: Any
) -> None:
    """Copy a row, scaled and shifted, to `lines`."""
    eight_bits.copy_row(
        points, scratch.indices[place], scratch.scales[place], centers.shift, in_bytes.lines, place,
        tile,
    )  # fmt: skip


@inlined
def _leave_out(place: Any, panel: Any, in_bytes: Any) -> None:
    """Leave out a panel if only its best center, which needs no further score, is a candidate."""
    if in_bytes.minima[panel, 1, place] > in_bytes.limits[place]:
        in_bytes.minima[panel, 0, place] = np.inf


@inlined
def _score_candidates(
    scored: Any, centers: Any, byte_centers: Any, scratch: Any, in_bytes: Any, tile: Any
) -> None:
    """Score in float32, panel by panel, the candidates of the rows whose bit in `scored` is set."""
    width, k = panel_width(tile), len(centers.exact)
    for panel in range(len(in_bytes.minima)):
        eight_bits.find_rows(in_bytes.minima, panel, in_bytes.limits, in_bytes.mask, tile)
        mask, first = in_bytes.mask[0] & scored, panel * width
        while mask:
            place = llvm_code.trailing_zeros(mask)
            mask &= mask - 1
            start = first + np.int64(in_bytes.minima_bits[panel, 0, place] & (width - 1))
            stop = start + 1
            if not in_bytes.minima[panel, 1, place] > in_bytes.limits[place]:
                start, stop = first, min(first + width, k)
            nearest = second = scratch.nearest[place]
            if len(tile.second):
                second = _second_best(place, scratch, tile)
            for center in range(start, stop):
                if center not in (nearest, second):
                    _score_again(place, center, centers, byte_centers, scratch, in_bytes, tile)


@inlined
def _second_best(place: Any, scratch: Any, tile: Any) -> Any:
    """Return the center with the second least first score of a row."""
    width = panel_width(tile)
    number = scratch.ranked_bits[1, place] & (width - 1)
    return np.int64(scratch.panels[1, place] * width + number)


@inlined
def _score_again(
    place: Any, center: Any, centers: Any, byte_centers: Any, scratch: Any, in_bytes: Any, tile: Any
) -> None:
    """Score a row and a center in float32, and merge the score into the least ones of the row."""
    eight_bits.score_center(
        in_bytes.lines, place, byte_centers.lines, center, centers.halves, in_bytes.score, tile
    )
    _rank_again(place, center, in_bytes)
    scratch.scored_again[0] += 1
    reach = np.float32(0.5) * (scratch.margins[place] + in_bytes.margins[place])
    limit, old = in_bytes.again[len(tile.second), place] + reach, in_bytes.limits[place]
    in_bytes.limits[place] = limit if limit < old else old  # also if `limit` is NaN


@inlined
def _rank_again(place: Any, center: Any, in_bytes: Any) -> None:
    """Merge the score of a center into the least scores of a row."""
    again, found, score = in_bytes.again, in_bytes.found, in_bytes.score[0]
    least, second, third = again[0, place], again[1, place], again[2, place]
    nearest, next_nearest = found[0, place], found[1, place]
    # Which case holds is random, and a wrongly predicted branch takes longer than all selections.
    # Comparisons are false for NaN, which replaces nothing.
    is_least, is_second, is_third = score < least, score < second, score < third
    again[0, place] = score if is_least else least
    again[1, place] = least if is_least else (score if is_second else second)
    again[2, place] = second if is_second else (score if is_third else third)
    found[0, place] = center if is_least else nearest
    found[1, place] = nearest if is_least else (center if is_second else next_nearest)


@inlined
def _choose(points: Any, place: Any, centers: Any, scratch: Any, in_bytes: Any, tile: Any) -> None:
    """Make `found` final for a row: float32 scores decide it, or exact distances replace it."""
    again, margin = in_bytes.again, scratch.margins[place]
    is_clear = again[1, place] > again[0, place] + margin
    if len(tile.second):
        is_clear = is_clear and again[2, place] > again[1, place] + margin
    if not is_clear:
        scratch.ambiguous[0] += 1
        _find_exactly(points, place, centers, scratch, in_bytes, tile)


@compiled
def _find_exactly(
    points: Any, place: Any, centers: Any, scratch: Any, in_bytes: Any, tile: Any
) -> None:
    """Write the two nearest centers of a row to `found`, by the exact distances to candidates."""
    width, k, limit = panel_width(tile), len(centers.exact), in_bytes.limits[place]
    row, scale = scratch.indices[place], scratch.exact_scales[place]
    # `_leave_out` may have set the least scores of these two panels to infinity.
    best = second_best = scratch.nearest[place] // width
    if len(tile.second):
        second_best = _second_best(place, scratch, tile) // width
    # A row that is not finite has no distance below infinity and gets center 0 twice.
    nearest, second, least, second_least = 0, 0, np.inf, np.inf
    for panel in range(len(in_bytes.minima)):
        if in_bytes.minima[panel, 0, place] > limit and panel not in (best, second_best):
            continue
        for center in range(panel * width, min(panel * width + width, k)):
            distance = distance_to(points, row, scale, centers, center, scratch.distance_parts)
            # Centers come in ascending order and < is strict: equal distances keep their order.
            if distance < least:
                second, second_least = nearest, least
                nearest, least = center, distance
            elif distance < second_least:
                second, second_least = center, distance
    in_bytes.found[0, place], in_bytes.found[1, place] = nearest, second
