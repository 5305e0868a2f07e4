"""The kernels: what Numba makes machine code of.

A kernel scores a tile of rows against a panel of centers at a time, all in registers, and keeps
each row's two least scores. Where these are closer than their rounding, the row's winner is decided
by exact distances (docs/decisions/001). It then adds the row up while it is in the cache. Kernels
run without the GIL and allocate nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import njit

from dkmeans.backends.native import matrix, vectors
from dkmeans.backends.native.vectors import CACHE_LINE, PROBED, Tile
from dkmeans.state import FloatArray, IndexArray


class Packed(NamedTuple):
    """Centers made ready for a kernel; T is the dtype of the scores, S that of the rows.

    Attributes:
        weights: (panels * d * c,) T: minus the shifted centers, panel by panel of c centers, and in
            each panel feature by feature. Whole groups of `PROBED` panels.
        halves: (panels * c,) T: |c|^2 / 2 of the shifted centers, 0 for cosine; huge for centers
            that only fill up.
        shift: (d,) S: what is taken off every row first.
        exact: (k, d) float64: what exact distances are measured to.
        factor: Times `largest` |x| + `half`: how far apart two scores must be to be told apart.
        floor: What is added to that, for the rounding of the smallest numbers.
        largest: The length of the longest shifted center.
        half: The largest |c|^2 / 2.
        limit: Where `largest` |x| + `half` is not below it, scores may overflow.
        cosine: Whether rows are scaled to length one.
        zero: (1, d) float64 zeros.
        origins: What is taken off a row before it is added to its center's sums: (k, d), filled up
            to whole octets.
        matrix: int32, for a matrix unit: minus the shifted centers as bfloat16, register by
            register, those that meet the same features together.
        biases: (panels * c, 16) T, for a matrix unit: each of `halves` as often as a register has
            columns.
    """

    weights: FloatArray
    halves: FloatArray
    shift: FloatArray
    exact: FloatArray
    factor: float
    floor: float
    largest: float
    half: float
    limit: float
    cosine: bool
    zero: FloatArray
    origins: FloatArray
    matrix: IndexArray
    biases: FloatArray


class Scratch(NamedTuple):
    """Room for a kernel to work in, for tiles of t rows; T and S as of `Packed`.

    Attributes:
        rows: (d * t,) T, at the beginning of a cache line: a tile of rows, feature by feature, of
            at least four features.
        numbers: (t,) int64: which rows they are.
        exact_scales: (t,) float64: what they are scaled by; 1 where the distance is not cosine.
        scales: (t,) S: the same, rounded.
        margins: (t,) T: how far apart two of a row's scores must be to be told apart.
        values: (4, t) T: each row's best scores, as `vectors.rank` has them.
        tags: (4, t): the same as integers.
        owners: (2, t) integers as wide as T: the panels of the first two.
        winners: (t,) int64: each row's nearest center.
        probed: T: the scores of one row and a few panels.
        scores: T, at the beginning of a cache line: the scores or distances of a few panels.
        eight: (8,) float64: parts of a sum.
        squares: (8,) float64: parts of another.
        spans: (64, 3) int64: parts of rows that are to be added up, with their depths in a tree.
        sums: (64,) float64: sums of such parts.
        depths: (64,) int64: the depths of these.
        pairs: int32, for a matrix unit, at the beginning of a cache line: a tile of rows as
            bfloat16, in pairs of features.
        config: (64,) uint8: how the matrix unit is set up.
        doubts: (1,) int64: how many rows their scores have not decided.
    """

    rows: FloatArray
    numbers: IndexArray
    exact_scales: FloatArray
    scales: FloatArray
    margins: FloatArray
    values: FloatArray
    tags: FloatArray
    owners: FloatArray
    winners: IndexArray
    probed: FloatArray
    scores: FloatArray
    eight: FloatArray
    squares: FloatArray
    spans: IndexArray
    sums: FloatArray
    depths: IndexArray
    pairs: IndexArray
    config: IndexArray
    doubts: IndexArray


# The squared length below which a row counts as zero; `distance` has it too.
_SMALLEST_SQUARED_NORM = 1e-12
# NumPy adds up so many elements in eight parallel sums, and halves what is longer.
_PAIRWISE_BLOCK = 128
_FOUR = (None,) * 4

# What was compiled is kept until this file changes. It names the state of the files of intrinsics,
# so that it changes with them; a test holds it to that.
INTRINSICS = "8a0b2a59d904"

_F = TypeVar("_F", bound=Callable[..., Any])

# Without Numba's runtime: counting references to arrays would cost more than most calls do.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "_nrt": False,
    "no_cfunc_wrapper": True,
}
_compiled: Callable[[_F], _F] = njit(no_cpython_wrapper=True, **_OPTIONS)
_inlined: Callable[[_F], _F] = njit(inline="always", **_OPTIONS)


def _kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, and keep the machine code for the next process.

    It must not call itself, nor anything that does: such code crashes when it is loaded again.
    """
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # there is no folder to keep it in
        return njit(**_OPTIONS)(function)


