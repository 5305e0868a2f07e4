"""Means and losses from exact sums, compiled: what a driver computes for k x d sums.

`backend` passes these functions to `ExactSums.means` and to `distance.inertia`. They do what
`exact.quotients` and `distance.terms` do with NumPy, in one pass instead of some thirty, by the
same operations in the same order: so the bits are the same. Sums in planes that are rare are left
to NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dkmeans import distance, exact
from dkmeans.backends.native.kernels import compiled, kernel
from dkmeans.backends.native.runner import run
from dkmeans.distance import SHORT_WEIGHT
from dkmeans.exact import CANCELLED, FAST_PLANES, SMALLEST_MEAN, UNSURE, ExactSums
from dkmeans.float_pairs import LARGEST_WHOLE
from dkmeans.grid import PLANE_BITS, BoolArray
from dkmeans.state import FloatArray, IndexArray

# Constants of other modules are compiled in, and Numba's cache on disk is valid until this file
# changes: a change of these needs a change of this file.

# The factor by which Veltkamp's method halves a float64.
_SPLIT = 2.0**27 + 1
# Exponents of grids up to this leave all factors normal numbers.
_MOST_EXPONENT = 1000


@compiled
def _two_sum(a: Any, b: Any) -> Any:
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


@compiled
def _halves(value: Any) -> Any:
    scaled = value * _SPLIT
    high = scaled - (scaled - value)
    return high, value - high


@compiled
def _two_product(a: Any, b: Any) -> Any:
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


@kernel
def add_plane(
    plane: Any, number: int, factor: float, high: Any, low: Any, size: Any, is_whole: Any
) -> None:
    """Add a plane of sums to pairs of float64, as `ExactSums.pairs` does, and find whole numbers.

    Args:
        plane: (k, d) int64.
        number: Number of the plane.
        factor: What a unit of the plane is, in units of the grid.
        high: (k, d) float64, changed.
        low: (k, d) float64, changed.
        size: (k, d) float64, increased by the sizes of what is added.
        is_whole: (k, d) bool, set to False for sums that are not plane 0 alone, or that float64
            does not hold.
    """
    for row in range(plane.shape[0]):
        for column in range(plane.shape[1]):
            units = plane[row, column]
            rounded = np.float64(units)
            rest = np.float64(units - np.int64(rounded))
            if number == 0:
                is_whole[row, column] &= -LARGEST_WHOLE <= units <= LARGEST_WHOLE
            else:
                is_whole[row, column] &= units == 0
            total, error = _two_sum(high[row, column], rounded * factor)
            error += low[row, column]
            total, second_error = _two_sum(total, rest * factor)
            high[row, column], low[row, column] = total, error + second_error
            size[row, column] += abs(rounded * factor)
            size[row, column] += abs(rest * factor)


@compiled
def _half_of_last_place(value: Any) -> Any:
    """Return half of the distance to the next float64 towards zero.

    The first bit of the value is found by two products (Rump, Ogita and Oishi, Accurate
    floating-point summation I, 2008, algorithm 3.5). The result is NaN for the largest values.
    """
    scaled = value * (2.0**52 + 1)
    first_bit = abs(scaled - (1 - 2.0**-53) * scaled)
    return first_bit * (2.0**-54 if first_bit == abs(value) else 2.0**-53)


@kernel
def divide(
    high: Any, low: Any, size: Any, is_whole: Any, weight: Any, weight_rest: Any,
    is_sure_weight: Any, is_whole_weight: Any, scales: Any, means: Any, left: Any,
) -> None:  # fmt: skip
    """Divide sums by weights, and find the quotients that are surely correctly rounded.

    Args:
        high: (k, d) float64, from `add_plane`.
        low: (k, d) float64.
        size: (k, d) float64.
        is_whole: (k, d) bool.
        weight: (k,) float64, not zero.
        weight_rest: (k,) float64, what is added to it.
        is_sure_weight: (k,) bool.
        is_whole_weight: (k,) bool, True if it is a whole number.
        scales: (d,) float64, factors of the quotients.
        means: (k, d) float64, overwritten.
        left: (k, d) bool, overwritten: True where a mean may not be correctly rounded.
    """
    for row in range(high.shape[0]):
        divisor, divisor_rest = weight[row], weight_rest[row]
        for column in range(high.shape[1]):
            whole = is_whole[row, column] and is_whole_weight[row]
            number, rest = _two_sum(high[row, column], low[row, column])
            rounded = quotient = number / divisor
            is_sure = True
            if not whole:
                is_sure = is_sure_weight[row] and abs(number) >= CANCELLED * size[row, column]
                product, error = _two_product(quotient, divisor)
                remainder = (number - product) - error + rest - quotient * divisor_rest
                correction = remainder / divisor
                rounded = quotient + correction
                missing = abs(correction - (rounded - quotient))
                is_sure &= missing < _half_of_last_place(rounded) * (1 - UNSURE)
                is_sure |= number == 0.0 and size[row, column] == 0.0
            mean = rounded * scales[column]
            is_normal = abs(mean) >= SMALLEST_MEAN and abs(mean) < np.inf
            means[row, column] = mean
            left[row, column] = not (is_sure and (is_normal or number == 0.0))


@compiled
def _add_up(high: Any, low: Any) -> None:
    """Add up (k, d) pairs over the first axis, in place, as `float_pairs.sum_of_pairs` does."""
    count = high.shape[0]
    while count > 1:
        half = count // 2
        for row in range(half):
            other = half + row
            for column in range(high.shape[1]):
                total, error = _two_sum(high[row, column], high[other, column])
                low[row, column] = error + (low[row, column] + low[other, column])
                high[row, column] = total
        if count % 2:
            for column in range(high.shape[1]):
                high[half, column], low[half, column] = (
                    high[2 * half, column],
                    low[2 * half, column],
                )
        count -= half


@kernel
def find_terms(
    high: Any, low: Any, size: Any, is_whole: Any, weight: Any, weight_rest: Any,
    is_sure_weight: Any, is_short_weight: Any, centers: Any, scales: Any, factor: float,
    value: Any, error: Any, left: Any,
) -> None:  # fmt: skip
    """Add up the terms c.(n c - factor s) of a block of centers, as `distance.terms` does.

    Args:
        high: (k, d) float64, the sums s from `add_plane`.
        low: (k, d) float64.
        size: (k, d) float64.
        is_whole: (k, d) bool.
        weight: (k,) float64, the weights n.
        weight_rest: (k,) float64, what is added to them.
        is_sure_weight: (k,) bool.
        is_short_weight: (k,) bool, True for a whole number below `SHORT_WEIGHT`.
        centers: (k, d) float64, the centers c.
        scales: (d,) float64, the factors of the sums' grid.
        factor: The factor.
        value: (k, d) float64, overwritten: the first row has the sums, rounded.
        error: (k, d) float64, overwritten: the first row has what is added to them.
        left: (k, d) bool, overwritten: True for terms that are not found.
    """
    k, d = centers.shape
    short = 0
    for row in range(k):
        for column in range(d):
            # Used as a mark until the terms are found.
            is_short = is_whole[row, column] and is_short_weight[row]
            is_short &= _halves(centers[row, column] * scales[column])[1] == 0
            left[row, column] = not is_short
            short += is_short
    # The methods find the same pairs. But what is left is added up more exactly than the others,
    # so the same terms must be left as by NumPy.
    only_short = 2 * short > k * d
    for row in range(k):
        for column in range(d):
            scaled = centers[row, column] * scales[column]
            if only_short:
                first, rest = _two_sum(weight[row] * scaled, -factor * high[row, column])
                term = first * scaled
                upper, lower = _halves(first)
                missing = ((upper * scaled - term) + lower * scaled) + rest * scaled
                is_in = not left[row, column]
            else:
                number, number_rest = _two_sum(high[row, column], low[row, column])
                product, product_error = _two_product(weight[row], scaled)
                product_error += weight_rest[row] * scaled
                first, rest = _two_sum(product, -factor * number)
                term, missing = _two_product(first, scaled)
                missing += (rest + product_error - factor * number_rest) * scaled
                is_in = is_sure_weight[row] and abs(number) >= CANCELLED * size[row, column]
            is_in &= np.isfinite(term) and np.isfinite(missing)
            left[row, column] = not is_in
            value[row, column] = term if is_in else 0.0
            error[row, column] = missing if is_in else 0.0
    _add_up(value, error)


def quotients(sums: ExactSums, weights: ExactSums) -> tuple[FloatArray, BoolArray]:
    """Return the means of settled sums, and where they may not be correctly rounded.

    The results are those of `exact.quotients`, but for what is left.
    """
    if not _are_usual(sums, weights):
        return exact.quotients(sums, weights)
    weight, weight_rest, is_sure, is_whole = _weights(weights)
    is_zero = weight == 0
    divisors = np.where(is_zero, weights.grid.scales, weight), np.where(is_zero, 0.0, weight_rest)
    scales = np.ldexp(1.0, sums.grid.exponents - weights.grid.exponents)
    means, left = np.empty(sums.shape), np.empty(sums.shape, bool)
    run(divide, (), *_pairs(sums), *divisors, is_sure, is_whole, scales, means, left)
    return means, left


def terms(
    sums: ExactSums, weights: ExactSums, centers: FloatArray, factor: int
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return the sum of c.(n c - factor s) over the centers of each block, for each column.

    Arguments and results are those of `distance.terms`, bit for bit.
    """
    if not _are_usual(sums, weights):
        return distance.terms(sums, weights, centers, factor)
    weight, weight_rest, is_sure, is_whole = _weights(weights)
    unit, is_short = np.ldexp(1.0, weights.grid.exponents), is_whole & (weight < SHORT_WEIGHT)
    of_weights = weight * unit, weight_rest * unit, is_sure, is_short
    value, error = np.empty(sums.shape), np.empty(sums.shape)
    left: BoolArray = np.empty(sums.shape, bool)
    arrays = *_pairs(sums), *of_weights, np.ascontiguousarray(centers)
    blocks = list(sums.blocks())
    for some in blocks:
        of_some = [array[some] for array in arrays]
        results = value[some], error[some], left[some]
        run(find_terms, (), *of_some, sums.grid.scales, float(factor), *results)
    firsts = [some.start for some in blocks]
    return value[firsts], error[firsts], left


