"""First scores in 8 bits: how a tile is scored by them, and its rows resolved.

`kernels.assign` calls `score_in_bytes` and `resolve_in_bytes` where such scores save time (see
`packed_bytes`). Most rows are decided by them; the others are scored again in float32, against few
panels. `eight_bits` has the instructions, docs/decisions/033 the proof.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dkmeans.backends.native import eight_bits, matrix, vectors
from dkmeans.backends.native.ambiguous_rows import NO_CENTER, nearest_exactly
from dkmeans.backends.native.compilation import inlined
from dkmeans.backends.native.tiles import begin_ranking, panel_width, prefetch_part
from dkmeans.state import FloatArray, IndexArray

# The smallest float32 that has all its digits, more than what the squares of a row lose below that.
_SMALLEST_SQUARE = 2.0**-126


class ByteCenters(NamedTuple):
    """Centers rounded to bytes, for first scores in 8 bits (see `eight_bits`).

    Attributes:
        quads: int32. The bytes of the negative shifted centers, panel by panel, and in each panel
            quad by quad.
            For a matrix unit, register by register in the order of use.
        offsets: (panels * c,) int32. What takes `eight_bits.OFFSET` off the products of a center.
        step: The factor of all centers.
        largest_norm: An upper bound of |c|.
        largest_loss: An upper bound of the length of what a center loses by rounding.
        rounding: Relative error of the difference of two first scores, of their computation alone.
    """

    quads: IndexArray
    offsets: IndexArray
    step: np.float32
    largest_norm: float
    largest_loss: float
    rounding: float


class ByteScratch(NamedTuple):
    """Work arrays for first scores in 8 bits, for tiles of t rows.

    Attributes:
        quads: int32, aligned to a cache line. A tile of rows as bytes, quad by quad; for a matrix
            unit in whole groups.
        products: (2, 32, t) int32 for a matrix unit. Products of a tile and groups of panels.
        steps: (t,) float32. The factor of each row, later times that of the centers.
        losses: (t,) float32. The squared length of what each row loses by rounding.
        margins: (t,) float32. The error bound of the difference of two first scores of each row.
        minima: (panels, t) float32. The least first score of each panel.
        limits: (t,) float32. Panels whose least first score is above have no center that may be
            nearest; -infinity for a row whose nearest center is found.
        rows: (t, d) float32. Rows of a tile as they are scored, row by row.
        again: (2, t) float32. The two least scores of each row among those in float32.
        least: (2,) float32. The two least scores of the last panel that was scored again, with the
            numbers of their centers in the last bits.
        least_bits: (2,) int32. The same memory.
        mask: (1,) int64. Rows of a tile that a panel is scored again for.
    """

    quads: IndexArray
    products: IndexArray
    steps: FloatArray
    losses: FloatArray
    margins: FloatArray
    minima: FloatArray
    limits: FloatArray
    rows: FloatArray
    again: FloatArray
    least: FloatArray
    least_bits: IndexArray
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
    eight_bits.round_rows(scratch.rows, d, in_bytes.quads, in_bytes.steps, in_bytes.losses, tile)
    begin_ranking(d, centers, in_bytes.margins, scratch, tile)
    for place in range(size):
        in_bytes.steps[place] *= byte_centers.step
        norm = np.sqrt(in_bytes.margins[place])
        in_bytes.margins[place] = scratch.margins[place] + _first_error(
            norm, place, centers, byte_centers, in_bytes
        )
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
        prefetch_part(points, next_start, size, panel, panels)
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
    """Return what the error bound of two first scores has more than that of other scores."""
    score_size = norm * centers.largest_norm + centers.largest_half
    # Squares of the smallest numbers are rounded to zero.
    loss = np.sqrt(np.float64(in_bytes.losses[place]) + _SMALLEST_SQUARE)
    of_rounding = loss * byte_centers.largest_norm + (norm + loss) * byte_centers.largest_loss
    return 2.0 * of_rounding + byte_centers.rounding * score_size


# A tile whose rows have first scores is resolved in three steps. A row whose two least first scores
# differ by more than their error bound has its nearest center. The others have the panel of the
# least first score scored again in float32. That score excludes all panels whose first scores are
# larger by more than the errors of both, each of which is half of a bound for two scores. The
# panels that are left are scored again one after another, for all rows that need them, and the
# limits of the rows become less. Few rows are then ambiguous as they are without first scores.
@inlined
def resolve_in_bytes(
    points: Any, count: int, centers: Any, scratch: Any, in_bytes: Any, tile: Any
) -> None:
    """Write the cluster index of each row of the tile, by first scores or by better ones.

    Args:
        points: (n, d) rows.
        count: Number of rows of the tile, without those that fill it up.
        centers: The centers, as `kernels.PackedCenters`.
        scratch: Work arrays with the ranked scores.
        in_bytes: Work arrays for first scores.
        tile: The shape of the tile.
    """
    ranked, width = scratch.ranked, panel_width(tile)
    undecided = 0
    for place in range(len(scratch.indices)):
        number = scratch.ranked_bits[0, place] & (width - 1)
        scratch.nearest[place] = scratch.panels[0, place] * width + number
        in_bytes.limits[place] = -np.inf
        is_decided = ranked[1, place] > ranked[0, place] + in_bytes.margins[place]
        if place < count and not is_decided:
            undecided |= 1 << place
    if undecided:
        _score_undecided(points, undecided, centers, scratch, in_bytes, tile)
    while undecided:
        place = vectors.trailing_zeros(undecided)
        undecided &= undecided - 1
        limit = in_bytes.again[0, place] + scratch.margins[place]
        if not in_bytes.again[1, place] > limit:
            scratch.ambiguous[0] += 1
            # The search is not limited to two panels, but by first scores.
            ranked[2, place] = -np.inf
            scratch.nearest[place] = nearest_exactly(
                points, place, limit, NO_CENTER, centers, scratch, in_bytes, tile
            )


@inlined
def _score_undecided(
    points: Any, undecided: Any, centers: Any, scratch: Any, in_bytes: Any, tile: Any
) -> None:
    """Score the rows of a tile that are bits of a mask again, as far as they need it."""
    # Number -1 stands for each row's panel of the least first score.
    for number in range(-1, len(in_bytes.minima)):
        mask = undecided
        if number >= 0:
            eight_bits.find_rows(in_bytes.minima, number, in_bytes.limits, in_bytes.mask, tile)
            mask = in_bytes.mask[0]
        while mask:
            place = vectors.trailing_zeros(mask)
            mask &= mask - 1
            first = np.int64(scratch.panels[0, place])
            if number < 0:
                _copy_row(points, place, centers, scratch, in_bytes)
            elif number == first:
                continue
            panel = first if number < 0 else number
            _score_again(place, panel, centers, scratch, in_bytes, tile)


@inlined
def _copy_row(points: Any, place: Any, centers: Any, scratch: Any, in_bytes: Any) -> None:
    """Copy a row of the tile as it is scored, and forget the scores of the row before."""
    row, scale = scratch.indices[place], scratch.scales[place]
    for column in range(points.shape[1]):
        in_bytes.rows[place, column] = points[row, column] * scale - centers.shift[column]
    in_bytes.again[0, place] = in_bytes.again[1, place] = np.inf


@inlined
def _score_again(
    place: Any, panel: Any, centers: Any, scratch: Any, in_bytes: Any, tile: Any
) -> None:
    """Score a row and a panel in float32, and merge the scores into those of the row."""
    width = panel_width(tile)
    eight_bits.score_row(
        in_bytes.rows, place, centers.weights, centers.halves, panel, in_bytes.least, tile
    )
    least, second = in_bytes.least[0], in_bytes.least[1]
    # Scores that are NaN replace nothing.
    if least < in_bytes.again[0, place]:
        in_bytes.again[1, place] = min(in_bytes.again[0, place], second)
        in_bytes.again[0, place] = least
        scratch.nearest[place] = panel * width + (in_bytes.least_bits[0] & (width - 1))
    elif least < in_bytes.again[1, place]:
        in_bytes.again[1, place] = least
    reach = np.float32(0.5) * (scratch.margins[place] + in_bytes.margins[place])
    in_bytes.limits[place] = in_bytes.again[0, place] + reach
    scratch.scored_again[0] += 1
