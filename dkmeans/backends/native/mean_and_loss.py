"""Means and losses from exact sums, compiled: what a driver computes for k x d sums.

`backend` offers these functions; `lloyd` passes them to `ExactSums.means` and `loss.inertia`.
They do what `exact.quotients` and `loss.terms` do with NumPy, in a few passes instead of some
thirty, and the results have the same bits. Sums in rare planes, or on grids with extreme exponents,
are left to NumPy.
"""

from __future__ import annotations

import math
import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans import exact, loss
from dkmeans.backends.native.compilation import compiled, kernel
from dkmeans.backends.native.runner import kernel_array, run
from dkmeans.exact import CANCELLED, FAST_PLANES, SMALLEST_MEAN, UNSURE, ExactSums
from dkmeans.exact_grid import PLANE_BITS, BoolArray
from dkmeans.float_pairs import LARGEST_WHOLE, halves, two_sum
from dkmeans.loss import SHORT_WEIGHT
from dkmeans.state import FloatArray

_two_sum: Any = compiled(two_sum)
_halves: Any = compiled(halves)
# All factors are normal numbers if no exponent of either grid is beyond this, up or down.
_MOST_EXPONENT = 500


class SumPairs(NamedTuple):
    """Sums as pairs of float64, in units of their grid.

    Attributes:
        high: (k, d) float64.
        low: (k, d) float64, what is added to that.
        size: (k, d) float64, the sizes of all parts of a sum, added up.
        is_whole: (k, d) bool, True for sums that are plane 0 alone and that float64 holds.
    """

    high: FloatArray
    low: FloatArray
    size: FloatArray
    is_whole: BoolArray


class WeightPairs(NamedTuple):
    """Weights as pairs of float64, in units of their grid.

    Attributes:
        high: (k,) float64.
        low: (k,) float64, what is added to that.
        is_sure: (k,) bool, True for accurate pairs.
        is_whole: (k,) bool, True for weights that are plane 0 alone and that float64 holds.
    """

    high: FloatArray
    low: FloatArray
    is_sure: BoolArray
    is_whole: BoolArray


class _WorkArrays(threading.local):
    """Arrays of each thread that are used again: new memory takes longer than what it is used for.

    They are as large as the sums of a piece (`ExactSums.pieces`), a few megabytes.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def __call__(
        self, name: str, shape: tuple[int, ...], dtype: DTypeLike = np.float64
    ) -> NDArray[Any]:
        """Return the calling thread's array of a name, in this shape, with any content."""
        size = math.prod(shape)
        if name not in self._arrays or len(self._arrays[name]) < size:
            self._arrays[name] = np.empty(size, dtype)
        return self._arrays[name][:size].reshape(shape)


_work = _WorkArrays()


@compiled
def _two_product(a: Any, b: Any) -> Any:
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


@kernel
def add_plane(plane: Any, number: int, factor: float, sums: SumPairs) -> None:
    """Add a plane of sums to pairs of float64, as `ExactSums.pairs` does.

    Where a sum is not in plane 0 alone, `is_whole` of the pairs is cleared.

    Args:
        plane: (k, d) int64.
        number: Number of the plane.
        factor: What a unit of the plane is, in units of the grid.
        sums: The pairs, changed. They are normalized when they are used.
    """
    high, low, size, is_whole = sums
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
    scales: Any, sums: SumPairs, weights: WeightPairs, one: float, means: Any, left: Any
) -> None:
    """Divide sums by weights, and find the quotients that are surely correctly rounded.

    Args:
        scales: (d,) float64, factors of the quotients.
        sums: The sums, from `add_plane`.
        weights: The weights; 0 counts as 1.
        one: 1 in units of the weights' grid.
        means: (k, d) float64, overwritten.
        left: (k, d) bool, overwritten: True where a mean may not be correctly rounded.
    """
    high, low, size, is_whole = sums
    for row in range(high.shape[0]):
        divisor, divisor_rest = weights.high[row], weights.low[row]
        if divisor == 0.0:
            divisor, divisor_rest = one, 0.0
        for column in range(high.shape[1]):
            whole = is_whole[row, column] and weights.is_whole[row]
            number, rest = _two_sum(high[row, column], low[row, column])
            rounded = quotient = number / divisor
            is_sure = True
            if not whole:
                is_sure = weights.is_sure[row] and abs(number) >= CANCELLED * size[row, column]
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
    centers: Any, scales: Any, sums: SumPairs, weights: WeightPairs, unit: float, factor: float,
    value: Any, error: Any, left: Any,
) -> None:  # fmt: skip
    """Add up the terms c.(n c - factor s) of a block of centers, as `loss.terms` does.

    Args:
        centers: (k, d) float64, the centers c.
        scales: (d,) float64, the factors of the sums' grid.
        sums: The sums s, from `add_plane`.
        weights: The weights n.
        unit: What a unit of the weights' grid is.
        factor: The factor.
        value: (k, d) float64, overwritten: the first row then has the sums, rounded.
        error: (k, d) float64, overwritten: the first row then has what is added to them.
        left: (k, d) bool, overwritten: True for terms that are not found.
    """
    high, low, size, is_whole = sums
    k, d = centers.shape
    short = 0
    for row in range(k):
        is_short_weight = weights.is_whole[row] and weights.high[row] < SHORT_WEIGHT
        for column in range(d):
            is_short = is_whole[row, column] and is_short_weight
            is_short &= _halves(centers[row, column] * scales[column])[1] == 0
            # A mark for the loop below, which overwrites it.
            left[row, column] = not is_short
            short += is_short
    # Both branches below find the same pairs. Terms that are left are added up exactly, all others
    # with rounding: so exactly those must be left that NumPy leaves.
    only_short = 2 * short > k * d
    for row in range(k):
        weight, weight_rest = weights.high[row] * unit, weights.low[row] * unit
        for column in range(d):
            scaled = centers[row, column] * scales[column]
            if only_short:
                first, rest = _two_sum(weight * scaled, -factor * high[row, column])
                term = first * scaled
                upper, lower = _halves(first)
                missing = ((upper * scaled - term) + lower * scaled) + rest * scaled
                is_in = not left[row, column]
            else:
                number, number_rest = _two_sum(high[row, column], low[row, column])
                product, product_error = _two_product(weight, scaled)
                product_error += weight_rest * scaled
                first, rest = _two_sum(product, -factor * number)
                term, missing = _two_product(first, scaled)
                missing += (rest + product_error - factor * number_rest) * scaled
                is_in = weights.is_sure[row] and abs(number) >= CANCELLED * size[row, column]
            is_in &= np.isfinite(term) and np.isfinite(missing)
            left[row, column] = not is_in
            value[row, column] = term if is_in else 0.0
            error[row, column] = missing if is_in else 0.0
    _add_up(value, error)


