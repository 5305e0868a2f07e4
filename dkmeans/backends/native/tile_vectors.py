"""Vector instructions for tiles of rows: Numba intrinsics, called by the kernels.

In most, each lane belongs to one row: a vector holds one feature of several rows, and the same
feature of a center is copied to all lanes. The least score is then found lane by lane (`ranking`).
In `probe`, the lanes are centers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from dkmeans.backends.native.llvm_code import Array, Code, Value, as_intrinsic, transposed, zero
from dkmeans.backends.native.ranking import rank

# Panels that `probe` scores at a time.
PROBED_PANELS = 4


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