def _are_usual(sums: ExactSums, weights: ExactSums) -> bool:
    """Return whether the kernels can compute with such sums and weights."""
    exponents = np.concatenate([sums.grid.exponents, weights.grid.exponents])
    planes = [*sums.planes, *weights.planes]
    return bool(np.abs(exponents).max() <= _MOST_EXPONENT // 2) and all(
        abs(number) <= FAST_PLANES for number in planes
    )


def _pairs(sums: ExactSums) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
    """Return sums as `add_plane` leaves them: high, low, size, and where they are whole."""
    high, low, size = (np.zeros(sums.shape) for _ in range(3))
    is_whole: BoolArray = np.ones(sums.shape, bool)
    for number in sorted(sums.planes, reverse=True):
        plane, factor = _kernel_plane(sums.planes[number]), 2.0 ** (PLANE_BITS * number)
        run(add_plane, (), plane, number, factor, high, low, size, is_whole)
    return high, low, size, is_whole


def _weights(weights: ExactSums) -> tuple[FloatArray, FloatArray, BoolArray, BoolArray]:
    """Return (k, 1) weights as (k,) pairs, and where these are sure and whole numbers."""
    high, low, is_sure = weights.pairs(...)
    return high[:, 0], low[:, 0], is_sure[:, 0], weights.whole()[1][:, 0]


def _kernel_plane(plane: IndexArray) -> IndexArray:
    """Return a plane C-contiguous and read-only: Numba would compile again for others."""
    plane = np.ascontiguousarray(plane).view()
    plane.flags.writeable = False
    return plane
