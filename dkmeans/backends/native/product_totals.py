"""Sums of all values of rows times the weights of the rows, or of their squares times the weights.

`backend` calls `total`. The kernel takes eight columns at a time, and keeps their sums in registers
while it goes over some rows (docs/decisions/018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from dkmeans.backends.native.compilation import kernel
from dkmeans.backends.native.llvm_code import Array, Code, Load, Value, as_intrinsic, constant, zero
from dkmeans.backends.native.panels import aligned_zeros, padded
from dkmeans.backends.native.runner import kernel_array, run
from dkmeans.backends.native.sum_vectors import OCTET
from dkmeans.backends.weighted import PLANES, plus_left, product_grid
from dkmeans.exact import ExactSums
from dkmeans.exact_grid import PLANE_BITS, WINDOW_BITS, Grid, piece_slices
from dkmeans.exact_total import NOTHING, ExactTotal
from dkmeans.state import FloatArray


def _magic(plane: int) -> float:
    """Return the number that rounds what is added to it to whole units of a plane."""
    return 1.5 * 2.0 ** (52 - PLANE_BITS * plane)


# The bits that each product adds to a plane beside its own: its first three planes have those of
# the product, its last three those of the rounding error.
_BITS_OF_PLANES = [
    (1 + (0 < plane < PLANES - 1)) * int(np.float64(_magic(plane)).view(np.int64))
    for plane in range(PLANES)
]
# Rows of a block whose columns are added up one after another: a core's cache holds them.
_BLOCK = 256
# Rows that a grid is made from.
_SAMPLED_ROWS = 32


def total(values: FloatArray, weights: FloatArray, *, of_squares: bool) -> ExactTotal:
    """Return the exact sum of (n, d) values, or squares of float32, times the weights of the rows.

    Raises:
        NotFinite: a value is not finite.
    """
    values, weights = kernel_array(values), kernel_array(weights)
    some = slice(None, None, -(-len(values) // _SAMPLED_ROWS) or 1)
    of_products = product_grid(_factors(values[some], of_squares=of_squares), weights[some])
    grid, found = Grid(of_products.exponents[:-1]), NOTHING
    for piece in piece_slices(len(values)):
        sums = _sums_of(values[piece], weights[piece], grid, of_squares=of_squares)
        found += sums.total()
    return found


def _factors(values: FloatArray, *, of_squares: bool) -> FloatArray:
    return np.square(values, dtype=np.float64) if of_squares else values


def _sums_of(values: FloatArray, weights: FloatArray, grid: Grid, *, of_squares: bool) -> ExactSums:
    """Return the sums of each column, (1, d), of one piece."""
    n, d = values.shape
    scales = np.ones(padded(d))
    scales[:d] = grid.scales
    planes = aligned_zeros((PLANES, padded(d)), np.int64)
    is_left = np.empty((-(-n // OCTET),) if d == 1 else (n, padded(d) // OCTET), np.uint8)
    squared = (None,) * of_squares
    run(add_products, (values.dtype, squared), values, weights, scales, squared, planes, is_left)
    # The rows of a single column have been added up in eight sums.
    planes = planes.sum(axis=1, keepdims=True) if d == 1 else planes[:, :d]
    sums = ExactSums(grid, {-m: plane[None] for m, plane in enumerate(planes)})
    if not is_left.any():
        return sums
    if d == 1:
        rows = np.flatnonzero(np.unpackbits(is_left, bitorder="little")[:n])
        left = np.ones((len(rows), 1), bool)
    else:
        # Few rows have products that are left: only their bits are unpacked.
        rows = np.flatnonzero(is_left.any(axis=1))
        left = np.unpackbits(is_left[rows], axis=1, bitorder="little")[:, :d].astype(bool)
    others = _factors(values[rows], of_squares=of_squares), weights[rows]
    return plus_left(sums, *others, np.zeros(len(rows), np.int64), left)


@kernel
def add_products(
    values: Any, weights: Any, scales: Any, squared: Any, planes: Any, is_left: Any
) -> None:
    """Add up rows times their weights, column by column.

    Args:
        values: (n, d), C-contiguous.
        weights: (n,) float64, above zero.
        scales: (d padded to a multiple of 8,) float64, factors that make products on the grid
            integers.
        squared: A tuple, of length one to add up the squares of float32 values instead, else empty.
        planes: (4, d padded) int64, increased: planes 0 to -3.
        is_left: uint8, a bit for each product, set if it is not added: (n, d / 8, rounded up), or
            for a single column (n / 8, rounded up).
    """
    for start in range(0, len(weights), _BLOCK):
        count = min(_BLOCK, len(weights) - start)
        _add_products(values, weights, start, count, scales, squared, planes, is_left)


@as_intrinsic
def _add_products(
    code: Code, values: Array, weights: Array, start: Value, count: Value, scales: Array,
    squared: int, planes: Array, is_left: Array,
) -> None:  # fmt: skip
    """Add up rows times their weights, column by column: the sums of eight columns in registers.

    A single column has eight rows in a vector instead.

    Args:
        code: The code to write to.
        values: (n, d) rows.
        weights: (n,) float64, above zero.
        start: Index of the first row, a multiple of 8.
        count: Number of rows, at least one.
        scales: (d padded to a multiple of 8,) float64 factors that make products on the grid
            integers.
        squared: 1 to add up the squares of the values, which float64 must hold; else 0.
        planes: (4, d padded) int64, increased: planes 0 to -3.
        is_left: (n, d / 8, rounded up) uint8, a bit for each value: set if it is not added. For a
            single column (n / 8, rounded up), a bit for each row.
    """
    builder = code.builder
    adder = _ColumnAdder(code, scales, planes, is_left, squared=bool(squared))
    is_single = builder.icmp_signed("==", values.width, code.size(1))
    with builder.if_else(is_single) as (single, several):
        with single:
            adder.add_column(values, weights, start, count)
        with several:
            adder.add_rows(values, weights, start, count)


class _ColumnAdder:
    """Writer of the code that adds up products in registers; see `add_products`."""

    def __init__(
        self, code: Code, scales: Array, planes: Array, is_left: Array, *, squared: bool
    ) -> None:
        self._code, self._scales, self._planes, self._is_left = code, scales, planes, is_left
        self._squared = squared
        self._vector = ir.VectorType(ir.DoubleType(), OCTET)
        self._integers = ir.VectorType(ir.IntType(64), OCTET)

    def add_rows(self, values: Array, weights: Array, start: Value, count: Value) -> None:
        """Add up rows, eight columns at a time."""
        code, builder, eight = self._code, self._code.builder, self._code.size(OCTET)
        num_masks = builder.sdiv(builder.add(values.width, code.size(OCTET - 1)), eight)

        def octet(number: Value, load: Load, _: Sequence[Value]) -> list[Value]:
            column = builder.mul(number, eight)
            factors = code.load(code.at(self._scales.first, column), self._vector)

            def step(place: Value, sums: Sequence[Value]) -> list[Value]:
                row = builder.add(start, place)
                x = load(code.cell(values, row, column), self._vector)
                weight = code.spread(builder.load(code.at(weights.first, row)), OCTET)
                mask = builder.add(builder.mul(row, num_masks), number)
                return self._added(x, weight, factors, sums, mask)

            self._grow(column, count, code.loop(count, self._nothing(), step))
            return []

        code.in_vectors(values.width, OCTET, [], octet)

    def add_column(self, values: Array, weights: Array, start: Value, count: Value) -> None:
        """Add up rows of a single column, eight rows at a time."""
        code, builder, eight = self._code, self._code.builder, self._code.size(OCTET)
        factors = code.spread(builder.load(self._scales.first), OCTET)
        first = builder.sdiv(start, eight)

        def octet(number: Value, load: Load, sums: Sequence[Value]) -> list[Value]:
            row = builder.add(start, builder.mul(number, eight))
            x, weight = (load(code.at(a.first, row), self._vector) for a in (values, weights))
            return self._added(x, weight, factors, sums, builder.add(first, number))

        sums = code.in_vectors(count, OCTET, self._nothing(), octet)
        rows = builder.sdiv(builder.add(count, code.size(OCTET - 1)), eight)
        self._grow(code.size(0), rows, sums)

    def _nothing(self) -> list[Value]:
        return [ir.Constant(self._integers, [0] * OCTET)] * PLANES

    def _grow(self, column: Value, count: Value, sums: Sequence[Value]) -> None:
        """Add the sums of so many vectors to the planes, without what is in the bits of each."""
        code, builder = self._code, self._code.builder
        for plane, total in enumerate(sums):
            extra = builder.mul(count, code.size(_BITS_OF_PLANES[plane]))
            place = code.cell(self._planes, code.size(plane), column)
            total = builder.sub(total, code.spread(extra, OCTET))
            code.store(builder.add(code.load(place, self._integers), total), place)

    def _added(
        self, x: Value, weight: Value, factors: Value, sums: Sequence[Value], mask: Value
    ) -> list[Value]:
        """Return the sums with those of eight products that are on the grid added.

        Args:
            x: The values.
            weight: Their weights.
            factors: Factors that make products on the grid integers.
            sums: Sums of each plane.
            mask: Number of the element of `is_left` that gets the bits of the other products.
        """
        code, builder = self._code, self._code.builder
        value = builder.fmul(x, x) if self._squared else x
        product = builder.fmul(value, weight)
        error = code.call("llvm.fma.v8f64", self._vector, value, weight, builder.fneg(product))
        scaled = builder.fmul(product, factors)
        size = code.call("llvm.fabs.v8f64", self._vector, scaled)
        off = builder.fcmp_unordered(">=", size, constant(self._vector, 2.0**WINDOW_BITS))
        # An underflow leaves nothing that the other comparisons could see.
        is_lost = builder.and_(
            builder.fcmp_ordered("==", scaled, zero(self._vector)),
            builder.fcmp_unordered("!=", value, zero(self._vector)),
        )
        words, rest = self._words(scaled, 0)
        of_error, rest_of_error = self._words(builder.fmul(error, factors), 1)
        for each in (rest, rest_of_error):
            off = builder.or_(off, builder.fcmp_unordered("!=", each, zero(self._vector)))
        off = builder.or_(off, is_lost)
        both = zip(words[1:], of_error[:-1], strict=True)
        words = [words[0], *(builder.add(a, b) for a, b in both), of_error[-1]]
        byte = builder.bitcast(off, ir.IntType(OCTET))
        builder.store(byte, code.at(self._is_left.first, mask))

        def without(sums: Sequence[Value]) -> list[Value]:
            nothing = ir.Constant(self._integers, [0] * OCTET)
            changes = [
                builder.sub(ir.Constant(self._integers, [bits] * OCTET), word)
                for word, bits in zip(words, _BITS_OF_PLANES, strict=True)
            ]
            return [
                builder.add(total, builder.select(off, change, nothing))
                for total, change in zip(sums, changes, strict=True)
            ]

        sums = [builder.add(total, word) for total, word in zip(sums, words, strict=True)]
        return code.change_if(builder.icmp_unsigned("!=", byte, byte.type(0)), without, sums)

    def _words(self, value: Value, first: int) -> tuple[list[Value], Value]:
        """Return the bits of a value for three planes from `first` on, and what is left of it."""
        builder, words = self._code.builder, []
        for plane in range(first, first + PLANES - 1):
            magic = constant(self._vector, _magic(plane))
            moved = builder.fadd(value, magic)
            words.append(builder.bitcast(moved, self._integers))
            value = builder.fsub(value, builder.fsub(moved, magic))
        return words, value
