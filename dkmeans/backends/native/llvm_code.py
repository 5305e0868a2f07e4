"""Writing of LLVM IR: vectors, loops and intrinsics for the kernels.

Numba itself has no vector types. So `tile_vectors`, `group_vectors`, `eight_bits` and others write
the IR of their instructions with `Code`, and `as_intrinsic` makes functions of them that kernels
call. `Code` works on any processor, with vectors of any width; on x86 it also uses instructions
that only x86 has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from dkmeans.backends.native import processor

Value = Any  # an LLVM value
Load = Callable[[Value, Any], Value]  # loads a vector of a type from a pointer
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
        loaded = self.builder.load(place, align=element_bytes(stored.element))
        return loaded if stored == vector else self.builder.fpext(loaded, vector)

    def load_first(self, pointer: Value, count: Value, vector: Any) -> Value:
        """Load `count` elements and fill the vector up with zeros.

        The memory after these elements is not accessed: it may belong to another array.
        """
        lanes = vector.count
        stored = ir.VectorType(pointer.type.pointee, lanes)
        place = self.builder.bitcast(pointer, stored.as_pointer())
        counts = self.spread(self.builder.trunc(count, ir.IntType(32)), lanes)
        mask = self.builder.icmp_signed("<", int_constants(range(lanes)), counts)
        align = ir.IntType(32)(element_bytes(stored.element))
        name = f"llvm.masked.load.v{lanes}f{8 * element_bytes(stored.element)}.p0"
        loaded = self.call(name, stored, place, align, mask, zero(stored))
        return loaded if stored == vector else self.builder.fpext(loaded, vector)

    def store(self, value: Value, pointer: Value) -> None:
        """Store a vector at any address."""
        place = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.store(value, place, align=element_bytes(value.type.element))

    def spread(self, number: Value, lanes: int) -> Value:
        """Return a vector with this number in all lanes."""
        undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(first, undefined, int_constants([0] * lanes))

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """Return a * b + c, fused if the processor has such an instruction."""
        name = f"llvm.fmuladd.v{a.type.count}f{8 * element_bytes(a.type.element)}"
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
        at_once = processor.vector_bytes() // element_bytes(element)
        if not processor.is_x86() or lanes < 16 // element_bytes(element):
            return self.builder.select(self.builder.fcmp_ordered(operator, a, b), a, b)
        if lanes > at_once:
            parts = [
                self._chosen(name, operator, self._half(a, number), self._half(b, number))
                for number in range(2)
            ]
            return self.builder.shuffle_vector(*parts, int_constants(range(lanes)))
        form = _X86_FORMS[lanes * element_bytes(element)][str(element)]
        rounding = [ir.IntType(32)(_CURRENT_ROUNDING)] * (lanes * element_bytes(element) == 64)
        return self.call(f"llvm.x86.{form.format(name)}", a.type, a, b, *rounding)

    def _half(self, vector: Value, number: int) -> Value:
        """Return the first or the second half of a vector."""
        count = vector.type.count // 2
        lanes = int_constants(range(number * count, (number + 1) * count))
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

    def in_vectors(
        self,
        width: Value,
        lanes: int,
        initial: Sequence[Value],
        step: Callable[[Value, Load, Sequence[Value]], Sequence[Value]],
        *,
        has_last: bool = False,
    ) -> list[Value]:
        """Write a loop over columns, a vector of them at a time, and return the values after it.

        `step` gets the number of a vector, the function that loads its columns, and the values
        before this vector. Columns after the last whole vector are loaded with a mask: lanes after
        the end are zero. With `has_last` there is always such a last vector, even without columns:
        it is then all zeros.
        """
        builder, size, none = self.builder, self.size(lanes), self.size(0)
        whole, rest = builder.sdiv(width, size), builder.srem(width, size)

        def all_whole(values: Sequence[Value]) -> Sequence[Value]:
            # `loop` needs at least one iteration: without a whole vector it is skipped.
            return self.loop(whole, values, lambda number, values: step(number, self.load, values))

        def last(values: Sequence[Value]) -> Sequence[Value]:
            return step(whole, lambda place, vector: self.load_first(place, rest, vector), values)

        values = self.change_if(builder.icmp_signed(">", whole, none), all_whole, initial)
        if has_last:
            return list(last(values))
        return self.change_if(builder.icmp_signed(">", rest, none), last, values)

    def sum_of_lanes(self, vector: Value) -> Value:
        """Add up the lanes of a vector: one half to the other, until one number is left."""
        lanes = vector.type.count
        half = lanes // 2
        while half:
            turn = int_constants([(lane + half) % lanes for lane in range(lanes)])
            turned = self.builder.shuffle_vector(vector, vector, turn)
            vector, half = self.builder.fadd(vector, turned), half // 2
        return self.builder.extract_element(vector, ir.IntType(32)(0))

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


def element_bytes(element: Any) -> int:
    """Return the size of an LLVM type in bytes."""
    return element.width // 8 if isinstance(element, ir.IntType) else _FLOAT_BYTES[str(element)]


def int_constants(values: Sequence[int]) -> Value:
    """Return a vector of these int32."""
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


def constant(vector: Any, number: float) -> Value:
    """Return a vector with this number in all lanes."""
    return ir.Constant(vector, [number] * vector.count)


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
                square[i] = builder.shuffle_vector(a, b, int_constants(low))
                square[i + block] = builder.shuffle_vector(a, b, int_constants(high))
        block *= 2
    return square


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
