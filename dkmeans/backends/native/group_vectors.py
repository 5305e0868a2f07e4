"""Vector instructions for bounds: Numba intrinsics that score groups of centers.

`reassign`, `reassign_few` and `all_pairs` call these functions. In those for `reassign` the centers
of a group lie across the lanes, unlike in `tile_vectors`: few rows need the scores of a group, and
which rows these are differs from group to group. So rows are copied one by one, and a row's value
is spread over the lanes. Bounds are bfloat16, the upper half of a float32.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from dkmeans.backends.native.llvm_code import (
    Array,
    Code,
    Load,
    Value,
    as_intrinsic,
    constant,
    transposed,
    zero,
)
from dkmeans.backends.native.ranking import tagged, two_least

# Number of centers in a group, and of bounds that are compared at a time: the width of the vectors
# here. Processors with narrower vectors use several for each.
GROUP = 16
# Bounds are widened by more than the rounding of the operations that compute them.
_LARGER, _SMALLER = 1 + 2.0**-20, 1 - 2.0**-20
_FLOATS = ir.VectorType(ir.FloatType(), GROUP)
_INTEGERS = ir.VectorType(ir.IntType(32), GROUP)
_FLAGS = ir.VectorType(ir.IntType(1), GROUP)
_HALVES = ir.VectorType(ir.IntType(16), GROUP)
_HALF_BITS = 16


@as_intrinsic
def find_suspects(
    code: Code, lower: Array, row: Value, reach: Array, upper: Value, vectors: Value, masks: Array
) -> None:
    """Find the groups that may have a center nearer to a row than its own.

    Args:
        code: The code to write to.
        lower: (n, groups) uint16, the lower bounds of each row. 16 elements after the last row are
            read, and not used.
        row: Index of the row.
        reach: (16 v,) float32, how much smaller each lower bound has become.
        upper: float32, the upper bound of the row's distance to its own center.
        vectors: v, at least 1: the groups divided by 16, rounded up.
        masks: (v + 1,) int64. Bit i of number j is set for group 16 j + i; the last number is not
            zero if any bit is set.
    """
    builder, word = code.builder, ir.IntType(64)
    uppers = code.spread(upper, GROUP)
    # The last vector of a row begins in this row and may end in the next one.
    last = builder.sub(vectors, code.size(1))
    used = builder.sub(lower.width, builder.mul(last, code.size(GROUP)))
    used_bits = builder.sub(builder.shl(word(1), used), word(1))

    def step(number: Value, found: Sequence[Value]) -> list[Value]:
        column = builder.mul(number, code.size(GROUP))
        bound = _bounds_at(code, code.cell(lower, row, column))
        limit = builder.fadd(code.load(code.at(reach.first, column), _FLOATS), uppers)
        # Also true for a limit that is not finite.
        bits = builder.bitcast(builder.fcmp_unordered("<=", bound, limit), ir.IntType(GROUP))
        is_last = builder.icmp_signed("==", number, last)
        mask = builder.and_(
            builder.zext(bits, word), builder.select(is_last, used_bits, word(2**GROUP - 1))
        )
        builder.store(mask, code.at(masks.first, number))
        return [builder.or_(found[0], mask)]

    (found,) = code.loop(vectors, [word(0)], step)
    builder.store(found, code.at(masks.first, vectors))


@as_intrinsic
def find_suspect_rows(
    code: Code, lower: Array, row: Value, nearest: Array, own: Array, reach: Array, groups: Value,
    upper: Array, masks: Array,
) -> None:  # fmt: skip
    """Widen the upper bounds of 16 rows, and find those that may have a nearer center.

    Here the rows lie across the lanes.

    Args:
        code: The code to write to.
        lower: (groups, n) uint16, the lower bounds of each group. 16 elements after the last row
            may be read, and are not used; so it is with `nearest` and `upper`.
        row: Index of the first row.
        nearest: (n,) int32, the cluster of each row.
        own: (k,) float32, how much larger the upper bounds of each cluster become.
        reach: (at least groups,) float32, how much smaller the lower bounds of each group have
            become.
        groups: Number of groups.
        upper: (n,) float32, changed: the upper bounds.
        masks: int64. Bit i of the first element is set if row number `row + i` is suspect.
    """
    builder = code.builder
    moved = _chosen(code, own, code.load(code.at(nearest.first, row), _INTEGERS))
    place = code.at(upper.first, row)
    wider = builder.fmul(builder.fadd(code.load(place, _FLOATS), moved), constant(_FLOATS, _LARGER))
    code.store(wider, place)

    def step(group: Value, found: Sequence[Value]) -> list[Value]:
        limit = builder.fadd(code.spread(builder.load(code.at(reach.first, group)), GROUP), wider)
        bounds = _bounds_at(code, code.cell(lower, group, row))
        # Also true for a limit that is not finite.
        return [builder.or_(found[0], builder.fcmp_unordered("<=", bounds, limit))]

    (is_suspect,) = code.loop(groups, [ir.Constant(_FLAGS, [0] * GROUP)], step)
    bits = builder.bitcast(is_suspect, ir.IntType(GROUP))
    builder.store(builder.zext(bits, ir.IntType(64)), masks.first)


def _chosen(code: Code, numbers: Array, indices: Value) -> Value:
    """Return the numbers that the lanes name."""
    found = ir.Constant(_FLOATS, ir.Undefined)
    for lane in map(ir.IntType(32), range(GROUP)):
        index = code.builder.zext(code.builder.extract_element(indices, lane), code.size)
        number = code.builder.load(code.at(numbers.first, index))
        found = code.builder.insert_element(found, number, lane)
    return found


def _bounds_at(code: Code, pointer: Value) -> Value:
    """Load bfloat16 bounds as float32."""
    halves = code.load(pointer, _HALVES)
    bits = code.builder.zext(halves, _INTEGERS)
    shift = ir.Constant(_INTEGERS, [_HALF_BITS] * GROUP)
    return code.builder.bitcast(code.builder.shl(bits, shift), _FLOATS)


@as_intrinsic
def lay_row(
    code: Code, points: Array, row: Value, scales: Array, shift: Array, centers: Array,
    center: Value, slot: Value, rows: Array, squares: Array, distances: Array,
) -> None:  # fmt: skip
    """Copy a row, scaled and shifted; write its squared length and its distance to a center.

    Args:
        code: The code to write to.
        points: (n, d) rows.
        row: Index of the row.
        scales: (1,) the factor of the row.
        shift: (d,) subtracted from the scaled row.
        centers: (k, d padded to a multiple of 16) float32, the shifted centers.
        center: Index of the center.
        slot: Where the row is copied to.
        rows: (slots, d padded to a multiple of 16) float32.
        squares: (slots,) float32, the squared lengths.
        distances: (slots,) float32, the squared distances.
    """
    builder, stored = code.builder, ir.VectorType(shift.element, GROUP)
    scale = code.spread(builder.load(scales.first), GROUP)

    def lay(number: Value, load: Load, totals: Sequence[Value]) -> list[Value]:
        column = builder.mul(number, code.size(GROUP))
        x = load(code.cell(points, row, column), stored)
        value = builder.fsub(builder.fmul(x, scale), load(code.at(shift.first, column), stored))
        value = value if stored == _FLOATS else builder.fptrunc(value, _FLOATS)
        code.store(value, code.cell(rows, slot, column))
        away = builder.fsub(value, code.load(code.cell(centers, center, column), _FLOATS))
        return [code.fma(part, part, old) for part, old in zip((value, away), totals, strict=True)]

    totals = code.in_vectors(points.width, GROUP, [zero(_FLOATS)] * 2, lay)
    for total, array in zip(totals, (squares, distances), strict=True):
        builder.store(code.sum_of_lanes(total), code.at(array.first, slot))


@as_intrinsic
def copy_row(code: Code, rows: Array, slot: Value, tile: Array, place: Value, height: int) -> None:
    """Copy a row to a place of a tile.

    The tile has 16 columns of all its rows, then the next 16: every value of a tile is at a
    constant distance from the same value of the first row.

    Args:
        code: The code to write to.
        rows: (slots, 16 v) float32.
        slot: Number of the row.
        tile: (v * height * 16,) float32.
        place: Number of the row in the tile.
        height: Number of rows in a tile.
    """
    builder = code.builder

    def step(number: Value, _: Sequence[Value]) -> list[Value]:
        values = code.load(code.cell(rows, slot, builder.mul(number, code.size(GROUP))), _FLOATS)
        line = builder.add(builder.mul(number, code.size(height)), place)
        code.store(values, code.at(tile.first, builder.mul(line, code.size(GROUP))))
        return []

    code.loop(builder.sdiv(rows.width, code.size(GROUP)), [], step)


@as_intrinsic
def score_group(
    code: Code, tile: Array, weights: Array, halves: Array, group: Value, width: Value,
    squares: Array, margins: Array, reach: Array, least: Array, lower: Array, height: int,
) -> None:  # fmt: skip
    """Score a tile of rows against a group: the two least scores, and bounds of the distances.

    Args:
        code: The code to write to.
        tile: The rows, as `copy_row` lays them.
        weights: The negative centers, group by group, and in each group feature by feature.
        halves: (16 groups,) float32, the first term of each center's scores.
        group: Number of the group.
        width: Number of features.
        squares: (16,) float32, for each row what is added to twice a score to make it a squared
            distance.
        margins: (16,) float32, the error bound of each row's scores.
        reach: (groups,) float32, what is added to a lower bound.
        least: (2, 16) float32, overwritten: the least and the second least score of each row, the
            number of the center in the last four bits.
        lower: (2, 16) uint16, overwritten: bounds of the distances to all centers of the group, and
            to all but the nearest.
        height: Number of rows in a tile, at most 16; the lanes after these are not meaningful.
    """
    builder = code.builder
    first = builder.mul(group, code.size(GROUP))
    sums = _products(
        code, tile, code.at(weights.first, builder.mul(first, width)), width, height,
        code.load(code.at(halves.first, first), _FLOATS),
    )  # fmt: skip
    by_center = transposed(builder, [*sums, *[constant(_FLOATS, 0.0)] * (GROUP - height)])
    pairs = [(tagged(code, scores, number, GROUP), None) for number, scores in enumerate(by_center)]
    offset = code.spread(builder.load(code.at(reach.first, group)), GROUP)
    square, margin = code.load(squares.first, _FLOATS), code.load(margins.first, _FLOATS)
    for number, score in enumerate(two_least(code, pairs)):
        code.store(score, code.at(least.first, number * GROUP))
        bounds = _bounds_of(code, score, square, margin, offset)
        code.store(bounds, code.at(lower.first, number * GROUP))


def _products(
    code: Code, tile: Array, weights: Value, width: Value, height: int, first: Value
) -> list[Value]:
    """Add the products of each row of a tile and a group's centers to a first term."""
    builder, lanes = code.builder, code.size(GROUP)
    whole, rest = builder.sdiv(width, lanes), builder.srem(width, lanes)

    def block(number: Value, features: Value, sums: Sequence[Value]) -> list[Value]:
        """Add the products of up to 16 features."""
        column = builder.mul(number, lanes)
        place = code.at(tile.first, builder.mul(column, code.size(height)))
        scalars = [(code.at(place, row * GROUP), code.size(1)) for row in range(height)]
        vectors = [(code.at(weights, builder.mul(column, lanes)), lanes)]
        return [total for (total,) in code.accumulate(features, vectors, scalars, sums, code.fma)]

    def all_whole(sums: Sequence[Value]) -> list[Value]:
        return code.loop(whole, sums, lambda number, sums: block(number, lanes, sums))

    def last(sums: Sequence[Value]) -> list[Value]:
        return block(whole, rest, sums)

    has_whole, has_rest = (builder.icmp_signed(">", n, code.size(0)) for n in (whole, rest))
    return code.change_if(has_rest, last, code.change_if(has_whole, all_whole, [first] * height))


