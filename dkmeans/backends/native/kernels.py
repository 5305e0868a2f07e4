"""The kernels: functions that Numba compiles, called by `backend`.

The kernel `assign` takes a tile of rows and loops over panels of centers. It computes the scores in
registers and keeps the least scores of each row. A row is ambiguous if its two least scores are
closer than their rounding error. The nearest center of an ambiguous row is found by exact distances
(docs/decisions/001). `assign` then adds the rows of the tile to the sums of their clusters, while
these rows are in the cache. The kernel `square` adds up squares, and `measure` writes all
distances. Kernels run without the GIL and allocate no memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import njit

from dkmeans.backends.native import eight_bits, matrix, sum_vectors, vectors
from dkmeans.backends.native.sum_vectors import SQUARED_ROWS
from dkmeans.backends.native.vectors import CACHE_LINE_BYTES, PROBED_PANELS, Tile
from dkmeans.distance import SMALLEST_SQUARED_NORM
from dkmeans.state import FloatArray, IndexArray


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


class PackedCenters(NamedTuple):
    """Centers in the layout that a kernel reads.

    T is the dtype of the scores, S the dtype of the rows. Here a panel has as many centers as
    `Tile.centers`, c, also with a matrix unit.

    Attributes:
        weights: (panels * d * c,) T. The negative shifted centers, panel by panel, and in each
            panel feature by feature. The number of panels is a multiple of `PROBED_PANELS`.
        halves: (panels * c,) T. |c|^2 / 2 of the shifted centers, 0 for cosine. Very large for the
            centers that only fill up a panel; not infinity, which the tag in the last bits would
            turn into NaN (see `vectors.rank`).
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
        in_bytes: The centers as bytes; empty if the first scores are not computed in 8 bits.
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
    in_bytes: ByteCenters


class ByteScratch(NamedTuple):
    """Work arrays for first scores in 8 bits, for tiles of t rows; empty without such scores.

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


class Scratch(NamedTuple):
    """Work arrays of a kernel, for tiles of t rows; T and S as in `PackedCenters`.

    Attributes:
        rows: (d * t,) T, aligned to a cache line. A tile of rows, feature by feature, with room for
            at least four features.
        indices: (t,) int64. Indices of these rows.
        exact_scales: (t,) float64. Scales of these rows; 1 unless the distance is cosine.
        scales: (t,) S. The same, rounded.
        margins: (t,) T. The error bound of each row.
        ranked: (6, t) T. Least scores of each row, as `vectors.rank` writes them.
        ranked_bits: (6, t) integers as wide as T. The same memory.
        panels: (3, t) integers as wide as T. Panels of the first three of `ranked`.
        nearest: (t,) int64. Cluster index of each row.
        probe_scores: T. Scores of one row and `PROBED_PANELS` panels.
        scores: T, aligned to a cache line. Scores or distances of a tile and a few panels.
        octet_sums: (8,) float64. Parallel sums of one distance.
        spans: (64, 3) int64. Spans of columns that are still to be added up: start, stop, depth.
        span_sums: (64,) float64. Finished sums of spans.
        span_depths: (64,) int64. Depths of these spans.
        pairs: int32, for a matrix unit, aligned to a cache line. A tile of rows as bfloat16, in
            pairs of features.
        matrix_config: (64,) uint8. Configuration of the matrix unit.
        ambiguous: (1,) int64. Number of ambiguous rows of the last call, including the copies
            of the last row that fill its tile.
        scored_again: (1,) int64. How often a row and a panel were scored again, in the last call.
        num_rest: (1,) int64. Number of rows in `Sums.rest` of the last call.
        in_bytes: Work arrays for first scores in 8 bits.
    """

    rows: FloatArray
    indices: IndexArray
    exact_scales: FloatArray
    scales: FloatArray
    margins: FloatArray
    ranked: FloatArray
    ranked_bits: FloatArray
    panels: FloatArray
    nearest: IndexArray
    probe_scores: FloatArray
    scores: FloatArray
    octet_sums: FloatArray
    spans: IndexArray
    span_sums: FloatArray
    span_depths: IndexArray
    pairs: IndexArray
    matrix_config: IndexArray
    ambiguous: IndexArray
    scored_again: IndexArray
    num_rest: IndexArray
    in_bytes: ByteScratch


class Sums(NamedTuple):
    """Sums of at most `grid.PIECE_ROWS` rows, which `assign` adds to.

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
    """What `assign` finds out about the second nearest centers of n rows.

    Attributes:
        clusters: (n,) int64, the cluster indices; or empty.
        distances: (n,) float64.
    """

    clusters: IndexArray
    distances: FloatArray


