"""The compiled code of the native backend: what Numba makes machine code of, all in this file.

Numba keeps what it compiled for as long as this file does not change, so nothing that ends up in
machine code may live elsewhere.

The kernel scores a tile of rows against a panel of centers at a time, in registers: rows lie across
the lanes of vectors, feature by feature, and each center's feature is spread over all lanes. So the
least score is found lane by lane, and distances never reach memory. Numba has no words for vectors:
the intrinsics in the first half of this file write them as LLVM IR, which runs on any processor in
whatever width it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from dkmeans.state import FloatArray, IndexArray


class Tile(NamedTuple):
    """The shape of a tile, told by lengths of tuples: Numba compiles for types, and these are.

    Attributes:
        lanes: As long as a vector has lanes.
        vectors: As long as a tile has vectors of rows.
        centers: As long as a panel has centers: a power of two, at most 8.
    """

    lanes: tuple[None, ...]
    vectors: tuple[None, ...]
    centers: tuple[None, ...]


class Packed(NamedTuple):
    """Centers made ready for a kernel; T is the dtype of the rows.

    Attributes:
        weights: (panels * d * c,) T: minus the shifted centers, panel by panel of c centers, and in
            each panel feature by feature. Whole groups of `PROBED` panels.
        halves: (panels * c,) T: |c|^2 / 2 of the shifted centers, 0 for cosine; huge for centers
            that only fill up.
        shift: (d,) T: what is taken off every row first.
        exact: (k, d) float64: what exact distances are measured to.
        factor: Times `largest` |x| + `half`: how far apart two scores must be to be told apart.
        floor: What is added to that, for the rounding of the smallest numbers.
        largest: The length of the longest shifted center.
        half: The largest |c|^2 / 2.
        limit: Where `largest` |x| + `half` is not below it, scores may overflow.
        cosine: Whether rows are scaled to length one.
        zero: (1, d) float64 zeros.
    """

    weights: FloatArray
    halves: FloatArray
    shift: FloatArray
    exact: FloatArray
    factor: float
    floor: float
    largest: float
    half: float
    limit: float
    cosine: bool
    zero: FloatArray
    origins: FloatArray


class Scratch(NamedTuple):
    """Room for a kernel to work in, for tiles of t rows; T is the dtype of the scores.

    Attributes:
        rows: (d * t,) T, at the beginning of a cache line: a tile of rows, feature by feature.
        numbers: (t,) int64: which rows they are.
        exact_scales: (t,) float64: what they are scaled by.
        scales: (t,) T: the same, rounded.
        margins: (t,) T: how far apart two of a row's scores must be to be told apart.
        least: (t,) T: each row's least score.
        tags: (t,): the same as integers.
        second: (t,) T: each row's second least score.
        owner: (t,) integers as wide as T: the panel of the least.
        scores: T, for the scores or distances of a few panels.
        eight: (8,) float64: parts of a sum.
        squares: (8,) float64: parts of another.
        spans: (64, 3) int64: parts of rows that are to be added up, with their depths in a tree.
        sums: (64,) float64: sums of such parts.
        depths: (64,) int64: the depths of these.
    """

    rows: FloatArray
    numbers: IndexArray
    exact_scales: FloatArray
    scales: FloatArray
    margins: FloatArray
    least: FloatArray
    tags: FloatArray
    second: FloatArray
    owner: FloatArray
    scores: FloatArray
    eight: FloatArray
    squares: FloatArray
    spans: IndexArray
    sums: FloatArray
    depths: IndexArray


# The bits of a score that give way to the number of the center in its panel.
TAG = 7
# Panels that `_probe` scores at a time.
PROBED = 4
# The squared length below which a row counts as zero; `distance` has it too.
_SMALLEST_SQUARED_NORM = 1e-12
# NumPy adds up so many elements in eight parallel sums, and halves what is longer.
_PAIRWISE_BLOCK = 128
_CACHE_LINE = 64
_FLOATS = {"float": 4, "double": 8}
_FOUR = (None,) * 4

_Value = Any  # of LLVM
_F = TypeVar("_F", bound=Callable[..., Any])

# Without Numba's runtime: counting references to arrays would cost more than most calls do.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
_compiled: Callable[[_F], _F] = njit(**_OPTIONS)
_inlined: Callable[[_F], _F] = njit(inline="always", **_OPTIONS)


def _kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, and keep the machine code for the next process."""
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # there is no folder to keep it in
        return _compiled(function)


