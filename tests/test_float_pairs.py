"""Pairs of float64: the errors of operations, held to `fractions.Fraction`."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.float_pairs import sum_of_pairs, two_product, two_sum

usual = st.floats(-100, 100)


@given(st.integers(1, 40), st.integers(0, 2**32))
def test_pairs_are_added_up_to_a_hundred_bits(number, seed):
    high = np.random.default_rng(seed).normal(size=(number, 2)) * [1.0, 1e6]
    low = high * 2.0**-54 / 3
    for column, total in enumerate(np.transpose(sum_of_pairs(high, low))):
        terms = [*map(Fraction, high[:, column]), *map(Fraction, low[:, column])]
        error = sum(terms) - sum(map(Fraction, total))
        assert abs(error) <= sum(map(abs, terms)) * Fraction(2) ** -98


@given(st.lists(usual, min_size=2, max_size=2), st.lists(usual, min_size=2, max_size=2))
def test_sums_and_products_of_floats_have_their_errors_beside_them(a, b):
    for function, expected in (
        (two_sum, [Fraction(x) + Fraction(y) for x, y in zip(a, b, strict=True)]),
        (two_product, [Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)]),
    ):
        rounded, error = function(np.array(a), np.array(b))
        for number, high, low in zip(expected, rounded.tolist(), error.tolist(), strict=True):
            assert high == float(number)
            if abs(number) > 1e-200 or number == 0:
                assert Fraction(high) + Fraction(low) == number
