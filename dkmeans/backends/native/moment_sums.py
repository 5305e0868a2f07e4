"""The kernels that add up moments of rows about their centers, called by `backend`.

They do what `backends.moments` does with NumPy. Numba compiles them when clusters are judged for
the first time. Vectors have eight lanes, on every processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from dkmeans.backends.moments import AMBIGUOUS_RATIO, MOMENT_PLANES, NUM_MEASURES, SILHOUETTE
from dkmeans.backends.native.compilation import kernel
from dkmeans.backends.native.llvm_code import (
    CACHE_LINE_BYTES,
    Array,
    Code,
    Load,
    Value,
    as_intrinsic,
    constant,
    prefetch,
    transposed,
    zero,
)
from dkmeans.exact_grid import PLANE_BITS, WINDOW_BITS
from dkmeans.state import FloatArray, IndexArray

# Lanes of a vector.
_OCTET = 8
_FLOATS, _INTEGERS = (ir.VectorType(kind, _OCTET) for kind in (ir.DoubleType(), ir.IntType(64)))
_FLAGS = ir.VectorType(ir.IntType(1), _OCTET)

# Rows lie anywhere when they are taken cluster by cluster: each is fetched so many rows ahead.
_ROWS_AHEAD = 8

# A number on the grid is cut into words: integers for planes 0, -1 and -2. Only new processors
# convert vectors to 64-bit integers, so 1.5 * 2^52 is added: the integer is then in the last bits
# of the sum, and `MAGIC_BITS` are subtracted: at once from squares; from measures at the end, for
# each row, as in `sum_vectors`.
_MAGIC, MAGIC_BITS = 1.5 * 2.0**52, 0x4338000000000000

# What the sums of measures have for each cluster, in two cache lines: the words of the measures,
# measure by measure; the number of rows; and the bits of the largest length.
_WORDS = MOMENT_PLANES * NUM_MEASURES
MEASURE_SUMS = 2 * _OCTET
_COUNT, _LENGTH = _WORDS, _WORDS + 1


def _cut(code: Code, value: Value, scales: Value) -> tuple[list[Value], Value]:
    """Return the words of eight numbers, and which numbers are not on the grid."""
    builder = code.builder
    magic, next_plane = constant(_FLOATS, _MAGIC), constant(_FLOATS, 2.0**PLANE_BITS)
    rest = scaled = builder.fmul(value, scales)
    words: list[Value] = []
    for plane in range(MOMENT_PLANES):
        rest = builder.fmul(rest, next_plane) if plane else rest
        moved = builder.fadd(rest, magic)
        words.append(builder.bitcast(moved, _INTEGERS))
        rest = builder.fsub(rest, builder.fsub(moved, magic))
    # The comparisons also hold for values that are NaN, and for what underflows to zero.
    size = code.call("llvm.fabs.v8f64", _FLOATS, scaled)
    off = builder.fcmp_unordered(">=", size, constant(_FLOATS, 2.0**WINDOW_BITS))
    off = builder.or_(off, builder.fcmp_unordered("!=", rest, zero(_FLOATS)))
    is_lost = builder.and_(
        builder.fcmp_ordered("==", scaled, zero(_FLOATS)),
        builder.fcmp_unordered("!=", value, zero(_FLOATS)),
    )
    return words, builder.or_(off, is_lost)


def _numbers(values: Sequence[int], kind: Any = _INTEGERS) -> Value:
    return ir.Constant(kind, list(values))


@as_intrinsic
def _add_octets(
    code: Code, distances: Array, second: Value, weights: Array, index: Array, count: Value,
    factor: Value, scales: Array, sums: Array, is_left: Array,
) -> None:  # fmt: skip
    """Add the measures of `count` rows, eight at a time: the rows lie across the lanes.

    The words of eight rows are transposed. Then each row has its numbers in two vectors, which are
    added to those of its cluster. A row that is off the grid adds zeros.

    Args:
        code: The code to write to.
        distances: As in `add_measures`.
        second: Number of the row of `distances` that has those to the second nearest centers.
        weights: As in `add_measures`.
        index: As in `add_measures`.
        count: Number of rows, at least one.
        factor: As in `add_measures`.
        scales: As in `add_measures`.
        sums: As in `add_measures`.
        is_left: As in `add_measures`.
    """
    builder, eight = code.builder, code.size(_OCTET)
    whole, rest = builder.sdiv(count, eight), builder.srem(count, eight)
    factors = code.spread(factor, _OCTET)
    all_scales = [
        code.spread(builder.load(code.at(scales.first, measure)), _OCTET)
        for measure in range(NUM_MEASURES)
    ]

    def octet(number: Value, load: Callable[[Value, Any], Value], are_rows: Value) -> None:
        first = builder.mul(number, eight)
        near = load(code.cell(distances, code.size(0), first), _FLOATS)
        far = load(code.cell(distances, second, first), _FLOATS)
        values = _measures_of(code, near, far, factors)
        weight = load(code.at(weights.first, first), _FLOATS)
        words: list[Value] = []
        off = builder.not_(are_rows)
        for value, scale in zip(values, all_scales, strict=True):
            of_measure, is_off = _cut(code, builder.fmul(value, weight), scale)
            words += of_measure
            off = builder.or_(off, is_off)
        none = _numbers([0] * _OCTET)
        words = [builder.select(off, none, word) for word in words]
        words.append(builder.zext(builder.not_(off), _INTEGERS))
        words.append(builder.bitcast(values[1], _INTEGERS))
        words += [none] * (MEASURE_SUMS - len(words))
        code.store(
            builder.zext(off, ir.VectorType(ir.IntType(8), _OCTET)), code.at(is_left.first, first)
        )
        # `load` may fill up with zeros, which float64 and int64 have in common.
        bits = builder.bitcast(code.at(index.first, first), ir.DoubleType().as_pointer())
        clusters = builder.bitcast(load(bits, _FLOATS), _INTEGERS)
        halves = [
            transposed(builder, words[i : i + _OCTET]) for i in range(0, MEASURE_SUMS, _OCTET)
        ]
        for row in range(_OCTET):
            cluster = builder.extract_element(clusters, ir.IntType(32)(row))
            low, high = (code.cell(sums, cluster, code.size(i)) for i in (0, _OCTET))
            code.store(builder.add(code.load(low, _INTEGERS), halves[0][row]), low)
            code.store(_added(code, code.load(high, _INTEGERS), halves[1][row]), high)

    def step(number: Value, _: Sequence[Value]) -> list[Value]:
        octet(number, code.load, _numbers([1] * _OCTET, _FLAGS))
        return []

    with builder.if_then(builder.icmp_signed(">", whole, code.size(0))):
        code.loop(whole, [], step)
    with builder.if_then(builder.icmp_signed(">", rest, code.size(0))):
        lanes = _numbers(range(_OCTET))
        are_rows = builder.icmp_signed("<", lanes, code.spread(rest, _OCTET))
        octet(whole, lambda place, vector: code.load_first(place, rest, vector), are_rows)


def _measures_of(code: Code, near: Value, far: Value, factors: Value) -> list[Value]:
    """Return the measures of eight rows, as `moments.add_measures` defines them."""
    builder, one, none = code.builder, constant(_FLOATS, 1.0), zero(_FLOATS)
    length, second = (
        code.call("llvm.sqrt.v8f64", _FLOATS, builder.fmul(factors, distance))
        for distance in (near, far)
    )
    is_apart = builder.fcmp_ordered(">", second, none)
    ratio = builder.select(is_apart, builder.fdiv(length, second), one)
    limit = builder.fmul(constant(_FLOATS, AMBIGUOUS_RATIO), length)
    ambiguous = builder.select(builder.fcmp_ordered("<=", second, limit), one, none)
    return [near, length, builder.fsub(one, ratio), ambiguous]


def _added(code: Code, old: Value, new: Value) -> Value:
    """Add the second half of a row's numbers to that of a cluster; of lengths take the larger."""
    builder = code.builder
    # Lengths are not negative: their order is that of their bits.
    larger = builder.select(builder.icmp_signed(">", new, old), new, old)
    is_length = _numbers([i == _LENGTH - _OCTET for i in range(_OCTET)], _FLAGS)
    return builder.select(is_length, larger, builder.add(old, new))


