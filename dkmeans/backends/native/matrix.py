"""The matrix unit of recent Intel processors (AMX), for Numba: intrinsics in LLVM IR.

It multiplies 16 rows by 16 rows of bfloat16 and adds up in float32, eight times as fast as vectors
do in float32. A float32 is nearly the sum x = h + l of two bfloat16, so that three products, h h,
h l and l h, make scores with an error of about 2^-15 |x| |c|: enough for all rows but near ties,
which are decided otherwise.

The unit has eight registers of 16 lines of 64 bytes. Four hold the scores of 32 rows with 32
centers, two the centers and two the rows; those lie in pairs of features, as the unit wants its
right side. Features are taken 32 at a time, their h and l apart, to load what two products share
once. Of the last, fewer than 32, rows have h, h and l side by side, and centers h, l and h: one
product does all three.

For a tile whose `matrix` is empty, the intrinsics write nothing: other processors do not know them.
Whoever changes this file changes what `kernels.INTRINSICS` must be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from dkmeans.backends.native.vectors import CACHE_LINE, Array, Code, Value, rank, vector_code, zero

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
def split_whole(code: Code, rows: Array, groups: Value, pairs: Array, shape: Sequence[int]) -> None:
    """Write groups of 32 features as sums of two bfloat16, in pairs: 16 lines of h, 16 of l."""
    if not shape[3]:
        return
    builder, lines = code.builder, code.size(LINES)

    def step(pair: Value, _: Any) -> list[Value]:
        # The pairs' lines, and as many again before each group but the first.
        line = builder.add(pair, builder.mul(builder.udiv(pair, lines), lines))
        even = builder.mul(pair, code.size(2))
        odd = builder.add(even, code.size(1))
        _write(code, rows, even, odd, None, pairs, (line,), (builder.add(line, lines),), shape)
        return []

    code.loop(builder.mul(groups, lines), [], step)


@vector_code
def split_rest(
    code: Code, rows: Array, width: Value, first: Value, pairs: Array, start: Value,
    shape: Sequence[int],
) -> None:  # fmt: skip
    """Write the features from the `first` on so, from line `start` on: all h, again, and all l."""
    if not shape[3]:
        return
    builder = code.builder
    left = builder.sub(width, first)
    count = builder.udiv(builder.add(left, code.size(1)), code.size(2))

    def step(pair: Value, _: Any) -> list[Value]:
        even = builder.add(first, builder.mul(pair, code.size(2)))
        odd = builder.add(even, code.size(1))
        inside = builder.icmp_signed("<", odd, width)
        line = builder.add(start, pair)
        again = builder.add(line, count)
        lines = (line, again), (builder.add(again, count),)
        _write(code, rows, even, builder.select(inside, odd, even), inside, pairs, *lines, shape)
        return []

    code.loop(count, [], step)


def _write(
    code: Code, rows: Array, even: Value, odd: Value, odd_is_there: Value | None, pairs: Array,
    high_lines: Sequence[Value], low_lines: Sequence[Value], shape: Sequence[int],
) -> None:  # fmt: skip
    """Write h and l of two features of all rows to their lines."""
    builder, (lanes, count) = code.builder, shape[:2]
    vector, bits = ir.VectorType(rows.element, lanes), ir.VectorType(pairs.element, lanes)
    upper, carry, sixteen = (
        ir.Constant(bits, [value] * lanes) for value in (-(2**16), 2**15, LINES)
    )

    def place(array: Array, line: Value, i: int) -> Value:
        start = builder.mul(line, code.size(lanes * count))
        return code.at(code.at(array.first, start), i * lanes)

    def rounded(x: Value) -> Value:
        return builder.and_(builder.add(builder.bitcast(x, bits), carry), upper)

    def parts(x: Value) -> tuple[Value, Value]:
        high = rounded(x)
        return high, rounded(builder.fsub(x, builder.bitcast(high, vector)))

    for i in range(count):
        first, second = (code.load(place(rows, feature, i), vector) for feature in (even, odd))
        if odd_is_there is not None:
            second = builder.select(odd_is_there, second, zero(vector))
        both = zip(parts(first), parts(second), strict=True)
        high, low = (builder.or_(builder.lshr(a, sixteen), b) for a, b in both)
        for lines, value in ((high_lines, high), (low_lines, low)):
            for line in lines:
                code.store(value, place(pairs, line, i))


@vector_code
def load_biases(code: Code, biases: Array, panel: Value, shape: Sequence[int]) -> None:
    """Begin the scores of a tile of rows and `PANELS` panels of centers, in the registers."""
    if not shape[3]:
        return
    bias = code.at(biases.first, code.builder.mul(panel, code.size(_CENTERS * LINES)))
    for register in _SCORES:
        _load(code, register, code.at(bias, register // 2 * _REGISTER), CACHE_LINE)


@vector_code
def multiply_whole(
    code: Code, pairs: Array, centers: Array, start: Value, groups: Value, shape: Sequence[int]
) -> None:
    """Add the products of groups of 32 features, those of the centers from register `start` on."""
    if not shape[3]:
        return
    builder = code.builder
    first = code.at(centers.first, builder.mul(start, code.size(_REGISTER)))

    def step(group: Value, _: Any) -> list[Value]:
        left = code.at(first, builder.mul(group, code.size(4 * _REGISTER)))
        right = code.at(pairs.first, builder.mul(group, code.size(2 * LINES * _ROWS)))
        _load_left(code, left)
        _load_right(code, right)
        _multiply(code)
        _load_left(code, code.at(left, 2 * _REGISTER))
        _multiply(code)
        _load_left(code, left)
        _load_right(code, code.at(right, LINES * _ROWS))
        _multiply(code)
        return []

    code.loop(groups, [], step)


@vector_code
def multiply_rest(
    code: Code, pairs: Array, line: Value, centers: Array, start: Value, groups: Value,
    shape: Sequence[int],
) -> None:  # fmt: skip
    """Add the products of the other features, in groups of a register, from such a line on."""
    if not shape[3]:
        return
    builder = code.builder
    first = code.at(centers.first, builder.mul(start, code.size(_REGISTER)))
    first_right = code.at(pairs.first, builder.mul(line, code.size(_ROWS)))

    def step(group: Value, _: Any) -> list[Value]:
        _load_left(code, code.at(first, builder.mul(group, code.size(2 * _REGISTER))))
        _load_right(code, code.at(first_right, builder.mul(group, code.size(LINES * _ROWS))))
        _multiply(code)
        return []

    code.loop(groups, [], step)


def _load_left(code: Code, place: Value) -> None:
    for i in range(2):
        _load(code, _LEFT[i], code.at(place, i * _REGISTER), CACHE_LINE)


def _load_right(code: Code, place: Value) -> None:
    for i in range(2):
        _load(code, _RIGHT[i], code.at(place, i * LINES), 4 * _ROWS)


def _multiply(code: Code) -> None:
    for register in _SCORES:
        operands = register, _LEFT[register // 2], _RIGHT[register % 2]
        code.call("llvm.x86.tdpbf16ps", _NOTHING, *map(_BYTE, operands))


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
    code: Code, panel: Value, scores: Array, values: Array, owners: Array, shape: Sequence[int]
) -> None:
    """`rank` the scores that `put` has stored.

    Do this while the unit is at the next panel: what it has just stored is slow to come back.
    """
    if not shape[3]:
        return
    lanes, count = shape[:2]
    first = _scores_of(code, panel, scores)
    vector = ir.VectorType(scores.element, lanes)

    def score(center: int, i: int) -> Value:
        return code.load(code.at(first, (center * count + i) * lanes), vector)

    rank(code, score, _CENTERS, panel, values, owners, shape)


def _scores_of(code: Code, panel: Value, scores: Array) -> Value:
    side = code.builder.and_(panel, code.size(1))
    return code.at(scores.first, code.builder.mul(side, code.size(_CENTERS * _ROWS)))


def _load(code: Code, register: int, pointer: Value, stride: int) -> None:
    place = code.builder.bitcast(pointer, _BYTE.as_pointer())
    code.call("llvm.x86.tileloadd64", _NOTHING, _BYTE(register), place, code.size(stride))