_NO_PLANE: IndexArray = np.empty((0, 8), np.int64)
NO_SECOND = Second(np.empty(0, np.int64), np.empty(0))
NO_SUMS = Sums(np.empty(0), np.empty(0, np.int64), _NO_PLANE, _NO_PLANE, np.empty((0, 2), np.int64))

# NumPy adds up at most this many elements in eight parallel sums; it halves longer arrays.
_PAIRWISE_BLOCK = 128
# The smallest float32 that has all its digits, more than what the squares of a row lose below that.
_SMALLEST_SQUARE = 2.0**-126
# Side of the squares for rows with fewer columns than a vector has lanes, as the length of a tuple
# (see `Tile`).
_SMALL_SIDE = (None,) * 4

# Hash of the files of intrinsics, as a test computes it. Numba's cache on disk is valid until this
# file changes; the hash makes a change of the intrinsics a change of this file.
# SMALLEST_SQUARED_NORM is compiled in too, but it is not in the hash: a change of this constant
# needs a change of this file.
INTRINSICS = "4f687498578b"

_F = TypeVar("_F", bound=Callable[..., Any])

# `_nrt` is Numba's runtime. It is off because counting references to arrays takes longer than
# most calls.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "_nrt": False,
    "no_cfunc_wrapper": True,
}
compiled: Callable[[_F], _F] = njit(no_cpython_wrapper=True, **_OPTIONS)
inlined: Callable[[_F], _F] = njit(inline="always", **_OPTIONS)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, and cache the machine code on disk.

    The function must not be recursive, and must not call a recursive function: Numba crashes when
    it loads such code from the cache.
    """
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # there is no folder to cache it in
        return njit(**_OPTIONS)(function)


# --- Exact distances ---


@inlined
def _sum_block(
    points: Any,
    row: int,
    scale: float,
    targets: Any,
    target: int,
    cosine: bool,
    start: int,
    stop: int,
    octet_sums: Any,
) -> Any:
    """Add up the terms of at most one block of columns, in NumPy's order."""
    total, octets = 0.0, (stop - start) // 8
    if octets:
        vectors.sum_octets(points, row, scale, targets, target, cosine, start, octets, octet_sums)
        # The order of these additions is NumPy's too.
        total = ((octet_sums[0] + octet_sums[1]) + (octet_sums[2] + octet_sums[3])) + (
            (octet_sums[4] + octet_sums[5]) + (octet_sums[6] + octet_sums[7])
        )
    for j in range(start + 8 * octets, stop):
        x = np.float64(points[row, j])
        total += (x * scale) * targets[target, j] if cosine else (x - targets[target, j]) ** 2
    return total


@compiled
def _pairwise_sum(
    points: Any, row: int, scale: float, targets: Any, target: Any, cosine: bool, scratch: Any
) -> Any:
    """Add up the terms of a distance in the order of NumPy's sum of a contiguous row.

    NumPy halves a span of columns that is longer than a block, and adds up the sums of the halves.
    The recursion is a loop here, as a kernel must not be recursive. `spans` is the stack of spans
    that are still to be added up. `span_sums` is the stack of sums of left halves, each waiting for
    the sum of its right half. Spans are taken from left to right. So a new sum belongs to the sum
    on top of the stack exactly if the two have the same depth in the tree.
    """
    octet_sums, spans, sums = scratch.octet_sums, scratch.spans, scratch.span_sums
    spans[0, 0], spans[0, 1], spans[0, 2] = 0, points.shape[1], 0
    pending, waiting = 1, 0
    while pending:
        pending -= 1
        start, stop, depth = spans[pending, 0], spans[pending, 1], spans[pending, 2]
        if stop - start > _PAIRWISE_BLOCK:
            middle = start + (stop - start) // 2 // 8 * 8
            # The right half first: the left half is then on top of the stack.
            spans[pending, 0], spans[pending, 1], spans[pending, 2] = middle, stop, depth + 1
            pending += 1
            spans[pending, 0], spans[pending, 1], spans[pending, 2] = start, middle, depth + 1
            pending += 1
            continue
        total = _sum_block(points, row, scale, targets, target, cosine, start, stop, octet_sums)
        while waiting and scratch.span_depths[waiting - 1] == depth:
            waiting -= 1
            total, depth = sums[waiting] + total, depth - 1
        sums[waiting], scratch.span_depths[waiting] = total, depth
        waiting += 1
    return sums[0]


