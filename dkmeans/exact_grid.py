"""Grids: for each column a power of two, of which most of its values are multiples.

Values on a grid are added up as integers, by the backends. `exact` has the sums, and what does not
lie on a grid is a few single values beside them (docs/decisions/017).

    grid = Grid.of(rows)
    planes, left = grid.split(rows)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans.exact_total import ExactTotal, decomposed, total_of
from dkmeans.float_pairs import FloatArray, IndexArray

BoolArray = NDArray[np.bool_]

# Large values may overflow in some of the steps below; the code tests the results.
QUIET = np.errstate(all="ignore")

# A plane counts multiples of 2^(exponent + 32 m), where m is the number of the plane.
PLANE_BITS = 32
# Values below 2^`WINDOW_BITS` units of the grid are added to plane 0. A chunk is added up in pieces
# of `PIECE_ROWS` rows: a plane stays below 2^62.
WINDOW_BITS, PIECE_ROWS = 46, 2**16
# Bits of the grid below the usual value of a column: a float32 of 24 bits lies on the grid if it is
# at least 2^-14 times the usual value, and below 2^8 times.
_USUAL_BITS = 38
# Limits of the exponents: 2^-exponent is a normal float64.
_LEAST_EXPONENT, _MOST_EXPONENT = -960, 960
# For cosine the rows have length one, and a row adds the nearest multiple of this power of two.
COSINE_EXPONENT = -45
# Grids that are finer by up to this many bits hold nearly the same values.
_SIMILAR_BITS = 3
# Largest and least number of rows that a grid is made from. In between, as many rows as have this
# number of values.
_SAMPLED_ROWS, _FEWEST_SAMPLED, _SAMPLED_VALUES = 32, 4, 2**16
# Exponents of the digits of a value on the grid: 46 bits of plane 0, for float64 32 of plane -1.
# The products of two digits are below 2^46, so float64 holds the sums of 128 of them; half as many
# are added up.
_DIGIT_PLACES = {np.dtype(np.float32): (23, 0), np.dtype(np.float64): (23, 0, -16, -32)}
_DIGIT_ROWS = 64


def slices(rows: int, width: int, values: int) -> Iterator[slice]:
    """Yield slices that cut an array (rows, width) into parts of about so many values."""
    size = max(1, values // max(1, width))
    return (slice(start, start + size) for start in range(0, rows, size))


def piece_slices(rows: int) -> Iterator[slice]:
    """Yield slices that cut `rows` rows into pieces of at most `PIECE_ROWS`."""
    return slices(rows, 1, PIECE_ROWS)


class NotFinite(ValueError):
    """A value is not finite, or too large to be squared; the caller names the row."""


def num_planes(dtype: DTypeLike) -> int:
    """Return the number of planes that values on the grid need: 1, or for float64 2 (0 and -1)."""
    return 2 if np.dtype(dtype) == np.float64 else 1


def digit_places(dtype: DTypeLike) -> tuple[int, ...]:
    """Return the exponents of the digits of values of a dtype on a grid, the largest first."""
    return _DIGIT_PLACES[np.dtype(dtype)]


def total_of_digits(products: IndexArray, grid: Grid, dtype: DTypeLike) -> ExactTotal:
    """Return the exact sum of the squares whose digits `Grid.digit_products` has multiplied."""
    places = digit_places(dtype)
    # The product of two different digits occurs twice in a square.
    exponents = [
        a + b + (i < j) for i, a in enumerate(places) for j, b in enumerate(places) if j >= i
    ]
    # int64 numbers have more bits than float64: each is the sum of two.
    high = products.astype(np.float64)
    low = (products - high.astype(np.int64)).astype(np.float64)
    return total_of(np.stack([high, low]), np.array(exponents)[:, None] + 2 * grid.exponents)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """For each column a power of two, of which most of its values are multiples.

    A grid decides how fast values are added up, never the sum.

    Attributes:
        exponents: (d,) int64.
    """

    exponents: IndexArray

    @classmethod
    def of(cls, points: FloatArray) -> Self:
        """Return a grid for (n, d) rows, by the usual size of some of them in each column."""
        fitting = _SAMPLED_VALUES // points.shape[1]
        most = min(_SAMPLED_ROWS, max(_FEWEST_SAMPLED, fitting))
        sample = points[:: -(-len(points) // most) or 1].astype(np.float64)
        used, sizes = np.isfinite(sample) & (sample != 0), np.frexp(sample)[1].astype(np.int64)
        sizes[~used] = 0
        counts, totals = np.add.reduce(used, axis=0), np.add.reduce(sizes, axis=0)
        usual = totals // np.maximum(counts, 1)
        usual[counts == 0] = int(totals.sum()) // max(1, int(counts.sum()))
        exponents = np.maximum(usual - _USUAL_BITS, _LEAST_EXPONENT)
        return cls(np.minimum(exponents, _MOST_EXPONENT))

    @classmethod
    def of_directions(cls, width: int) -> Self:
        """Return the grid of rows of length one."""
        return cls(np.full(width, COSINE_EXPONENT, np.int64))

    def suits(self, other: Grid) -> bool:
        """Return whether rows of this grid can be added up on another one as fast."""
        finer = self.exponents - other.exponents
        return bool(((finer >= 0) & (finer <= _SIMILAR_BITS)).all())

    @property
    def scales(self) -> FloatArray:
        """(d,) float64, the factors that make values on the grid integers."""
        return np.ldexp(1.0, -self.exponents)

    @QUIET
    def digit_products(self, points: FloatArray) -> tuple[IndexArray, BoolArray]:
        """Return sums of products of digits of (n, d) rows, for `total_of_digits`, and a mask.

        Returns:
            The sums of the products of each pair of digits, (pairs, d) int64, and True for each
            value that is not in them, (n, d).
        """
        planes, left = self.split(points)
        value, digits = planes[0], []
        for place in digit_places(points.dtype):
            digits.append(np.trunc(value * 2.0**-place))
            value -= digits[-1] * 2.0**place
            if place == 0 and len(planes) > 1:
                value = planes[1] * 2.0**-PLANE_BITS
        starts = np.arange(0, len(points), _DIGIT_ROWS)
        products = [
            np.add.reduceat(a * b, starts, axis=0).astype(np.int64).sum(axis=0)
            for i, a in enumerate(digits)
            for b in digits[i:]
        ]
        return np.array(products), left

    @QUIET
    def rounded_away(self, points: FloatArray) -> FewValues:
        """Return the errors of (n, d) rows whose values are rounded to integers in their planes.

        Returns:
            The differences that are not zero; `clusters` are the numbers of the rows.
        """
        left = points.astype(np.float64)
        for exponents in self.exponents - PLANE_BITS * np.arange(num_planes(points.dtype))[:, None]:
            # Both products are exact, and so is the difference. Where the first one underflows, the
            # integer is zero.
            left -= np.ldexp(np.rint(np.ldexp(left, -exponents)), exponents)
        rows, columns = np.nonzero(left)
        return FewValues.of(rows, columns, left[rows, columns], self)

    @QUIET
    def split(self, points: FloatArray) -> tuple[list[FloatArray], BoolArray]:
        """Return what (n, d) rows add to planes 0, -1, ... as integers in float64, and a mask.

        float32 has one plane, float64 two. A value that the planes do not hold is zero there, and
        True in the mask.
        """
        scaled = points * self.scales  # exact, but for overflow and underflow
        planes = [np.trunc(scaled)]
        rest = scaled - planes[0]
        if points.dtype == np.float64:
            rest *= 2.0**PLANE_BITS
            planes.append(np.trunc(rest))
            rest -= planes[1]
        left = ~((np.abs(scaled) < 2.0**WINDOW_BITS) & (rest == 0))
        # An underflow leaves nothing that the comparison could see.
        left |= (scaled == 0) & (points != 0)
        for plane in planes:
            plane[left] = 0.0
        return planes, left


@dataclass(frozen=True, slots=True, eq=False)
class FewValues:
    """A few single values, each of a cluster and a column: a monoid under `+`.

    The values are whole * 2^exponent, in units of the grid of their column.

    Attributes:
        clusters: (m,) int64, the clusters.
        columns: (m,) int64, the columns.
        whole: (m,) int64.
        exponents: (m,) int64.
    """

    clusters: IndexArray
    columns: IndexArray
    whole: IndexArray
    exponents: IndexArray

    @classmethod
    def of(
        cls, clusters: IndexArray, columns: IndexArray, values: FloatArray, grid: Grid
    ) -> FewValues:
        """Return (m,) finite values of these clusters and columns."""
        whole, exponents = decomposed(values)
        return cls(clusters, columns, whole, exponents - grid.exponents[columns])

    def __len__(self) -> int:
        return len(self.whole)

    def in_order(self) -> FewValues:
        """Return the values in the order of their clusters."""
        order = np.argsort(self.clusters, kind="stable")
        return FewValues(*(array[order] for array in self._arrays))

    def between(self, start: int, stop: int) -> FewValues:
        """Return the values of the clusters `start:stop`; `start` becomes cluster 0.

        The values must be `in_order`.
        """
        some = slice(*np.searchsorted(self.clusters, (start, stop)))
        clusters, *others = (array[some] for array in self._arrays)
        return FewValues(clusters - start, *others)

    def shifted(self, bits: IndexArray) -> FewValues:
        """Return the values in units of a grid whose columns are finer by so many bits."""
        exponents = self.exponents + bits[self.columns]
        return FewValues(self.clusters, self.columns, self.whole, exponents)

    def moved(self, clusters: IndexArray) -> FewValues:
        """Return the values in other clusters: c becomes `clusters[c]`."""
        return FewValues(clusters[self.clusters], self.columns, self.whole, self.exponents)

    def __add__(self, other: FewValues) -> FewValues:
        pairs = zip(self._arrays, other._arrays, strict=True)
        return FewValues(*(np.concatenate(pair) for pair in pairs))

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(array.nbytes for array in self._arrays)

    @property
    def _arrays(self) -> tuple[IndexArray, ...]:
        return self.clusters, self.columns, self.whole, self.exponents
