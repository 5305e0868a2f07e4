"""Exact sums: integers that count multiples of powers of two, so no addition ever rounds.

Float sums depend on the order of the rows. Exact sums do not: centers are a function of the set of
rows, whatever the chunks, the workers or the backends. `ExactSums` is an exact number for each
center and column. The backends add up the values that lie on a `Grid`;
the functions here add up the few values that do not (docs/decisions/017).

    sums = exact.of_rows(rows, index, k)       # by definition; the backends do this faster
    means = (sums + other).means(counts)       # correctly rounded
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import EllipsisType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans.exact_total import HALF_BITS, UNIT, ExactTotal, decomposed, shifted, total_of
from dkmeans.float_pairs import (
    LARGEST_WHOLE,
    FloatArray,
    IndexArray,
    Pairs,
    float_parts,
    half_of_last_place,
    two_product,
    two_sum,
)

# Some elements of a (k, d) array: their clusters and columns, as `nonzero` returns them.
Elements = tuple[IndexArray, ...]
BoolArray = NDArray[np.bool_]

# Values of any size overflow in some of the steps below. What follows tests for that.
_QUIET = np.errstate(all="ignore")

# A plane counts multiples of 2^(exponent + 32 m), where m is the number of the plane.
PLANE_BITS = 32
# Values with fewer bits than this before the point of the grid are added to plane 0. A chunk is
# added up in pieces of `PIECE_ROWS` rows: a plane stays below 2^62.
WINDOW_BITS, PIECE_ROWS = 46, 2**16
# Bits of the grid below the usual value of a column: a float32 of 24 bits lies on the grid if it is
# at least 2^-14 times the usual value, and below 2^8 times.
_USUAL_BITS = 38
# Limits of the exponents: 2^-exponent is a normal float64.
_LEAST_EXPONENT, _MOST_EXPONENT = -960, 960
# For cosine the rows have length one, and a row adds the nearest multiple of this power of two.
COSINE_EXPONENT = -45
# Grids that are finer by so many bits hold nearly the same values.
_SIMILAR_BITS = 3
# Sums below this may be added without a carry to the next plane; a piece of rows is at most 2^62.
_CARRY_FREE = 2**61
_LOW_BITS, _WORD_BITS = 2**PLANE_BITS - 1, 62
# Values beside the planes, at most: so many, or one for so many sums.
_FEW_VALUES, _FEW_OF_SUMS = 2**10, 2**5
# Planes of so many sums are so large that values stay beside them, also where sums travel: a
# further plane would take as much memory as two copies of float32 centers.
_LARGE_SUMS = 2**20
# Rows that a grid is made from: fewer of wide rows.
_SAMPLED_ROWS, _FEWEST_SAMPLED, _SAMPLED_VALUES = 32, 4, 2**16
# Sums that are divided at a time: a dozen arrays of them stay in the second-level cache.
_SUMS_AT_ONCE = 2**13
# Sums of which copies are made at a time: few in all where centers are large.
_PIECE_SUMS = 2**17
# Planes up to this number are divided in float64; sums with others, as fractions.
FAST_PLANES = 4
# The rounding of a mean is unsure this close to the middle between two float64, relative to half of
# their distance: far more than the error of a sum as a pair, and of its quotient.
UNSURE = 2.0**-36
# A pair is sure unless its planes cancel to less than this part.
CANCELLED = 2.0**-8
# Below this a result may be subnormal, and would be rounded twice.
SMALLEST_MEAN = 2.0**-1000
# A float64 below this is no sum of a larger whole number and a fraction that was rounded away.
_WHOLE_NUMBERS = 2.0**52
# Exponents of the digits of a value on the grid: 46 bits of plane 0, for float64 32 of plane -1.
# The products of two digits are below 2^46, so float64 holds the sums of 128 of them.
_DIGIT_PLACES = {np.dtype(np.float32): (23, 0), np.dtype(np.float64): (23, 0, -16, -32)}
_DIGIT_ROWS = 64


class NotFinite(ValueError):
    """A value is not finite, or too large to be squared; the caller names the row."""


def num_planes(dtype: DTypeLike) -> int:
    """Return the number of planes that values on the grid need: 0, and -1 for float64."""
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

    @_QUIET
    def digit_products(self, points: FloatArray) -> tuple[IndexArray, BoolArray]:
        """Return sums of products of digits of (n, d) rows for `total_of_digits`; what is left.

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

    @_QUIET
    def rounded_away(self, points: FloatArray) -> FewValues:
        """Return what is left of (n, d) rows that are added to their planes as nearest integers.

        Returns:
            The differences that are not zero; their clusters are the numbers of their rows.
        """
        left = points.astype(np.float64)
        for exponents in self.exponents - PLANE_BITS * np.arange(num_planes(points.dtype))[:, None]:
            # Both products are exact, and so is the difference. Where the first one underflows, the
            # integer is zero.
            left -= np.ldexp(np.rint(np.ldexp(left, -exponents)), exponents)
        rows, columns = np.nonzero(left)
        return FewValues.of(rows, columns, left[rows, columns], self)

    @_QUIET
    def split(self, points: FloatArray) -> tuple[list[FloatArray], BoolArray]:
        """Return what (n, d) rows add to planes 0, -1, ... as integers in float64; what is left.

        float32 has one plane, float64 two. A value that they do not hold is zero in them, and True
        in the second result.
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
        whole: (m,) int64, at most 53 bits each.
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
        """Return the values of clusters from `start` to before `stop`, which become 0 and so on.

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