# --- Exact distances ---


@_inlined
def _terms(
    points: Any,
    row: int,
    scale: float,
    others: Any,
    other: int,
    cosine: bool,
    start: int,
    stop: int,
    eight: Any,
) -> Any:
    """Add up the terms of at most a block, as NumPy adds up so many elements."""
    total, whole = 0.0, (stop - start) // 8
    if whole:
        vectors.octets(points, row, scale, others, other, cosine, start, whole, eight)
        total = ((eight[0] + eight[1]) + (eight[2] + eight[3])) + (
            (eight[4] + eight[5]) + (eight[6] + eight[7])
        )
    for j in range(start + 8 * whole, stop):
        x = np.float64(points[row, j])
        total += (x * scale) * others[other, j] if cosine else (x - others[other, j]) ** 2
    return total


@_compiled
def _pairwise(
    points: Any, row: int, scale: float, others: Any, other: Any, cosine: bool, scratch: Any
) -> Any:
    """Add up the terms of a distance in the order of NumPy's sum of a contiguous row.

    NumPy halves what is longer than a block, and again, and adds up the halves. Of the halves still
    to do, and of the sums that wait for their other half, each knows its depth: the last that
    waits is another's other half where the depths are equal.
    """
    eight, spans, sums = scratch.eight, scratch.spans, scratch.sums
    spans[0, 0], spans[0, 1], spans[0, 2] = 0, points.shape[1], 0
    to_do, waiting = 1, 0
    while to_do:
        to_do -= 1
        start, stop, depth = spans[to_do, 0], spans[to_do, 1], spans[to_do, 2]
        if stop - start > _PAIRWISE_BLOCK:
            half = start + (stop - start) // 2 // 8 * 8
            spans[to_do, 0], spans[to_do, 1], spans[to_do, 2] = half, stop, depth + 1
            to_do += 1
            spans[to_do, 0], spans[to_do, 1], spans[to_do, 2] = start, half, depth + 1
            to_do += 1
            continue
        total = _terms(points, row, scale, others, other, cosine, start, stop, eight)
        while waiting and scratch.depths[waiting - 1] == depth:
            waiting -= 1
            total, depth = sums[waiting] + total, depth - 1
        sums[waiting], scratch.depths[waiting] = total, depth
        waiting += 1
    return sums[0]


@_inlined
def _distance(points: Any, row: int, scale: float, centers: Any, center: int, scratch: Any) -> Any:
    """A row's distance to a center, to the bits that NumPy gives it."""
    cosine, d = centers.cosine, points.shape[1]
    if d <= _PAIRWISE_BLOCK:  # nothing to halve: the same bits, for half the time
        total = _terms(points, row, scale, centers.exact, center, cosine, 0, d, scratch.eight)
    else:
        total = _pairwise(points, row, scale, centers.exact, center, cosine, scratch)
    if cosine:
        total = 1.0 - total
        total = 0.0 if total < 0.0 else 2.0 if total > 2.0 else total
    return total


@_inlined
def _scale(points: Any, row: int, centers: Any, scratch: Any) -> Any:
    """What exact distances scale a row by: for cosine to length one, as `inverse_norms` does."""
    if not centers.cosine:
        return 1.0
    square = _pairwise(points, row, 1.0, centers.zero, np.int64(0), False, scratch)
    if square == np.inf:  # a row too long to square has no direction
        return np.nan
    return 1.0 / np.sqrt(_SMALLEST_SQUARED_NORM if square < _SMALLEST_SQUARED_NORM else square)


# --- Tiles ---


