"""Vector instructions for sums: Numba intrinsics that add up rows and squares as integers.

The kernels call these functions (docs/decisions/017). Eight columns are computed at a time, on
every processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from llvmlite import ir

from dkmeans.backends.native.llvm_code import Array, Code, Load, Value, as_intrinsic, constant, zero
from dkmeans.exact_grid import PLANE_BITS, WINDOW_BITS, digit_places

# Columns that are added up at a time, on every processor.
OCTET = 8

# Rows are added as integers, so neither the order of the rows nor the width of the vectors changes
# a bit. Many processors convert only single numbers to integers. So 1.5 * 2^52 is added to a value
# instead: its integer, rounded to even, is then in the last bits of the sum. All 64 bits are added,
# and the caller subtracts `MAGIC_BITS` as often as there are rows.
#
# A row whose values are not all integers goes to the list `rest`: what was rounded away is still to
# be added. Nothing is tested before it is added: additions wrap around, and can be taken back. A
# row with a value of 2^46 or more, which may have no integer, is taken back, and is listed as far.
# The tests are the bits in which values differ from their integers (all but the sign, for -0.0),
# and the bits above 2^47, each gathered over the whole row. For cosine every value is rounded to an
# integer on purpose: its differences do not count. The number added has 2^46 more, which makes all
# integers in the window positive: then they have no bits above 2^47.
MAGIC = 1.5 * 2.0**52 + 2.0**WINDOW_BITS
NO_BITS = 0x4338000000000000
MAGIC_BITS = NO_BITS + 2**WINDOW_BITS


@as_intrinsic
def add_rows(
    code: Code, points: Array, start: Value, count: Value, row_scales: Array, clusters: Array,
    cosine: Value, grid: Array, counts: Array, sums: Array, low_sums: Array, rest: Array,
    num_rest: Array,
) -> None:  # fmt: skip
    """Add rows to the sums of their clusters as integers; list the rows with other values.

    A row of the list is in the sums, rounded to integers, unless it is far.

    Args:
        code: The code to write to.
        points: (n, d) rows.
        start: Index of the first row.
        count: Number of rows, at least one.
        row_scales: (count,) float64, 1 / |x| of these rows for cosine, else 1.
        clusters: (count,) cluster indices of these rows.
        cosine: True to round the scaled rows to integers.
        grid: (d padded to a multiple of 8,) float64 factors that make values on the grid integers.
        counts: (k,) numbers of rows that are in the sums, increased.
        sums: (k, d padded) int64, increased: plane 0, and `MAGIC_BITS` for each row.
        low_sums: (k, d padded) int64, increased likewise: plane -1, for float64 rows. Else unused.
        rest: (n, 2) int64, the listed rows and their clusters c; for a far row, `~c`.
        num_rest: (1,) int64, the number of these rows, increased.
    """
    builder, one = code.builder, code.size(1)

    def step(adder: RowAdder, place: Value) -> list[Value]:
        row, cluster = builder.add(start, place), builder.load(code.at(clusters.first, place))
        scale = builder.load(code.at(row_scales.first, place))
        cluster_count = code.at(counts.first, cluster)
        builder.store(builder.add(builder.load(cluster_count), one), cluster_count)
        lost, far = adder.change(row, scale, cluster, builder.add)
        with builder.if_then(is_any(code, builder.or_(lost, far)), likely=False):
            is_far = is_any(code, far)
            with builder.if_then(is_far):
                adder.change(row, scale, cluster, builder.sub)
                builder.store(builder.sub(builder.load(cluster_count), one), cluster_count)
            number = builder.load(num_rest.first)
            builder.store(row, code.cell(rest, number, code.size(0)))
            listed = builder.select(is_far, builder.not_(cluster), cluster)
            builder.store(listed, code.cell(rest, number, one))
            builder.store(builder.add(number, one), num_rest.first)
        return []

    def loop(*, is_narrow: bool) -> None:
        adder = RowAdder(code, points, cosine, grid, sums, low_sums, is_narrow=is_narrow)
        code.loop(count, [], lambda place, _: step(adder, place))

    is_narrow = builder.icmp_signed("<=", points.width, code.size(OCTET))
    with builder.if_else(is_narrow) as (narrow, wide):
        with narrow:
            loop(is_narrow=True)
        with wide:
            loop(is_narrow=False)


@as_intrinsic
def move_row(
    code: Code, points: Array, row: Value, scale: Value, before: Value, after: Value,
    cosine: Value, grid: Array, sums: Array, low_sums: Array,
) -> None:  # fmt: skip
    """Move a row from the sums of a cluster to those of another, unless it is far.

    The sums are those of the rows alone, without `MAGIC_BITS`. The row moves from cluster `before`
    to `after`; its `scale` is 1 / |x| for cosine, else 1. Other arguments are those of `add_rows`.
    """
    builder = code.builder
    adder = RowAdder(code, points, cosine, grid, sums, low_sums)
    magic_bits = ir.Constant(ir.VectorType(ir.IntType(64), OCTET), [MAGIC_BITS] * OCTET)

    def plus(old: Value, bits: Value) -> Value:
        return builder.add(old, builder.sub(bits, magic_bits))

    def minus(old: Value, bits: Value) -> Value:
        return builder.sub(old, builder.sub(bits, magic_bits))

    _, far = adder.change(row, scale, after, plus)
    with builder.if_else(is_any(code, far), likely=False) as (far, usual):
        with far:
            adder.change(row, scale, after, minus)
        with usual:
            adder.change(row, scale, before, minus)


class RowAdder:
    """Writer of the code that adds rows to sums, or takes them back; see `add_rows`.

    Rows of at most eight columns may have code of their own, which takes three quarters of the
    time: the factors of the grid stay in a register, and no loop goes over groups of columns.
    """

    def __init__(
        self, code: Code, points: Array, cosine: Value, grid: Array, sums: Array, low_sums: Array,
        *, is_narrow: bool = False,
    ) -> None:  # fmt: skip
        self._code, self._points, self._grid = code, points, grid
        self._planes = [sums, low_sums] if str(points.element) == "double" else [sums]
        self._vector = ir.VectorType(grid.element, OCTET)
        self._integers = ir.VectorType(ir.IntType(64), OCTET)
        # All bits but the sign: for cosine none.
        bits = code.builder.select(cosine, ir.IntType(64)(0), ir.IntType(64)(2**63 - 1))
        self._difference_bits = code.spread(bits, OCTET)
        self._only_factors = code.load(grid.first, self._vector) if is_narrow else None

    def change(
        self, row: Value, scale: Value, cluster: Value, change: Callable[[Value, Value], Value]
    ) -> tuple[Value, Value]:
        """Change the sums of a cluster by a row.

        Args:
            row: Index of the row.
            scale: 1 / |x| of the row for cosine, else 1.
            cluster: Index of the cluster.
            change: Returns the new sums, given the old ones and the integers of the row.

        Returns:
            Eight integers that are all zero if the sums hold all of the row, and eight that are all
            zero if it is not far.
        """
        code, builder = self._code, self._code.builder
        scales = code.spread(scale, OCTET)
        no_bits = ir.Constant(self._integers, [NO_BITS] * OCTET)
        beyond = ir.Constant(self._integers, [-(2 ** (WINDOW_BITS + 1))] * OCTET)
        nothing = ir.Constant(self._integers, [0] * OCTET)

        def octet(x: Value, column: Value, found: Sequence[Value]) -> list[Value]:
            differences, sizes = found
            bits, value, unlike = self._parts_of(x, column, scales)
            for plane, part in zip(self._planes, bits, strict=True):
                cell = self._cell(plane, cluster, column)
                code.store(change(code.load(cell, self._integers), part), cell)
            if len(self._planes) > 1:
                # An underflow to zero leaves no difference: the value itself shows it.
                is_zero = builder.fcmp_ordered("==", value, zero(self._vector))
                lost = builder.select(is_zero, builder.bitcast(x, self._integers), nothing)
                differences = builder.or_(differences, lost)
            sizes = builder.or_(sizes, builder.xor(bits[0], no_bits))
            return [builder.or_(differences, unlike), sizes]

        if self._only_factors is None:
            differences, sizes = over_octets(code, self._points, row, [nothing, nothing], octet)
        else:
            first = code.size(0)
            place = code.cell(self._points, row, first)
            x = code.load_first(place, self._points.width, self._vector)
            differences, sizes = octet(x, first, [nothing, nothing])
        return builder.and_(differences, self._difference_bits), builder.and_(sizes, beyond)

    def _cell(self, plane: Array, cluster: Value, column: Value) -> Value:
        """Return the pointer to some sums of a cluster."""
        if self._only_factors is None:
            return self._code.cell(plane, cluster, column)
        # The compiler then knows how far apart the sums of two clusters are.
        return self._code.at(plane.first, self._code.builder.mul(cluster, self._code.size(OCTET)))

    def _parts_of(self, x: Value, column: Value, scales: Value) -> tuple[list[Value], Value, Value]:
        """Return the bits to add to each plane, the scaled values, and what no plane holds."""
        code, builder = self._code, self._code.builder
        magic = constant(self._vector, MAGIC)
        factors = self._only_factors
        if factors is None:
            factors = code.load(code.at(self._grid.first, column), self._vector)
        value = difference = builder.fmul(builder.fmul(x, scales), factors)
        bits: list[Value] = []
        for _ in self._planes:
            if bits:
                difference = builder.fmul(difference, constant(self._vector, 2.0**PLANE_BITS))
            moved = builder.fadd(difference, magic)
            bits.append(builder.bitcast(moved, self._integers))
            before, back = difference, builder.fsub(moved, magic)
            difference = builder.fsub(before, back)
        unlike = builder.xor(
            builder.bitcast(before, self._integers), builder.bitcast(back, self._integers)
        )
        return bits, value, unlike


# Rows whose squares are added up in registers: the products of two digits are below 2^46.
SQUARED_ROWS = 64


@as_intrinsic
def find_left(
    code: Code, points: Array, start: Value, count: Value, grid: Array, is_left: Array
) -> None:
    """Write to `is_left` whether a row has values that are not on the grid: 1 or 0.

    The arguments are those of `add_squares`.
    """
    builder, vector = code.builder, ir.VectorType(grid.element, OCTET)
    is_double = str(points.element) == "double"
    nothing = ir.Constant(ir.VectorType(ir.IntType(1), OCTET), [0] * OCTET)

    def find(x: Value, column: Value, left: Sequence[Value]) -> list[Value]:
        scaled = builder.fmul(x, code.load(code.at(grid.first, column), vector))
        size = code.call("llvm.fabs.v8f64", vector, scaled)
        is_other = builder.fcmp_unordered(">=", size, constant(vector, 2.0**WINDOW_BITS))
        finest = scaled
        if is_double:
            finest = builder.fmul(scaled, constant(vector, 2.0**PLANE_BITS))
            is_lost = builder.and_(
                builder.fcmp_ordered("==", scaled, zero(vector)),
                builder.fcmp_unordered("!=", x, zero(vector)),
            )
            is_other = builder.or_(is_other, is_lost)
        whole = code.call("llvm.trunc.v8f64", vector, finest)
        is_other = builder.or_(is_other, builder.fcmp_unordered("!=", whole, finest))
        return [builder.or_(left[0], is_other)]

    def step(place: Value, _: Sequence[Value]) -> list[Value]:
        row = builder.add(start, place)
        (found,) = over_octets(code, points, row, [nothing], find)
        byte = ir.IntType(8)
        is_any = builder.icmp_unsigned("!=", builder.bitcast(found, byte), byte(0))
        builder.store(builder.zext(is_any, byte), code.at(is_left.first, row))
        return []

    code.loop(count, [], step)


@as_intrinsic
def add_squares(
    code: Code, points: Array, start: Value, count: Value, grid: Array, is_left: Array, sums: Array
) -> None:
    """Write the products of the digits of rows, as `Grid.digit_products` adds them up, to `sums`.

    Args:
        code: The code to write to.
        points: (n, d) rows.
        start: Index of the first row.
        count: Number of rows, from 1 to `SQUARED_ROWS`.
        grid: (d padded to a multiple of 8,) float64 factors that make values on the grid integers.
        is_left: (n,) uint8, 0 for the rows that are added.
        sums: (products, d padded) float64, overwritten.
    """
    builder, vector = code.builder, ir.VectorType(grid.element, OCTET)
    places = digit_places(np.float64 if str(points.element) == "double" else np.float32)
    pairs = [(i, j) for i in range(len(places)) for j in range(i, len(places))]

    def octet(number: Value, load: Load, _: Sequence[Value]) -> list[Value]:
        column = builder.mul(number, code.size(OCTET))
        factors = code.load(code.at(grid.first, column), vector)

        def step(place: Value, totals: Sequence[Value]) -> list[Value]:
            row = builder.add(start, place)
            is_added = builder.icmp_unsigned(
                "==", builder.load(code.at(is_left.first, row)), ir.IntType(8)(0)
            )
            x = load(code.cell(points, row, column), vector)
            scaled = builder.select(is_added, builder.fmul(x, factors), zero(vector))
            digits = []
            for exponent in places:
                digit = builder.fmul(scaled, constant(vector, 2.0**-exponent))
                digits.append(code.call("llvm.trunc.v8f64", vector, digit))
                whole = builder.fmul(digits[-1], constant(vector, 2.0**exponent))
                scaled = builder.fsub(scaled, whole)
            pairs_and_totals = zip(pairs, totals, strict=True)
            return [code.fma(digits[i], digits[j], old) for (i, j), old in pairs_and_totals]

        totals = code.loop(count, [zero(vector)] * len(pairs), step)
        for product, total in enumerate(totals):
            code.store(total, code.cell(sums, code.size(product), column))
        return []

    code.in_vectors(points.width, OCTET, [], octet)


def is_any(code: Code, found: Value) -> Value:
    """Return whether any of eight integers of 64 bits is not zero."""
    nothing = ir.Constant(ir.VectorType(ir.IntType(64), OCTET), [0] * OCTET)
    lanes = code.builder.icmp_unsigned("!=", found, nothing)
    byte = ir.IntType(OCTET)
    return code.builder.icmp_unsigned("!=", code.builder.bitcast(lanes, byte), byte(0))


def over_octets(
    code: Code, points: Array, row: Value, initial: Sequence[Value],
    step: Callable[[Value, Value, Sequence[Value]], list[Value]],
    *, has_last: bool = False,
) -> list[Value]:  # fmt: skip
    """Write a loop over a row in groups of eight columns, as `Code.in_vectors` does.

    `step` gets the float64 values, their first column, and the values before.
    """
    vector = ir.VectorType(ir.DoubleType(), OCTET)

    def octet(number: Value, load: Load, values: Sequence[Value]) -> list[Value]:
        column = code.builder.mul(number, code.size(OCTET))
        return step(load(code.cell(points, row, column), vector), column, values)

    return code.in_vectors(points.width, OCTET, initial, octet, has_last=has_last)