def quotients(sums: ExactSums, weights: ExactSums) -> tuple[FloatArray, BoolArray]:
    """Return the means of sums that are all in planes, and where they may not be correctly rounded.

    Means that both find have the bits of `exact.quotients`; the second result may differ.
    """
    if not _are_usual(sums, weights):
        return exact.quotients(sums, weights)
    scales = np.ldexp(1.0, sums.grid.exponents - weights.grid.exponents)
    means, left = np.empty(sums.shape), np.empty(sums.shape, bool)
    one = float(weights.grid.scales[0])
    run(divide, (), scales, _pairs(sums), _weights(weights), one, means, left)
    return means, left


def terms(
    sums: ExactSums, weights: ExactSums, centers: FloatArray, factor: int
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return the sum of c.(n c - factor s) over the centers of each block, for each column.

    Arguments and results are those of `loss.terms`, bit for bit.
    """
    if not _are_usual(sums, weights):
        return loss.terms(sums, weights, centers, factor)
    pairs, of_weights, blocks = _pairs(sums), _weights(weights), list(sums.blocks())
    unit, centers = float(np.ldexp(1.0, weights.grid.exponents[0])), np.ascontiguousarray(centers)
    high, low = (np.empty((len(blocks), sums.shape[1])) for _ in range(2))
    left: BoolArray = np.empty(sums.shape, bool)
    for block, some in enumerate(blocks):
        of_block = SumPairs(*(part[some] for part in pairs))
        factors = WeightPairs(*(part[some] for part in of_weights)), unit, float(factor)
        value, error = (_work(name, of_block.high.shape) for name in ("value", "error"))
        results = value, error, left[some]
        run(find_terms, (), centers[some], sums.grid.scales, of_block, *factors, *results)
        high[block], low[block] = value[0], error[0]
    return high, low, left


def _are_usual(sums: ExactSums, weights: ExactSums) -> bool:
    """Return whether the kernels can compute with such sums and weights."""
    exponents = np.concatenate([sums.grid.exponents, weights.grid.exponents])
    planes = [*sums.planes, *weights.planes]
    return bool(np.abs(exponents).max() <= _MOST_EXPONENT) and all(
        abs(number) <= FAST_PLANES for number in planes
    )


def _pairs(sums: ExactSums) -> SumPairs:
    """Return sums as `add_plane` leaves them, in arrays that the thread's next call overwrites."""
    high, low, size = (_work(name, sums.shape) for name in ("high", "low", "size"))
    pairs = SumPairs(high, low, size, _work("is_whole", sums.shape, bool))
    for part, value in zip(pairs, (0.0, 0.0, 0.0, True), strict=True):
        part.fill(value)
    for number in sorted(sums.planes, reverse=True):
        plane, factor = kernel_array(sums.planes[number]), 2.0 ** (PLANE_BITS * number)
        run(add_plane, (), plane, number, factor, pairs)
    return pairs


def _weights(weights: ExactSums) -> WeightPairs:
    """Return (k, 1) weights as pairs of float64, (k,) each."""
    (high, low, is_sure), (_, is_whole) = weights.pairs(...), weights.whole()
    return WeightPairs(*(part[:, 0].copy() for part in (high, low, is_sure, is_whole)))
