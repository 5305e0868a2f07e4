"""The loss: the sum of the distances of rows to their nearest centers, found from exact sums.

No row is read again: the loss of the centers c follows from the sums s and the weights n of the
rows of each cluster. It is |x|^2 over all rows plus c.(n c - 2 s) over all clusters for the
Euclidean distance, and n - c.s over all clusters for cosine (docs/decisions/017).

    loss = inertia(sums, centers)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dkmeans.distance import Centers, Distance, project
from dkmeans.exact import Elements, ExactSums, first_column, where
from dkmeans.exact_grid import PLANE_BITS, BoolArray
from dkmeans.exact_total import NOTHING, ExactTotal, total_of
from dkmeans.float_pairs import Pairs, float_parts, halves, sum_of_pairs, two_product, two_sum
from dkmeans.state import FloatArray, IndexArray, PartialSums

# A weight below this times a center of 26 bits has at most 53 bits: a float64 holds the product.
SHORT_WEIGHT = 2.0**27
# Number of leading bits that may cancel when the terms are added to the squares. If more cancel,
# all terms are computed exactly: pairs are good to 95 bits, and the loss needs 53 of them.
_LOST_BITS = 40


def inertia(sums: PartialSums, centers: Centers, terms_of: Terms | None = None) -> float:
    """Return the sum of the distances of rows to their nearest centers, rounded once.

    `terms_of` finds most of the terms; None for `terms`.
    """
    base = _base(sums, centers)
    total = base + total_of_terms(sums, centers, terms_of or terms)
    if total.units << _LOST_BITS < base.units:
        total = exact_inertia(sums, centers)
    # Directions are rounded, so a sum of cosine distances may be below zero.
    return max(0.0, float(total))


def exact_inertia(sums: PartialSums, centers: Centers) -> ExactTotal:
    """Return the sum of the distances of rows to their nearest centers."""
    return _base(sums, centers) + total_of_terms(sums, centers)


def _base(sums: PartialSums, centers: Centers) -> ExactTotal:
    """Return the part of the loss without centers: |x|^2 of all rows, or for cosine their n."""
    is_cosine = centers.distance is Distance.COSINE
    return sums.squares + (sums.cluster_weights.total() if is_cosine else NOTHING)


@np.errstate(all="ignore")
def total_of_terms(
    sums: PartialSums, centers: Centers, terms_of: Terms | None = None
) -> ExactTotal:
    """Return the sum of c.(n c - 2 s) over all centers, or for cosine of -c.s.

    `terms_of` finds most of the terms as pairs of float64, good to 2^-95 of their size; None finds
    all of them exactly, which takes 10 to 40 times as long.
    """
    is_cosine = centers.distance is Distance.COSINE
    weights = ExactSums.zero((len(centers.values), 1)) if is_cosine else sums.cluster_weights
    factor, parts, total = 1 if is_cosine else 2, [], NOTHING
    for piece, of_rows in sums.sums.pieces():
        exact = project(centers.values[piece].astype(np.float64), centers.distance)
        of_piece, left = weights.clusters(piece), np.ones(exact.shape, bool)
        if terms_of is not None:
            *pairs, left = terms_of(of_rows, of_piece, exact, factor)
            parts.append(pairs)
        for some in where(left):
            total += _exact_terms(of_rows, of_piece, exact[some], some, factor)
    if parts:
        high, low = map(np.concatenate, zip(*parts, strict=True))
        total += total_of(np.array(sum_of_pairs(high, low)), 2 * sums.sums.grid.exponents)
    return total


def terms(
    sums: ExactSums, weights: ExactSums, centers: FloatArray, factor: int
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return the sum of c.(n c - factor s) over the centers of each block, for each column.

    Args:
        sums: The sums s, all in planes, (k, d).
        weights: (k, 1) the weights n.
        centers: (k, d) float64, the centers c.
        factor: The factor.

    Returns:
        Pairs of float64, high and low, (b, d) each for b blocks of `ExactSums.blocks`, in units of
        the square of the sums' grid; and True for each term that is missing from them, (k, d).
    """
    high, low, left = [], [], np.empty(centers.shape, bool)
    for some in sums.blocks():
        of_some = sums.clusters(some), weights.clusters(some), centers[some]
        value, error, is_in = _terms_of_block(*of_some, factor)
        of_block = sum_of_pairs(np.where(is_in, value, 0.0), np.where(is_in, error, 0.0))
        high.append(of_block[0])
        low.append(of_block[1])
        left[some] = ~is_in
    return np.array(high), np.array(low), left


def _terms_of_block(sums: ExactSums, weights: ExactSums, centers: FloatArray, factor: int) -> Pairs:
    """Return the terms c.(n c - factor s) of a block as pairs, and where they are accurate."""
    (total, is_whole), (weight, is_whole_weight) = sums.whole(), weights.whole()
    scaled = centers * sums.grid.scales
    is_short = is_whole_weight & (weight < SHORT_WEIGHT) & (halves(scaled)[1] == 0)
    is_in = is_whole & is_short
    if 2 * np.count_nonzero(is_in) > is_in.size:
        # Most sums are whole numbers, and centers have the 24 bits of a float32: fewer operations
        # find the same pairs.
        product = weight * np.ldexp(1.0, weights.grid.exponents) * scaled
        first, rest = two_sum(product, -factor * total)
        value, (high, low) = first * scaled, halves(first)
        error = ((high * scaled - value) + low * scaled) + rest * scaled
        return value, error, is_in & np.isfinite(value) & np.isfinite(error)
    of_weights = weights.pairs(...), weights.grid.exponents
    return _pairs_of_terms(sums.pairs(...), *of_weights, scaled, factor)


# `terms`, or a function that does the same.
Terms = Callable[[ExactSums, ExactSums, FloatArray, int], tuple[FloatArray, FloatArray, BoolArray]]


def _exact_terms(
    sums: ExactSums, weights: ExactSums, centers: FloatArray, some: Elements, factor: int
) -> ExactTotal:
    """Return the exact sum of some terms c.(n c - factor s), given their (m,) float64 values c."""
    # Mantissas between 1/2 and 1 are multiplied: nothing overflows, and each error is a float64.
    center, places = np.frexp(centers)
    total, places = NOTHING, places.astype(np.int64)
    for m, plane in sums.planes.items():
        exponents = places + sums.grid.exponents[some[1]] + PLANE_BITS * m
        for part in float_parts(plane[some]):
            total += total_of(np.stack(two_product(center, -factor * part)), exponents)
    for m, plane in weights.planes.items():
        exponents = 2 * places + weights.grid.exponents + PLANE_BITS * m
        for part in float_parts(plane[first_column(some)]):
            for product in two_product(center, part):
                total += total_of(np.stack(two_product(center, product)), exponents)
    return total


def _pairs_of_terms(
    sums: Pairs, weights: Pairs, exponents: IndexArray, scaled: FloatArray, factor: int
) -> Pairs:
    """Return c.(n c - factor s) as pairs of float64, in units of the square of the sums' grid.

    `exponents` are those of the grid of the weights n; `scaled` is c in units of the sums' grid.
    """
    high, low, is_sure = sums
    weight, weight_rest = (np.ldexp(part, exponents) for part in weights[:2])
    product, error = two_product(weight, scaled)
    error += weight_rest * scaled
    first, rest = two_sum(product, -factor * high)
    value, value_error = two_product(first, scaled)
    value_error += (rest + error - factor * low) * scaled
    is_sure = is_sure & weights[2] & np.isfinite(value) & np.isfinite(value_error)
    return value, value_error, is_sure
