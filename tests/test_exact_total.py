"""Exact totals, held to `fractions.Fraction`: any values, in any order."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.exact_total import UNIT, ExactTotal, total_of, total_of_squares

finite = st.floats(allow_nan=False, allow_infinity=False)


def fraction(total):
    return total.units * Fraction(2) ** UNIT


@given(st.lists(finite, max_size=30), st.permutations(range(30)))
def test_a_total_is_that_of_fractions_in_any_order(values, order):
    values = np.array(values, np.float64)
    order = [i for i in order if i < len(values)]
    total = total_of(values[order])
    assert fraction(total) == sum(map(Fraction, values.tolist()), Fraction(0))
    assert total == sum(map(total_of, values[:, None]), ExactTotal())


@given(st.lists(finite, max_size=30))
def test_a_total_of_squares_is_that_of_fractions(values):
    expected = sum((Fraction(value) ** 2 for value in values), Fraction(0))
    assert fraction(total_of_squares(np.array(values, np.float64))) == expected


@given(st.fractions(-(10**9), 10**9))
def test_a_total_is_rounded_to_the_nearest_float(number):
    assert float(ExactTotal.of(number)) == float(number)


def test_a_total_that_float64_cannot_hold_is_infinite():
    largest = total_of(np.full(2, 1.7e308))
    assert float(largest) == np.inf
    assert float(ExactTotal() - largest) == -np.inf
    assert float(largest - total_of(np.array([1.7e308]))) == 1.7e308