@as_intrinsic
def rank_group(
    code: Code, rows: Array, weights: Array, halves: Array, group: Value, width: Value,
    squares: Array, margins: Array, reach: Array, ranked: Array, groups: Array, lower: Array,
    shape: Sequence[int],
) -> None:  # fmt: skip
    """Score a tile of rows against a group, and merge the scores into those of other groups.

    Here the rows lie across the lanes, as in `tile_vectors`.

    Args:
        code: The code to write to.
        rows: The tile, feature by feature.
        weights: As in `score_group`.
        halves: As in `score_group`.
        group: Number of the group.
        width: Number of features.
        squares: (t,) float32, for each row what is added to twice a score to make it a squared
            distance.
        margins: (t,) float32, the error bound of each row's scores.
        reach: (groups,) float32, what is added to a lower bound.
        ranked: (m, t) float32, at least three rows of scores: the least score with the number of
            the center in the last four bits; the least of all others; and the least of the others
            in the group of the first.
        groups: (m, t) int32, in the first row the group of the least score.
        lower: (groups, t) uint16, of which this group is overwritten: bounds of the distances to
            all its centers.
        shape: The shape of the tile.
    """
    builder, (lanes, count, centers) = code.builder, shape[:3]
    first = builder.mul(group, code.size(GROUP))
    group_weights = code.at(weights.first, builder.mul(first, width))
    group_halves = code.at(halves.first, first)
    row_vectors = [(code.at(rows.first, i * lanes), code.size(lanes * count)) for i in range(count)]
    least: list[list[tuple[Value, Value | None]]] = [[] for _ in range(count)]
    for start in range(0, GROUP, centers):
        panel = range(start, start + centers)
        initial = [code.spread(builder.load(code.at(group_halves, j)), lanes) for j in panel]
        scores = code.accumulate(
            width,
            row_vectors,
            [(code.at(group_weights, j), code.size(GROUP)) for j in panel],
            [half for half in initial for _ in range(count)],
            code.fma,
        )
        for i, pairs in enumerate(least):
            parts = [(tagged(code, scores[j - start][i], j, GROUP), None) for j in panel]
            pairs.append(two_least(code, parts))
    for i, pairs in enumerate(least):
        two = two_least(code, pairs)
        _merge(code, two, i, group, squares, margins, reach, ranked, groups, lower, shape)