@inlined
def distance_to(
    points: Any, row: int, scale: float, centers: Any, center: Any, scratch: Any
) -> Any:
    """Return the exact distance of a row and a center, with the bits of the NumPy backend."""
    cosine, d = centers.cosine, points.shape[1]
    if d <= _PAIRWISE_BLOCK:  # one block: the same bits in half the time
        total = _sum_block(
            points, row, scale, centers.exact, center, cosine, 0, d, scratch.octet_sums
        )
    else:
        total = _pairwise_sum(points, row, scale, centers.exact, center, cosine, scratch)
    if cosine:
        total = 1.0 - total
        total = 0.0 if total < 0.0 else 2.0 if total > 2.0 else total
    return total


@inlined
def row_scale(points: Any, row: int, centers: Any, scratch: Any) -> Any:
    """Return the factor of a row: 1 / |x| as `inverse_norms` computes it for cosine, else 1."""
    if not centers.cosine:
        return 1.0
    # The squared distance to zero is |x|^2, added up in NumPy's order.
    square = _pairwise_sum(points, row, 1.0, centers.zero, np.int64(0), False, scratch)
    # The square overflows: the row has no direction that can be computed.
    if square == np.inf:
        return np.nan
    return 1.0 / np.sqrt(SMALLEST_SQUARED_NORM if square < SMALLEST_SQUARED_NORM else square)


# --- Tiles ---


