"""Vector instructions for exact distances: terms of eight columns, in the order of NumPy's sums.

Called by `exact_distances`. Here the lanes are columns of one row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from llvmlite import ir

from dkmeans.backends.native.llvm_code import Array, Code, Value, as_intrinsic, zero


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