@as_intrinsic
def rank_stored_groups(
    code: Code, panel: Value, scores: Array, squares: Array, margins: Array, reach: Array,
    ranked: Array, groups: Array, lower: Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """Merge the scores that `matrix.store_scores` has stored for a panel: those of two groups.

    The arguments are those of `rank_group`; `panel` is the number of the panel.
    """
    if not shape[3]:
        return
    builder, (lanes, count) = code.builder, shape[:2]
    parity = builder.and_(panel, code.size(1))
    first = code.at(scores.first, builder.mul(parity, code.size(2 * GROUP * lanes * count)))
    vector = ir.VectorType(scores.element, lanes)
    for half in range(2):
        group = builder.add(builder.mul(panel, code.size(2)), code.size(half))
        for i in range(count):
            pairs = []
            for start in range(0, GROUP, GROUP // 2):
                numbers = range(start, start + GROUP // 2)
                places = [((half * GROUP + j) * count + i) * lanes for j in numbers]
                loaded = [code.load(code.at(first, place), vector) for place in places]
                both = zip(loaded, numbers, strict=True)
                parts = [(tagged(code, score, number, GROUP), None) for score, number in both]
                pairs.append(two_least(code, parts))
            two = two_least(code, pairs)
            _merge(code, two, i, group, squares, margins, reach, ranked, groups, lower, shape)


def _merge(
    code: Code, two: tuple[Value, Value | None], i: int, group: Value, squares: Array,
    margins: Array, reach: Array, ranked: Array, groups: Array, lower: Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """Merge the two least scores of a group with the rows of vector i of a tile."""
    builder, (lanes, count), (least, other) = code.builder, shape[:2], two
    vector, numbers = ir.VectorType(ir.FloatType(), lanes), ir.VectorType(ir.IntType(32), lanes)
    places = [code.at(ranked.first, (j * count + i) * lanes) for j in range(3)]
    best, second, rival = (code.load(place, vector) for place in places)
    group_place = code.at(groups.first, i * lanes)
    # False for NaN, which replaces nothing.
    is_less = builder.fcmp_ordered("<", least, best)
    in_order = code.minimum(least, second)
    code.store(builder.select(is_less, least, best), places[0])
    code.store(builder.select(is_less, code.minimum(other, best), in_order), places[1])
    code.store(builder.select(is_less, other, rival), places[2])
    this = code.spread(builder.trunc(group, ir.IntType(32)), lanes)
    code.store(builder.select(is_less, this, code.load(group_place, numbers)), group_place)
    square, margin = (
        code.load(code.at(array.first, i * lanes), vector) for array in (squares, margins)
    )
    offset = code.spread(builder.load(code.at(reach.first, group)), lanes)
    bounds = _bounds_of(code, least, square, margin, offset)
    row = builder.mul(group, code.size(lanes * count))
    code.store(bounds, code.at(code.at(lower.first, row), i * lanes))


def _bounds_of(code: Code, score: Value, square: Value, margin: Value, reach: Value) -> Value:
    """Return the lower bounds that belong to scores, as bfloat16."""
    builder, vector = code.builder, score.type
    low = code.fma(builder.fsub(score, margin), constant(vector, 2.0), square)
    # Zero where the score is NaN too.
    low = code.maximum(low, zero(vector))
    root = code.call(f"llvm.sqrt.v{vector.count}f32", vector, low)
    low = builder.fadd(builder.fmul(root, constant(vector, _SMALLER)), reach)
    bits = ir.VectorType(ir.IntType(32), vector.count)
    # The upper half of positive bits: rounded down.
    shift = ir.Constant(bits, [_HALF_BITS] * vector.count)
    upper = builder.lshr(builder.bitcast(low, bits), shift)
    return builder.trunc(upper, ir.VectorType(ir.IntType(16), vector.count))


@as_intrinsic
def score_row(
    code: Code, rows: Array, slot: Value, weights: Array, halves: Array, group: Value, width: Value,
    scores: Array,
) -> None:  # fmt: skip
    """Write the scores of one row and the 16 centers of a group.

    Args:
        code: The code to write to.
        rows: (slots, d padded to a multiple of 16) float32, zero after column d.
        slot: Number of the row.
        weights: As in `score_group`, with four more features after the last group.
        halves: As in `score_group`.
        group: Number of the group.
        width: Number of features, d.
        scores: (16,) float32.
    """
    builder, at_once = code.builder, 4
    first = builder.mul(group, code.size(GROUP))
    center_weights = code.at(weights.first, builder.mul(first, width))

    def step(number: Value, totals: Sequence[Value]) -> list[Value]:
        new = []
        for i, total in enumerate(totals):
            feature = builder.add(builder.mul(number, code.size(at_once)), code.size(i))
            place = code.at(center_weights, builder.mul(feature, code.size(GROUP)))
            x = code.spread(builder.load(code.cell(rows, slot, feature)), GROUP)
            new.append(code.fma(code.load(place, _FLOATS), x, total))
        return new

    # Four sums, because each addition waits for the one before. After the last feature the row is
    # zero, whatever the weights there.
    steps = builder.sdiv(builder.add(width, code.size(at_once - 1)), code.size(at_once))
    begin = [code.load(code.at(halves.first, first), _FLOATS), *[zero(_FLOATS)] * (at_once - 1)]
    a, b, c, d = code.loop(steps, begin, step)
    code.store(builder.fadd(builder.fadd(a, b), builder.fadd(c, d)), scores.first)
