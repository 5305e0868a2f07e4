"""The matrix unit of recent Intel processors (AMX), for Numba: intrinsics in LLVM IR.

It multiplies 16 rows by 16 rows of bfloat16 and adds up in float32, eight times as fast as vectors
do in float32. A float32 is nearly the sum x = h + l of two bfloat16, so that three products, h h,
h l and l h, make scores with an error of about 2^-15 |x| |c|: enough for all rows but near ties,
which are decided otherwise. So that one loop does all three, the features of a row are laid out as
h, h, l, and those of a center as h, l, h.

A unit has eight registers of 16 lines of 64 bytes. Four hold the scores of 32 rows with 32 centers,
two the centers and two the rows; those lie in pairs of features, as the unit wants its right side.

Whoever changes this file changes what `kernels.INTRINSICS` must be. For a tile whose `matrix` is empty, the intrinsics write nothing: other processors do not know them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from dkmeans.backends.vectors import CACHE_LINE, Array, Code, Value, rank, vector_code, zero

# Panels of 8 centers that meet a tile of rows at a time.
PANELS = 4
# Lines of a register, and the bytes of one.
LINES = 16
_REGISTER = LINES * CACHE_LINE // 4  # in elements of four bytes
_ROWS = _CENTERS = 2 * LINES
_SCORES, _LEFT, _RIGHT = (0, 1, 2, 3), (4, 5), (6, 7)

_BYTE = ir.IntType(8)
_NOTHING = ir.VoidType()


@vector_code
def begin(code: Code, config: Array, shape: Sequence[int]) -> None:
    """Set the unit up: how many lines of how many bytes each register has."""
    if shape[3]:
        code.call("llvm.x86.ldtilecfg", _NOTHING, config.first)


@vector_code
def end(code: Code, shape: Sequence[int]) -> None:
    """Release the unit: the operating system has less to save."""
    if shape[3]:
        code.call("llvm.x86.tilerelease", _NOTHING)


@vector_code
def split(
    code: Code, rows: Array, width: Value, pairs: Array, half: Value, shape: Sequence[int]
) -> None:
    """Write a tile's features as sums of two bfloat16, in `half` pairs: of h, of h, and of l."""
    if not shape[3]:
        return
    builder, (lanes, count) = code.builder, shape[:2]
    vector, bits = ir.VectorType(rows.element, lanes), ir.VectorType(pairs.element, lanes)
    stride, last = code.size(lanes * count), builder.sub(width, code.size(1))
    upper, carry = (ir.Constant(bits, [value] * lanes) for value in (-(2**16), 2**15))
    sixteen = ir.Constant(bits, [16] * lanes)

    def rounded(x: Value) -> Value:
        return builder.and_(builder.add(builder.bitcast(x, bits), carry), upper)

    def parts(feature: Value, i: int) -> tuple[Value, Value]:
        inside = builder.icmp_signed("<", feature, width)
        place = builder.mul(builder.select(inside, feature, last), stride)
        x = code.load(code.at(code.at(rows.first, place), i * lanes), vector)
        x = builder.select(inside, x, zero(vector))
        high = rounded(x)
        return high, rounded(builder.fsub(x, builder.bitcast(high, vector)))

    def step(pair: Value, _: Any) -> list[Value]:
        even = builder.mul(pair, code.size(2))
        for i in range(count):
            first, second = parts(even, i), parts(builder.add(even, code.size(1)), i)
            high, low = (
                builder.or_(builder.lshr(a, sixteen), b) for a, b in zip(first, second, strict=True)
            )
            for section, value in enumerate((high, high, low)):
                line = builder.add(pair, builder.mul(half, code.size(section)))
                place = code.at(pairs.first, builder.mul(line, stride))
                code.store(value, code.at(place, i * lanes))
        return []

    code.loop(half, [], step)


@vector_code
def multiply(
    code: Code, pairs: Array, centers: Array, biases: Array, panel: Value, groups: Value,
    shape: Sequence[int],
) -> None:  # fmt: skip
    """Score a tile of rows against `PANELS` panels of centers, in the unit's registers.

    The features make so many groups, of one line each.
    """
    if not shape[3]:
        return
    builder = code.builder
    bias = code.at(biases.first, builder.mul(panel, code.size(_CENTERS * LINES)))
    size = code.size(2 * _REGISTER)
    start = code.at(centers.first, builder.mul(builder.mul(panel, groups), size))
    for register in _SCORES:
        _load(code, register, code.at(bias, register // 2 * _REGISTER), CACHE_LINE)

    def step(group: Value, _: Any) -> list[Value]:
        left = code.at(start, builder.mul(group, size))
        right = code.at(pairs.first, builder.mul(group, code.size(LINES * _ROWS)))
        for i in range(2):
            _load(code, _LEFT[i], code.at(left, i * _REGISTER), CACHE_LINE)
            _load(code, _RIGHT[i], code.at(right, i * LINES), 4 * _ROWS)
        for register in _SCORES:
            operands = register, _LEFT[register // 2], _RIGHT[register % 2]
            code.call("llvm.x86.tdpbf16ps", _NOTHING, *map(_BYTE, operands))
        return []

    code.loop(groups, [], step)


@vector_code
def put(code: Code, panel: Value, scores: Array, shape: Sequence[int]) -> None:
    """Store the scores in the unit's registers: `scores[panel % 2][center][row]`."""
    if not shape[3]:
        return
    first = _scores_of(code, panel, scores)
    for register in _SCORES:
        place = code.at(first, register // 2 * LINES * _ROWS + register % 2 * LINES)
        place = code.builder.bitcast(place, _BYTE.as_pointer())
        stride = code.size(4 * _ROWS)
        code.call("llvm.x86.tilestored64", _NOTHING, _BYTE(register), place, stride)


@vector_code
def take(
    code: Code, panel: Value, scores: Array, least: Array, second: Array, owner: Array,
    shape: Sequence[int],
) -> None:  # fmt: skip
    """Keep each row's two least scores, of those that `put` has stored.

    Do this while the unit is at the next panel: what it has just stored is slow to come back.
    """
    builder, (lanes, count, centers, panels) = code.builder, shape
    first = _scores_of(code, panel, scores)
    vector = ir.VectorType(scores.element, lanes)
    for i in range(panels):
        found = [
            [
                code.load(code.at(first, ((i * centers + center) * count + v) * lanes), vector)
                for v in range(count)
            ]
            for center in range(centers)
        ]
        number = builder.add(builder.mul(panel, code.size(panels)), code.size(i))
        rank(code, found, number, least, second, owner)


def _scores_of(code: Code, panel: Value, scores: Array) -> Value:
    side = code.builder.and_(panel, code.size(1))
    return code.at(scores.first, code.builder.mul(side, code.size(_CENTERS * _ROWS)))


def _load(code: Code, register: int, pointer: Value, stride: int) -> None:
    place = code.builder.bitcast(pointer, _BYTE.as_pointer())
    code.call("llvm.x86.tileloadd64", _NOTHING, _BYTE(register), place, code.size(stride))
