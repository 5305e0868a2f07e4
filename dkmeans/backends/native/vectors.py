"""Vector instructions for the kernels: Numba intrinsics, written as LLVM IR.

Kernels call the functions that `as_intrinsic` decorates, and `group_vectors`, `eight_bits` and
others write more of them with `Code`. Numba itself has no vector types. In most, each lane belongs
to one row: a vector holds one feature of several rows, and the same feature of a center is copied
to all lanes. The least score is then found lane by lane, and of all scores of a panel only the few
least are stored (`rank`). `probe` and `sum_octets` use lanes in other ways. The IR runs on any
processor, with vectors of any width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce, wraps
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dkmeans.backends.native import processor


class Tile(NamedTuple):
    """The shape of a tile of rows and a panel of centers, as the lengths of tuples.

    Numba compiles for types, and the type of a tuple contains its length. So the shape is a
    constant of the compiled code. An intrinsic receives it as `shape`, the six lengths.

    Attributes:
        lanes: Its length is the number of lanes of a vector.
        vectors: Its length is the number of vectors of rows in a tile.
        centers: Its length is the number of centers in a panel: a power of two, at most 8.
        matrix_panels: Its length is the number of panels that a matrix unit scores at a time. Empty
            if vectors compute the scores.
        second: Not empty if `rank` also prepares the search for the second nearest center.
        in_bytes: Not empty if the first scores are computed in 8 bits (see `eight_bits`).
    """

    lanes: tuple[None, ...]
    vectors: tuple[None, ...]
    centers: tuple[None, ...]
    matrix_panels: tuple[None, ...] = ()
    second: tuple[None, ...] = ()
    in_bytes: tuple[None, ...] = ()


# Panels that `probe` scores at a time.
PROBED_PANELS = 4
CACHE_LINE_BYTES = 64
_FLOAT_BYTES = {"float": 4, "double": 8}
# LLVM's names of x86's instructions for the lesser and the greater number, by the vectors' bytes.
_X86_FORMS = {
    16: {"float": "sse.{}.ps", "double": "sse2.{}.pd"},
    32: {"float": "avx.{}.ps.256", "double": "avx.{}.pd.256"},
    64: {"float": "avx512.{}.ps.512", "double": "avx512.{}.pd.512"},
}
# Last operand of the instructions on 64 bytes: round as the processor is set to.
_CURRENT_ROUNDING = 4
# Scores that `rank` compares at a time; more do not fit the registers.
_RANKED_AT_ONCE = 8

Value = Any  # an LLVM value
# The least values of each lane in some group, in order; None if the group has fewer.
Ranked = tuple[Value | None, ...]


@dataclass(frozen=True, slots=True)
class Array:
    """An array among the arguments of an intrinsic.

    Attributes:
        first: Pointer to the first element.
        width: Number of elements in a row. Rows lie one after another.
        element: LLVM type of the elements.
    """

    first: Value
    width: Value
    element: Any


class Code:
    """Writer of the LLVM IR of one call of an intrinsic.

    Attributes:
        builder: The LLVM builder, at the place where the next instruction goes.
        size: LLVM type of sizes and indices. Calling it makes a constant.
    """

    def __init__(self, context: Any, builder: Any) -> None:
        self._context = context
        self.builder = builder
        self.size: Any = ir.IntType(types.intp.bitwidth)

    def argument(self, kind: Any, value: Value) -> Any:
        """Convert an argument: an array to `Array`, a tuple to its length or lengths."""
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
        """Return the pointer to the element that is `offset` elements after `pointer`."""
        offset = self.size(offset) if isinstance(offset, int) else offset
        return self.builder.gep(pointer, [offset])

    def cell(self, array: Array, row: Value, column: Value) -> Value:
        """Return the pointer to an element of a two-dimensional array."""
        return self.at(array.first, self.builder.add(self.builder.mul(row, array.width), column))

    def load(self, pointer: Value, vector: Any) -> Value:
        """Load a vector from any address, and convert float32 elements if `vector` is float64."""
        stored = ir.VectorType(pointer.type.pointee, vector.count)
        place = self.builder.bitcast(pointer, stored.as_pointer())
        loaded = self.builder.load(place, align=_bytes(stored.element))
        return loaded if stored == vector else self.builder.fpext(loaded, vector)

    def load_first(self, pointer: Value, count: Value, vector: Any) -> Value:
        """Load `count` elements and fill the vector up with zeros.

        The memory after these elements is not accessed: it may belong to another array.
        """
        lanes = vector.count
        stored = ir.VectorType(pointer.type.pointee, lanes)
        place = self.builder.bitcast(pointer, stored.as_pointer())
        counts = self.spread(self.builder.trunc(count, ir.IntType(32)), lanes)
        mask = self.builder.icmp_signed("<", _int_constants(range(lanes)), counts)
        align = ir.IntType(32)(_bytes(stored.element))
        name = f"llvm.masked.load.v{lanes}f{8 * _bytes(stored.element)}.p0"
        loaded = self.call(name, stored, place, align, mask, zero(stored))
        return loaded if stored == vector else self.builder.fpext(loaded, vector)

    def store(self, value: Value, pointer: Value) -> None:
        """Store a vector at any address."""
        place = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.store(value, place, align=_bytes(value.type.element))

    def spread(self, number: Value, lanes: int) -> Value:
        """Return a vector with this number in all lanes."""
        undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(first, undefined, _int_constants([0] * lanes))

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """Return a * b + c, fused if the processor has such an instruction."""
        name = f"llvm.fmuladd.v{a.type.count}f{8 * _bytes(a.type.element)}"
        return self.call(name, a.type, a, b, c)

    def call(self, name: str, result: Any, *values: Value) -> Value:
        """Call one of LLVM's own functions."""
        kind = ir.FunctionType(result, [value.type for value in values])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, values)

    def minimum(self, a: Value, b: Value) -> Value:
        """Return the lesser of a and b in each lane; b where one of them is NaN."""
        return self._chosen("min", "<", a, b)

    def maximum(self, a: Value, b: Value) -> Value:
        """Return the greater of a and b in each lane; b where one of them is NaN."""
        return self._chosen("max", ">", a, b)

    def _chosen(self, name: str, operator: str, a: Value, b: Value) -> Value:
        """Return a in each lane where `a operator b` holds, else b.

        x86 has one instruction for that. LLVM does not always find it: where the values were
        integers before, it compares and selects, which takes three times as long.
        """
        lanes, element = a.type.count, a.type.element
        at_once = processor.vector_bytes() // _bytes(element)
        if not processor.is_x86() or lanes < 16 // _bytes(element):
            return self.builder.select(self.builder.fcmp_ordered(operator, a, b), a, b)
        if lanes > at_once:
            parts = [
                self._chosen(name, operator, self._half(a, number), self._half(b, number))
                for number in range(2)
            ]
            return self.builder.shuffle_vector(*parts, _int_constants(range(lanes)))
        form = _X86_FORMS[lanes * _bytes(element)][str(element)]
        rounding = [ir.IntType(32)(_CURRENT_ROUNDING)] * (lanes * _bytes(element) == 64)
        return self.call(f"llvm.x86.{form.format(name)}", a.type, a, b, *rounding)

    def _half(self, vector: Value, number: int) -> Value:
        """Return the first or the second half of a vector."""
        count = vector.type.count // 2
        lanes = _int_constants(range(number * count, (number + 1) * count))
        return self.builder.shuffle_vector(vector, vector, lanes)

    def loop(
        self, count: Value, initial: Sequence[Value], step: Callable[[Value, Any], Any]
    ) -> list[Value]:
        """Write a loop over the numbers 0 to `count` - 1, and return the values after it.

        Args:
            count: Number of iterations, at least one. `count` is not tested before the first.
            initial: Values before the first iteration; each iteration returns new ones.
            step: Writes the body, given the number of the iteration and the values. Returns the
                values for the next iteration.
        """
        builder = self.builder
        before = builder.block
        body, done = builder.append_basic_block(), builder.append_basic_block()
        builder.branch(body)
        builder.position_at_end(body)
        number = builder.phi(self.size)
        values = [builder.phi(value.type) for value in initial]
        changed = step(number, values)
        end = builder.block  # not `body` if the step has written loops or branches of its own
        following = builder.add(number, self.size(1))
        for phi, first, later in zip(
            [number, *values], [self.size(0), *initial], [following, *changed], strict=True
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(later, end)
        builder.cbranch(builder.icmp_signed("<", following, count), body, done)
        builder.position_at_end(done)
        return list(changed)

    def change_if(
        self,
        condition: Value,
        change: Callable[[Sequence[Value]], Sequence[Value]],
        values: Sequence[Value],
    ) -> list[Value]:
        """Write a branch: `change(values)` if the condition holds, else `values`."""
        builder, before = self.builder, self.builder.block
        with builder.if_then(condition):
            changed, inside = change(values), builder.block
        results = [builder.phi(value.type) for value in values]
        for result, value, new in zip(results, values, changed, strict=True):
            result.add_incoming(value, before)
            result.add_incoming(new, inside)
        return results

    def accumulate(
        self,
        width: Value,
        vectors: Sequence[tuple[Value, Value]],
        scalars: Sequence[tuple[Value, Value]],
        initial: Sequence[Value],
        add: Callable[[Value, Value, Value], Value],
    ) -> list[list[Value]]:
        """Combine each vector with each scalar, feature by feature, and return the sums.

        Args:
            width: Number of features.
            vectors: For each vector, a pointer to its first feature and the distance in elements
                from one feature to the next.
            scalars: For each scalar, the same. A scalar is spread over all lanes.
            initial: Initial sums, in the order of the result.
            add: Returns the new sum, given a vector, a scalar in all lanes, and the old sum.

        Returns:
            For each scalar the sums with all vectors.
        """

        def at_feature(place: tuple[Value, Value], feature: Value) -> Value:
            return self.at(place[0], self.builder.mul(feature, place[1]))

        def step(feature: Value, sums: Sequence[Value]) -> list[Value]:
            old = iter(sums)
            loaded = [self.load(at_feature(place, feature), initial[0].type) for place in vectors]
            new = []
            for place in scalars:
                number = self.builder.load(at_feature(place, feature))
                spread = self.spread(number, initial[0].type.count)
                new += [add(values, spread, next(old)) for values in loaded]
            return new

        sums = iter(self.loop(width, initial, step))
        return [[next(sums) for _ in vectors] for _ in scalars]


def _bytes(element: Any) -> int:
    return element.width // 8 if isinstance(element, ir.IntType) else _FLOAT_BYTES[str(element)]


def _int_constants(values: Sequence[int]) -> Value:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(values)), list(values))


