"""The trial of the kernels: their answers to small problems, compared with NumPy's.

`backend` tries the kernels in each process before it computes with them, because a compiler, a
driver or a GPU that was never tested may give wrong answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from dkmeans.backends import numpy as on_host
from dkmeans.backends.cuda.fallback import FallibleImplementation
from dkmeans.distance import Centers, Distance
from dkmeans.state import FloatArray


class _Shape(NamedTuple):
    """The size of a problem.

    Attributes:
        k: Number of centers.
        d: Number of columns.
        rows: Number of rows.
        equal: Number of equal centers. Half of the rows are around them.
    """

    k: int
    d: int
    rows: int
    equal: int


# There is a shape for each kernel that scores and for each that adds up; with and without a rest of
# columns and of rows; with one and several stages of columns and panels of centers; and with
# columns that `narrow` reads twice. Of the ambiguous rows there are few, or many, or each has so
# many equally near centers that there is no room for their pairs. One shape has several blocks of
# `add_rows`.
_SHAPES = (
    _Shape(7, 5, 300, equal=1),
    _Shape(12, 16, 300, equal=2),
    _Shape(16, 32, 200, equal=1),
    _Shape(128, 37, 1100, equal=1),
    _Shape(20, 300, 200, equal=2),
    _Shape(8, 1100, 20, equal=1),
    _Shape(300, 9, 150, equal=100),
)
# At this scale the differences of float32 rows are subnormal numbers, and their scores are not so
# small yet that all rows are ambiguous.
_SUBNORMAL = 1e-38
# Rows whose distances to all centers are compared.
_DISTANCE_ROWS = 20


def check(implementation: FallibleImplementation) -> None:
    """Compare an implementation with NumPy.

    Raises:
        ImportError: an answer differs, or the implementation cannot be used.
    """
    for dtype, distance, scale, shape in _problems():
        problem = f"{dtype.name}, {distance}, {shape.k} centers of {shape.d} columns, scale {scale}"
        rows, centers = _draw(shape, scale, dtype, distance)
        try:
            different = list(_differences(implementation, rows, centers))
        except Exception as error:  # of a compiler, a driver, or too little memory
            raise ImportError(f"its kernels cannot be used: {error}") from error
        if different:
            raise ImportError(
                f"its kernels give other answers than NumPy ({', '.join(different)}; {problem}); "
                "please report it"
            )


def _problems() -> Iterator[tuple[np.dtype[Any], Distance, float, _Shape]]:
    """Yield the dtypes, distances, scales of the values and shapes of the problems."""
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    yield from product((single,), (Distance.SQUARED_EUCLIDEAN,), (1.0, _SUBNORMAL), _SHAPES)
    # By cosine, the distances to rows as short as subnormal numbers are all one.
    yield from product((single,), (Distance.COSINE,), (1.0,), _SHAPES)
    yield from product((double,), Distance, (1.0,), _SHAPES)


def _draw(
    shape: _Shape, scale: float, dtype: np.dtype[Any], distance: Distance
) -> tuple[FloatArray, Centers]:
    """Draw centers, some equal and some almost equal, and rows around them."""
    k, d, n, equal = shape
    rng = np.random.default_rng(k * d)
    values = rng.standard_normal((k, d)) + 3
    values[k // 2 : k // 2 + equal], values[-1] = values[k // 2], values[0] + 1e-6
    around = np.where(rng.integers(2, size=n), k // 2, rng.integers(k, size=n))
    rows = values[around] + rng.standard_normal((n, d)) * rng.random((n, 1))
    # Values with a part in plane -1 of the sums, so small that they are left to the host, and so
    # large that the tensor cores do not add them.
    rows[0, 0], rows[1, 0], rows[2, 0] = 1e-8 / 3, 1e-25, 500
    return (rows * scale).astype(dtype), Centers((values * scale).astype(dtype), distance)


def _differences(
    implementation: FallibleImplementation, rows: FloatArray, centers: Centers
) -> Iterator[str]:
    """Yield the names of the results that differ from NumPy's.

    All but the distances to all centers must have the same bits. Sums are compared by their means,
    which are correctly rounded.
    """
    sums, index, distances = implementation.assign(rows, centers)
    expected, expected_index, expected_distances = on_host.assign(rows, centers)
    if not np.array_equal(index, expected_index):
        yield "nearest centers"
    if distances.tobytes() != expected_distances.tobytes():
        yield "distances to them"
    if not np.array_equal(sums.counts, expected.counts):
        yield "counts"
    if not np.array_equal(sums.sums.means(sums.counts), expected.sums.means(expected.counts)):
        yield "sums"
    if implementation.squares(rows) != on_host.squares(rows):
        yield "squares"
    some = rows[:_DISTANCE_ROWS]
    every = implementation.distances(some, centers)
    if not np.allclose(every, on_host.distances(some, centers), rtol=1e-5, atol=1e-6):
        yield "distances to all centers"
