"""Vector instructions for sums of products: rows that have moved, and sums times their weights.

The kernels of `products` call them (docs/decisions/018).
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from dkmeans.backends.native.llvm_code import Array, Code, Value, as_intrinsic, constant, zero
from dkmeans.backends.native.sum_vectors import (
    MAGIC,
    MAGIC_BITS,
    NO_BITS,
    OCTET,
    is_any,
    over_octets,
)
from dkmeans.exact_grid import PLANE_BITS, WINDOW_BITS

# A product of at least so many units of the grid is a normal float64, and so is its error.
_SMALLEST_ON_GRID = 2.0**-100
# Number of rows whose clusters are compared at a time.
GROUP = 16
_CLUSTERS = ir.VectorType(ir.IntType(32), GROUP)


@as_intrinsic
def compare(code: Code, before: Array, after: Array, row: Value, mask: Array) -> None:
    """Find those of 16 rows whose clusters have changed.

    Args:
        code: The code to write to.
        before: (n,) int32, clusters.
        after: (n,) int32, clusters.
        row: Index of the first row; the others are rows too.
        mask: int64. Bit i of the first element is set if row number `row + i` has changed.
    """
    old, new = (code.load(code.at(each.first, row), _CLUSTERS) for each in (before, after))
    changed = code.builder.bitcast(code.builder.icmp_signed("!=", old, new), ir.IntType(GROUP))
    code.builder.store(code.builder.zext(changed, ir.IntType(64)), mask.first)


@as_intrinsic
def move_products(
    code: Code, points: Array, weights: Array, changes: Array, count: Value, before: Array,
    after: Array, scales: Array, unit: Array, first: Array, second: Array, third: Array,
    fourth: Array, errors: int, used_bits: Array, is_left: Array,
) -> None:  # fmt: skip
    """Move rows times their weights from the sums of clusters to those of others.

    Args:
        code: The code to write to.
        points: (n, d) rows.
        weights: (n,) float64, above zero.
        changes: (count,) int64, the rows that move.
        count: Number of these rows, at least one.
        before: (n,) int32, the clusters whose sums become smaller; -1 for rows that are in none.
        after: (n,) int32, the clusters whose sums grow, others than those before.
        scales: (d + 1 padded to a multiple of 8,) float64 factors that make products on the grid
            integers; the last one is that of the weights themselves.
        unit: (d + 1 padded,) float64, 1 in column d and 0 in all others.
        first: (k, d + 1 padded) int64, changed: plane 0. Column d has the sums of the weights.
        second: (k, d + 1 padded) int64, changed: plane -1.
        third: The same, plane -2. Only for products with errors.
        fourth: The same, plane -3.
        errors: 1 if products may have more bits than a float64, so that their rounding errors are
            added too; else 0.
        used_bits: (8,) int64: the bits that are added to the last plane are set.
        is_left: (count,) uint8, set to 1 for rows that the planes do not hold, which are in no sum;
            to 0 for all others.
    """
    builder, byte = code.builder, ir.IntType(8)
    planes = [first, second, third, fourth][: 4 if errors else 2]
    adder = _ProductAdder(code, points, weights, scales, unit, planes, used_bits)

    def move(place: Value, row: Value, old: Value | None, new: Value) -> None:
        is_off = adder.move(row, old, new)
        builder.store(builder.zext(is_off, byte), code.at(is_left.first, place))
        with builder.if_then(is_off, likely=False):
            # What the planes do not hold is in no sum, and was in none before.
            adder.move(row, old, new, is_back=True)

    def step(place: Value, _: Sequence[Value]) -> list[Value]:
        row = builder.load(code.at(changes.first, place))
        old, new = (
            builder.sext(builder.load(code.at(each.first, row)), code.size)
            for each in (before, after)
        )
        # All rows are in no sum at first, and none is later: the branch is foreseen.
        with builder.if_else(builder.icmp_signed(">=", old, code.size(0))) as (moves, adds):
            with moves:
                move(place, row, old, new)
            with adds:
                move(place, row, None, new)
        return []

    code.loop(count, [], step)


class _ProductAdder:
    """Writer of the code that changes sums by a row times its weight; see `move_products`."""

    def __init__(
        self, code: Code, points: Array, weights: Array, scales: Array, unit: Array,
        planes: Sequence[Array], used_bits: Array,
    ) -> None:  # fmt: skip
        self._code, self._points, self._weights = code, points, weights
        self._scales, self._unit, self._planes, self._used_bits = scales, unit, planes, used_bits
        self._vector = ir.VectorType(ir.DoubleType(), OCTET)
        self._integers = ir.VectorType(ir.IntType(64), OCTET)
        self._nothing = ir.Constant(self._integers, [0] * OCTET)

    def move(self, row: Value, old: Value | None, new: Value, *, is_back: bool = False) -> Value:
        """Move a row between the sums of two clusters; return True if the planes do not hold it.

        Args:
            row: Index of the row.
            old: Index of the cluster whose sums become smaller; None for none.
            new: Index of the cluster whose sums grow.
            is_back: True to take back an earlier move.
        """
        code, builder = self._code, self._code.builder
        weight = code.spread(builder.load(code.at(self._weights.first, row)), OCTET)
        plus, minus = (builder.sub, builder.add) if is_back else (builder.add, builder.sub)
        changes = [(new, plus)] if old is None else [(new, plus), (old, minus)]

        def octet(x: Value, column: Value, found: Sequence[Value]) -> list[Value]:
            x = builder.fadd(x, code.load(code.at(self._unit.first, column), self._vector))
            parts, off = self._parts_of(x, column, weight)
            for plane, part in zip(self._planes, parts, strict=True):
                for cluster, change in changes:
                    cell = code.cell(plane, cluster, column)
                    code.store(change(code.load(cell, self._integers), part), cell)
            bits = code.load(self._used_bits.first, self._integers)
            code.store(builder.or_(bits, parts[-1]), self._used_bits.first)
            return [builder.or_(found[0], off)]

        (off,) = over_octets(code, self._points, row, [self._nothing], octet, has_last=True)
        return is_any(code, off)

    def _parts_of(self, x: Value, column: Value, weight: Value) -> tuple[list[Value], Value]:
        """Return what to add to each plane, and bits that are set where planes do not hold all."""
        code, builder = self._code, self._code.builder
        factors = code.load(code.at(self._scales.first, column), self._vector)
        product = builder.fmul(x, weight)
        scaled = builder.fmul(product, factors)
        magic_bits = ir.Constant(self._integers, [MAGIC_BITS] * OCTET)
        no_bits = ir.Constant(self._integers, [NO_BITS] * OCTET)
        beyond = ir.Constant(self._integers, [-(2 ** (WINDOW_BITS + 1))] * OCTET)
        digits, rest = self._digits(scaled, max(2, len(self._planes) - 1))
        size = builder.and_(builder.xor(digits[0], no_bits), beyond)
        off = builder.or_(size, self._is_not_zero(rest))
        parts = [builder.sub(digit, magic_bits) for digit in digits]
        # Smaller products and their errors may have been rounded as subnormal numbers.
        is_small = builder.fcmp_ordered(
            "<",
            code.call("llvm.fabs.v8f64", self._vector, scaled),
            constant(self._vector, _SMALLEST_ON_GRID),
        )
        is_value = builder.fcmp_unordered("!=", x, zero(self._vector))
        off = builder.or_(off, builder.sext(builder.and_(is_small, is_value), self._integers))
        if len(self._planes) > 2:
            error = code.call("llvm.fma.v8f64", self._vector, x, weight, builder.fneg(product))
            next_plane = constant(self._vector, 2.0**PLANE_BITS)
            scaled_error = builder.fmul(builder.fmul(error, factors), next_plane)
            digits, rest = self._digits(scaled_error, len(self._planes) - 1)
            off = builder.or_(off, self._is_not_zero(rest))
            of_error = [builder.sub(digit, magic_bits) for digit in digits]
            both = zip(parts[1:], of_error[:-1], strict=True)
            parts = [parts[0], *(builder.add(a, b) for a, b in both), of_error[-1]]
        return parts, off

    def _digits(self, value: Value, count: int) -> tuple[list[Value], Value]:
        """Return the bits of `value + MAGIC` plane by plane, and what is left after the last."""
        builder = self._code.builder
        magic, digits = constant(self._vector, MAGIC), []
        for number in range(count):
            if number:
                value = builder.fmul(value, constant(self._vector, 2.0**PLANE_BITS))
            moved = builder.fadd(value, magic)
            digits.append(builder.bitcast(moved, self._integers))
            value = builder.fsub(value, builder.fsub(moved, magic))
        return digits, value

    def _is_not_zero(self, value: Value) -> Value:
        """Return bits that are set where a value is not zero, or NaN."""
        is_other = self._code.builder.fcmp_unordered("!=", value, zero(self._vector))
        return self._code.builder.sext(is_other, self._integers)
