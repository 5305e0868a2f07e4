"""Exact distances of all rows of a tile, each to one center: eight rows at a time.

`kernels` writes the distances that it returns by `write_distances`. They have the bits of the NumPy
backend, as those of `exact_distances` do, which are computed one by one for ambiguous rows. Sums of
eight rows are transposed, so that each row has a lane in which its columns are added in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from llvmlite import ir

from dkmeans.backends.native.compilation import compiled
from dkmeans.backends.native.distance_vectors import distance_terms
from dkmeans.backends.native.exact_distances import from_total
from dkmeans.backends.native.llvm_code import Array, Code, Value, as_intrinsic, transposed, zero

# Rows whose distances are computed at a time, and columns that are added up in parallel.
_OCTET = 8
# Rows of one loop over the columns: their addresses fit the registers.
_ROWS_AT_ONCE = 2


@compiled
def write_distances(
    points: Any, start: int, count: int, centers: Any, clusters: Any, scratch: Any, distances: Any
) -> None:
    """Write the exact distances of the rows of a tile, each to the center of its cluster.

    Args:
        points: (n, d) rows.
        start: Index of the first row of the tile.
        count: Number of rows, at least one.
        centers: The centers, as `kernels.PackedCenters`.
        clusters: (t,) int64, the cluster of each row of the tile.
        scratch: Work arrays, as `kernels.Scratch`.
        distances: (n,) float64, changed from `start` on.
    """
    parts, scales = scratch.distance_parts, scratch.exact_scales
    sums, width = parts.block_sums, points.shape[1]
    for first in range(0, count, _OCTET):
        few = min(count - first, _OCTET)
        if len(parts.blocks) == 1:  # most rows: 5 % less time than with a loop over one block
            _add_up(
                points, start, first, few, scales, centers.exact, clusters, centers.cosine, 0,
                width, sums, 0,
            )  # fmt: skip
        else:
            _add_up_blocks(points, start, first, few, scales, centers, clusters, parts)
        for place in range(few):
            distances[start + first + place] = from_total(sums[place], centers.cosine)


@compiled
def _add_up_blocks(
    points: Any, start: int, first: int, count: int, scales: Any, centers: Any, clusters: Any,
    parts: Any,
) -> None:  # fmt: skip
    """Add up the terms of up to eight rows as `_add_up` does, over all blocks of columns."""
    blocks, sums, end = parts.blocks, parts.block_sums, 0
    for number in range(len(blocks)):
        begin, stop = blocks[number, 0], blocks[number, 1]
        _add_up(
            points, start, first, count, scales, centers.exact, clusters, centers.cosine, begin,
            stop - begin, sums, end,
        )  # fmt: skip
        for _ in range(blocks[number, 2]):
            end -= _OCTET
            for place in range(end, end + _OCTET):
                sums[place] += sums[place + _OCTET]
        end += _OCTET


@as_intrinsic
def _add_up(
    code: Code, points: Array, start: Value, first: Value, count: Value, scales: Array,
    targets: Array, clusters: Array, cosine: Value, begin: Value, width: Value, totals: Array,
    end: Value,
) -> None:  # fmt: skip
    """Add up the terms of the distances of up to eight rows, over a block of columns.

    Args:
        code: The code to write to.
        points: (n, d) rows.
        start: Index of the first row of the tile.
        first: Number of the first of these rows in the tile.
        count: Number of rows, from 1 to 8.
        scales: (t,) float64, the factor of each row of the tile for cosine.
        targets: (k, d) float64, the centers.
        clusters: (t,) int64, the center of each row of the tile.
        cosine: True for the terms x c, False for (x - c)^2.
        begin: The first column of the block.
        width: Number of its columns.
        totals: float64, of which eight elements are overwritten. After the last row they have
            copies of that row's total.
        end: Number of the first of these elements.
    """
    builder, eight = code.builder, code.size(_OCTET)
    vector = ir.VectorType(totals.element, _OCTET)
    octets, rest = builder.sdiv(width, eight), builder.srem(width, eight)
    last = builder.sub(count, code.size(1))
    rows: list[tuple[Value, Value, Value]] = []
    for number in range(_OCTET):
        is_row = builder.icmp_signed("<", code.size(number), count)
        place = builder.add(first, builder.select(is_row, code.size(number), last))
        cluster = builder.load(code.at(clusters.first, place))
        scale = builder.load(code.at(scales.first, place))
        rows.append((builder.add(start, place), cluster, scale))

    def total_of(which: int) -> Value:
        terms = [distance_terms(code, scale)[which] for *_, scale in rows]

        def term_at(number: int, column: Value, load: Callable[[Value, Any], Value]) -> Value:
            row, cluster, _ = rows[number]
            x = load(code.cell(points, row, column), vector)
            return terms[number](x, load(code.cell(targets, cluster, column), vector))

        def sums_of(some: range) -> list[Value]:
            def step(number: Value, sums: Sequence[Value]) -> list[Value]:
                column = builder.add(begin, builder.mul(number, eight))
                return [
                    builder.fadd(old, term_at(row, column, code.load))
                    for row, old in zip(some, sums, strict=True)
                ]

            return code.loop(octets, [zero(vector)] * len(some), step)

        def whole(_: Sequence[Value]) -> list[Value]:
            sums = transposed(
                builder,
                [
                    each
                    for row in range(0, _OCTET, _ROWS_AT_ONCE)
                    for each in sums_of(range(row, row + _ROWS_AT_ONCE))
                ],
            )
            # The order of these additions is NumPy's.
            while len(sums) > 1:
                sums = [builder.fadd(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
            return sums

        def others(values: Sequence[Value]) -> list[Value]:
            def load(place: Value, kind: Any) -> Value:
                return code.load_first(place, rest, kind)

            column = builder.add(begin, builder.mul(octets, eight))
            found = transposed(builder, [term_at(row, column, load) for row in range(_OCTET)])
            # Terms after the last column are zero.
            return [reduce(builder.fadd, found, values[0])]

        none = code.size(0)
        total = code.change_if(builder.icmp_signed(">", octets, none), whole, [zero(vector)])
        return code.change_if(builder.icmp_signed(">", rest, none), others, total)[0]

    with builder.if_else(cosine) as branches:
        for which, branch in enumerate(branches):
            with branch:
                code.store(total_of(which), code.at(totals.first, end))
