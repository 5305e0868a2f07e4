"""Vector and matrix instructions for Numba, which has no words for them: intrinsics in LLVM IR.

Rows lie across the lanes of vectors, feature by feature, and each center's feature is spread over
all lanes: the least score is then found lane by lane, and scores never leave the registers. The IR
runs on any processor in whatever width it has; that of the matrix unit only where there is one.

Whoever changes this file changes what `kernels.INTRINSICS` must be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


class Tile(NamedTuple):
    """The shape of a tile, told by lengths of tuples: Numba compiles for types, and these are.

    Attributes:
        lanes: As long as a vector has lanes.
        vectors: As long as a tile has vectors of rows.
        centers: As long as a panel has centers: a power of two, at most 8.
        matrix: As long as there are panels that a matrix unit scores at a time, if one does.
    """

    lanes: tuple[None, ...]
    vectors: tuple[None, ...]
    centers: tuple[None, ...]
    matrix: tuple[None, ...] = ()


# Panels that `probe` scores at a time.
PROBED = 4
CACHE_LINE = 64
_FLOATS = {"float": 4, "double": 8}

Value = Any  # of LLVM


@dataclass(frozen=True, slots=True)
class Array:
    """An array among the arguments of an intrinsic.

    Attributes:
        first: The first element.
        width: How many elements a row has; rows lie one after another.
        element: The type of the elements.
    """

    first: Value
    width: Value
    element: Any


class Code:
    """Writes the LLVM IR of one call of an intrinsic."""

    def __init__(self, context: Any, builder: Any) -> None:
        self._context = context
        self.builder = builder
        self.size: Any = ir.IntType(types.intp.bitwidth)

    def argument(self, kind: Any, value: Value) -> Any:
        """What code is written with: arrays and numbers, and of tuples their lengths."""
        if isinstance(kind, types.Array):
            array = self._context.make_array(kind)(self._context, self.builder, value)
            shape = cgutils.unpack_tuple(self.builder, array.shape, kind.ndim)
            element = ir.FloatType() if kind.dtype.bitwidth == 32 else ir.DoubleType()
            if isinstance(kind.dtype, types.Integer):
                element = ir.IntType(kind.dtype.bitwidth)
            return Array(array.data, shape[-1], element)
        if isinstance(kind, types.NamedUniTuple | types.NamedTuple):
            return [part.count for part in kind]
        return kind.count if isinstance(kind, types.BaseTuple) else value

    def at(self, pointer: Value, offset: Value | int) -> Value:
        """So many elements further on."""
        offset = self.size(offset) if isinstance(offset, int) else offset
        return self.builder.gep(pointer, [offset])

    def row(self, array: Array, number: Value, column: Value) -> Value:
        """An element of a row."""
        return self.at(array.first, self.builder.add(self.builder.mul(number, array.width), column))

    def load(self, pointer: Value, vector: Any) -> Value:
        """A vector, from wherever its first element lies; made wider where the elements are not."""
        stored = ir.VectorType(pointer.type.pointee, vector.count)
        place = self.builder.bitcast(pointer, stored.as_pointer())
        found = self.builder.load(place, align=_bytes(stored.element))
        return found if stored == vector else self.builder.fpext(found, vector)

    def load_first(self, pointer: Value, count: Value, vector: Any) -> Value:
        """So many elements and zeros behind them; nothing behind them is touched."""
        lanes = vector.count
        stored = ir.VectorType(pointer.type.pointee, lanes)
        place = self.builder.bitcast(pointer, stored.as_pointer())
        counts = self.spread(self.builder.trunc(count, ir.IntType(32)), lanes)
        mask = self.builder.icmp_signed("<", _numbers(range(lanes)), counts)
        align = ir.IntType(32)(_bytes(stored.element))
        name = f"llvm.masked.load.v{lanes}f{8 * _bytes(stored.element)}.p0"
        found = self.call(name, stored, place, align, mask, zero(stored))
        return found if stored == vector else self.builder.fpext(found, vector)

    def store(self, value: Value, pointer: Value) -> None:
        """Put a vector to wherever its first element should lie."""
        place = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.store(value, place, align=_bytes(value.type.element))

    def spread(self, number: Value, lanes: int) -> Value:
        """A vector with this number in all lanes."""
        nothing = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
        first = self.builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(first, nothing, _numbers([0] * lanes))

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """The sum of a * b and c, fused where the processor can."""
        name = f"llvm.fmuladd.v{a.type.count}f{8 * _bytes(a.type.element)}"
        return self.call(name, a.type, a, b, c)

    def call(self, name: str, result: Any, *values: Value) -> Value:
        """Call one of LLVM's own functions."""
        kind = ir.FunctionType(result, [value.type for value in values])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, values)

    def least(self, a: Value, b: Value) -> Value:
        """The lesser of each lane; b where one is not a number."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def greatest(self, a: Value, b: Value) -> Value:
        """The greater of each lane; b where one is not a number."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def loop(
        self, count: Value, begin: Sequence[Value], step: Callable[[Value, Any], Any]
    ) -> list[Value]:
        """What `step` of a number and some values makes of them, over the numbers below `count`.

        There must be at least one.
        """
        builder = self.builder
        before = builder.block
        body, done = builder.append_basic_block(), builder.append_basic_block()
        builder.branch(body)
        builder.position_at_end(body)
        number = builder.phi(self.size)
        values = [builder.phi(value.type) for value in begin]
        changed = step(number, values)
        end = builder.block  # another one, where the step has loops or branches of its own
        following = builder.add(number, self.size(1))
        for phi, first, later in zip(
            [number, *values], [self.size(0), *begin], [following, *changed], strict=True
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(later, end)
        builder.cbranch(builder.icmp_signed("<", following, count), body, done)
        builder.position_at_end(done)
        return list(changed)

    def where(self, condition: Value, change: Callable[[Value], Value], value: Value) -> Value:
        """A value, or what becomes of it where the condition holds."""
        builder, before = self.builder, self.builder.block
        with builder.if_then(condition):
            changed, inside = change(value), builder.block
        result = builder.phi(value.type)
        result.add_incoming(value, before)
        result.add_incoming(changed, inside)
        return result

    def products(
        self,
        width: Value,
        vectors: Sequence[tuple[Value, Value]],
        numbers: Sequence[tuple[Value, Value]],
        begin: Sequence[Value],
        add: Callable[[Value, Value, Value], Value],
    ) -> list[list[Value]]:
        """Go over `width` features, adding up what each number makes with each vector.

        Args:
            width: How many features.
            vectors: Where each vector is, and how far its next feature is from it.
            numbers: The same of each number, which meets all vectors.
            begin: What the sums begin with, in the order of the result.
            add: The new sum, from a vector, a number in all lanes, and the old sum.

        Returns:
            Each number's sums, one for each vector.
        """

        def at_feature(place: tuple[Value, Value], feature: Value) -> Value:
            return self.at(place[0], self.builder.mul(feature, place[1]))

        def step(feature: Value, sums: Sequence[Value]) -> list[Value]:
            old = iter(sums)
            loaded = [self.load(at_feature(place, feature), begin[0].type) for place in vectors]
            new = []
            for place in numbers:
                number = self.builder.load(at_feature(place, feature))
                spread = self.spread(number, begin[0].type.count)
                new += [add(values, spread, next(old)) for values in loaded]
            return new

        found = iter(self.loop(width, begin, step))
        return [[next(found) for _ in vectors] for _ in numbers]


def _bytes(element: Any) -> int:
    return element.width // 8 if isinstance(element, ir.IntType) else _FLOATS[str(element)]


def _numbers(values: Sequence[int]) -> Value:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(values)), list(values))


