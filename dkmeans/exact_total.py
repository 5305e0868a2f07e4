"""Exact totals: one number as an integer of units, so no addition ever rounds.

The sums of squares, distances and weights of all rows are such totals (docs/decisions/017).

    total = total_of(values) + total_of_squares(others)
    float(total)                                # rounded once
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np

from dkmeans.float_pairs import MANTISSA_BITS, FloatArray, IndexArray

# A product of two float64 is a multiple of 2^UNIT.
UNIT = -2300
# Numbers that are added up by exponent at a time: float64 holds their sums exactly.
_VALUES_AT_ONCE, _SQUARES_AT_ONCE = 2**14, 2**14
# Bits of one digit of a mantissa, in `total_of` and in `total_of_squares`.
HALF_BITS, _THIRD_BITS = 26, 18


@dataclass(frozen=True, slots=True)
class ExactTotal:
    """An exact sum of float64 numbers or of products of two of them: a monoid under `+`.

    Attributes:
        units: The number, in units of 2^UNIT.
    """

    units: int = 0

    @classmethod
    def of(cls, number: Fraction | int) -> Self:
        """Return a number, rounded down to a unit."""
        return cls(number.numerator * (1 << -UNIT) // number.denominator)

    def __add__(self, other: ExactTotal) -> ExactTotal:
        return ExactTotal(self.units + other.units)

    def __sub__(self, other: ExactTotal) -> ExactTotal:
        return ExactTotal(self.units - other.units)

    def __float__(self) -> float:
        """Return the nearest float64; infinity if the number is too large."""
        try:
            return self.units / (1 << -UNIT)
        except OverflowError:
            return float("inf") if self.units > 0 else float("-inf")


NOTHING = ExactTotal()


def total_of(values: FloatArray, exponents: IndexArray | int = 0) -> ExactTotal:
    """Return the exact sum of finite values times 2^exponents, of any shapes that broadcast."""
    units = 0
    values, exponents = (part.ravel() for part in np.broadcast_arrays(values, exponents))
    for start in range(0, len(values), _VALUES_AT_ONCE):
        some = slice(start, start + _VALUES_AT_ONCE)
        whole, places = decomposed(values[some])
        high, low = whole >> HALF_BITS, whole & (2**HALF_BITS - 1)
        units += _by_exponent(((high, HALF_BITS), (low, 0)), places + exponents[some])
    return ExactTotal(units)


def total_of_squares(values: FloatArray) -> ExactTotal:
    """Return the exact sum of the squares of (n,) finite values."""
    units, mask = 0, 2**_THIRD_BITS - 1
    for start in range(0, len(values), _SQUARES_AT_ONCE):
        whole, exponents = decomposed(values[start : start + _SQUARES_AT_ONCE])
        whole = np.abs(whole)
        a, b, c = whole >> 2 * _THIRD_BITS, whole >> _THIRD_BITS & mask, whole & mask
        products = (a * a, 2 * a * b, 2 * a * c + b * b, 2 * b * c, c * c)
        digits = [(each, _THIRD_BITS * (4 - i)) for i, each in enumerate(products)]
        units += _by_exponent(digits, 2 * exponents)
    return ExactTotal(units)


def total_of_weighted_squares(values: FloatArray, weights: FloatArray) -> ExactTotal:
    """Return the exact sum of the squares of (n,) finite values times weights, one by one."""
    (whole, exponents), (factors, places) = decomposed(values), decomposed(weights)
    exponents = 2 * exponents + places - UNIT
    parts = zip(whole.tolist(), factors.tolist(), exponents.tolist(), strict=True)
    return ExactTotal(sum(shifted(a * a * b, bits) for a, b, bits in parts))


def decomposed(values: FloatArray) -> tuple[IndexArray, IndexArray]:
    """Return integers of at most 53 bits and exponents of two whose products are the values."""
    mantissas, exponents = np.frexp(values.astype(np.float64))
    whole = np.ldexp(mantissas, MANTISSA_BITS).astype(np.int64)
    return whole, exponents.astype(np.int64) - MANTISSA_BITS


def _by_exponent(digits: Any, exponents: IndexArray) -> int:
    """Return the sum of digit * 2^(shift + exponent) over pairs (digits, shift), in units."""
    least = int(exponents.min(initial=0))
    total = 0
    for digit, shift in digits:
        # The weights are integers, and their sums are below 2^53.
        sums = np.bincount(exponents - least, weights=digit)
        for place in np.flatnonzero(sums):
            total += shifted(int(sums[place]), int(place) + shift + least - UNIT)
    return total


def shifted(number: int, bits: int) -> int:
    """Return an integer times 2^bits, rounded down."""
    return number << bits if bits >= 0 else number >> -bits
