"""Sums of rows times their weights, held to `fractions.Fraction` and to repeated rows."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.backends import select
from dkmeans.backends.weighted import (
    product_grid,
    weighted_squares,
    weighted_total,
    with_ones,
)
from dkmeans.distance import Centers, Distance
from dkmeans.exact_grid import NotFinite
from dkmeans.exact_total import UNIT
from dkmeans.loss import inertia
from tests.exactly import same_sums, units

BACKENDS = ("numpy", "native")
DTYPES = (np.float32, np.float64)
usual_weights = st.integers(1, 9).map(float) | st.floats(0.01, 4)
any_weights = st.floats(0, allow_infinity=False, exclude_min=True)


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return select(request.param)


@st.composite
def weighted_rows(draw):
    """Draw rows and weights, most of one size and some of any, and the cluster of each row."""
    n, d, k = draw(st.integers(1, 12)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dtype = draw(st.sampled_from(DTYPES))
    width = np.dtype(dtype).itemsize * 8
    anything = st.floats(allow_nan=False, allow_infinity=False, width=width)
    usual = st.floats(-100, 100)
    values = draw(st.lists(usual | usual | anything, min_size=n * d, max_size=n * d))
    kinds = usual_weights | usual_weights | any_weights
    weights = draw(st.lists(kinds, min_size=n, max_size=n))
    index = draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    return np.reshape(values, (n, d)).astype(dtype), np.array(weights), np.array(index), k


def fractions(values):
    return [Fraction(value) for value in np.ravel(values).tolist()]


@given(weighted_rows())
def test_sums_of_products_are_those_of_fractions(backend, problem):
    rows, weights, index, k = problem
    sums = backend.add_products(rows, weights, index, k)
    rows = with_ones(rows)
    assert sums.shape == (k, rows.shape[1])
    for cluster, column in np.ndindex(sums.shape):
        own = index == cluster
        pairs = zip(fractions(rows[own, column]), fractions(weights[own]), strict=True)
        assert sums.exact(cluster, column) == sum((x * w for x, w in pairs), Fraction(0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["whole", "short", "long", "of all sizes"])
def test_neither_order_nor_chunks_nor_the_backend_change_a_bit(dtype, kind):
    rng = np.random.default_rng(1)
    rows, index = rng.normal(size=(3000, 5)).astype(dtype), rng.integers(0, 7, 3000)
    rows[:, 1] *= dtype(1e-6)
    rows[3], rows[5] = dtype(1e20), 0
    weights = {
        "whole": rng.integers(1, 9, 3000).astype(float),
        "short": rng.random(3000).astype(np.float32).astype(float),
        "long": rng.random(3000),
        "of all sizes": np.exp(8 * rng.normal(size=3000)),
    }[kind]
    expected = units(select("numpy").add_products(rows, weights, index, 7))
    for name in BACKENDS:
        order = rng.permutation(3000)
        parts = [
            select(name).add_products(rows[part], weights[part], index[part], 7)
            for part in np.array_split(order, 4)
        ]
        total = parts[3] + parts[1] + parts[2] + parts[0]
        assert (units(total) == expected).all()


@given(weighted_rows())
def test_weighted_squares_are_those_of_fractions(backend, problem):
    rows, weights, _, _ = problem
    wide = rows.astype(np.float64)
    with np.errstate(over="ignore"):
        rows = rows[np.isfinite(np.square(wide) * 4).all(axis=1)]
    weights = weights[: len(rows)]
    found = weighted_squares(backend, rows, weights)
    expected = sum(
        (
            x * x * w
            for row, w in zip(rows, fractions(weights), strict=True)
            for x in fractions(row)
        ),
        Fraction(0),
    )
    # Products of three numbers may have bits below a unit; each is cut off there.
    assert abs(found.units - expected * (1 << -UNIT)) <= rows.size


@pytest.mark.parametrize("size", [2.0**-500, 2.0**498, 2.0**511])
def test_squares_near_both_ends_of_float64_keep_their_errors(backend, size):
    rows = np.array([[0.0, 0.0], [0.0, size * 1.67]])
    expected = sum((x * x for x in fractions(rows)), Fraction(0))
    found = weighted_squares(backend, rows, np.ones(2))
    assert abs(found.units - expected * (1 << -UNIT)) <= rows.size


@pytest.mark.parametrize("weight", [2.0**-1000 / 3, 2.0**1000 / 3])
def test_products_with_weights_near_both_ends_of_float64_keep_their_errors(backend, weight):
    rows, weights = np.array([[1 / 3, 1.0], [1 / 7, 3.0]]), np.array([weight, weight])
    sums = backend.add_products(rows, weights, np.zeros(2, np.int64), 1)
    for column in range(2):
        pairs = zip(fractions(rows[:, column]), fractions(weights), strict=True)
        assert sums.exact(0, column) == sum((x * w for x, w in pairs), Fraction(0))
    assert sums.exact(0, 2) == 2 * Fraction(weight)


@given(weighted_rows())
def test_a_weighted_total_is_that_of_fractions(backend, problem):
    rows, weights, _, _ = problem
    values = rows[:, 0].astype(np.float64)
    pairs = zip(fractions(values), fractions(weights), strict=True)
    expected = sum((x * w for x, w in pairs), Fraction(0))
    found = weighted_total(backend, values, weights)
    assert found.units == expected * (1 << -UNIT)


@pytest.mark.parametrize("metric", list(Distance))
@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_weights_are_repeated_rows(backend, metric, dtype):
    rng = np.random.default_rng(2)
    rows, times = rng.normal(size=(400, 4)).astype(dtype), rng.integers(1, 6, 400)
    centers = Centers(rows[:9], metric)
    index, _ = backend.nearest(rows, centers)
    found = backend.weighted_sums(rows, times.astype(float), index, centers, None)[0]
    repeated = backend.partial_sums(np.repeat(rows, times, axis=0), centers)
    assert same_sums(found.sums, repeated.sums)
    assert found.totals.tolist() == repeated.counts.tolist()
    assert found.totals.dtype == np.int64
    assert found.counts.tolist() == np.bincount(index, minlength=9).tolist()
    assert found.means.tobytes() == repeated.means.tobytes()
    squares = weighted_squares(backend, rows, times.astype(float))
    assert squares == backend.squares(np.repeat(rows, times, axis=0))
    with_squares = (replace(sums, squares=squares) for sums in (found, repeated))
    assert len({inertia(sums, centers) for sums in with_squares}) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_have_no_sums(backend, bad):
    rows = np.ones((6, 2))
    rows[4, 1] = bad
    index, weights = np.zeros(6, np.int64), np.full(6, 0.3)
    with pytest.raises(NotFinite):
        backend.add_products(rows, weights, index, 1)
    with pytest.raises(NotFinite):
        weighted_squares(backend, rows, weights)
    with pytest.raises(NotFinite):
        weighted_squares(backend, np.full((2, 2), 1e200), weights[:2])


def test_the_grid_of_products_is_coarser_by_the_usual_weight():
    rows, weights = np.ones((40, 3)), np.full(40, 2.0**20)
    ones = product_grid(rows, np.ones(40)).exponents
    assert (product_grid(rows, weights).exponents - ones).tolist() == [20, 20, 20, 20]
    assert product_grid(np.full((2, 1), 1e-300), np.full(2, 1e-300)).exponents.tolist() == [
        -800,
        -800,
    ]


@pytest.mark.parametrize("metric", list(Distance))
@pytest.mark.parametrize("dtype", DTYPES)
def test_indices_alone_are_those_that_come_with_distances(backend, metric, dtype):
    rows = np.random.default_rng(4).normal(size=(300, 5)).astype(dtype)
    centers = Centers(rows[:20], metric)
    index = backend.nearest_index(rows, centers)
    assert index.dtype == np.int64
    assert index.tolist() == backend.nearest(rows, centers)[0].tolist()
