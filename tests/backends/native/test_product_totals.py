"""The kernel that adds up products of rows and weights: the same totals as NumPy's, to the bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.backends import weighted
from dkmeans.backends.native import product_totals
from dkmeans.exact_grid import NotFinite


def weights_for(rng, n, kind):
    if kind == "whole":
        return rng.integers(1, 4, n).astype(np.float64)
    weights = rng.uniform(0.5, 2, n)
    return weights.astype(np.float32).astype(np.float64) if kind == "float32" else weights


@pytest.mark.parametrize("kind", ["whole", "float32", "float64"])
@pytest.mark.parametrize("width", [1, 3, 8, 9, 17])
@pytest.mark.parametrize("n", [1, 7, 8, 255, 257, 1000])
def test_totals_are_those_of_numpy(n, width, kind):
    rng = np.random.default_rng(n + width)
    values = rng.normal(size=(n, width)) * 10.0 ** rng.integers(-3, 3, width)
    weights = weights_for(rng, n, kind)
    for given_, of_squares in ((values.astype(np.float32), True), (values, False)):
        found = product_totals.total(given_, weights, of_squares=of_squares)
        expected = weighted.total_of_products(given_, weights, of_squares=of_squares)
        assert found.units == expected.units


ODD = [0.0, -0.0, 1.0, -3.5, 1e30, 1e-30, -1e12, 2.0**-60, 5e-324, 1e-200, 1e300]


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 8, 11]), st.integers(1, 40))
def test_values_that_are_not_on_the_grid_are_added_too(seed, width, n):
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((n, width)) < 0.3, rng.choice(ODD, (n, width)), 1.5)
    weights = np.where(rng.random(n) < 0.3, rng.choice([1e-300, 1e-9, 1e9, 1 / 3], n), 2.0)
    found = product_totals.total(values, weights, of_squares=False)
    expected = weighted.total_of_products(values, weights, of_squares=False)
    assert found.units == expected.units


@pytest.mark.parametrize("width", [1, 5])
def test_pieces_of_many_rows_are_added_together(width):
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(2**16 + 9, width)).astype(np.float32), rng.random(2**16 + 9)
    found = product_totals.total(values, weights, of_squares=True)
    expected = weighted.total_of_products(values, weights, of_squares=True)
    assert found.units == expected.units


@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(width, bad):
    values = np.ones((20, width), np.float32)
    values[13, -1] = bad
    for of_squares in (False, True):
        with pytest.raises(NotFinite):
            product_totals.total(values, np.ones(20), of_squares=of_squares)
