"""Numbers as pairs of float64: the error of each operation is kept, and added up too.

`exact` divides sums by them, and `loss` finds the loss. High is the number rounded to float64,
low is what is left of it.

    high, low = two_sum(a, b)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[Any]
IndexArray = NDArray[np.int64]
# Numbers as sums of two float64, high and low, and where these are certainly accurate.
Pairs = tuple[FloatArray, FloatArray, NDArray[np.bool_]]

MANTISSA_BITS = 53
# Whole numbers up to this are float64 numbers.
LARGEST_WHOLE = 2**MANTISSA_BITS
# Bits of a float64: its exponent, and what follows the first bit of its mantissa.
_EXPONENT_MASK, _FRACTION_MASK = 0x7FF << 52, 2**52 - 1


def two_sum(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return a + b as a rounded sum and its error (Knuth, The Art of Computer Programming, 2)."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def two_product(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return a * b as a rounded product and its error (Dekker, 1971)."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = halves(a), halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def sum_of_pairs(high: FloatArray, low: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Add up pairs of float64 over the first axis, (n, d), as pairs, (d,), in a fixed order."""
    while len(high) > 1:
        half = len(high) // 2
        total, error = two_sum(high[:half], high[half : 2 * half])
        error += low[:half] + low[half : 2 * half]
        # Without another rounding the highs stay what they are; the rest of an odd number follows.
        high = np.concatenate([total, high[2 * half :]])
        low = np.concatenate([error, low[2 * half :]])
    return high[0], low[0]


def half_of_last_place(values: FloatArray) -> FloatArray:
    """Return half of the distance to the next float64 towards zero."""
    bits = values.view(np.int64)
    halves = (bits & _EXPONENT_MASK).view(np.float64) * 2.0**-MANTISSA_BITS
    # Below a power of two the distance is half of that above it.
    return np.where(bits & _FRACTION_MASK, halves, 0.5 * halves)


def halves(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the upper 26 bits of each value, and the rest (Veltkamp)."""
    scaled = values * (2.0**27 + 1)
    high = scaled - (scaled - values)
    return high, values - high


def float_parts(values: IndexArray) -> list[FloatArray]:
    """Return one or two arrays of float64 whose sum is the int64 values."""
    rounded = values.astype(np.float64)
    if values.max(initial=0) <= LARGEST_WHOLE and values.min(initial=0) >= -LARGEST_WHOLE:
        return [rounded]
    return [rounded, (values - rounded.astype(np.int64)).astype(np.float64)]