def zero(vector: Any) -> Value:
    """A vector of zeros."""
    return ir.Constant(vector, [0.0] * vector.count)


def vector_code(write: Callable[..., None]) -> Any:
    """Make an intrinsic of a function that writes code, given it and the arguments."""

    def typed(_: Any, *kinds: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            code = Code(context, builder)
            write(code, *map(code.argument, signature.args, values))
            return context.get_dummy_value()

        return types.void(*kinds), generate

    return intrinsic(wraps(write)(typed))


@vector_code
def pack(
    code: Code, points: Array, numbers: Array, place: Value, column: Value, scales: Array,
    shift: Array, rows: Array, stride: Value, side: int,
) -> None:  # fmt: skip
    """Lay a square of rows' values across vectors, scaled and then shifted.

    Of the rows `numbers[place:]`, as many as there are lanes, the same number of columns from
    `column` on go to `rows[feature * stride + place]`.
    """
    _pack(code, points, numbers, place, column, scales, shift, rows, stride, side, code.load)


@vector_code
def pack_narrow(
    code: Code, points: Array, numbers: Array, place: Value, scales: Array, shift: Array,
    rows: Array, stride: Value, side: int,
) -> None:  # fmt: skip
    """The same for rows with fewer columns than a square; what is missing is zero."""

    def load(pointer: Value, vector: Any) -> Value:
        return code.load_first(pointer, points.width, vector)

    first = code.size(0)
    _pack(code, points, numbers, place, first, scales, shift, rows, stride, side, load)


def _pack(
    code: Code, points: Array, numbers: Array, place: Value, column: Value, scales: Array,
    shift: Array, rows: Array, stride: Value, side: int, load: Callable[[Value, Any], Value],
) -> None:  # fmt: skip
    builder, vector = code.builder, ir.VectorType(shift.element, side)
    narrow = ir.VectorType(rows.element, side)
    off = load(code.at(shift.first, column), vector)
    square = []
    for i in range(side):
        mine = builder.add(place, code.size(i))
        number = builder.load(code.at(numbers.first, mine))
        scale = code.spread(builder.load(code.at(scales.first, mine)), side)
        row = load(code.row(points, number, column), vector)
        value = builder.fsub(builder.fmul(row, scale), off)
        square.append(value if vector == narrow else builder.fptrunc(value, narrow))
    for i, turned in enumerate(_transposed(builder, square)):
        feature = builder.add(column, code.size(i))
        code.store(turned, code.at(rows.first, builder.add(builder.mul(feature, stride), place)))


def _transposed(builder: Any, square: Sequence[Value]) -> list[Value]:
    """As many vectors as each has lanes, turned: blocks of 1, then 2, 4, ... change places."""
    square, side, block = list(square), len(square), 1
    while block < side:
        low = [i if not i & block else side + i - block for i in range(side)]
        high = [i + block if not i & block else side + i for i in range(side)]
        for i in range(side):
            if not i & block:
                a, b = square[i], square[i + block]
                square[i] = builder.shuffle_vector(a, b, _numbers(low))
                square[i + block] = builder.shuffle_vector(a, b, _numbers(high))
        block *= 2
    return square


@vector_code
def square_up(code: Code, rows: Array, width: Value, squares: Array, shape: Sequence[int]) -> None:
    """|x|^2 of the rows of a tile."""
    lanes, count = shape[:2]
    vector = ir.VectorType(rows.element, lanes)

    def step(feature: Value, totals: Sequence[Value]) -> list[Value]:
        here = code.at(rows.first, code.builder.mul(feature, code.size(lanes * count)))
        found = [code.load(code.at(here, i * lanes), vector) for i in range(count)]
        return [code.fma(x, x, total) for x, total in zip(found, totals, strict=True)]

    for i, total in enumerate(code.loop(width, [zero(vector)] * count, step)):
        code.store(total, code.at(squares.first, i * lanes))


@vector_code
def keep_least(
    code: Code, rows: Array, weights: Array, halves: Array, panel: Value, width: Value,
    values: Array, owners: Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """Score a tile of rows against a panel of centers, and `rank` the scores, |c|^2 / 2 - x.c."""
    builder, (lanes, count, centers) = code.builder, shape[:3]
    first = builder.mul(panel, code.size(centers))
    halves_at = code.at(halves.first, first)
    begin = [
        code.spread(builder.load(code.at(halves_at, center)), lanes) for center in range(centers)
    ]
    scores = code.products(
        width,
        _vectors_of(code, rows, shape),
        _numbers_of(code, weights, builder.mul(first, width), centers),
        [half for half in begin for _ in range(count)],
        code.fma,
    )
    rank(code, lambda center, i: scores[center][i], centers, panel, values, owners, shape)


def rank(
    code: Code, score: Callable[[int, int], Value], centers: int, panel: Value, values: Array,
    owners: Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """Take in a panel's scores, each given by its center and vector.

    For each row `values` has the least, the second least and the third least of the panels' least
    scores, and the least of all their other scores; `owners` the panels of the first two. The last
    bits of a score give way to the number of the center in its panel.
    """
    builder, (lanes, count) = code.builder, shape[:2]
    vector = ir.VectorType(values.element, lanes)
    tags = ir.VectorType(owners.element, lanes)
    clear = ir.Constant(tags, [-centers] * lanes)
    here = builder.trunc(panel, owners.element) if owners.element.width < 64 else panel
    here = code.spread(here, lanes)

    def tagged(center: int, i: int) -> tuple[Value, None]:
        bits = builder.and_(builder.bitcast(score(center, i), tags), clear)
        bits = builder.or_(bits, ir.Constant(tags, [center] * lanes))
        return builder.bitcast(bits, vector), None

    for i in range(count):
        groups = []
        for first in range(0, centers, 8):  # few at a time, for the registers' sake
            group = range(first, min(first + 8, centers))
            groups.append(_two_least(code, [tagged(center, i) for center in group]))
        new, rest = _two_least(code, groups)
        places = [code.at(values.first, (j * count + i) * lanes) for j in range(4)]
        least, second, third, others = (code.load(place, vector) for place in places)
        panels = [code.at(owners.first, (j * count + i) * lanes) for j in range(2)]
        owner, other_owner = (code.load(place, tags) for place in panels)
        is_first = builder.fcmp_ordered("<", new, least)
        is_second = builder.fcmp_ordered("<", new, second)
        lesser = builder.select(is_second, here, other_owner)
        code.store(builder.select(is_first, owner, lesser), panels[1])
        code.store(builder.select(is_first, here, owner), panels[0])
        code.store(builder.select(is_first, new, least), places[0])
        code.store(code.least(code.greatest(new, least), second), places[1])
        code.store(code.least(code.greatest(new, second), third), places[2])
        if rest is not None:
            code.store(code.least(rest, others), places[3])


def _vectors_of(code: Code, rows: Array, shape: Sequence[int]) -> list[tuple[Value, Value]]:
    """A tile's vectors and their strides, for `products`."""
    lanes, count = shape[:2]
    return [(code.at(rows.first, i * lanes), code.size(lanes * count)) for i in range(count)]


def _numbers_of(
    code: Code, weights: Array, start: Value, centers: int
) -> list[tuple[Value, Value]]:
    """A panel's numbers and their strides, for `products`."""
    panel = code.at(weights.first, start)
    return [(code.at(panel, center), code.size(centers)) for center in range(centers)]


def _two_least(
    code: Code, ranked: Sequence[tuple[Value, Value | None]]
) -> tuple[Value, Value | None]:
    """The least and the second least of each lane, by a tournament."""
    while len(ranked) > 1:
        (a, a_second), (b, b_second) = ranked[:2]
        rest = code.greatest(a, b)
        for second in (a_second, b_second):
            rest = rest if second is None else code.least(second, rest)
        ranked = [*ranked[2:], (code.least(a, b), rest)]
    return ranked[0]


@vector_code
def probe(
    code: Code, rows: Array, place: Value, stride: Value, weights: Array, halves: Array,
    first: Value, width: Value, scores: Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """Score one row of a tile against `PROBED` panels of centers, from center `first` on."""
    builder, centers = code.builder, shape[2]
    vector = ir.VectorType(rows.element, centers)
    panels = [builder.add(first, code.size(i * centers)) for i in range(PROBED)]
    (found,) = code.products(
        width,
        [(code.at(weights.first, builder.mul(p, width)), code.size(centers)) for p in panels],
        [(code.at(rows.first, place), stride)],
        [code.load(code.at(halves.first, panel), vector) for panel in panels],
        code.fma,
    )
    for i, score in enumerate(found):
        code.store(score, code.at(scores.first, i * centers))


@vector_code
def measure(
    code: Code, rows: Array, weights: Array, first: Value, width: Value, cosine: Value,
    found: Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """|x - c|^2 of a tile of rows and a panel of centers, or x.c: `found[center][row]`."""
    builder, (lanes, count, centers) = code.builder, shape[:3]
    start = builder.mul(first, width)

    def square(row: Value, center: Value, total: Value) -> Value:
        apart = builder.fsub(row, center)
        return code.fma(apart, apart, total)

    with builder.if_else(cosine) as branches:
        for branch, add in zip(branches, (code.fma, square), strict=True):
            with branch:
                sums = code.products(
                    width,
                    _vectors_of(code, rows, shape),
                    _numbers_of(code, weights, start, centers),
                    [zero(ir.VectorType(rows.element, lanes))] * (count * centers),
                    add,
                )
                for i, total in enumerate(total for row in sums for total in row):
                    code.store(total, code.at(found.first, i * lanes))


@vector_code
def octets(
    code: Code, points: Array, row: Value, scale: Value, others: Array, other: Value,
    cosine: Value, start: Value, count: Value, sums: Array,
) -> None:  # fmt: skip
    """Add up `count` times eight terms of the distance of two rows, from column `start` on."""
    builder, vector = code.builder, ir.VectorType(sums.element, 8)
    scales = code.spread(scale, 8)

    def pair(octet: Value) -> tuple[Value, Value]:
        column = builder.add(start, builder.mul(octet, code.size(8)))
        x = code.load(code.row(points, row, column), vector)
        return x, code.load(code.row(others, other, column), vector)

    def product(octet: Value, totals: Sequence[Value]) -> list[Value]:
        x, y = pair(octet)
        return [builder.fadd(totals[0], builder.fmul(builder.fmul(x, scales), y))]

    def square(octet: Value, totals: Sequence[Value]) -> list[Value]:
        x, y = pair(octet)
        apart = builder.fsub(x, y)
        return [builder.fadd(totals[0], builder.fmul(apart, apart))]

    with builder.if_else(cosine) as branches:
        for branch, step in zip(branches, (product, square), strict=True):
            with branch:
                (total,) = code.loop(count, [zero(vector)], step)
                code.store(total, sums.first)


@vector_code
def add_rows(
    code: Code, points: Array, start: Value, count: Value, scales: Array, winners: Array,
    origins: Array, counts: Array, sums: Array, squares: Array,
) -> None:  # fmt: skip
    """Add `count` rows from `start` on, scaled and less an origin, to the sums of their winners.

    Rows of `origins` and `sums` are filled up to whole octets. Squares are those of what is added.
    """
    builder, vector, eight = code.builder, ir.VectorType(sums.element, 8), code.size(8)
    whole, rest = builder.sdiv(points.width, eight), builder.srem(points.width, eight)
    some, more = (builder.icmp_signed(">", part, code.size(0)) for part in (whole, rest))

    def add(values: Value, center: Value, scale: Value, column: Value, total: Value) -> Value:
        scaled = builder.fmul(values, scale)
        apart = builder.fsub(scaled, code.load(code.row(origins, center, column), vector))
        place = code.row(sums, center, column)
        code.store(builder.fadd(code.load(place, vector), apart), place)
        # Not fused: the same bits on processors that cannot.
        return builder.fadd(total, builder.fmul(apart, apart))

    def step(place: Value, totals: Sequence[Value]) -> list[Value]:
        row, center = (
            builder.add(start, place),
            builder.load(code.at(winners.first, place)),
        )
        scale = code.spread(builder.load(code.at(scales.first, place)), 8)
        won = code.at(counts.first, center)
        builder.store(builder.add(builder.load(won), code.size(1)), won)

        def octets(total: Value) -> Value:
            def octet(number: Value, totals: Sequence[Value]) -> list[Value]:
                column = builder.mul(number, eight)
                values = code.load(code.row(points, row, column), vector)
                return [add(values, center, scale, column, totals[0])]

            return code.loop(whole, [total], octet)[0]

        def others(total: Value) -> Value:
            column = builder.mul(whole, eight)
            values = code.load_first(code.row(points, row, column), rest, vector)
            return add(values, center, scale, column, total)

        return [code.where(more, others, code.where(some, octets, totals[0]))]

    (found,) = code.loop(count, [code.load(squares.first, vector)], step)
    code.store(found, squares.first)


@vector_code
def fetch(code: Code, points: Array, element: Value) -> None:
    """Ask for the cache line of an element of an array, which may also lie behind its end."""
    place = code.builder.bitcast(code.at(points.first, element), ir.IntType(8).as_pointer())
    number = ir.IntType(32)
    code.call("llvm.prefetch.p0", ir.VoidType(), place, number(0), number(2), number(1))
