"""Exact sums: integers that count multiples of powers of two, so no addition ever rounds.

Float sums depend on the order of the rows. Exact sums do not: centers are a function of the set of
rows, whatever the chunks, the workers or the backends. `ExactSums` is an exact number for each
center and column. The backends add up the values that lie on a grid (`exact_grid`); the functions
here add up the few values that do not, and divide (docs/decisions/017).

    sums = exact.of_rows(rows, index, k)       # by definition; the backends do this faster
    means = (sums + other).means(counts)       # correctly rounded
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from types import EllipsisType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dkmeans.exact_grid import PLANE_BITS, QUIET, BoolArray, FewValues, Grid, slices
from dkmeans.exact_total import HALF_BITS, UNIT, ExactTotal, decomposed, shifted
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

# Sums below this may be added without a carry to the next plane: the sums of a piece of rows are
# below 2^62, so an int64 holds both together.
_CARRY_FREE = 2**61
# Mask of the lower half of an integer.
_LOW_BITS = 2**PLANE_BITS - 1
# Largest shift of a plane: no integer but 0 is shifted by so many bits.
_MOST_SHIFTED = 62
# Largest number of values in `few`: the first number, or the number of sums divided by the second
# if that is larger.
_FEW_VALUES, _FEW_OF_SUMS = 2**10, 2**5
# From this number of sums on, `few` stays beside the planes also when sums are sent (`compacted`):
# a further plane would take as much memory as two copies of float32 centers.
_LARGE_SUMS = 2**20
# Sums that are divided at a time: a dozen arrays of them stay in the second-level cache.
_SUMS_AT_ONCE = 2**13
# Number of sums that are copied at a time: a small part of the sums of large centers.
_PIECE_SUMS = 2**17
# Planes from minus this number to this number are divided in float64; sums with values in other
# planes, as integers.
FAST_PLANES = 4
# The rounding of a mean is unsure this close to the middle between two float64, relative to half of
# their distance: far more than the error of a sum as a pair, and of its quotient.
UNSURE = 2.0**-36
# A sum as a pair of float64 is sure unless the planes cancel each other to less than this part.
CANCELLED = 2.0**-8
# Below this a result may be subnormal, and would be rounded twice.
SMALLEST_MEAN = 2.0**-1000
# Only whole numbers below this become int64: float64 holds halves there, so x.5 is not whole.
_WHOLE_NUMBERS = 2.0**52


@dataclass(frozen=True, slots=True, eq=False)
class ExactSums:
    """Exact sums of the rows of each center: a monoid under `+`.

    Attributes:
        grid: The exponents of plane 0.
        planes: (k, d) int64 for some numbers m: multiples of 2^(exponent + 32 m).
        few: Values that are in no plane yet: a plane for the few values of a chunk that are not on
            the grid would take as long to add as plane 0. `in_planes` adds them to the planes.
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
        return self.copied().plus_in_place(other)

    def _plus_on_a_finer_grid(self, other: ExactSums, planes: dict[int, IndexArray]) -> ExactSums:
        """Return the sum of these sums and others of another grid, in each column on the finer one.

        Args:
            other: The others.
            planes: Arrays that the planes of the sum are written to; missing ones are added. They
                may be the planes of these sums, which are then overwritten.
        """
        grid = Grid(np.minimum(self.grid.exponents, other.grid.exponents))
        # Some clusters at a time: sums are copied when they are moved to the new grid.
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
        """Return the sum of these sums and others, in the memory of these: nothing else uses it."""
        if not self._has_grid_of(other):
            return self._plus_on_a_finer_grid(other, dict(self.planes))
        planes = dict(self.planes)
        for m, plane in other.planes.items():
            if m in planes:
                planes[m] += plane
            else:
                planes[m] = plane.copy()
        return self._with_planes(planes, other)

    def _with_planes(self, planes: dict[int, IndexArray], other: ExactSums) -> ExactSums:
        """Return the sum of these sums and others, given the sums of their planes."""
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
        return self._with_planes(dict(self.planes), ExactSums(self.grid, {}, few))

    def copied(self) -> ExactSums:
        """Return the same sums in planes of their own."""
        return replace(self, planes={m: plane.copy() for m, plane in self.planes.items()})

    def compacted(self) -> ExactSums:
        """Return the same sums in writable planes, with `few` added to planes that are not large.

        The planes are those of these sums, or copies if one is read-only, as received arrays may
        be.
        """
        if not all(plane.flags.writeable for plane in self.planes.values()):
            return self.copied().compacted()
        if self.few is None or self.planes[0].size >= _LARGE_SUMS:
            return self
        planes = dict(self.planes)
        _scatter(planes, self.few)
        return ExactSums(self.grid, _carried(planes))

    def in_planes(self) -> ExactSums:
        """Return the same sums, all of them in the planes."""
        return self if self.few is None else self._with(self.few)

    def _with(self, few: FewValues) -> ExactSums:
        """Return copies of the planes with values added. The `few` of these sums is ignored."""
        planes = {m: plane.copy() for m, plane in self.planes.items()}
        _scatter(planes, few)
        return ExactSums(self.grid, _carried(planes))

    def on(self, grid: Grid) -> ExactSums:
        """Return the same sums on a grid that is nowhere coarser."""
        shift = self.grid.exponents - grid.exponents
        if not shift.any():
            return self
        if self.few is not None:
            return self.in_planes().on(grid)
        planes = {0: np.zeros(self.shape, np.int64)}
        within = np.minimum(shift, _MOST_SHIFTED)
        for m, plane in self.planes.items():
            # A plane of which some integers would overflow is added value by value.
            if (np.abs(plane) <= (_CARRY_FREE - 1) >> within).all():
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
        """Return the sums with finite values added, each to a cluster and a column, (m,) each."""
        few = FewValues.of(clusters, columns, values, self.grid)
        return self.in_planes()._with(few)

    def plus_products(
        self, clusters: IndexArray, columns: IndexArray, values: FloatArray, factors: FloatArray
    ) -> ExactSums:
        """Return the sums with products of finite values and factors added, (m,) each.

        Each product is added to a cluster and a column.
        """
        planes = {m: plane.copy() for m, plane in self.in_planes().planes.items()}
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
            for m, plane in self.in_planes().planes.items()
        )
        return Fraction(total) * Fraction(2) ** int(self.grid.exponents[column])

    @QUIET
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
        """Return the means of sums that are all in planes."""
        means, left = divide(self, weights)
        for elements in where(left):
            means[elements], is_sure = self.means_by_pairs(weights, elements)
            unsure = tuple(part[~is_sure] for part in elements)
            means[unsure] = self._means_by_integers(weights, unsure)
        return means

    def whole_quotients(self, weights: ExactSums) -> tuple[FloatArray, BoolArray]:
        """Return means, and a mask of those that may not be correctly rounded, (k, d) each.

        A quotient of two whole numbers that float64 holds is correctly rounded, unless it is
        subnormal or overflows.
        """
        (sums, is_whole), (weight, is_whole_weight) = self.whole(), weights.whole()
        exponents = self.grid.exponents - weights.grid.exponents
        means = np.ldexp(sums / np.where(weight == 0, weights.grid.scales, weight), exponents)
        return means, ~(is_whole & is_whole_weight & ((sums == 0) | _is_normal(means)))

    def means_by_pairs(
        self, weights: ExactSums, some: Elements | EllipsisType
    ) -> tuple[FloatArray, BoolArray]:
        """Return some or all means by float64 arithmetic; a mask: True if surely correctly rounded.

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
        """Return plane 0 as float64, and a mask of the sums that it represents exactly."""
        plane = self.planes[0]
        is_whole = np.abs(plane) <= LARGEST_WHOLE
        for m, other in self.planes.items():
            if m != 0:
                is_whole = is_whole & (other == 0)
        return plane.astype(np.float64), is_whole

    def terms(self, cluster: int) -> list[float]:
        """Return float64 numbers that add up exactly to a cluster's sum in column 0."""
        left, found = self.exact(cluster, 0), []
        largest = Fraction(np.finfo(np.float64).max)
        while left:
            found.append(float(max(-largest, min(left, largest))))
            left -= Fraction(found[-1])
        return found

    def rounded(self) -> NDArray[Any]:
        """Return the sums rounded to float64; as int64 if all are then small whole numbers."""
        sums = self.in_planes()
        high, low, is_sure = sums.pairs(...)
        values, is_zero = np.ldexp(high, self.grid.exponents), is_sure & (high == 0)
        # The rounding is sure unless the rest is about half of a last place.
        is_sure &= np.abs(low) < half_of_last_place(high) * (1 - UNSURE)
        left = np.nonzero(~(is_sure & _is_normal(values) | is_zero))
        ones = ExactSums.of_counts(np.ones(self.shape[0], np.int64))
        values[left] = sums._means_by_integers(ones, left)
        is_whole = (values == np.rint(values)) & (np.abs(values) < _WHOLE_NUMBERS)
        return values.astype(np.int64) if is_whole.all() else values

    def blocks(self) -> Iterator[slice]:
        """Yield slices of clusters: their sums and temporary arrays fit the second-level cache."""
        return slices(*self.shape, _SUMS_AT_ONCE)

    def pieces(self) -> Iterator[tuple[slice, ExactSums]]:
        """Yield slices of clusters, and their sums, all in planes.

        A slice has so few sums that temporary arrays of them take little memory.
        """
        few = None if self.few is None else self.few.in_order()
        for piece in slices(*self.shape, _PIECE_SUMS):
            planes = {m: plane[piece] for m, plane in self.planes.items()}
            own = None if few is None else few.between(piece.start, piece.stop)
            yield piece, ExactSums(self.grid, planes, own or None).in_planes()

    def clusters(self, some: slice) -> ExactSums:
        """Return the sums of some clusters."""
        planes = {m: plane[some] for m, plane in self.in_planes().planes.items()}
        return ExactSums(self.grid, planes)

    def columns(self, some: slice) -> ExactSums:
        """Return the sums of some columns."""
        planes = {m: plane[:, some] for m, plane in self.in_planes().planes.items()}
        return ExactSums(Grid(self.grid.exponents[some]), planes)

    def total(self) -> ExactTotal:
        """Return the sum of all clusters and columns."""
        units, exponents = 0, self.grid.exponents.tolist()
        for m, plane in self.in_planes().planes.items():
            # int64 holds the sums of both halves, of up to 2^31 clusters.
            upper, lower = (plane >> PLANE_BITS).sum(axis=0), (plane & _LOW_BITS).sum(axis=0)
            of_columns = zip(upper.tolist(), lower.tolist(), exponents, strict=True)
            for high, low, exponent in of_columns:
                number = (high << PLANE_BITS) + low
                units += shifted(number, m * PLANE_BITS + exponent - UNIT)
        return ExactTotal(units)

    def gathered(self, order: IndexArray, starts: IndexArray) -> ExactSums:
        """Return the sums of groups along the first axis of (k, d): each group becomes one element.

        Args:
            order: (n,) places on that axis, group by group.
            starts: (g,) where each group begins in `order`.
        """
        items = self.in_planes().planes.items()
        if not len(starts):
            return ExactSums(self.grid, {m: plane[:0] for m, plane in items})
        planes = {m: np.add.reduceat(plane[order], starts, axis=0) for m, plane in items}
        return ExactSums(self.grid, _carried(planes))

    def followed_by(self, other: ExactSums) -> ExactSums:
        """Return these sums and others, one after the other along the first axis."""
        grid = Grid(np.minimum(self.grid.exponents, other.grid.exponents))
        upper, lower = self.in_planes().on(grid), other.in_planes().on(grid)
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
    """Return (k, d) sums, all in planes, divided by (k, 1) weights, of which 0 counts as 1.

    Returns:
        The quotients, (k, d) float64, and True for those that are left to other methods, (k, d).
    """
    found, left = np.empty(sums.shape), np.empty(sums.shape, bool)
    for some in sums.blocks():
        of_some, divisors = sums.clusters(some), weights.clusters(some)
        means, rest = of_some.whole_quotients(divisors)
        if 2 * np.count_nonzero(rest) > rest.size:  # all at once, faster than most one by one
            by_pairs, is_sure = of_some.means_by_pairs(divisors, ...)
            means, rest = np.where(rest, by_pairs, means), rest & ~is_sure
        found[some], left[some] = means, rest
    return found, left


# `quotients`, or a function that does the same.
Divide = Callable[[ExactSums, ExactSums], tuple[FloatArray, BoolArray]]


def first_column(some: Elements) -> Elements:
    """Return the elements of column 0 that have the clusters of some elements."""
    return some[0], np.zeros_like(some[1])


def where(mask: BoolArray) -> Iterator[Elements]:
    """Yield pieces of the elements of a (k, d) mask that are True."""
    if mask.any():  # takes a small part of the time of `nonzero`
        yield from in_pieces(mask.nonzero())


def in_pieces(some: Elements, size: int = _SUMS_AT_ONCE) -> Iterator[Elements]:
    """Yield pieces of some elements, by default as many as the second-level cache holds."""
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