def zero(vector: Any) -> Value:
    """Return a vector of zeros."""
    return ir.Constant(vector, [0.0] * vector.count)


def as_intrinsic(write: Callable[..., None]) -> Any:
    """Make an intrinsic of a function that writes code.

    Args:
        write: Called with the `Code` of each call of the intrinsic, and with its arguments as
            `Code.argument` converts them.
    """

    def typed(_: Any, *kinds: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            code = Code(context, builder)
            write(code, *map(code.argument, signature.args, values))
            return context.get_dummy_value()

        return types.void(*kinds), generate

    return intrinsic(wraps(write)(typed))


@as_intrinsic
def transpose_square(
    code: Code, points: Array, indices: Array, place: Value, column: Value, scales: Array,
    shift: Array, rows: Array, stride: Value, side: int,
) -> None:  # fmt: skip
    """Copy a square of rows and columns to a tile, scaled, shifted and transposed.

    Its rows are `points[indices[place + i]]` and its columns `column + j`, for i, j < `side`. Each
    value goes to `rows[(column + j) * stride + place + i]`.
    """
    _transpose(code, points, indices, place, column, scales, shift, rows, stride, side, code.load)


@as_intrinsic
def transpose_narrow(
    code: Code, points: Array, indices: Array, place: Value, scales: Array, shift: Array,
    rows: Array, stride: Value, side: int,
) -> None:  # fmt: skip
    """Copy rows to a tile as `transpose_square` does; columns missing from the square are zero."""

    def load(pointer: Value, vector: Any) -> Value:
        return code.load_first(pointer, points.width, vector)

    first = code.size(0)
    _transpose(code, points, indices, place, first, scales, shift, rows, stride, side, load)


def _transpose(
    code: Code, points: Array, indices: Array, place: Value, column: Value, scales: Array,
    shift: Array, rows: Array, stride: Value, side: int, load: Callable[[Value, Any], Value],
) -> None:  # fmt: skip
    builder, row_type = code.builder, ir.VectorType(shift.element, side)
    score_type = ir.VectorType(rows.element, side)
    shifts = load(code.at(shift.first, column), row_type)
    square = []
    for i in range(side):
        row_place = builder.add(place, code.size(i))
        index = builder.load(code.at(indices.first, row_place))
        scale = code.spread(builder.load(code.at(scales.first, row_place)), side)
        row = load(code.cell(points, index, column), row_type)
        value = builder.fsub(builder.fmul(row, scale), shifts)
        # Rounded to the dtype of the scores only after the shift, which may cancel most digits.
        square.append(value if row_type == score_type else builder.fptrunc(value, score_type))
    for i, features in enumerate(transposed(builder, square)):
        feature = builder.add(column, code.size(i))
        code.store(features, code.at(rows.first, builder.add(builder.mul(feature, stride), place)))


def transposed(builder: Any, square: Sequence[Value]) -> list[Value]:
    """Transpose a square of vectors, by exchanging blocks of 1, then 2, 4, ... elements."""
    square, side, block = list(square), len(square), 1
    while block < side:
        # low: a's even blocks, each followed by b's even block; high: the same of the odd blocks.
        low = [i if not i & block else side + i - block for i in range(side)]
        high = [i + block if not i & block else side + i for i in range(side)]
        for i in range(side):
            if not i & block:
                a, b = square[i], square[i + block]
                square[i] = builder.shuffle_vector(a, b, _int_constants(low))
                square[i + block] = builder.shuffle_vector(a, b, _int_constants(high))
        block *= 2
    return square


@as_intrinsic
def squared_norms(
    code: Code, rows: Array, width: Value, squares: Array, shape: Sequence[int]
) -> None:
    """Write |x|^2 of each row of a tile to `squares`."""
    lanes, count = shape[:2]
    vector = ir.VectorType(rows.element, lanes)

    def step(feature: Value, totals: Sequence[Value]) -> list[Value]:
        first = code.at(rows.first, code.builder.mul(feature, code.size(lanes * count)))
        loaded = [code.load(code.at(first, i * lanes), vector) for i in range(count)]
        return [code.fma(x, x, total) for x, total in zip(loaded, totals, strict=True)]

    for i, total in enumerate(code.loop(width, [zero(vector)] * count, step)):
        code.store(total, code.at(squares.first, i * lanes))


@as_intrinsic
def score_panel(
    code: Code, rows: Array, weights: Array, halves: Array, panel: Value, width: Value,
    ranked: Array, panels: Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """Score a tile of rows against a panel of centers, and `rank` the scores |c|^2 / 2 - x.c."""
    builder, (lanes, count, centers) = code.builder, shape[:3]
    first = builder.mul(panel, code.size(centers))
    first_half = code.at(halves.first, first)
    initial = [
        code.spread(builder.load(code.at(first_half, center)), lanes) for center in range(centers)
    ]
    scores = code.accumulate(
        width,
        row_vectors(code, rows, shape),
        center_scalars(code, weights, builder.mul(first, width), centers),
        [half for half in initial for _ in range(count)],
        code.fma,
    )
    rank(code, lambda center, i: scores[center][i], centers, panel, ranked, panels, shape)


# `rank` merges one panel into a summary of four scores for each row. The least score of a row in a
# panel is the panel's minimum. `ranked` has the three least minima in order, [0] to [2], and in [3]
# the least score that is not the minimum of its panel. `panels` has the panels of [0] and [1].
# The limit of a row is [0] plus its error bound (`kernels`). A row is ambiguous unless [1] and [3]
# are both above the limit. If [2] is above the limit, the nearest center is in one of the two
# panels.
#
# With `Tile.second`, [4] is the second least of the scores that are not the minimum of their panel.
# The second least score of all is [1] or [3]: if [3], in the panel of [0]. The third least score is
# then min([2], [3]) or min([1], [4]). [5] is the fourth least minimum, and `panels` also has the
# panel of [2].
#
# The last bits of each score are replaced by the number of the center in its panel, so that a
# minimum carries its center along without a second register. So the number of centers must be a
# power of two. The number changes a score by less than `centers` units in the last place; the error
# bound of `packing` includes that. All four old scores are loaded before the first new one is
# stored, because each new score depends on several old ones.
def rank(
    code: Code, score: Callable[[int, int], Value], centers: int, panel: Value, ranked: Array,
    panels: Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """Merge a panel's scores into `ranked` and `panels`.

    Args:
        code: The code to write to.
        score: Called with the number of a center in the panel and of a vector in the tile; returns
            the scores of this center with the rows of this vector.
        centers: Number of centers in the panel.
        panel: Number of the panel.
        ranked: (6, t) the three least panel minima, the two least scores that are not the minimum
            of their panel, and the fourth minimum.
        panels: (3, t) the panels of the first three minima.
        shape: The shape of the tile.
    """
    builder, (lanes, count) = code.builder, shape[:2]
    vector = ir.VectorType(ranked.element, lanes)
    bits_type = ir.VectorType(panels.element, lanes)
    this_panel = builder.trunc(panel, panels.element) if panels.element.width < 64 else panel
    this_panel = code.spread(this_panel, lanes)

    def ranked_alone(center: int, i: int) -> Ranked:
        nothing_else = (None,) * (2 if shape[4] else 1)
        return tagged(code, score(center, i), center, centers), *nothing_else

    for i in range(count):
        groups: list[Ranked] = []
        for first in range(0, centers, _RANKED_AT_ONCE):
            group = range(first, min(first + _RANKED_AT_ONCE, centers))
            groups.append(_least(code, [ranked_alone(center, i) for center in group], shape))
        minimum, runner_up, third_in_panel = (*_least(code, groups, shape), None)[:3]
        places = [code.at(ranked.first, (j * count + i) * lanes) for j in range(4)]
        least, second, third, others = (code.load(place, vector) for place in places)
        panel_places = [code.at(panels.first, (j * count + i) * lanes) for j in range(2)]
        least_panel, second_panel = (code.load(place, bits_type) for place in panel_places)
        is_least = builder.fcmp_ordered("<", minimum, least)
        is_below_second = builder.fcmp_ordered("<", minimum, second)
        second_if_not_least = builder.select(is_below_second, this_panel, second_panel)
        code.store(builder.select(is_least, least_panel, second_if_not_least), panel_places[1])
        code.store(builder.select(is_least, this_panel, least_panel), panel_places[0])
        # Insert `minimum` into the sorted three.
        code.store(builder.select(is_least, minimum, least), places[0])
        code.store(code.minimum(code.maximum(minimum, least), second), places[1])
        code.store(code.minimum(code.maximum(minimum, second), third), places[2])
        if runner_up is not None:
            code.store(code.minimum(runner_up, others), places[3])
        if runner_up is not None and shape[4]:
            place = code.at(ranked.first, (4 * count + i) * lanes)
            later = code.minimum(code.maximum(runner_up, others), code.load(place, vector))
            later = later if third_in_panel is None else code.minimum(third_in_panel, later)
            code.store(later, place)
            place = code.at(ranked.first, (5 * count + i) * lanes)
            fourth = code.minimum(code.maximum(minimum, third), code.load(place, vector))
            code.store(fourth, place)
            place = code.at(panels.first, (2 * count + i) * lanes)
            is_below_third = builder.fcmp_ordered("<", minimum, third)
            later_panel = builder.select(is_below_third, this_panel, code.load(place, bits_type))
            later_panel = builder.select(is_below_second, second_panel, later_panel)
            code.store(later_panel, place)


def tagged(code: Code, score: Value, number: int, centers: int) -> Value:
    """Replace the last bits of scores by the number of the center among so many, a power of two."""
    builder, vector = code.builder, score.type
    bits_type = ir.VectorType(ir.IntType(8 * _bytes(vector.element)), vector.count)
    # -centers is a mask of all bits but the last log2(centers).
    mask = ir.Constant(bits_type, [-centers] * vector.count)
    bits = builder.and_(builder.bitcast(score, bits_type), mask)
    bits = builder.or_(bits, ir.Constant(bits_type, [number] * vector.count))
    return builder.bitcast(bits, vector)


def row_vectors(code: Code, rows: Array, shape: Sequence[int]) -> list[tuple[Value, Value]]:
    """Return the vectors of a tile, as `Code.accumulate` takes them."""
    lanes, count = shape[:2]
    return [(code.at(rows.first, i * lanes), code.size(lanes * count)) for i in range(count)]


def center_scalars(
    code: Code, weights: Array, start: Value, centers: int
) -> list[tuple[Value, Value]]:
    """Return the centers of a panel as scalars, as `Code.accumulate` takes them."""
    panel = code.at(weights.first, start)
    return [(code.at(panel, center), code.size(centers)) for center in range(centers)]


def _least(code: Code, ranked: Sequence[Ranked], shape: Sequence[int]) -> Ranked:
    """Return the two least values of each lane, or three if the second nearest is looked for."""
    if not shape[4]:
        return two_least(code, [(first, second) for first, second in ranked])
    return three_least(code, [(first, second, third) for first, second, third in ranked])


def two_least(
    code: Code, ranked: Sequence[tuple[Value, Value | None]]
) -> tuple[Value, Value | None]:
    """Return the least and the second least value of each lane, found by a tournament.

    Args:
        code: The code to write to.
        ranked: Pairs (least, second least). The second is None for a single value.
    """
    while len(ranked) > 1:
        (a, a_second), (b, b_second) = ranked[:2]
        runner_up = code.maximum(a, b)
        for second in (a_second, b_second):
            runner_up = runner_up if second is None else code.minimum(second, runner_up)
        ranked = [*ranked[2:], (code.minimum(a, b), runner_up)]
    return ranked[0]


def three_least(
    code: Code, ranked: Sequence[tuple[Value, Value | None, Value | None]]
) -> tuple[Value, Value | None, Value | None]:
    """Return the three least values of each lane, in order, found by a tournament.

    Args:
        code: The code to write to.
        ranked: The three least values of each group, in order; None if a group has fewer.
    """

    def greater(a: Value | None, b: Value | None) -> Value | None:
        return None if a is None or b is None else code.maximum(a, b)

    def least_of(*values: Value | None) -> Value | None:
        return reduce(code.minimum, found) if (found := [v for v in values if v]) else None

    while len(ranked) > 1:
        (a, a_second, a_third), (b, b_second, b_third) = ranked[:2]
        third = least_of(a_third, b_third, greater(a_second, b), greater(a, b_second))
        second = least_of(a_second, b_second, code.maximum(a, b))
        ranked = [*ranked[2:], (code.minimum(a, b), second, third)]
    return ranked[0]


@as_intrinsic
def probe(
    code: Code, rows: Array, place: Value, stride: Value, weights: Array, halves: Array,
    first: Value, width: Value, scores: Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """Score one row of a tile against `PROBED_PANELS` panels, which begin with center `first`."""
    builder, centers = code.builder, shape[2]
    vector = ir.VectorType(rows.element, centers)
    panels = [builder.add(first, code.size(i * centers)) for i in range(PROBED_PANELS)]
    # Here the centers lie across the lanes, and the feature of the row is the scalar.
    (panel_scores,) = code.accumulate(
        width,
        [(code.at(weights.first, builder.mul(p, width)), code.size(centers)) for p in panels],
        [(code.at(rows.first, place), stride)],
        [code.load(code.at(halves.first, panel), vector) for panel in panels],
        code.fma,
    )
    for i, score in enumerate(panel_scores):
        code.store(score, code.at(scores.first, i * centers))


@as_intrinsic
def measure(
    code: Code, rows: Array, weights: Array, first: Value, width: Value, cosine: Value,
    distances: Array, shape: Sequence[int],
) -> None:  # fmt: skip
    """Write |x - c|^2, or x.c for cosine, of a tile and a panel to `distances[center][row]`."""
    builder, (lanes, count, centers) = code.builder, shape[:3]
    start = builder.mul(first, width)

    def square(row: Value, center: Value, total: Value) -> Value:
        difference = builder.fsub(row, center)
        return code.fma(difference, difference, total)

    with builder.if_else(cosine) as branches:
        for branch, add in zip(branches, (code.fma, square), strict=True):
            with branch:
                sums = code.accumulate(
                    width,
                    row_vectors(code, rows, shape),
                    center_scalars(code, weights, start, centers),
                    [zero(ir.VectorType(rows.element, lanes))] * (count * centers),
                    add,
                )
                for i, total in enumerate(total for of_center in sums for total in of_center):
                    code.store(total, code.at(distances.first, i * lanes))


@as_intrinsic
def sum_octets(
    code: Code, points: Array, row: Value, scale: Value, targets: Array, target: Value,
    cosine: Value, start: Value, count: Value, sums: Array,
) -> None:  # fmt: skip
    """Add up the terms of a distance in eight parallel sums, and write these to `sums`.

    The terms are those of `count` times eight columns, from column `start` on: (x - c)^2, or for
    cosine x c with x scaled. No operation is fused, as in NumPy.
    """
    builder, vector = code.builder, ir.VectorType(sums.element, 8)
    terms = distance_terms(code, scale)

    def step(
        term: Callable[[Value, Value], Value], octet: Value, totals: Sequence[Value]
    ) -> list[Value]:
        column = builder.add(start, builder.mul(octet, code.size(8)))
        x = code.load(code.cell(points, row, column), vector)
        y = code.load(code.cell(targets, target, column), vector)
        return [builder.fadd(totals[0], term(x, y))]

    with builder.if_else(cosine) as branches:
        for branch, term in zip(branches, terms, strict=True):
            with branch:
                (total,) = code.loop(count, [zero(vector)], partial(step, term))
                code.store(total, sums.first)


@as_intrinsic
def last_terms(
    code: Code, points: Array, row: Value, scale: Value, targets: Array, target: Value,
    cosine: Value, start: Value, count: Value, terms: Array,
) -> None:  # fmt: skip
    """Write the terms of the last `count` columns, at most eight, to `terms`; see `sum_octets`."""
    vector = ir.VectorType(terms.element, 8)
    x = code.load_first(code.cell(points, row, start), count, vector)
    y = code.load_first(code.cell(targets, target, start), count, vector)
    product, square = (term(x, y) for term in distance_terms(code, scale))
    code.store(code.builder.select(cosine, product, square), terms.first)


def distance_terms(code: Code, scale: Value) -> tuple[Callable[[Value, Value], Value], ...]:
    """Return the writers of the terms of eight columns: for cosine, and for squared distances."""
    builder, scales = code.builder, code.spread(scale, 8)

    def product(x: Value, y: Value) -> Value:
        return builder.fmul(builder.fmul(x, scales), y)

    def square(x: Value, y: Value) -> Value:
        difference = builder.fsub(x, y)
        return builder.fmul(difference, difference)

    return product, square


def constant(vector: Any, number: float) -> Value:
    """Return a vector with this number in all lanes."""
    return ir.Constant(vector, [number] * vector.count)


@as_intrinsic
def prefetch(code: Code, points: Array, element: Value) -> None:
    """Prefetch the cache line of an element. The element may lie after the end of the array."""
    place = code.builder.bitcast(code.at(points.first, element), ir.IntType(8).as_pointer())
    number = ir.IntType(32)
    # Read, not write; locality 2 of 3 (the second-level cache on x86); data, not instructions.
    code.call("llvm.prefetch.p0", ir.VoidType(), place, number(0), number(2), number(1))


@intrinsic  # type: ignore[untyped-decorator]
def trailing_zeros(_: Any, number: Any) -> Any:
    """Return the number of 0 bits below the lowest 1 bit of an int64, which must not be 0."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word, flag = ir.IntType(64), ir.IntType(1)
        kind = ir.FunctionType(word, [word, flag])
        count = cgutils.get_or_insert_function(builder.module, kind, "llvm.cttz.i64")
        return builder.call(count, [values[0], flag(1)])

    return types.int64(types.int64), generate
