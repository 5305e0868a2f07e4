"""The matrix unit of recent Intel processors (AMX): Numba intrinsics, written as LLVM IR.

`kernels` calls these for tiles whose `matrix_panels` is not empty. For other tiles each intrinsic
writes no code at all, as other processors do not know the instructions.

The unit multiplies 16 rows by 16 rows of bfloat16 and adds up in float32, eight times as fast as
vectors do in float32. A float32 is nearly the sum x = h + l of two bfloat16. Three products, h h,
h l and l h, make scores with an error of about 2^-15 |x| |c|. That is enough for all rows but near
ties, and near ties are resolved exactly.

The unit has eight registers of 16 lines of 64 bytes. Four hold the scores of 32 rows with 32
centers, two hold centers and two hold rows. Rows lie in pairs of features, as the unit needs its
right operand. Features are taken in groups of 32, with their h and l in different registers, so
that two of the products share a load. The last features, fewer than 32, are the rest: rows have
their h, h and l side by side, centers their h, l and h, and one product does all three.

For first scores in 8 bits (`eight_bits`) the unit multiplies bytes: twice as fast, and one product
instead of three. Features are then taken in groups of 64, and scores are sums of int32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from dkmeans.backends.native.llvm_code import (
    CACHE_LINE_BYTES,
    Array,
    Code,
    Value,
    as_intrinsic,
    zero,
)
from dkmeans.backends.native.ranking import rank

# Panels of 8 centers that are scored against a tile of rows at a time.
PANELS = 4
# Lines of a register.
LINES = 16
# Products of two bfloat16 that stand for one product of two float32.
PRODUCTS = 3
# Features of a whole group: a line of a register of centers has 32 bfloat16.
GROUP_FEATURES = 2 * LINES
# Lines of pairs that a whole group of features takes: 16 of h and 16 of l.
GROUP_LINES = 2 * LINES
# Registers that the centers take: for a whole group h and l, for a group of the rest one, and all
# of these for both halves of the 32 centers.
GROUP_REGISTERS, REST_REGISTERS = 4, 2
# Quads of features in bytes that a group takes.
GROUP_QUADS = LINES

_REGISTER_ELEMENTS = LINES * CACHE_LINE_BYTES // 4  # of four bytes
_ROWS = _CENTERS = 2 * LINES
# Numbers of the registers.
_SCORES, _LEFT, _RIGHT = (0, 1, 2, 3), (4, 5), (6, 7)

# The unit's instructions take addresses and register numbers as bytes.
_BYTE = ir.IntType(8)
_NOTHING = ir.VoidType()
_BFLOAT16 = "llvm.x86.tdpbf16ps"


@as_intrinsic
def configure(code: Code, config: Array, shape: Sequence[int]) -> None:
    """Configure the unit: the number of lines, and of bytes in a line, of each register."""
    if shape[3]:
        code.call("llvm.x86.ldtilecfg", _NOTHING, config.first)


@as_intrinsic
def release(code: Code, shape: Sequence[int]) -> None:
    """Release the unit: the operating system then has fewer registers to save."""
    if shape[3]:
        code.call("llvm.x86.tilerelease", _NOTHING)


@as_intrinsic
def split_whole(code: Code, rows: Array, groups: Value, pairs: Array, shape: Sequence[int]) -> None:
    """Split the features of whole groups into h and l, and write them to `pairs`.

    Each group takes `GROUP_LINES` lines of pairs: 16 of h, then 16 of l.
    """
    if not shape[3]:
        return
    builder, lines = code.builder, code.size(LINES)

    def step(pair: Value, _: Any) -> list[Value]:
        # Skip the lines of l of all groups before this one.
        line = builder.add(pair, builder.mul(builder.udiv(pair, lines), lines))
        even = builder.mul(pair, code.size(2))
        odd = builder.add(even, code.size(1))
        _write(code, rows, even, odd, None, pairs, (line,), (builder.add(line, lines),), shape)
        return []

    code.loop(builder.mul(groups, lines), [], step)


@as_intrinsic
def split_rest(
    code: Code, rows: Array, width: Value, first: Value, pairs: Array, start: Value,
    shape: Sequence[int],
) -> None:  # fmt: skip
    """Split the features from `first` on, and write all h, all h again, and all l to `pairs`.

    The first line written is `start`.
    """
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
        # h twice, because it is multiplied with h and with l of the centers.
        again = builder.add(line, count)
        lines = (line, again), (builder.add(again, count),)
        # Without a second feature the first is read again, and `_write` replaces it by zeros.
        _write(code, rows, even, builder.select(inside, odd, even), inside, pairs, *lines, shape)
        return []

    code.loop(count, [], step)


def _write(
    code: Code, rows: Array, even: Value, odd: Value, odd_exists: Value | None, pairs: Array,
    high_lines: Sequence[Value], low_lines: Sequence[Value], shape: Sequence[int],
) -> None:  # fmt: skip
    """Write h and l of a pair of features of all rows of a tile to their lines.

    Args:
        code: The code to write to.
        rows: The tile.
        even: Number of the first feature of the pair.
        odd: Number of the second.
        odd_exists: False if there is no second feature: zeros take its place. None if there is.
        pairs: int32. The even feature is in the lower half of an element, the odd in the upper.
        high_lines: The lines of `pairs` that h goes to.
        low_lines: The lines of `pairs` that l goes to.
        shape: The shape of the tile.
    """
    builder, (lanes, count) = code.builder, shape[:2]
    vector, bits = ir.VectorType(rows.element, lanes), ir.VectorType(pairs.element, lanes)
    upper, carry, sixteen = (
        ir.Constant(bits, [value] * lanes) for value in (-(2**16), 2**15, LINES)
    )

    def place(array: Array, line: Value, i: int) -> Value:
        start = builder.mul(line, code.size(lanes * count))
        return code.at(code.at(array.first, start), i * lanes)

    # To the nearest bfloat16: half of the last place is added, then the lower 16 bits are cut.
    def rounded(x: Value) -> Value:
        return builder.and_(builder.add(builder.bitcast(x, bits), carry), upper)

    def parts(x: Value) -> tuple[Value, Value]:
        high = rounded(x)
        return high, rounded(builder.fsub(x, builder.bitcast(high, vector)))

    for i in range(count):
        first, second = (code.load(place(rows, feature, i), vector) for feature in (even, odd))
        if odd_exists is not None:
            second = builder.select(odd_exists, second, zero(vector))
        # The even feature goes to the lower half of each element, the odd one to the upper half.
        both = zip(parts(first), parts(second), strict=True)
        high, low = (builder.or_(builder.lshr(a, sixteen), b) for a, b in both)
        for lines, value in ((high_lines, high), (low_lines, low)):
            for line in lines:
                code.store(value, place(pairs, line, i))


@as_intrinsic
def clear(code: Code, shape: Sequence[int]) -> None:
    """Set the score registers to zero."""
    if not shape[3]:
        return
    for register in _SCORES:
        code.call("llvm.x86.tilezero", _NOTHING, _BYTE(register))


@as_intrinsic
def load_biases(code: Code, biases: Array, panel: Value, shape: Sequence[int]) -> None:
    """Load the initial scores of a tile of rows and `PANELS` panels into the score registers."""
    if not shape[3]:
        return
    bias = code.at(biases.first, code.builder.mul(panel, code.size(_CENTERS * LINES)))
    # Registers 0 and 1 have the scores of the first 16 centers, 2 and 3 those of the others.
    for register in _SCORES:
        place = code.at(bias, register // 2 * _REGISTER_ELEMENTS)
        _load(code, register, place, CACHE_LINE_BYTES)


@as_intrinsic
def multiply_whole(
    code: Code, pairs: Array, centers: Array, start: Value, groups: Value, shape: Sequence[int]
) -> None:
    """Add the products of whole groups of features to the score registers.

    Args:
        code: The code to write to.
        pairs: The rows, as `split_whole` writes them.
        centers: The centers, register by register.
        start: Number of the first of these registers.
        groups: Number of groups, at least one.
        shape: The shape of the tile.
    """
    if not shape[3]:
        return
    builder = code.builder
    first = code.at(centers.first, builder.mul(start, code.size(_REGISTER_ELEMENTS)))

    def step(group: Value, _: Any) -> list[Value]:
        left = code.at(first, builder.mul(group, code.size(GROUP_REGISTERS * _REGISTER_ELEMENTS)))
        right = code.at(pairs.first, builder.mul(group, code.size(GROUP_LINES * _ROWS)))
        _load_left(code, left)
        _load_right(code, right)
        _multiply(code)  # h of the centers, h of the rows
        _load_left(code, code.at(left, 2 * _REGISTER_ELEMENTS))
        _multiply(code)  # l of the centers, h of the rows
        # h is loaded again: all eight registers are in use.
        _load_left(code, left)
        _load_right(code, code.at(right, LINES * _ROWS))
        _multiply(code)  # h of the centers, l of the rows
        return []

    code.loop(groups, [], step)


@as_intrinsic
def multiply_rest(
    code: Code, pairs: Array, line: Value, centers: Array, start: Value, groups: Value,
    shape: Sequence[int],
) -> None:  # fmt: skip
    """Add the products of the rest of the features, or of all features in bytes, to the registers.

    Args:
        code: The code to write to.
        pairs: The rows, as `split_rest` or `eight_bits.round_rows` writes them.
        line: First line of the rest in `pairs`.
        centers: The centers, register by register.
        start: Number of the first of these registers.
        groups: Number of groups of 16 lines, at least one.
        shape: The shape of the tile.
    """
    if not shape[3]:
        return
    builder = code.builder
    first = code.at(centers.first, builder.mul(start, code.size(_REGISTER_ELEMENTS)))
    first_right = code.at(pairs.first, builder.mul(line, code.size(_ROWS)))

    def step(group: Value, _: Any) -> list[Value]:
        left = builder.mul(group, code.size(REST_REGISTERS * _REGISTER_ELEMENTS))
        _load_left(code, code.at(first, left))
        _load_right(code, code.at(first_right, builder.mul(group, code.size(LINES * _ROWS))))
        _multiply(code, "llvm.x86.tdpbssd" if shape[5] else _BFLOAT16)
        return []

    code.loop(groups, [], step)


def _load_left(code: Code, place: Value) -> None:
    for i in range(2):
        _load(code, _LEFT[i], code.at(place, i * _REGISTER_ELEMENTS), CACHE_LINE_BYTES)


def _load_right(code: Code, place: Value) -> None:
    # A line of pairs has all 32 rows of the tile; a register takes 16 of them.
    for i in range(2):
        _load(code, _RIGHT[i], code.at(place, i * LINES), 4 * _ROWS)


def _multiply(code: Code, instruction: str = _BFLOAT16) -> None:
    # Two registers of centers by two of rows: each register of scores has its own pair.
    for register in _SCORES:
        operands = register, _LEFT[register // 2], _RIGHT[register % 2]
        code.call(instruction, _NOTHING, *map(_BYTE, operands))


@as_intrinsic
def store_scores(code: Code, panel: Value, scores: Array, shape: Sequence[int]) -> None:
    """Store the score registers to `scores[panel % 2][center][row]`."""
    if not shape[3]:
        return
    first = scores_of(code, panel, scores)
    for register in _SCORES:
        place = code.at(first, register // 2 * LINES * _ROWS + register % 2 * LINES)
        place = code.builder.bitcast(place, _BYTE.as_pointer())
        stride = code.size(4 * _ROWS)
        code.call("llvm.x86.tilestored64", _NOTHING, _BYTE(register), place, stride)


@as_intrinsic
def rank_scores(
    code: Code, panel: Value, scores: Array, ranked: Array, panels: Array, shape: Sequence[int]
) -> None:
    """Load the scores that `store_scores` has stored for a panel, and `rank` them.

    Call this while the unit computes the next panel. Scores take hundreds of cycles from the unit's
    registers to vector registers.
    """
    if not shape[3]:
        return
    lanes, count = shape[:2]
    first = scores_of(code, panel, scores)
    vector = ir.VectorType(scores.element, lanes)

    def score(center: int, i: int) -> Value:
        return code.load(code.at(first, (center * count + i) * lanes), vector)

    rank(code, score, _CENTERS, panel, ranked, panels, shape)


def scores_of(code: Code, panel: Value, scores: Array) -> Value:
    """Return the place of the scores of a panel, in float32 or, of bytes, in int32."""
    # Two buffers in turn: one is ranked while the other is filled.
    parity = code.builder.and_(panel, code.size(1))
    return code.at(scores.first, code.builder.mul(parity, code.size(_CENTERS * _ROWS)))


def _load(code: Code, register: int, pointer: Value, stride_bytes: int) -> None:
    place = code.builder.bitcast(pointer, _BYTE.as_pointer())
    code.call("llvm.x86.tileloadd64", _NOTHING, _BYTE(register), place, code.size(stride_bytes))