@inlined
def load_tile(points: Any, start: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Copy the rows from `start` on to the tile, scaled and shifted: `rows[feature][place]`.

    The last row fills the places after the end of the data.
    """
    (n, d), side, size = points.shape, len(tile.lanes), len(scratch.indices)
    rows, indices, scales, shift = scratch.rows, scratch.indices, scratch.scales, centers.shift
    for place in range(size):
        indices[place] = min(start + place, n - 1)
    if centers.cosine:
        for place in range(size):
            scratch.exact_scales[place] = row_scale(points, indices[place], centers, scratch)
            scales[place] = scratch.exact_scales[place]
    # Four cases: squares as wide as a vector; squares of 4 for rows with fewer columns; and rows
    # narrower than every square, loaded with a mask, in squares of 2 or of 4.
    if d >= side:
        for place in range(0, size, side):
            for column in range(0, d, side):
                # The last square may overlap the one before: it writes the same values again, and
                # the last columns need no code of their own.
                first = min(column, d - side)
                vectors.transpose_square(
                    points, indices, place, first, scales, shift, rows, size, tile.lanes
                )
    elif d >= len(_SMALL_SIDE):
        for place in range(0, size, len(_SMALL_SIDE)):
            for column in range(0, d, len(_SMALL_SIDE)):
                first = min(column, d - len(_SMALL_SIDE))
                vectors.transpose_square(
                    points, indices, place, first, scales, shift, rows, size, _SMALL_SIDE
                )
    elif side < len(_SMALL_SIDE):
        for place in range(0, size, side):
            vectors.transpose_narrow(points, indices, place, scales, shift, rows, size, tile.lanes)
    else:
        for place in range(0, size, len(_SMALL_SIDE)):
            vectors.transpose_narrow(points, indices, place, scales, shift, rows, size, _SMALL_SIDE)


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


# Three algorithms are interleaved in `_score`. The type of the tile selects one when the function
# is compiled, and the code of the others disappears.
#
# * With vectors, `vectors.score_panel` computes the scores of a panel in registers and ranks them
#   there.
# * With a matrix unit, the rows are first split into bfloat16, once for all panels. For each panel
#   the unit starts with the biases, adds the products, and stores the scores to `scratch.scores`.
#   Vectors can read them only hundreds of cycles later. So panel p - 1 is ranked while the unit
#   computes panel p, and the last panel is ranked after the loop. `scratch.scores` has room for two
#   panels, used in turn: ranking panel p - 1 must come before panel p + 1 is stored.
# * With first scores in 8 bits, the rows are first rounded to bytes. `eight_bits.score_panel` then
#   does what `vectors.score_panel` does, and keeps the least score of each panel, by which
#   `_resolve_again` finds the panels that must be scored again. A matrix unit works as above, with
#   products of bytes.
#
# All must rank every panel exactly once, and `ranked` must be infinite before the first panel.
# `margins` holds |x|^2 of each row until it is replaced by the error bound. The bound is infinite
# where scores may overflow or are NaN: such a row is always ambiguous.
#
# Between the panels the loop prefetches the rows of the next tile, an equal part in each panel, so
# that memory is read while the scores are computed.
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
    # With a matrix unit, a panel here is `matrix.PANELS` panels of `Tile.centers`: 32 centers.
    panels = -(-len(centers.exact) // (len(tile.centers) * max(len(tile.matrix_panels), 1)))
    rows, ranked, margins = scratch.rows, scratch.ranked, scratch.margins
    if len(tile.in_bytes):
        _round(d, centers, scratch, tile)
    else:
        split(d, scratch, tile)
    vectors.squared_norms(rows, d, margins, tile)
    for place in range(size):
        norm = np.sqrt(margins[place])
        score_size = norm * centers.largest_norm + centers.largest_half
        distance_size = (norm + centers.largest_norm) ** 2
        # The comparison is false for NaN, which counts as too large.
        is_safe = score_size < centers.score_limit
        error = centers.error_factor * score_size + centers.error_floor
        margins[place] = error + centers.error_exact * distance_size if is_safe else np.inf
        if len(tile.in_bytes):
            scratch.in_bytes.margins[place] = margins[place] + _first_error(
                norm, score_size, place, centers.in_bytes, scratch.in_bytes
            )
        ranked[0, place] = ranked[1, place] = ranked[2, place] = ranked[3, place] = np.inf
        ranked[4, place] = ranked[5, place] = np.inf
        # Scores that are NaN replace nothing: their rows keep these panels.
        scratch.panels[0, place] = scratch.panels[1, place] = 0
    # The rows of a tile are contiguous in `points`: the next tile is one range of cache lines.
    line_elements = CACHE_LINE_BYTES // points.itemsize
    lines = size * d // line_elements
    for panel in range(panels):
        if len(tile.matrix_panels) and len(tile.in_bytes):
            _multiply_bytes(d, panel, centers, scratch, tile)
            if panel:
                _rank_products(panel - 1, centers, scratch, tile)
            matrix.store_scores(panel, scratch.in_bytes.products, tile)
        elif len(tile.matrix_panels):
            multiply(d, panel, centers, scratch, tile)
            if panel:
                matrix.rank_scores(panel - 1, scratch.scores, ranked, scratch.panels, tile)
            matrix.store_scores(panel, scratch.scores, tile)
        elif len(tile.in_bytes):
            eight_bits.score_panel(
                scratch.in_bytes.quads, scratch.in_bytes.steps, centers.in_bytes.quads,
                centers.in_bytes.offsets, centers.halves, panel, -(-d // eight_bits.QUAD), ranked,
                scratch.panels, scratch.in_bytes.minima, tile,
            )  # fmt: skip
        else:
            vectors.score_panel(
                rows, centers.weights, centers.halves, panel, d, ranked, scratch.panels, tile
            )
        for line in range(panel * lines // panels, (panel + 1) * lines // panels):
            vectors.prefetch(points, next_start * d + line * line_elements)
    if len(tile.matrix_panels) and len(tile.in_bytes):
        _rank_products(panels - 1, centers, scratch, tile)
    elif len(tile.matrix_panels):
        matrix.rank_scores(panels - 1, scratch.scores, ranked, scratch.panels, tile)


@inlined
def _multiply_bytes(d: int, panel: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Compute the products of a tile and 32 centers in bytes, in the matrix unit's registers."""
    groups = -(-d // (eight_bits.QUAD * matrix.GROUP_QUADS))
    first = panel * matrix.REST_REGISTERS * groups
    matrix.clear(tile)
    matrix.multiply_rest(scratch.in_bytes.quads, 0, centers.in_bytes.quads, first, groups, tile)


@inlined
def _rank_products(panel: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Rank the first scores of a tile and 32 centers, whose products are stored."""
    eight_bits.rank_products(
        panel, scratch.in_bytes.products, scratch.in_bytes.steps, centers.halves, scratch.ranked,
        scratch.panels, scratch.in_bytes.minima, tile,
    )  # fmt: skip


@inlined
def _round(d: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Round a tile of rows to bytes."""
    in_bytes = scratch.in_bytes
    eight_bits.round_rows(scratch.rows, d, in_bytes.quads, in_bytes.steps, in_bytes.losses, tile)
    for place in range(len(scratch.indices)):
        in_bytes.steps[place] *= centers.in_bytes.step


@inlined
def _first_error(norm: float, score_size: float, place: int, centers: Any, scratch: Any) -> Any:
    """Return what the error bound of two first scores has more than that of other scores."""
    # Squares of the smallest numbers are rounded to zero.
    loss = np.sqrt(np.float64(scratch.losses[place]) + _SMALLEST_SQUARE)
    of_rounding = loss * centers.largest_norm + (norm + loss) * centers.largest_loss
    return 2.0 * of_rounding + centers.rounding * score_size


@inlined
def _panel_width(tile: Any) -> Any:
    """Return the number of centers that are ranked at a time."""
    panels = 1 if len(tile.in_bytes) else max(len(tile.matrix_panels), 1)
    return len(tile.centers) * panels


@inlined
def _resolve(points: Any, count: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Write the cluster index of each row of the tile, by scores or by exact distances."""
    ranked, width = scratch.ranked, _panel_width(tile)
    ambiguous = 0
    for place in range(len(scratch.indices)):
        # `vectors.rank` has put the number of the center in its panel into the last bits.
        number = scratch.ranked_bits[0, place] & (width - 1)
        scratch.nearest[place] = scratch.panels[0, place] * width + number
        limit = ranked[0, place] + scratch.margins[place]
        # [2] >= [1], so no score but the least is below both [1] and [3] (see `vectors.rank`).
        ambiguous += not (ranked[1, place] > limit and ranked[3, place] > limit)
    # Most tiles have no ambiguous row: a second loop keeps the first one free of branches.
    if ambiguous:
        scratch.ambiguous[0] += ambiguous
        for place in range(count):
            limit = ranked[0, place] + scratch.margins[place]
            if not (ranked[1, place] > limit and ranked[3, place] > limit):
                scratch.nearest[place] = _nearest_exactly(
                    points, place, limit, -1, centers, scratch, tile
                )


# A tile whose rows have first scores is resolved in three steps. A row whose two least first scores
# differ by more than their error bound has its nearest center. The others have the panel of the
# least first score scored again in float32. That score excludes all panels whose first scores are
# larger by more than the errors of both, each of which is half of a bound for two scores. The
# panels that are left are scored again one after another, for all rows that need them, and the
# limits of the rows become less. Few rows are then ambiguous as they are without first scores.
@inlined
def _resolve_again(points: Any, count: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Write the cluster index of each row of the tile, by first scores or by better ones."""
    ranked, width, in_bytes = scratch.ranked, _panel_width(tile), scratch.in_bytes
    undecided = 0
    for place in range(len(scratch.indices)):
        number = scratch.ranked_bits[0, place] & (width - 1)
        scratch.nearest[place] = scratch.panels[0, place] * width + number
        in_bytes.limits[place] = -np.inf
        is_decided = ranked[1, place] > ranked[0, place] + in_bytes.margins[place]
        if place < count and not is_decided:
            undecided |= 1 << place
    if undecided:
        _score_undecided(points, undecided, centers, scratch, tile)
    while undecided:
        place = vectors.trailing_zeros(undecided)
        undecided &= undecided - 1
        limit = in_bytes.again[0, place] + scratch.margins[place]
        if not in_bytes.again[1, place] > limit:
            scratch.ambiguous[0] += 1
            # The search is not limited to two panels, but by first scores.
            ranked[2, place] = -np.inf
            scratch.nearest[place] = _nearest_exactly(
                points, place, limit, -1, centers, scratch, tile
            )


@inlined
def _score_undecided(points: Any, undecided: Any, centers: Any, scratch: Any, tile: Any) -> None:
    """Score the rows of a tile that are bits of a mask again, as far as they need it."""
    in_bytes, first_panels = scratch.in_bytes, scratch.panels
    # Number -1 stands for each row's panel of the least first score.
    for number in range(-1, len(in_bytes.minima)):
        mask = undecided
        if number >= 0:
            eight_bits.find_rows(in_bytes.minima, number, in_bytes.limits, in_bytes.mask, tile)
            mask = in_bytes.mask[0]
        while mask:
            place = vectors.trailing_zeros(mask)
            mask &= mask - 1
            first = np.int64(first_panels[0, place])
            if number < 0:
                _copy_row(points, place, centers, scratch)
            elif number == first:
                continue
            _score_again(place, first if number < 0 else number, centers, scratch, tile)


@inlined
def _copy_row(points: Any, place: Any, centers: Any, scratch: Any) -> None:
    """Copy a row of the tile as it is scored, and forget the scores of the row before."""
    row, scale, in_bytes = scratch.indices[place], scratch.scales[place], scratch.in_bytes
    for column in range(points.shape[1]):
        in_bytes.rows[place, column] = points[row, column] * scale - centers.shift[column]
    in_bytes.again[0, place] = in_bytes.again[1, place] = np.inf


@inlined
def _score_again(place: Any, panel: Any, centers: Any, scratch: Any, tile: Any) -> None:
    """Score a row and a panel in float32, and merge the scores into those of the row."""
    in_bytes, width = scratch.in_bytes, _panel_width(tile)
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


@inlined
def _resolve_second(points: Any, place: int, centers: Any, scratch: Any, tile: Any) -> Any:
    """Return the index of the second nearest center of a row whose nearest center is resolved.

    The nearest two are among the centers whose scores are not above the limit, which is counted
    from the second least score. If the third least score is above it, they are the centers of the
    two least scores (see `vectors.rank`). If not, they are mostly among three centers, each of
    which has the least score of its panel.
    """
    ranked, width, nearest = scratch.ranked, _panel_width(tile), scratch.nearest[place]
    is_in_another_panel = ranked[1, place] < ranked[3, place]
    if is_in_another_panel:
        second, panel, which = ranked[1, place], scratch.panels[1, place], 1
        third = min(ranked[2, place], ranked[3, place])
    else:
        second, panel, which = ranked[3, place], scratch.panels[0, place], 3
        third = min(ranked[1, place], ranked[4, place])
    limit = second + scratch.margins[place]
    if third > limit:
        first = scratch.panels[0, place] * width + (scratch.ranked_bits[0, place] & (width - 1))
        if first != nearest:
            return np.int64(first)
        return np.int64(panel * width + (scratch.ranked_bits[which, place] & (width - 1)))
    if min(ranked[3, place], ranked[5, place]) > limit:
        return _nearest_minimum(points, place, nearest, centers, scratch, tile)
    return _nearest_exactly(points, place, limit, nearest, centers, scratch, tile)


@compiled
def _nearest_minimum(
    points: Any, place: int, without: int, centers: Any, scratch: Any, tile: Any
) -> Any:
    """Return the nearest center but `without` among those of the three least panel minima."""
    row, scale, width = scratch.indices[place], scratch.exact_scales[place], _panel_width(tile)
    cluster, least = np.int64(0), np.inf
    for number in range(3):
        center = np.int64(
            scratch.panels[number, place] * width
            + (scratch.ranked_bits[number, place] & (width - 1))
        )
        if center != without:
            distance = distance_to(points, row, scale, centers, center, scratch)
            if distance < least or (distance == least and center < cluster):
                cluster, least = center, distance
    return cluster


@compiled
def _nearest_exactly(
    points: Any, place: int, limit: float, without: int, centers: Any, scratch: Any, tile: Any
) -> Any:
    """Return the index of the row's nearest center but `without`, found by exact distances.

    Only the distances to centers whose scores are not above `limit` are computed. These centers are
    in two panels, unless the least score of a third panel is not above `limit` either.
    """
    k, width, step = len(centers.exact), _panel_width(tile), PROBED_PANELS * len(tile.centers)
    row, scale = scratch.indices[place], scratch.exact_scales[place]
    first, last, stride = 0, k, step
    if scratch.ranked[2, place] > limit:
        # At most two values of `start`: the groups of `step` centers that contain the two panels.
        one = scratch.panels[0, place] * width // step * step
        other = scratch.panels[1, place] * width // step * step
        if scratch.ranked[1, place] > limit:  # then the centers are in the first panel
            other = one
        first, last = min(one, other), max(one, other) + 1
        stride = max(last - 1 - first, 1)
    cluster, least = 0, np.inf
    for start in range(first, last, stride):
        if len(tile.in_bytes) and _is_excluded(place, start // width, scratch):
            continue
        vectors.probe(
            scratch.rows, place, len(scratch.indices), centers.weights, centers.halves, start,
            points.shape[1], scratch.probe_scores, tile,
        )  # fmt: skip
        for center in range(start, min(start + step, k)):
            # The negation selects the center if its score or the limit is NaN.
            if center != without and not scratch.probe_scores[center - start] > limit:
                distance = distance_to(points, row, scale, centers, center, scratch)
                # Centers come in ascending order and < is strict: equal distances keep the lowest
                # index. A row that is not finite has no distance below infinity and gets center 0.
                if distance < least:
                    cluster, least = center, distance
    return cluster


@inlined
def _is_excluded(place: Any, panel: int, scratch: Any) -> bool:
    """Return whether first scores exclude the centers of `PROBED_PANELS` panels."""
    minima, limit = scratch.in_bytes.minima, scratch.in_bytes.limits[place]
    for number in range(panel, min(panel + PROBED_PANELS, len(minima))):
        if not minima[number, place] > limit:
            return False
    return True


# --- Kernels ---


@kernel
def assign(
    points: Any,
    centers: PackedCenters,
    tile: Tile,
    scratch: Scratch,
    index: Any,
    distance: Any,
    second: Second,
    sums: Any,
) -> Any:
    """Find the nearest center of each row; write it, add the row to the cluster's sums, or both.

    Args:
        points: (n, d) S, C-contiguous.
        centers: The centers.
        tile: The shape of a tile.
        scratch: Work arrays.
        index: (n,) int64 for the cluster indices, or empty.
        distance: (n,) float64 for the distances to the nearest centers, or empty.
        second: The same for the second nearest centers, of at least two; unused without
            `Tile.second`.
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
        _score(points, start + size, centers, scratch, tile)
        count = min(size, n - start)
        if len(tile.in_bytes):
            _resolve_again(points, count, centers, scratch, tile)
        else:
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
        for place in range(count):
            row, scale, cluster = start + place, scratch.exact_scales[place], scratch.nearest[place]
            distance[row] = distance_to(points, row, scale, centers, cluster, scratch)
        if not len(tile.second):
            continue
        for place in range(count):
            row, scale = start + place, scratch.exact_scales[place]
            cluster = _resolve_second(points, place, centers, scratch, tile)
            if len(second.clusters):
                second.clusters[row] = cluster
            second.distances[row] = distance_to(points, row, scale, centers, cluster, scratch)
    matrix.release(tile)
    return scratch.num_rest[0]


@kernel
def square(points: Any, grid: Any, block: Any, sums: Any, is_left: Any) -> None:
    """Add up the squares of the rows whose values lie on a grid.

    Args:
        points: (n, d), C-contiguous.
        grid: (d padded to a multiple of 8,) float64 factors that make values integers.
        block: (products, d padded) float64. The sums of `SQUARED_ROWS` rows, which float64 holds.
        sums: (products, d padded) int64 zeros, for the sums of `grid.Grid.digit_products`.
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
            vectors.measure(
                scratch.rows, centers.weights, first, d, centers.cosine, scratch.scores, tile
            )
            # Neither copies of the last row nor centers that fill up the panel are written.
            for place in range(min(size, n - start)):
                for center in range(min(width, k - first)):
                    value = scratch.scores[center * size + place]
                    if centers.cosine:
                        value = 1.0 - value
                        value = 0.0 if value < 0.0 else 2.0 if value > 2.0 else value
                    distances[start + place, first + center] = value