# --- Vectors ---


@dataclass(frozen=True, slots=True)
class _Array:
    """An array among the arguments of an intrinsic.

    Attributes:
        first: The first element.
        width: How many elements a row has; rows lie one after another.
        element: The type of the elements.
    """

    first: _Value
    width: _Value
    element: Any


class _Code:
    """Writes the LLVM IR of one call of an intrinsic."""

    def __init__(self, context: Any, builder: Any) -> None:
        self._context = context
        self.builder = builder
        self.size: Any = ir.IntType(types.intp.bitwidth)

    def argument(self, kind: Any, value: _Value) -> Any:
        """What code is written with: arrays and numbers, and of tuples their lengths."""
        if isinstance(kind, types.Array):
            array = self._context.make_array(kind)(self._context, self.builder, value)
            shape = cgutils.unpack_tuple(self.builder, array.shape, kind.ndim)
            element = ir.FloatType() if kind.dtype.bitwidth == 32 else ir.DoubleType()
            if isinstance(kind.dtype, types.Integer):
                element = ir.IntType(kind.dtype.bitwidth)
            return _Array(array.data, shape[-1], element)
        if isinstance(kind, types.NamedUniTuple | types.NamedTuple):
            return [part.count for part in kind]
        return kind.count if isinstance(kind, types.BaseTuple) else value

    def at(self, pointer: _Value, offset: _Value | int) -> _Value:
        """So many elements further on."""
        offset = self.size(offset) if isinstance(offset, int) else offset
        return self.builder.gep(pointer, [offset])

    def row(self, array: _Array, number: _Value, column: _Value) -> _Value:
        """An element of a row."""
        return self.at(array.first, self.builder.add(self.builder.mul(number, array.width), column))

    def load(self, pointer: _Value, vector: Any) -> _Value:
        """A vector, from wherever its first element lies; made wider where the elements are not."""
        stored = ir.VectorType(pointer.type.pointee, vector.count)
        place = self.builder.bitcast(pointer, stored.as_pointer())
        found = self.builder.load(place, align=_bytes(stored.element))
        return found if stored == vector else self.builder.fpext(found, vector)

    def store(self, value: _Value, pointer: _Value) -> None:
        """Put a vector to wherever its first element should lie."""
        place = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.store(value, place, align=_bytes(value.type.element))

    def spread(self, number: _Value, lanes: int) -> _Value:
        """A vector with this number in all lanes."""
        nothing = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
        first = self.builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(first, nothing, _numbers([0] * lanes))

    def fma(self, a: _Value, b: _Value, c: _Value) -> _Value:
        """The sum of a * b and c, fused where the processor can."""
        name = f"llvm.fmuladd.v{a.type.count}f{8 * _bytes(a.type.element)}"
        return self.call(name, a.type, a, b, c)

    def call(self, name: str, result: Any, *values: _Value) -> _Value:
        """Call one of LLVM's own functions."""
        kind = ir.FunctionType(result, [value.type for value in values])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, values)

    def least(self, a: _Value, b: _Value) -> _Value:
        """The lesser of each lane; b where one is not a number."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def greatest(self, a: _Value, b: _Value) -> _Value:
        """The greater of each lane; b where one is not a number."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def loop(
        self, count: _Value, begin: Sequence[_Value], step: Callable[[_Value, Any], Any]
    ) -> list[_Value]:
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
        following = builder.add(number, self.size(1))
        for phi, first, later in zip(
            [number, *values], [self.size(0), *begin], [following, *changed], strict=True
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(later, body)
        builder.cbranch(builder.icmp_signed("<", following, count), body, done)
        builder.position_at_end(done)
        return list(changed)

    def products(
        self,
        width: _Value,
        vectors: Sequence[tuple[_Value, _Value]],
        numbers: Sequence[tuple[_Value, _Value]],
        begin: Sequence[_Value],
        add: Callable[[_Value, _Value, _Value], _Value],
    ) -> list[list[_Value]]:
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

        def at_feature(place: tuple[_Value, _Value], feature: _Value) -> _Value:
            return self.at(place[0], self.builder.mul(feature, place[1]))

        def step(feature: _Value, sums: Sequence[_Value]) -> list[_Value]:
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


def _numbers(values: Sequence[int]) -> _Value:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(values)), list(values))