@dataclass(frozen=True, slots=True, eq=False)
class ExactSums:
    """Exact sums of the rows of each center: a monoid under `+`.

    Attributes:
        grid: The exponents of plane 0.
        planes: (k, d) int64 for some numbers m: multiples of 2^(exponent + 32 m). Planes that are
            read-only are those of a cache, which changes them when it computes the rows again.
        few: Values that are in no plane yet: a plane for the few values of a chunk that are not on
            the grid would take as long to add as plane 0. `settled` adds them to the planes.
    """

    grid: Grid
    planes: Mapping[int, IndexArray]
    few: FewValues | None = None

    @classmethod
    def zero(cls, shape: tuple[int, int], grid: Grid | None = None) -> Self:
        """Return the sums of no rows, for centers of this (k, d) shape."""
        return cls(grid or Grid(np.zeros(shape[1], np.int64)), {0: np.zeros(shape, np.int64)})

    @classmethod
    def of_counts(cls, counts: IndexArray) -> Self:
        """Return numbers of rows, (k,) int64, as sums of one column."""
        return cls(Grid(np.zeros(1, np.int64)), {0: counts[:, None]})

    @property
    def shape(self) -> tuple[int, int]:
        """(k, d)."""
        k, d = next(iter(self.planes.values())).shape
        return k, d

    def __add__(self, other: ExactSums) -> ExactSums:
        if not self._has_grid_of(other):
            return self._plus_on_a_finer_grid(other, {})
        planes = {m: plane.copy() for m, plane in self.planes.items() if m not in other.planes}
        for m, plane in other.planes.items():
            planes[m] = self.planes[m] + plane if m in self.planes else plane.copy()
        return self._of(planes, other)

    def _plus_on_a_finer_grid(self, other: ExactSums, planes: dict[int, IndexArray]) -> ExactSums:
        """Return the sum of these sums and others of another grid, on the finer one.

        Args:
            other: The others.
            planes: Arrays for the planes of the sum, also those of these sums; missing ones are
                added.
        """
        grid = Grid(np.minimum(self.grid.exponents, other.grid.exponents))
        # Some clusters at a time: all would be moved to the new grid in copies.
        parts = [ExactSums(each.grid, each.planes).pieces() for each in (self, other)]
        for (piece, own), (_, others) in zip(*parts, strict=True):
            of_piece = (own.on(grid) + others.on(grid)).planes
            for m in {*planes, *of_piece}:
                if m not in planes:
                    planes[m] = np.zeros(self.shape, np.int64)
                planes[m][piece] = of_piece.get(m, 0)
        total = ExactSums(grid, planes)
        for each in (self, other):
            if each.few is not None:
                total = total.plus_few(each.few.shifted(each.grid.exponents - grid.exponents))
        return total

    def plus_in_place(self, other: ExactSums) -> ExactSums:
        """Return the sums in the memory of these, which nothing else uses."""
        if not self._has_grid_of(other):
            return self._plus_on_a_finer_grid(other, dict(self.planes))
        planes = dict(self.planes)
        for m, plane in other.planes.items():
            if m in planes:
                planes[m] += plane
            else:
                planes[m] = plane.copy()
        return self._of(planes, other)

    def _of(self, planes: dict[int, IndexArray], other: ExactSums) -> ExactSums:
        """Return the sum of these sums and others, whose planes are added up."""
        few = self.few or other.few
        if self.few is not None and other.few is not None:
            few = self.few + other.few
        if few is not None and len(few) > max(_FEW_VALUES, planes[0].size // _FEW_OF_SUMS):
            _scatter(planes, few)
            few = None
        return ExactSums(self.grid, _carried(planes), few)

    def _has_grid_of(self, other: ExactSums) -> bool:
        own, exponents = self.grid.exponents, other.grid.exponents
        return own is exponents or bool(np.array_equal(own, exponents))

    def plus_few(self, few: FewValues) -> ExactSums:
        """Return the sums with a few values added, in the memory of these sums."""
        return self._of(dict(self.planes), ExactSums(self.grid, {}, few))

    def unshared(self) -> ExactSums:
        """Return the same sums in memory that no cache uses: their own if possible.

        They are settled unless their planes are large.
        """
        if not all(plane.flags.writeable for plane in self.planes.values()):
            copied = {m: plane.copy() for m, plane in self.planes.items()}
            return ExactSums(self.grid, copied, self.few).unshared()
        if self.few is None or self.planes[0].size >= _LARGE_SUMS:
            return self
        planes = dict(self.planes)
        _scatter(planes, self.few)
        return ExactSums(self.grid, _carried(planes))

    def settled(self) -> ExactSums:
        """Return the same sums, all of them in the planes."""
        if self.few is None:
            return self
        return self._with(self.few)

    def _with(self, few: FewValues) -> ExactSums:
        planes = {m: plane.copy() for m, plane in self.planes.items()}
        _scatter(planes, few)
        return ExactSums(self.grid, _carried(planes))

    def on(self, grid: Grid) -> ExactSums:
        """Return the same sums on a grid that is nowhere coarser."""
        shift = self.grid.exponents - grid.exponents
        if not shift.any():
            return self
        if self.few is not None:
            return self.settled().on(grid)
        planes = {0: np.zeros(self.shape, np.int64)}
        within = np.minimum(shift, _WORD_BITS)
        for m, plane in self.planes.items():
            if (np.abs(plane) <= _CARRY_FREE - 1 >> within).all():
                _add_to(planes, m, plane << within)
                continue
            clusters, columns = np.nonzero(plane)
            exponents = m * PLANE_BITS + shift[columns]
            whole = plane[clusters, columns]
            _scatter(planes, FewValues(clusters, columns, whole, exponents))
        return ExactSums(grid, _carried(planes))

    def plus_values(
        self, clusters: IndexArray, columns: IndexArray, values: FloatArray
    ) -> ExactSums:
        """Return the sums with single values added, each to a cluster and a column.

        Args:
            clusters: (m,) the cluster of each value.
            columns: (m,) its column.
            values: (m,) finite values.
        """
        few = FewValues.of(clusters, columns, values, self.grid)
        return self.settled()._with(few)

    def plus_products(
        self, clusters: IndexArray, columns: IndexArray, values: FloatArray, factors: FloatArray
    ) -> ExactSums:
        """Return the sums with products added, each to a cluster and a column.

        Args:
            clusters: (m,) the cluster of each product.
            columns: (m,) its column.
            values: (m,) finite values.
            factors: (m,) finite factors of the values.
        """
        planes = {m: plane.copy() for m, plane in self.settled().planes.items()}
        (whole, exponents), (factor, places) = decomposed(values), decomposed(factors)
        exponents = exponents + places - self.grid.exponents[columns]
        mask = 2**HALF_BITS - 1
        # A product of two mantissas has 106 bits: each is multiplied as two halves.
        (a, b), (c, d) = ((part >> HALF_BITS, part & mask) for part in (whole, factor))
        for number, part in enumerate((b * d, a * d + b * c, a * c)):
            few = FewValues(clusters, columns, part, exponents + number * HALF_BITS)
            _scatter(planes, few)
        return ExactSums(self.grid, _carried(planes))

    def exact(self, cluster: int, column: int) -> Fraction:
        """Return one of the sums as a fraction."""
        total = sum(
            (int(plane[cluster, column]) * Fraction(2) ** (PLANE_BITS * m))
            for m, plane in self.settled().planes.items()
        )
        return Fraction(total) * Fraction(2) ** int(self.grid.exponents[column])

    @_QUIET
    def means(self, counts: IndexArray | ExactSums, divide: Divide | None = None) -> FloatArray:
        """Return the sums divided by the counts, (k, d) float64, correctly rounded.

        A sum whose count is 0 is divided by 1.

        Args:
            counts: (k,) numbers of rows, or (k, 1) sums of their weights.
            divide: The function that divides most of the sums; None for `quotients`.
        """
        weights = counts if isinstance(counts, ExactSums) else ExactSums.of_counts(counts)
        means = np.empty(self.shape)
        for piece, sums in self.pieces():
            means[piece] = sums._means(weights.clusters(piece), divide or quotients)
        return means

    def _means(self, weights: ExactSums, divide: Divide) -> FloatArray:
        """Return the means of settled sums."""
        means, left = divide(self, weights)
        for elements in where(left):
            means[elements], is_sure = self.means_by_pairs(weights, elements)
            unsure = tuple(part[~is_sure] for part in elements)
            means[unsure] = self._means_by_integers(weights, unsure)
        return means

    def whole_quotients(self, weights: ExactSums) -> tuple[FloatArray, BoolArray]:
        """Return the means where sums and weights are whole numbers; and where they are not.

        A quotient of two whole numbers that float64 holds is correctly rounded.
        """
        (sums, is_whole), (weight, is_whole_weight) = self.whole(), weights.whole()
        exponents = self.grid.exponents - weights.grid.exponents
        means = np.ldexp(sums / np.where(weight == 0, weights.grid.scales, weight), exponents)
        return means, ~(is_whole & is_whole_weight & ((sums == 0) | _is_normal(means)))

    def means_by_pairs(
        self, weights: ExactSums, some: Elements | EllipsisType
    ) -> tuple[FloatArray, BoolArray]:
        """Return some or all means by float64 arithmetic, and where they are surely well rounded.

        The results are (m,) for m elements, (k, d) for all.
        """
        high, low, is_sure = self.pairs(some)
        exponents = self.grid.exponents - weights.grid.exponents
        if isinstance(some, EllipsisType):
            weight, weight_rest, is_sure_weight = weights.pairs(some)
        else:
            weight, weight_rest, is_sure_weight = weights.pairs(first_column(some))
            exponents = exponents[some[1]]
        weight = np.where(weight == 0, weights.grid.scales, weight)
        is_zero = is_sure & (high == 0)
        quotient = high / weight
        # The remainder is exact: `quotient * weight` is taken as the sum of two float64.
        product, error = two_product(quotient, weight)
        correction = ((high - product) - error + low - quotient * weight_rest) / weight
        rounded = quotient + correction
        rest = correction - (rounded - quotient)
        # The rounding is sure unless the rest is about half of a last place.
        is_sure &= np.abs(rest) < half_of_last_place(rounded) * (1 - UNSURE)
        means = np.ldexp(rounded, exponents)
        return means, np.asarray(is_sure & is_sure_weight & _is_normal(means) | is_zero)

    def _means_by_integers(self, weights: ExactSums, some: Elements) -> list[float]:
        """Return some means as quotients of integers, which Python rounds correctly."""
        sums, unit = self._integers(some)
        of_weights, unit_of_weights = weights._integers(first_column(some))
        shift_of_weights = unit_of_weights + int(weights.grid.exponents[0])
        shifts = (self.grid.exponents[some[1]] + unit).tolist()
        return [
            _quotient(total, shift - shift_of_weights, weight)
            if weight
            else _quotient(total, shift, 1)
            for total, shift, weight in zip(sums, shifts, of_weights, strict=True)
        ]

    def _integers(self, some: Elements) -> tuple[list[int], int]:
        """Return some sums as multiples of a power of two of the grid, and its exponent."""
        least = min(self.planes)
        totals = [0] * len(some[0])
        for m, plane in self.planes.items():
            shift = PLANE_BITS * (m - least)
            numbers = plane[some].tolist()
            totals = [total + (n << shift) for total, n in zip(totals, numbers, strict=True)]
        return totals, PLANE_BITS * least

    def whole(self) -> tuple[FloatArray, BoolArray]:
        """Return plane 0 as float64, and where it is the whole sum and float64 holds it."""
        plane = self.planes[0]
        is_whole = np.abs(plane) <= LARGEST_WHOLE
        for m, other in self.planes.items():
            if m != 0:
                is_whole = is_whole & (other == 0)
        return plane.astype(np.float64), is_whole

    def terms(self, cluster: int) -> list[float]:
        """Return float64 numbers whose sum is the sum of a cluster, which has one column."""
        left, found = self.exact(cluster, 0), []
        largest = Fraction(np.finfo(np.float64).max)
        while left:
            found.append(float(max(-largest, min(left, largest))))
            left -= Fraction(found[-1])
        return found

    def rounded(self) -> NDArray[Any]:
        """Return the sums as int64 if all are small whole numbers, else rounded to float64."""
        values = self.means(np.ones(self.shape[0], np.int64))
        is_whole = (values == np.rint(values)) & (np.abs(values) < _WHOLE_NUMBERS)
        return values.astype(np.int64) if is_whole.all() else values

    def blocks(self) -> Iterator[slice]:
        """Yield slices of clusters, of as many sums as the cache holds with temporary arrays."""
        k, d = self.shape
        size = max(1, _SUMS_AT_ONCE // d)
        return (slice(start, start + size) for start in range(0, k, size))

    def pieces(self) -> Iterator[tuple[slice, ExactSums]]:
        """Yield slices of clusters, and their sums, settled.

        A slice has so many sums that temporary arrays of them take little memory.
        """
        (k, d), few = self.shape, None if self.few is None else self.few.in_order()
        size = max(1, _PIECE_SUMS // d)
        for start in range(0, k, size):
            piece = slice(start, start + size)
            planes = {m: plane[piece] for m, plane in self.planes.items()}
            own = None if few is None else few.between(start, start + size)
            yield piece, ExactSums(self.grid, planes, own or None).settled()

    def clusters(self, some: slice) -> ExactSums:
        """Return the sums of some clusters."""
        planes = {m: plane[some] for m, plane in self.settled().planes.items()}
        return ExactSums(self.grid, planes)

    def columns(self, some: slice) -> ExactSums:
        """Return the sums of some columns."""
        planes = {m: plane[:, some] for m, plane in self.settled().planes.items()}
        return ExactSums(Grid(self.grid.exponents[some]), planes)

    def total(self) -> ExactTotal:
        """Return the sum of all clusters and columns."""
        units, exponents = 0, self.grid.exponents.tolist()
        for m, plane in self.settled().planes.items():
            # int64 holds the sums of both halves, of up to 2^31 clusters.
            upper, lower = (plane >> PLANE_BITS).sum(axis=0), (plane & _LOW_BITS).sum(axis=0)
            of_columns = zip(upper.tolist(), lower.tolist(), exponents, strict=True)
            for high, low, exponent in of_columns:
                number = (high << PLANE_BITS) + low
                units += shifted(number, m * PLANE_BITS + exponent - UNIT)
        return ExactTotal(units)

    def gathered(self, order: IndexArray, starts: IndexArray) -> ExactSums:
        """Return the sums of groups of rows: each group becomes one row.

        Args:
            order: (n,) rows of these sums, group by group.
            starts: (g,) place of the first row of each group in `order`.
        """
        of_rows = self.settled().planes.items()
        if not len(starts):
            return ExactSums(self.grid, {m: plane[:0] for m, plane in of_rows})
        planes = {m: np.add.reduceat(plane[order], starts, axis=0) for m, plane in of_rows}
        return ExactSums(self.grid, _carried(planes))

    def followed_by(self, other: ExactSums) -> ExactSums:
        """Return the rows of these sums, and after them those of others."""
        grid = Grid(np.minimum(self.grid.exponents, other.grid.exponents))
        upper, lower = self.settled().on(grid), other.settled().on(grid)
        none = np.zeros(upper.shape, np.int64), np.zeros(lower.shape, np.int64)
        planes = {
            m: np.concatenate([upper.planes.get(m, none[0]), lower.planes.get(m, none[1])])
            for m in {*upper.planes, *lower.planes}
        }
        return ExactSums(grid, planes)

    def pairs(self, some: Elements | EllipsisType) -> Pairs:
        """Return some or all of the sums in units of the grid as pairs of float64, high and low.

        The third result is False where a pair may be off by more than 2^-95 of the sum.
        """
        high, low, size = (np.zeros_like(self.planes[0][some], np.float64) for _ in range(3))
        is_sure = np.ones(high.shape, bool)
        for m in sorted(self.planes, reverse=True):
            plane = self.planes[m][some]
            if abs(m) > FAST_PLANES:
                is_sure &= plane == 0
                continue
            for part in float_parts(plane):
                value = part * 2.0 ** (PLANE_BITS * m)
                high, error = two_sum(high, value)
                low += error
                size += np.abs(value)
        high, low = two_sum(high, low)
        return high, low, is_sure & (np.abs(high) >= CANCELLED * size)


def quotients(sums: ExactSums, weights: ExactSums) -> tuple[FloatArray, BoolArray]:
    """Return settled sums divided by weights, and where they may not be correctly rounded.

    Args:
        sums: (k, d) sums.
        weights: (k, 1) weights; 0 counts as 1.

    Returns:
        The quotients, (k, d) float64, and True for those that are left to other methods, (k, d).
    """
    found, left = np.empty(sums.shape), np.empty(sums.shape, bool)
    for some in sums.blocks():
        of_some, divisors = sums.clusters(some), weights.clusters(some)
        means, rest = of_some.whole_quotients(divisors)
        if 2 * np.count_nonzero(rest) > rest.size:  # then all take less time than some
            by_pairs, is_sure = of_some.means_by_pairs(divisors, ...)
            means, rest = np.where(rest, by_pairs, means), rest & ~is_sure
        found[some], left[some] = means, rest
    return found, left


# `quotients`, or a function that does the same.
Divide = Callable[[ExactSums, ExactSums], tuple[FloatArray, BoolArray]]


def first_column(some: Elements) -> Elements:
    """Return for some elements those of the first column in the same rows."""
    return some[0], np.zeros_like(some[1])


def where(mask: BoolArray) -> Iterator[Elements]:
    """Yield pieces of the elements of a (k, d) mask that are True."""
    if mask.any():  # which takes a small part of the time
        yield from in_pieces(mask.nonzero())


def in_pieces(some: Elements, size: int = _SUMS_AT_ONCE) -> Iterator[Elements]:
    """Yield pieces of some elements, by default as many as the cache holds."""
    for start in range(0, len(some[0]), size):
        yield tuple(part[start : start + size] for part in some)


def of_rows(points: FloatArray, index: IndexArray, k: int, grid: Grid | None = None) -> ExactSums:
    """Return the sums of the (n, d) finite rows of each of k clusters, by definition."""
    grid = grid or Grid.of(points)
    clusters, columns = (part.ravel() for part in np.indices(points.shape))
    zero = ExactSums.zero((k, points.shape[1]), grid)
    return zero.plus_values(index[clusters], columns, points.ravel())


def _quotient(number: int, exponent: int, divisor: int) -> float:
    """Return number * 2^exponent / divisor, correctly rounded."""
    number, divisor = number << max(exponent, 0), divisor << max(-exponent, 0)
    try:
        return number / divisor
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def _is_normal(means: FloatArray) -> BoolArray:
    """Return where means were certainly rounded once: as float64 of full precision."""
    return np.asarray((np.abs(means) >= SMALLEST_MEAN) & np.isfinite(means))


def _add_to(planes: dict[int, IndexArray], m: int, plane: IndexArray) -> None:
    planes[m] = planes[m] + plane if m in planes else plane


def _scatter(planes: dict[int, IndexArray], few: FewValues) -> None:
    """Add values to the planes, in place: each value is cut into words of 32 bits."""
    shape = next(iter(planes.values())).shape
    signs, sizes = np.sign(few.whole), np.abs(few.whole).astype(np.uint64)
    first, shift = np.divmod(few.exponents, PLANE_BITS)
    mask, bits, shift = np.uint64(_LOW_BITS), np.uint64(PLANE_BITS), shift.astype(np.uint64)
    lower = (sizes & mask) << shift
    upper = ((sizes >> bits) << shift) + (lower >> bits)
    words = (lower & mask, upper & mask, upper >> bits)
    for number, word in enumerate(words):
        for m in np.unique(first[word != 0]):
            some = np.flatnonzero((first == m) & (word != 0))
            plane = planes.setdefault(int(m) + number, np.zeros(shape, np.int64))
            signed = signs[some] * word[some].astype(np.int64)
            np.add.at(plane, (few.clusters[some], few.columns[some]), signed)


def _carried(planes: dict[int, IndexArray]) -> dict[int, IndexArray]:
    """Return the planes, with what is too large for one carried to the next."""
    numbers = sorted(planes)
    while numbers:
        m, *numbers = numbers
        plane = planes[m]
        # Two passes without temporary arrays.
        if plane.max(initial=0) >= _CARRY_FREE or plane.min(initial=0) <= -_CARRY_FREE:
            planes[m] = plane & _LOW_BITS
            _add_to(planes, m + 1, plane >> PLANE_BITS)
            numbers = sorted({m + 1, *numbers})
    return planes
