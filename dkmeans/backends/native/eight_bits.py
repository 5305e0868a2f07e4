"""First scores in 8 bits, by instructions that multiply bytes: Numba intrinsics, as LLVM IR.

`first_scores` calls these, only on processors that know the instructions. Such an instruction (VNNI
of x86, SDOT of ARM) multiplies four bytes of a row by four bytes of a center in each lane, and adds
up in int32: four times as many products as vectors of float32. A matrix unit (AMX) multiplies bytes
too (`matrix`), and its products are ranked here. What a row loses by rounding to bytes is measured,
so the error of its scores is known (docs/decisions/033).

A row is a factor times integers from -127 to 127, and so are all centers, with one factor. For VNNI
rows are stored plus 128, as it takes an unsigned and a signed operand. Four features make a quad,
which is one element of int32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import llvmlite.binding as llvm
from llvmlite import ir

from dkmeans.backends.native import processor
from dkmeans.backends.native.llvm_code import Array, Code, Load, Value, as_intrinsic, constant, zero
from dkmeans.backends.native.matrix import PANELS, scores_of
from dkmeans.backends.native.ranking import tagged, two_least
from dkmeans.backends.native.tile_vectors import center_scalars, row_vectors

# Features of a quad.
QUAD = 4
# The largest integer that a row or a center is rounded to.
LARGEST = 127
# Added to a row's integers for VNNI, which needs unsigned bytes.
_OFFSET = 128
# SDOT, which adds to its first operand. LLVM's own function for it would end the process where LLVM
# does not know that this processor has it (`processor`); here the assembler is told so.
_SDOT = ".arch_extension dotprod\nsdot $0.4s, $2.16b, $3.16b"

# The sum of this and a float32 up to 2^22 is rounded to an integer. The lowest byte of the float32
# sum is then the lowest byte of the rounded number.
_MAGIC = 1.5 * 2.0**23
# Sums that `score_center` adds up side by side.
_CHAINS = 4
# Rows and centers that `score_center` multiplies are padded to multiples of this: whole vectors.
LINE = 16
# A row whose values are at most this in size is rounded to zero: the reciprocal of its factor would
# be too large.
_LEAST_SCALED = 2.0**-100


def row_offset(has_matrix_unit: bool) -> int:
    """Return what is added to the integers of rows."""
    return 0 if has_matrix_unit or processor.is_arm() else _OFFSET


@as_intrinsic
def round_rows(
    code: Code, rows: Array, width: Value, quads: Array, steps: Array, lost: Array,
    shape: Sequence[int],
) -> None:  # fmt: skip
    """Round the rows of a tile to bytes.

    Args:
        code: The code to write to.
        rows: The tile, feature by feature, of at least one feature.
        width: Number of features.
        quads: int32, overwritten: the bytes of the rows, quad by quad.
        steps: (t,) overwritten: the factor of each row.
        lost: (t,) overwritten: the squared length of what each row loses by rounding.
        shape: The shape of the tile.
    """
    builder, (lanes, count) = code.builder, shape[:2]
    vector, bits = ir.VectorType(rows.element, lanes), ir.VectorType(quads.element, lanes)
    byte = ir.Constant(bits, [255] * lanes)
    magic = constant(vector, _MAGIC + row_offset(bool(shape[3])))

    def load(feature: Value, i: int) -> Value:
        first = code.at(rows.first, builder.mul(feature, code.size(lanes * count)))
        return code.load(code.at(first, i * lanes), vector)

    def larger(feature: Value, found: Sequence[Value]) -> list[Value]:
        sizes = [
            code.call(f"llvm.fabs.v{lanes}f32", vector, load(feature, i)) for i in range(count)
        ]
        return [code.maximum(size, old) for size, old in zip(sizes, found, strict=True)]

    factors, reciprocals = [], []
    for i, largest in enumerate(code.loop(width, [zero(vector)] * count, larger)):
        is_large = builder.fcmp_ordered(">", largest, constant(vector, _LEAST_SCALED))
        step = builder.fmul(largest, constant(vector, 1 / LARGEST))
        factors.append(builder.select(is_large, step, zero(vector)))
        reciprocal = builder.fdiv(constant(vector, LARGEST), largest)
        reciprocals.append(builder.select(is_large, reciprocal, zero(vector)))
        code.store(factors[i], code.at(steps.first, i * lanes))

    def quad(number: Value, totals: Sequence[Value]) -> list[Value]:
        bytes_of, totals = [ir.Constant(bits, [0] * lanes)] * count, list(totals)
        for j in range(QUAD):
            feature = builder.add(builder.mul(number, code.size(QUAD)), code.size(j))
            is_inside = builder.icmp_signed("<", feature, width)
            # Zeros take the place of features after the last one.
            feature = builder.select(is_inside, feature, code.size(0))
            for i in range(count):
                x = builder.select(is_inside, load(feature, i), zero(vector))
                rounded = code.fma(x, reciprocals[i], magic)
                integer = builder.fsub(rounded, magic)
                rest = code.fma(builder.fneg(factors[i]), integer, x)
                totals[i] = code.fma(rest, rest, totals[i])
                part = builder.and_(builder.bitcast(rounded, bits), byte)
                part = builder.shl(part, ir.Constant(bits, [8 * j] * lanes))
                bytes_of[i] = builder.or_(bytes_of[i], part)
        line = code.at(quads.first, builder.mul(number, code.size(lanes * count)))
        for i in range(count):
            code.store(bytes_of[i], code.at(line, i * lanes))
        return totals

    all_quads = builder.sdiv(builder.add(width, code.size(QUAD - 1)), code.size(QUAD))
    for i, total in enumerate(code.loop(all_quads, [zero(vector)] * count, quad)):
        code.store(total, code.at(lost.first, i * lanes))


@as_intrinsic
def score_panel(
    code: Code, quads: Array, steps: Array, centers: Array, offsets: Array, halves: Array,
    panel: Value, num_quads: Value, ranked: Array, panels: Array, minima: Array,
    shape: Sequence[int],
) -> None:  # fmt: skip
    """Score a tile of rows against a panel of centers, and rank the scores.

    Args:
        code: The code to write to.
        quads: The rows, as `round_rows` writes them.
        steps: (t,) the factor of each row, times that of the centers.
        centers: int32. The bytes of the negative centers: panel by panel, in a panel quad by quad.
        offsets: int32, one for each center of all panels: the initial value of its products, which
            cancels the `row_offset`.
        halves: float32, one for each center of all panels: the first term of its scores.
        panel: Number of the panel.
        num_quads: Number of quads.
        ranked: (m, t) float32, at least two rows: the least score, and the second least.
        panels: (m, t) int32, in the first row the panel of the least score, and with `Tile.second`
            in the second row that of the second least.
        minima: (panels, 2, t) float32, of which this panel is overwritten: its least and second
            least scores.
        shape: The shape of the tile.
    """
    builder, (lanes, count, num_centers) = code.builder, shape[:3]
    integers = ir.VectorType(quads.element, lanes)
    first = builder.mul(panel, code.size(num_centers))
    initial = [
        code.spread(builder.load(code.at(code.at(offsets.first, first), center)), lanes)
        for center in range(num_centers)
    ]

    def add(row: Value, center: Value, total: Value) -> Value:
        operands = total, row, center
        if processor.is_arm():
            kind = ir.FunctionType(integers, [integers] * 3)
            return builder.asm(kind, _SDOT, "=w,0,w,w", operands, side_effect=False)
        return code.call(f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", integers, *operands)

    if processor.is_arm():
        llvm.initialize_native_asmparser()  # which Numba does not need

    products = code.accumulate(
        num_quads,
        row_vectors(code, quads, shape),
        center_scalars(code, centers, builder.mul(first, num_quads), num_centers),
        [offset for offset in initial for _ in range(count)],
        add,
    )
    first_half = code.at(halves.first, first)
    _rank(
        code, lambda center, i: products[center][i], steps, first_half, num_centers, panel, ranked,
        panels, minima, shape,
    )  # fmt: skip


@as_intrinsic
def rank_products(
    code: Code, group: Value, products: Array, steps: Array, halves: Array, ranked: Array,
    panels: Array, minima: Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """Rank the scores of `matrix.PANELS` panels, whose products a matrix unit has stored.

    The arguments are those of `score_panel`; `group` is the number of the group of panels.
    """
    if not shape[3]:
        return
    builder, (lanes, count, centers) = code.builder, shape[:3]
    stored, integers = scores_of(code, group, products), ir.VectorType(products.element, lanes)
    for number in range(PANELS):
        panel = builder.add(builder.mul(group, code.size(PANELS)), code.size(number))

        def product(center: int, i: int, number: int = number) -> Value:
            place = ((number * centers + center) * count + i) * lanes
            return code.load(code.at(stored, place), integers)

        first_half = code.at(halves.first, builder.mul(panel, code.size(centers)))
        _rank(code, product, steps, first_half, centers, panel, ranked, panels, minima, shape)


def _rank(
    code: Code, product: Callable[[int, int], Value], steps: Array, halves: Value, centers: int,
    panel: Value, ranked: Array, panels: Array, minima: Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """Merge the scores of a panel, given their products, into `ranked`, `panels` and `minima`."""
    builder, (lanes, count) = code.builder, shape[:2]
    vector, numbers = ir.VectorType(ranked.element, lanes), ir.VectorType(panels.element, lanes)
    this_panel = code.spread(builder.trunc(panel, panels.element), lanes)
    line = builder.mul(panel, code.size(lanes * count * 2))
    for i in range(count):
        step = code.load(code.at(steps.first, i * lanes), vector)

        def score(center: int, i: int = i, step: Value = step) -> Value:
            half = code.spread(builder.load(code.at(halves, center)), lanes)
            value = code.fma(builder.sitofp(product(center, i), vector), step, half)
            return tagged(code, value, center, centers)

        minimum, runner_up = two_least(code, [(score(center), None) for center in range(centers)])
        places = [code.at(ranked.first, (j * count + i) * lanes) for j in range(2)]
        panel_places = [code.at(panels.first, (j * count + i) * lanes) for j in range(2)]
        least, second = (code.load(place, vector) for place in places)
        panel_of_least = code.load(panel_places[0], numbers)
        loser = code.maximum(minimum, least)
        later = code.minimum(loser, second)
        # Comparisons with NaN are false: the least score stays. The second may become equal to it,
        # but the bound of a row whose scores may be NaN is infinite (`tiles.begin_ranking`).
        is_least = builder.fcmp_ordered("<", minimum, least)
        if shape[4]:
            panel_of_loser = builder.select(is_least, panel_of_least, this_panel)
            is_later = builder.fcmp_ordered("<", loser, second)
            panel_of_second = code.load(panel_places[1], numbers)
            panel_of_second = builder.select(is_later, panel_of_loser, panel_of_second)
            is_runner_up = builder.fcmp_ordered("<", runner_up, later)
            panel_of_second = builder.select(is_runner_up, this_panel, panel_of_second)
            code.store(panel_of_second, panel_places[1])
        code.store(code.minimum(runner_up, later), places[1])
        code.store(builder.select(is_least, minimum, least), places[0])
        code.store(builder.select(is_least, this_panel, panel_of_least), panel_places[0])
        for j, value in enumerate((minimum, runner_up)):
            code.store(value, code.at(code.at(minima.first, line), (j * count + i) * lanes))


@as_intrinsic
def find_rows(
    code: Code, minima: Array, panel: Value, limits: Array, mask: Array, shape: Sequence[int]
) -> None:
    """Find the rows of a tile for which a panel's least first score is not above a limit.

    Args:
        code: The code to write to.
        minima: As in `score_panel`.
        panel: Number of the panel.
        limits: (t,) float32.
        mask: (1,) int64, overwritten: bit i is set for row i.
        shape: The shape of the tile.
    """
    builder, (lanes, count), word = code.builder, shape[:2], ir.IntType(64)
    vector, found = ir.VectorType(limits.element, lanes), word(0)
    line = code.at(minima.first, builder.mul(panel, code.size(lanes * count * 2)))
    for i in range(count):
        least = code.load(code.at(line, i * lanes), vector)
        limit = code.load(code.at(limits.first, i * lanes), vector)
        # Unordered: also true if the score or the limit is NaN.
        bits = builder.bitcast(builder.fcmp_unordered("<=", least, limit), ir.IntType(lanes))
        found = builder.or_(found, builder.shl(builder.zext(bits, word), word(i * lanes)))
    builder.store(found, mask.first)


@as_intrinsic
def copy_row(
    code: Code, points: Array, row: Value, scale: Value, shift: Array, lines: Array, place: Value,
    shape: Sequence[int],
) -> None:  # fmt: skip
    """Copy a row, scaled and shifted, to a line for `score_center`.

    Args:
        code: The code to write to.
        points: (n, d) rows, float32 or float64.
        row: Index of the row.
        scale: For cosine the factor that makes the row's length one, else 1.
        shift: (d,) subtracted from the scaled row.
        lines: (t, d padded) float32, of which line `place` is overwritten.
        place: Number of the row in the tile.
        shape: The shape of the tile.
    """
    builder, lanes = code.builder, shape[0]
    vector, rounded = (ir.VectorType(array.element, lanes) for array in (points, lines))
    factors = code.spread(scale, lanes)

    def copy(number: Value, load: Load, _: Sequence[Value]) -> list[Value]:
        column = builder.mul(number, code.size(lanes))
        x = load(code.cell(points, row, column), vector)
        moved = builder.fsub(builder.fmul(x, factors), load(code.at(shift.first, column), vector))
        value = moved if vector == rounded else builder.fptrunc(moved, rounded)
        code.store(value, code.cell(lines, place, column))
        return []

    code.in_vectors(points.width, lanes, [], copy)


@as_intrinsic
def score_center(
    code: Code, lines: Array, place: Value, centers: Array, center: Value, halves: Array,
    score: Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """Score one row of a tile against one center in float32.

    Args:
        code: The code to write to.
        lines: (t, d padded to a multiple of `LINE`) float32, the tile row by row.
        place: Number of the row in the tile.
        centers: (k, d padded) float32, the negative centers.
        center: Index of the center.
        halves: (panels * c,) float32, the first term of the scores.
        score: (1,) float32, overwritten.
        shape: The shape of the tile.
    """
    builder, lanes = code.builder, shape[0]
    vector, at_once = ir.VectorType(lines.element, lanes), code.size(lanes * _CHAINS)
    row, line = code.cell(lines, place, code.size(0)), code.cell(centers, center, code.size(0))

    def add(feature: Value, total: Value) -> Value:
        a, b = (code.load(code.at(x, feature), vector) for x in (row, line))
        return code.fma(a, b, total)

    def some(number: Value, totals: Sequence[Value]) -> list[Value]:
        first = builder.mul(number, at_once)
        features = [builder.add(first, code.size(i * lanes)) for i in range(_CHAINS)]
        return [add(feature, total) for feature, total in zip(features, totals, strict=True)]

    # Several sums, because each addition waits for the one before.
    whole, rest = builder.sdiv(lines.width, at_once), builder.srem(lines.width, at_once)
    totals = code.change_if(
        builder.icmp_signed(">", whole, code.size(0)),
        lambda totals: code.loop(whole, totals, some),
        [zero(vector)] * _CHAINS,
    )
    start, vectors = builder.mul(whole, at_once), builder.sdiv(rest, code.size(lanes))

    def one(number: Value, totals: Sequence[Value]) -> list[Value]:
        return [add(builder.add(start, builder.mul(number, code.size(lanes))), totals[0])]

    (last,) = code.change_if(
        builder.icmp_signed(">", vectors, code.size(0)),
        lambda totals: code.loop(vectors, totals, one),
        totals[:1],
    )
    product = code.sum_of_lanes(reduce(builder.fadd, [last, *totals[1:]]))
    bias = builder.load(code.at(halves.first, center))
    builder.store(builder.fadd(product, bias), score.first)