def _zero(vector: Any) -> _Value:
    return ir.Constant(vector, [0.0] * vector.count)


def _vector_code(write: Callable[..., None]) -> Any:
    """Make an intrinsic of a function that writes code, given it and the arguments."""

    def typed(_: Any, *kinds: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            code = _Code(context, builder)
            write(code, *map(code.argument, signature.args, values))
            return context.get_dummy_value()

        return types.void(*kinds), generate

    return intrinsic(wraps(write)(typed))


@_vector_code
def _pack(
    code: _Code, points: _Array, numbers: _Array, place: _Value, column: _Value, scales: _Array,
    shift: _Array, rows: _Array, stride: _Value, side: int,
) -> None:  # fmt: skip
    """Lay a square of rows' values across vectors, scaled and then shifted.

    Of the rows `numbers[place:]`, as many as there are lanes, the same number of columns from
    `column` on go to `rows[feature * stride + place]`.
    """
    builder, vector = code.builder, ir.VectorType(rows.element, side)
    off = code.load(code.at(shift.first, column), vector)
    square = []
    for i in range(side):
        mine = builder.add(place, code.size(i))
        number = builder.load(code.at(numbers.first, mine))
        scale = code.spread(builder.load(code.at(scales.first, mine)), side)
        row = code.load(code.row(points, number, column), vector)
        square.append(builder.fsub(builder.fmul(row, scale), off))
    for i, turned in enumerate(_transposed(builder, square)):
        feature = builder.add(column, code.size(i))
        code.store(turned, code.at(rows.first, builder.add(builder.mul(feature, stride), place)))


def _transposed(builder: Any, square: Sequence[_Value]) -> list[_Value]:
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


@_vector_code
def _square_up(
    code: _Code, rows: _Array, width: _Value, squares: _Array, shape: Sequence[int]
) -> None:
    """|x|^2 of the rows of a tile."""
    lanes, count, _ = shape
    vector = ir.VectorType(rows.element, lanes)

    def step(feature: _Value, totals: Sequence[_Value]) -> list[_Value]:
        here = code.at(rows.first, code.builder.mul(feature, code.size(lanes * count)))
        found = [code.load(code.at(here, i * lanes), vector) for i in range(count)]
        return [code.fma(x, x, total) for x, total in zip(found, totals, strict=True)]

    for i, total in enumerate(code.loop(width, [_zero(vector)] * count, step)):
        code.store(total, code.at(squares.first, i * lanes))


@_vector_code
def _keep_least(
    code: _Code, rows: _Array, weights: _Array, halves: _Array, panel: _Value, width: _Value,
    least: _Array, second: _Array, owner: _Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """Score a tile of rows against a panel of centers; keep each row's two least scores.

    The score is |c|^2 / 2 - x.c. Its last bits give way to the number of the center in the panel;
    `owner` keeps the panel.
    """
    builder, (lanes, count, centers) = code.builder, shape
    vector = ir.VectorType(rows.element, lanes)
    tags = ir.VectorType(owner.element, lanes)
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
    clear = ir.Constant(tags, [~TAG] * lanes)
    here = builder.trunc(panel, owner.element) if owner.element.width < 64 else panel
    for i in range(count):
        ranked: list[tuple[_Value, _Value | None]] = []
        for center in range(centers):
            bits = builder.and_(builder.bitcast(scores[center][i], tags), clear)
            bits = builder.or_(bits, ir.Constant(tags, [center] * lanes))
            ranked.append((builder.bitcast(bits, vector), None))
        best, rest = _two_least(code, ranked)
        place, place2, mine = (code.at(x.first, i * lanes) for x in (least, second, owner))
        old, old_rest = code.load(place, vector), code.load(place2, vector)
        less = builder.fcmp_ordered("<", best, old)
        code.store(builder.select(less, best, old), place)
        later = code.greatest(best, old)
        later = later if rest is None else code.least(rest, later)
        code.store(code.least(later, old_rest), place2)
        panels = code.load(mine, tags)
        code.store(builder.select(less, code.spread(here, lanes), panels), mine)


def _vectors_of(code: _Code, rows: _Array, shape: Sequence[int]) -> list[tuple[_Value, _Value]]:
    """A tile's vectors and their strides, for `products`."""
    lanes, count, _ = shape
    return [(code.at(rows.first, i * lanes), code.size(lanes * count)) for i in range(count)]


def _numbers_of(
    code: _Code, weights: _Array, start: _Value, centers: int
) -> list[tuple[_Value, _Value]]:
    """A panel's numbers and their strides, for `products`."""
    panel = code.at(weights.first, start)
    return [(code.at(panel, center), code.size(centers)) for center in range(centers)]


def _two_least(
    code: _Code, ranked: list[tuple[_Value, _Value | None]]
) -> tuple[_Value, _Value | None]:
    """The least and the second least of each lane, by a tournament."""
    while len(ranked) > 1:
        (a, a_second), (b, b_second) = ranked[:2]
        rest = code.greatest(a, b)
        for second in (a_second, b_second):
            rest = rest if second is None else code.least(second, rest)
        ranked = [*ranked[2:], (code.least(a, b), rest)]
    return ranked[0]


@_vector_code
def _probe(
    code: _Code, rows: _Array, place: _Value, stride: _Value, weights: _Array, halves: _Array,
    first: _Value, width: _Value, scores: _Array, shape: Sequence[int],
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


@_vector_code
def _measure(
    code: _Code, rows: _Array, weights: _Array, first: _Value, width: _Value, cosine: _Value,
    found: _Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """|x - c|^2 of a tile of rows and a panel of centers, or x.c: `found[center][row]`."""
    builder, (lanes, count, centers) = code.builder, shape
    start = builder.mul(first, width)

    def square(row: _Value, center: _Value, total: _Value) -> _Value:
        apart = builder.fsub(row, center)
        return code.fma(apart, apart, total)

    with builder.if_else(cosine) as branches:
        for branch, add in zip(branches, (code.fma, square), strict=True):
            with branch:
                sums = code.products(
                    width,
                    _vectors_of(code, rows, shape),
                    _numbers_of(code, weights, start, centers),
                    [_zero(ir.VectorType(rows.element, lanes))] * (count * centers),
                    add,
                )
                for i, total in enumerate(total for row in sums for total in row):
                    code.store(total, code.at(found.first, i * lanes))


@_vector_code
def _octets(
    code: _Code, points: _Array, row: _Value, scale: _Value, others: _Array, other: _Value,
    cosine: _Value, start: _Value, count: _Value, sums: _Array,
) -> None:  # fmt: skip
    """Add up `count` times eight terms of the distance of two rows, from column `start` on."""
    builder, vector = code.builder, ir.VectorType(sums.element, 8)
    scales = code.spread(scale, 8)

    def pair(octet: _Value) -> tuple[_Value, _Value]:
        column = builder.add(start, builder.mul(octet, code.size(8)))
        x = code.load(code.row(points, row, column), vector)
        return x, code.load(code.row(others, other, column), vector)

    def product(octet: _Value, totals: Sequence[_Value]) -> list[_Value]:
        x, y = pair(octet)
        return [builder.fadd(totals[0], builder.fmul(builder.fmul(x, scales), y))]

    def square(octet: _Value, totals: Sequence[_Value]) -> list[_Value]:
        x, y = pair(octet)
        apart = builder.fsub(x, y)
        return [builder.fadd(totals[0], builder.fmul(apart, apart))]

    with builder.if_else(cosine) as branches:
        for branch, step in zip(branches, (product, square), strict=True):
            with branch:
                (total,) = code.loop(count, [_zero(vector)], step)
                code.store(total, sums.first)


@_vector_code
def _add_octets(
    code: _Code, points: _Array, row: _Value, scale: _Value, origins: _Array, center: _Value,
    count: _Value, sums: _Array, squares: _Array,
) -> None:  # fmt: skip
    """Add the first `count` times eight columns of a row, scaled and less an origin, to a sum."""
    builder, vector = code.builder, ir.VectorType(sums.element, 8)
    scales = code.spread(scale, 8)

    def step(octet: _Value, totals: Sequence[_Value]) -> list[_Value]:
        column = builder.mul(octet, code.size(8))
        scaled = builder.fmul(code.load(code.row(points, row, column), vector), scales)
        apart = builder.fsub(scaled, code.load(code.row(origins, center, column), vector))
        place = code.row(sums, center, column)
        code.store(builder.fadd(code.load(place, vector), apart), place)
        return [code.fma(apart, apart, totals[0])]

    (found,) = code.loop(count, [_zero(vector)], step)
    code.store(builder.fadd(code.load(squares.first, vector), found), squares.first)


@_vector_code
def _fetch(code: _Code, points: _Array, element: _Value) -> None:
    """Ask for the cache line of an element of an array, which may also lie behind its end."""
    place = code.builder.bitcast(code.at(points.first, element), ir.IntType(8).as_pointer())
    number = ir.IntType(32)
    code.call("llvm.prefetch.p0", ir.VoidType(), place, number(0), number(2), number(1))


# --- Exact distances ---


@_inlined
def _terms(
    points: Any,
    row: int,
    scale: float,
    others: Any,
    other: int,
    cosine: bool,
    start: int,
    stop: int,
    eight: Any,
) -> Any:
    """Add up the terms of at most a block, as NumPy adds up so many elements."""
    total, whole = 0.0, (stop - start) // 8
    if whole:
        _octets(points, row, scale, others, other, cosine, start, whole, eight)
        total = ((eight[0] + eight[1]) + (eight[2] + eight[3])) + (
            (eight[4] + eight[5]) + (eight[6] + eight[7])
        )
    for j in range(start + 8 * whole, stop):
        x = np.float64(points[row, j])
        total += (x * scale) * others[other, j] if cosine else (x - others[other, j]) ** 2
    return total


@_compiled
def _pairwise(
    points: Any, row: int, scale: float, others: Any, other: int, cosine: bool, scratch: Any
) -> Any:
    """Add up the terms of a row that is longer than a block.

    NumPy halves what is longer than a block, and again, and adds up the halves. Of the halves still
    to do, and of the sums that wait for their other half, each knows its depth: the last that
    waits is another's other half where the depths are equal.
    """
    eight, spans, sums = scratch.eight, scratch.spans, scratch.sums
    spans[0, 0], spans[0, 1], spans[0, 2] = 0, points.shape[1], 0
    to_do, waiting = 1, 0
    while to_do:
        to_do -= 1
        start, stop, depth = spans[to_do, 0], spans[to_do, 1], spans[to_do, 2]
        if stop - start > _PAIRWISE_BLOCK:
            half = start + (stop - start) // 2 // 8 * 8
            spans[to_do, 0], spans[to_do, 1], spans[to_do, 2] = half, stop, depth + 1
            to_do += 1
            spans[to_do, 0], spans[to_do, 1], spans[to_do, 2] = start, half, depth + 1
            to_do += 1
            continue
        total = _terms(points, row, scale, others, other, cosine, start, stop, eight)
        while waiting and scratch.depths[waiting - 1] == depth:
            waiting -= 1
            total, depth = sums[waiting] + total, depth - 1
        sums[waiting], scratch.depths[waiting] = total, depth
        waiting += 1
    return sums[0]


@_inlined
def _sum_of_terms(
    points: Any, row: int, scale: float, others: Any, other: Any, cosine: bool, scratch: Any
) -> Any:
    """Add up the terms of a distance, as NumPy adds up a contiguous row."""
    d = points.shape[1]
    if d <= _PAIRWISE_BLOCK:
        return _terms(points, row, scale, others, other, cosine, 0, d, scratch.eight)
    return _pairwise(points, row, scale, others, other, cosine, scratch)


@_inlined
def _distance(points: Any, row: int, scale: float, centers: Any, center: int, scratch: Any) -> Any:
    """A row's distance to a center, to the bits that NumPy gives it."""
    cosine = centers.cosine
    total = _sum_of_terms(points, row, scale, centers.exact, center, cosine, scratch)
    if cosine:
        total = 1.0 - total
        total = 0.0 if total < 0.0 else 2.0 if total > 2.0 else total
    return total


@_inlined
def _scale(points: Any, row: int, centers: Any, scratch: Any) -> Any:
    """What exact distances scale a row by: for cosine to length one, as `inverse_norms` does."""
    if not centers.cosine:
        return 1.0
    square = _sum_of_terms(points, row, 1.0, centers.zero, np.int64(0), False, scratch)
    if square == np.inf:  # a row too long to square has no direction
        return np.nan
    return 1.0 / np.sqrt(_SMALLEST_SQUARED_NORM if square < _SMALLEST_SQUARED_NORM else square)


# --- Tiles ---


@_inlined
def _lay(points: Any, start: int, centers: Any, scratch: Any, tile: Any) -> None:
    """Lay the rows from `start` on across vectors: `rows[feature * size + place]`.

    They are scaled and shifted; behind the end of the points, the last row stands in.
    """
    n, d = points.shape
    side, size = len(tile.lanes), len(tile.lanes) * len(tile.vectors)
    rows, numbers, scales, shift = scratch.rows, scratch.numbers, scratch.scales, centers.shift
    for place in range(size):
        numbers[place] = min(start + place, n - 1)
        scratch.exact_scales[place] = _scale(points, numbers[place], centers, scratch)
        scales[place] = scratch.exact_scales[place]
    if d >= side:
        for place in range(0, size, side):
            for column in range(0, d, side):
                # The last square may overlap the one before: the same values once more.
                first = min(column, d - side)
                _pack(points, numbers, place, first, scales, shift, rows, size, tile.lanes)
    elif d >= len(_FOUR):
        for place in range(0, size, len(_FOUR)):
            for column in range(0, d, len(_FOUR)):
                first = min(column, d - len(_FOUR))
                _pack(points, numbers, place, first, scales, shift, rows, size, _FOUR)
    else:
        for place in range(size):
            for column in range(d):
                value = points[numbers[place], column] * scales[place]
                rows[column * size + place] = value - shift[column]


@_compiled
def _decide(
    points: Any, row: int, place: int, bound: float, centers: Any, scratch: Any, tile: Any
) -> Any:
    """The nearest center by exact distances, among those whose scores are not above `bound`."""
    k, step = len(centers.exact), PROBED * len(tile.centers)
    size, d = len(tile.lanes) * len(tile.vectors), points.shape[1]
    scale = scratch.exact_scales[place]
    winner, nearest = 0, np.inf
    for first in range(0, k, step):
        _probe(
            scratch.rows, place, size, centers.weights, centers.halves, first, d, scratch.scores,
            tile,
        )  # fmt: skip
        for center in range(first, min(first + step, k)):
            if not scratch.scores[center - first] > bound:
                apart = _distance(points, row, scale, centers, center, scratch)
                if apart < nearest:
                    winner, nearest = center, apart
    return winner


@_inlined
def _add(
    points: Any, row: int, scale: float, origins: Any, center: int, sums: Any, squares: Any
) -> Any:
    """Add a row, scaled and less an origin, to a center's sums.

    Returns:
        The square of what the last columns added, that of the others being added to `squares`.
    """
    d = points.shape[1]
    if d >= 8:
        _add_octets(points, row, scale, origins, center, d // 8, sums, squares)
    rest = 0.0
    for j in range(d // 8 * 8, d):
        part = np.float64(points[row, j]) * scale - np.float64(origins[center, j])
        sums[center, j] += part
        rest += part * part
    return rest


# --- Kernels ---


@_kernel
def assign(
    points: Any,
    centers: Packed,
    tile: Tile,
    scratch: Scratch,
    index: Any,
    apart: Any,
    counts: Any,
    sums: Any,
) -> Any:
    """Find each row's nearest center; note it, or add the row to what the center won.

    Args:
        points: (n, d) T, C-contiguous.
        centers: The centers.
        tile: The shape of a tile.
        scratch: Room to work in.
        index: (n,) int64 for the winners, or empty to add the rows up.
        apart: (n,) float64 for the distances to them, or empty.
        counts: (k,) int64 to which each winner's rows are added, or empty.
        sums: (k, d) float64 to which each winner's rows are added, scaled and less its origin.

    Returns:
        The sum of the squares of all that was added to the sums.
    """
    n, d = points.shape
    width, size = len(tile.centers), len(tile.lanes) * len(tile.vectors)
    panels = -(-len(centers.exact) // width)
    per_line = _CACHE_LINE // points.itemsize
    lines = size * d // per_line
    rows, margins, least, second = scratch.rows, scratch.margins, scratch.least, scratch.second
    scratch.squares[:] = 0
    rest = 0.0
    for start in range(0, n, size):
        _lay(points, start, centers, scratch, tile)
        _square_up(rows, d, margins, tile)
        for place in range(size):
            bound = np.sqrt(margins[place]) * centers.largest + centers.half
            # A bound that is not a number counts as too large.
            margins[place] = (
                centers.factor * bound + centers.floor if bound < centers.limit else np.inf
            )
            least[place] = second[place] = np.inf
        for panel in range(panels):
            _keep_least(
                rows, centers.weights, centers.halves, panel, d, least, second, scratch.owner, tile
            )
            # The next tile's rows come from far away meanwhile.
            for line in range(panel * lines // panels, (panel + 1) * lines // panels):
                _fetch(points, (start + size) * d + line * per_line)
        for place in range(min(size, n - start)):
            row = start + place
            winner = scratch.owner[place] * width + (scratch.tags[place] & TAG)
            bound = least[place] + margins[place]
            if not second[place] > bound:
                winner = _decide(points, row, place, bound, centers, scratch, tile)
            scale = scratch.exact_scales[place]
            if len(index):
                index[row] = winner
                apart[row] = _distance(points, row, scale, centers, winner, scratch)
            else:
                counts[winner] += 1
                rest += _add(points, row, scale, centers.origins, winner, sums, scratch.squares)
    for part in scratch.squares:
        rest += part
    return rest


@_kernel
def measure(points: Any, centers: Packed, tile: Tile, scratch: Scratch, found: Any) -> None:
    """Each row's distance to every center.

    Args:
        points: (n, d), C-contiguous.
        centers: The centers, packed in float64, as they are.
        tile: The shape of a tile of float64.
        scratch: Room to work in.
        found: (n, k) float32 for the distances.
    """
    n, d = points.shape
    k, width, size = len(centers.exact), len(tile.centers), len(tile.lanes) * len(tile.vectors)
    for start in range(0, n, size):
        _lay(points, start, centers, scratch, tile)
        for first in range(0, k, width):
            _measure(scratch.rows, centers.weights, first, d, centers.cosine, scratch.scores, tile)
            for place in range(min(size, n - start)):
                for center in range(min(width, k - first)):
                    value = scratch.scores[center * size + place]
                    if centers.cosine:
                        value = 1.0 - value
                        value = 0.0 if value < 0.0 else 2.0 if value > 2.0 else value
                    found[start + place, first + center] = value