@_inlined
def _lay(points: Any, start: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Lay the rows from `start` on across vectors, scaled and shifted: `rows[feature][place]`.

    Behind the last row, it stands in.
    """
    (n, d), side, size = points.shape, len(tile.lanes), len(scratch.numbers)
    rows, numbers, scales, shift = scratch.rows, scratch.numbers, scratch.scales, centers.shift
    for place in range(size):
        numbers[place] = min(start + place, n - 1)
    if centers.cosine:
        for place in range(size):
            scratch.exact_scales[place] = _scale(points, numbers[place], centers, scratch)
            scales[place] = scratch.exact_scales[place]
    if d >= side:
        for place in range(0, size, side):
            for column in range(0, d, side):
                # The last square may overlap the one before: the same values once more.
                first = min(column, d - side)
                vectors.pack(points, numbers, place, first, scales, shift, rows, size, tile.lanes)
    elif d >= len(_FOUR):
        for place in range(0, size, len(_FOUR)):
            for column in range(0, d, len(_FOUR)):
                first = min(column, d - len(_FOUR))
                vectors.pack(points, numbers, place, first, scales, shift, rows, size, _FOUR)
    elif side < len(_FOUR):
        for place in range(0, size, side):
            vectors.pack_narrow(points, numbers, place, scales, shift, rows, size, tile.lanes)
    else:
        for place in range(0, size, len(_FOUR)):
            vectors.pack_narrow(points, numbers, place, scales, shift, rows, size, _FOUR)


@_inlined
def _score(points: Any, following: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Rank each row's scores, and find how far apart they must be to be told apart."""
    d, size, panels = points.shape[1], len(scratch.numbers), -(-len(centers.exact) // _width(tile))
    rows, values, owners, margins = scratch.rows, scratch.values, scratch.owners, scratch.margins
    # For a matrix unit: groups of 32 features, the registers of what is left, and of all.
    whole, rest = d // 32, -(-3 * ((d % 32 + 1) // 2) // matrix.LINES)
    registers = 4 * whole + 2 * rest
    if len(tile.matrix):
        if whole:
            matrix.split_whole(rows, whole, scratch.pairs, tile)
        if rest:
            matrix.split_rest(rows, d, 32 * whole, scratch.pairs, 32 * whole, tile)
    vectors.square_up(rows, d, margins, tile)
    for place in range(size):
        bound = np.sqrt(margins[place]) * centers.largest + centers.half
        # A bound that is not a number counts as too large.
        sure = bound < centers.limit
        margins[place] = centers.factor * bound + centers.floor if sure else np.inf
        values[0, place] = values[1, place] = values[2, place] = values[3, place] = np.inf
        owners[0, place] = owners[1, place] = 0
    per_line = CACHE_LINE // points.itemsize
    lines = size * d // per_line
    for panel in range(panels):
        if len(tile.matrix):
            matrix.load_biases(centers.biases, panel, tile)
            first = panel * registers
            if whole:
                matrix.multiply_whole(scratch.pairs, centers.matrix, first, whole, tile)
            if rest:
                first += 4 * whole
                matrix.multiply_rest(scratch.pairs, 32 * whole, centers.matrix, first, rest, tile)
            if panel:
                matrix.take(panel - 1, scratch.scores, values, owners, tile)
            matrix.put(panel, scratch.scores, tile)
        else:
            vectors.keep_least(
                rows, centers.weights, centers.halves, panel, d, values, owners, tile
            )
        # The rows that follow come from far away meanwhile.
        for line in range(panel * lines // panels, (panel + 1) * lines // panels):
            vectors.fetch(points, following * d + line * per_line)
    if len(tile.matrix):
        matrix.take(panels - 1, scratch.scores, values, owners, tile)


@_inlined
def _width(tile: Any) -> Any:
    """How many centers a panel has that is scored at a time."""
    return len(tile.centers) * max(len(tile.matrix), 1)


@_inlined
def _settle(points: Any, count: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Name the winners of a tile's rows: by their scores, or by exact distances."""
    values, width = scratch.values, _width(tile)
    in_doubt = 0
    for place in range(len(scratch.numbers)):
        winner = scratch.owners[0, place] * width + (scratch.tags[0, place] & (width - 1))
        scratch.winners[place] = winner
        bound = values[0, place] + scratch.margins[place]
        in_doubt += not (values[1, place] > bound and values[3, place] > bound)
    if in_doubt:
        scratch.doubts[0] += in_doubt
        for place in range(count):
            bound = values[0, place] + scratch.margins[place]
            if not (values[1, place] > bound and values[3, place] > bound):
                scratch.winners[place] = _decide(points, place, bound, centers, scratch, tile)


@_compiled
def _decide(points: Any, place: int, bound: float, centers: Any, scratch: Any, tile: Any) -> Any:
    """The nearest center by exact distances, among those whose scores are not above `bound`.

    They are in two panels, unless a third panel's least score is not above it either.
    """
    k, width, step = len(centers.exact), _width(tile), PROBED * len(tile.centers)
    row, scale = scratch.numbers[place], scratch.exact_scales[place]
    first, last, stride = 0, k, step
    if scratch.values[2, place] > bound:
        one = scratch.owners[0, place] * width // step * step
        other = scratch.owners[1, place] * width // step * step
        first, last = min(one, other), max(one, other) + 1
        stride = max(last - 1 - first, 1)
    winner, nearest = 0, np.inf
    for start in range(first, last, stride):
        vectors.probe(
            scratch.rows, place, len(scratch.numbers), centers.weights, centers.halves, start,
            points.shape[1], scratch.probed, tile,
        )  # fmt: skip
        for center in range(start, min(start + step, k)):
            if not scratch.probed[center - start] > bound:
                apart = _distance(points, row, scale, centers, center, scratch)
                if apart < nearest:
                    winner, nearest = center, apart
    return winner


# --- Kernels ---


@_kernel
def assign(
    points: Any,
    centers: Packed,
    tile: Tile,
    scratch: Scratch,
    index: Any,
    apart: Any,
    counts: Any,
    sums: Any,
) -> Any:
    """Find each row's nearest center; note it, add the row to what the center won, or both.

    Args:
        points: (n, d) S, C-contiguous.
        centers: The centers.
        tile: The shape of a tile.
        scratch: Room to work in.
        index: (n,) int64 for the winners, or empty.
        apart: (n,) float64 for the distances to them, or empty.
        counts: (k,) int64 zeros, for how many rows each center wins, or empty to add none up.
        sums: float64 zeros for the sums of these rows, scaled: (k, d), filled up to whole octets.

    Returns:
        The sum of the squares of the rows added, less their center's origin.
    """
    n, size = len(points), len(scratch.numbers)
    scratch.doubts[0] = 0
    for j in range(8):
        scratch.squares[j] = 0
    matrix.begin(scratch.config, tile)
    for start in range(0, n, size):
        _lay(points, start, centers, scratch, tile)
        _score(points, start + size, centers, scratch, tile)
        _settle(points, min(size, n - start), centers, scratch, tile)
        count = min(size, n - start)
        if len(counts):
            vectors.add_rows(
                points, start, count, scratch.exact_scales, scratch.winners, centers.origins,
                counts, sums, scratch.squares,
            )  # fmt: skip
        if not len(index):
            continue
        for place in range(count):
            row, scale, winner = start + place, scratch.exact_scales[place], scratch.winners[place]
            index[row] = winner
            apart[row] = _distance(points, row, scale, centers, winner, scratch)
    matrix.end(tile)
    for center in range(len(counts)):
        for j in range(points.shape[1]):
            sums[center, j] += counts[center] * np.float64(centers.origins[center, j])
    inertia = 0.0
    for part in scratch.squares:
        inertia += part
    return inertia


@_kernel
def measure(points: Any, centers: Packed, tile: Tile, scratch: Scratch, found: Any) -> None:
    """Each row's distance to every center.

    Args:
        points: (n, d), C-contiguous.
        centers: The centers, packed in float64, as they are.
        tile: The shape of a tile of float64.
        scratch: Room to work in.
        found: (n, k) float32 for the distances.
    """
    n, d = points.shape
    k, width, size = len(centers.exact), len(tile.centers), len(tile.lanes) * len(tile.vectors)
    for start in range(0, n, size):
        _lay(points, start, centers, scratch, tile)
        for first in range(0, k, width):
            vectors.measure(
                scratch.rows, centers.weights, first, d, centers.cosine, scratch.scores, tile
            )
            for place in range(min(size, n - start)):
                for center in range(min(width, k - first)):
                    value = scratch.scores[center * size + place]
                    if centers.cosine:
                        value = 1.0 - value
                        value = 0.0 if value < 0.0 else 2.0 if value > 2.0 else value
                    found[start + place, first + center] = value