@kernel
def add_measures(
    distances: Any,
    weights: Any,
    index: Any,
    factor: float,
    scales: Any,
    sums: Any,
    is_left: Any,
) -> None:
    """Add the measures of rows to the sums of their clusters.

    Args:
        distances: (2, n) float64, to the nearest and second nearest center; (1, n) for one center.
        weights: (n,) float64, above zero.
        index: (n,) int64, the cluster of each row.
        factor: Factor that makes a distance the square of a length.
        scales: (4,) float64, factors that make measures on the grid integers.
        sums: (k, `MEASURE_SUMS`) int64, changed.
        is_left: (n padded to a multiple of 8,) uint8, set to 1 for rows that are not added, else to
            0.
    """
    if len(index):
        _add_octets(
            distances, len(distances) - 1, weights, index, len(index), factor, scales, sums, is_left
        )


def planes_of(sums: IndexArray, *, has_second: bool) -> dict[int, IndexArray]:
    """Return the planes of sums of measures, (k, 4) each.

    Args:
        sums: The sums.
        has_second: False if there is one center: then the measures of two are zero.
    """
    words = sums[:, :_WORDS] - sums[:, _COUNT, None] * MAGIC_BITS
    of_measures = words.reshape(-1, NUM_MEASURES, MOMENT_PLANES)
    of_measures[:, SILHOUETTE:] *= has_second
    return {-m: of_measures[:, :, m] for m in range(MOMENT_PLANES)}


