"""Standardization: the means and deviations of columns, found in one pass over the rows.

`train` calls `find_scaling` for a new model whose dataset has `Dataset.standardize`. The result is
the same for any chunks: a row adds its values and its squared differences from a reference row,
each rounded to float64. These numbers depend on this row alone, and are added up exactly
(docs/decisions/030).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from dkmeans.backends import select
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import LoadedChunk
from dkmeans.data.columns import Names, places_named
from dkmeans.distance import Centers, Distance
from dkmeans.errors import InvalidData, counted
from dkmeans.exact import ExactSums
from dkmeans.exact_grid import NotFinite
from dkmeans.executors import Executor
from dkmeans.scaling import Scaling
from dkmeans.state import FloatArray, sum_up

logger = logging.getLogger("dkmeans")

# More names of columns are cut in the log.
_MOST_NAMES = 8
# Sums lose the digits of a variance to a reference that is farther from the mean, by so many times
# the variance: float64 has twice as many bits.
_MOST_LOST = 2**26


@dataclass(frozen=True, slots=True, eq=False)
class _Reference:
    """What rows are compared with.

    Attributes:
        row: (1, d) float64, a row of positive weight, or the means. The squared difference of a row
            from the mean is at most the variance times the sum of all weights, divided by the
            weight of this row. So an offset that all rows share costs no digits.
        backend: Name of the backend; None leaves the choice to each worker.
    """

    row: FloatArray
    backend: str | None


@dataclass(frozen=True, slots=True, eq=False)
class _ColumnSums:
    """Exact sums over rows, times their weights: a monoid under `+`.

    Attributes:
        rows: (1, d + 1), the rows times their weights, and the weights.
        squares: (1, d), the squared differences from the reference, times the weights.
    """

    rows: ExactSums
    squares: ExactSums

    def __add__(self, other: _ColumnSums) -> _ColumnSums:
        return _ColumnSums(self.rows + other.rows, self.squares + other.squares)


def find_scaling(
    batches: Sequence[Batch], names: Names, executor: Executor, backend: str | None
) -> Scaling:
    """Return the means and deviations of the columns of some rows, by weight.

    A column of one value gets that value and the deviation 1, so that it becomes zero.

    Raises:
        InvalidData: there are no rows of positive weight, or some cannot be used, or the values of
            a column differ by too little for float64.
    """
    row = _first_row(batches, executor).astype(np.float64)
    moments = _moments(batches, _Reference(row, backend), executor)
    if any(variance * _MOST_LOST < shift * shift for _, variance, shift in moments):
        # The first row is far from the others, and has a small weight. The means are not far.
        row = np.array([[float(mean) for mean, *_ in moments]])
        moments = _moments(batches, _Reference(row, backend), executor)
    width = row.shape[1]
    means, deviations = np.zeros(width), np.ones(width)
    constant: list[int] = []
    named = places_named(names, width)
    for column, (mean, variance, shift) in enumerate(moments):
        means[column], deviation = float(mean), math.sqrt(max(variance, Fraction(0)))
        if deviation > 0:
            deviations[column] = deviation
        elif shift:
            raise InvalidData(
                "columns to standardize must have values whose differences have squares that "
                f"float64 holds; scale {named[column]} first, whose values differ by less"
            )
        else:
            constant.append(column)
    _report(counted(width, "column"), [named[column] for column in constant])
    return Scaling.of(means, deviations)


def _moments(
    batches: Sequence[Batch], reference: _Reference, executor: Executor
) -> list[tuple[Fraction, Fraction, Fraction]]:
    """Return the mean of each column, its variance, and how far the mean is from the reference."""
    total = sum_up(executor.map_reduce(_column_sums, batches, reference).totals)
    width, found = reference.row.shape[1], []
    count = total.rows.exact(0, width)
    for column in range(width):
        mean = total.rows.exact(0, column) / count
        shift = mean - Fraction(float(reference.row[0, column]))
        found.append((mean, total.squares.exact(0, column) / count - shift * shift, shift))
    return found


def _report(columns: str, constant: Sequence[str]) -> None:
    """Log what is standardized, and which columns have one value."""
    logger.info("rows are standardized: %s by mean and deviation", columns)
    if constant:
        more = f" and {len(constant) - _MOST_NAMES} more" if len(constant) > _MOST_NAMES else ""
        named = f"{', '.join(constant[:_MOST_NAMES])}{more}"
        logger.info("zero once they are standardized, as all rows have one value there: %s", named)


def _first_row(batches: Sequence[Batch], executor: Executor) -> FloatArray:
    """Return the first row of positive weight, (1, d).

    Raises:
        InvalidData: there is none.
    """
    for batch in batches:
        for number in range(len(batch)):
            chunk = batch.chunks_between(number, number + 1)
            row = next(executor.map(_first_of, chunk, batch.source.width))
            if len(row):
                return row
    raise InvalidData("the rows to standardize must have at least one of a weight above 0")


def _first_of(loaded: LoadedChunk, width: int) -> FloatArray:
    """Return the first row of a chunk that has a weight, (1, d); (0, d) for none."""
    return loaded.finite(width)[:1]


def _column_sums(loaded: LoadedChunk, reference: _Reference) -> _ColumnSums:
    """Return the sums of the rows of a chunk. Runs on a worker.

    Raises:
        InvalidData: a value is not finite, or its square is not.
    """
    width, weights = reference.row.shape[1], loaded.weights
    points, backend = loaded.of_width(width), select(reference.backend)
    if not len(points):  # none of the rows has a weight
        return _ColumnSums(ExactSums.zero((1, width + 1)), ExactSums.zero((1, width)))
    index = np.zeros(len(points), np.int64)
    center = Centers(reference.row, Distance.SQUARED_EUCLIDEAN)
    factors = np.ones(len(points)) if weights is None else weights
    try:
        sums = backend.add_products(points, factors, index, 1)
        squares = backend.add_squares(points, factors, index, center)
    except NotFinite:
        raise loaded.complaint() from None
    return _ColumnSums(sums, squares)