def lengths_of(sums: IndexArray) -> FloatArray:
    """Return the largest length of a row of each cluster, (k,)."""
    return np.ascontiguousarray(sums[:, _LENGTH]).view(np.float64)


@as_intrinsic
def _add_row(
    code: Code, points: Array, row: Value, weight: Value, centers: Array, cluster: Value,
    scales: Array, sums: Array, is_left: Array,
) -> None:  # fmt: skip
    """Add the squares of a row to the sums of its cluster, unless some are not on the grid.

    Nothing is tested before it is added: additions wrap around, and are taken back. The arguments
    are those of `add_squares`.
    """
    builder, eight = code.builder, code.size(_OCTET)
    weights = code.spread(weight, _OCTET)
    first_line = builder.mul(cluster, code.size(MOMENT_PLANES))

    def change(by: Callable[[Value, Value], Value]) -> Value:
        """Change the sums by the row; return which of its lanes are not on the grid."""

        def octet(number: Value, load: Load, off: Sequence[Value]) -> list[Value]:
            column = builder.mul(number, eight)
            x = load(code.cell(points, row, column), _FLOATS)
            away = builder.fsub(x, load(code.cell(centers, cluster, column), _FLOATS))
            value = builder.fmul(builder.fmul(away, away), weights)
            words, is_off = _cut(code, value, load(code.at(scales.first, column), _FLOATS))
            for plane, word in enumerate(words):
                line = builder.add(first_line, code.size(plane))
                place = code.cell(sums, line, column)
                word = builder.sub(word, _numbers([MAGIC_BITS] * _OCTET))
                code.store(by(code.load(place, _INTEGERS), word), place)
            return [builder.or_(off[0], is_off)]

        none = _numbers([0] * _OCTET, _FLAGS)
        (found,) = code.in_vectors(points.width, _OCTET, [none], octet)
        return found

    byte = ir.IntType(_OCTET)
    is_off = builder.icmp_unsigned("!=", builder.bitcast(change(builder.add), byte), byte(0))
    builder.store(builder.zext(is_off, byte), code.at(is_left.first, row))
    with builder.if_then(is_off, likely=False):
        change(builder.sub)


@kernel
def add_squares(
    points: Any,
    weights: Any,
    index: Any,
    order: Any,
    centers: Any,
    scales: Any,
    sums: Any,
    is_left: Any,
) -> None:
    """Add the squared differences of rows from their centers to the sums of their clusters.

    Args:
        points: (n, d), C-contiguous.
        weights: (n,) float64, above zero.
        index: (n,) int64, the cluster of each row.
        order: (n,) int64, the rows in the order in which they are added; or empty, to add them as
            they come. Where sums are larger than the caches, cluster by cluster is faster.
        centers: (k, d) float64.
        scales: (d,) float64, factors that make squares on the grid integers.
        sums: (3 k, d padded to a multiple of 8) int64, increased: planes 0 to -2 of the first
            cluster, then those of the second.
        is_left: (n,) uint8, set to 1 for rows that are not added, else to 0.
    """
    (n, d), line = points.shape, CACHE_LINE_BYTES // points.itemsize
    for place in range(n):
        row = place
        if len(order):
            row = order[place]
            if place + _ROWS_AHEAD < n:
                first = order[place + _ROWS_AHEAD] * d
                for j in range(0, d + line - 1, line):
                    prefetch(points, first + min(j, d - 1))
        _add_row(points, row, weights[row], centers, index[row], scales, sums, is_left)
