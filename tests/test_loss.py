"""Losses are those of fractions, however far the rows are from zero."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmeans import loss
from dkmeans.backends import select_processor
from dkmeans.distance import Centers, Distance, project
from dkmeans.estimator import KMeans
from dkmeans.exact import of_rows
from dkmeans.exact_total import ExactTotal
from dkmeans.loss import exact_inertia, inertia, total_of_terms
from dkmeans.state import PartialSums

EUCLIDEAN = Distance.SQUARED_EUCLIDEAN


def fractions(values):
    return [[Fraction(float(value)) for value in row] for row in values]


def sums_of(rows, index, weights, k):
    """Return the sums of rows with weights, and their exact squares."""
    products = [[w * x for x in row] for row, w in zip(fractions(rows), weights, strict=True)]
    squares = sum(
        (w * x * x for row, w in zip(fractions(rows), weights, strict=True) for x in row),
        Fraction(0),
    )
    # Products of small weights are float64 numbers.
    sums = of_rows(np.array([[float(x) for x in row] for row in products]), index, k)
    of_weights = of_rows(np.array([[float(w)] for w in weights]), index, k)
    counts = np.bincount(index, minlength=k)
    return PartialSums(sums, counts, ExactTotal.of(squares), weights=of_weights)


def loss_of(rows, index, weights, centers):
    """Return the loss by its definition."""
    exact, loss = fractions(centers), Fraction(0)
    for row, i, weight in zip(fractions(rows), index, weights, strict=True):
        loss += weight * sum((x - c) ** 2 for x, c in zip(row, exact[i], strict=True))
    return loss


@pytest.mark.parametrize("backend", ["numpy", "native"])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6, 1e-8, 0.0])
def test_the_loss_of_rows_with_an_offset_is_correctly_rounded(spread, backend):
    rng = np.random.default_rng(3)
    rows = 1e9 + 1 / 3 + spread * rng.normal(size=(60, 3))
    weights, index = [Fraction(1)] * 60, rng.integers(0, 4, 60)
    centers = rows[:4] + spread * rng.normal(size=(4, 3))
    sums = sums_of(rows, index, weights, 4)
    found = inertia(sums, Centers(centers, EUCLIDEAN), select_processor(backend).terms)
    assert found == float(loss_of(rows, index, weights, centers))


# Products with the weights below are normal numbers.
SIZES = st.floats(2.0**-900, 1e30) | st.integers(0, 99).map(float)
numbers = st.builds(lambda size, sign: sign * size, SIZES, st.sampled_from([-1, 1]))


def tables(rows, columns):
    row = st.lists(numbers, min_size=columns, max_size=columns)
    return st.lists(row, min_size=rows, max_size=rows).map(np.array)


@settings(deadline=None)
@given(st.data())
def test_exact_terms_are_those_of_fractions(data):
    n, k, d = (data.draw(st.integers(1, most)) for most in (8, 3, 3))
    rows, centers = data.draw(tables(n, d)), data.draw(tables(k, d))
    weights = [Fraction(2) ** data.draw(st.integers(-40, 40)) for _ in range(n)]
    index = np.array([data.draw(st.integers(0, k - 1)) for _ in range(n)])
    found = exact_inertia(sums_of(rows, index, weights, k), Centers(centers, EUCLIDEAN))
    assert found == ExactTotal.of(loss_of(rows, index, weights, centers))


def test_exact_terms_of_cosine_are_those_of_fractions():
    rng = np.random.default_rng(4)
    rows, centers = rng.normal(size=(30, 3)), rng.normal(size=(2, 3))
    weights, index = [Fraction(1)] * 30, rng.integers(0, 2, 30)
    sums = sums_of(rows, index, weights, 2)
    units = fractions(project(centers, Distance.COSINE))
    expected = -sum(
        (
            x * c
            for row, i in zip(fractions(rows), index, strict=True)
            for x, c in zip(row, units[i], strict=True)
        ),
        Fraction(0),
    )
    found = total_of_terms(sums, Centers(centers, Distance.COSINE))
    assert found == ExactTotal.of(expected)


def test_pairs_and_exact_terms_agree_where_little_is_lost():
    rng = np.random.default_rng(5)
    rows, weights = rng.normal(size=(40, 3)), [Fraction(1)] * 40
    sums = sums_of(rows, rng.integers(0, 4, 40), weights, 4)
    centers = Centers(rows[:4], EUCLIDEAN)
    exact = float(total_of_terms(sums, centers))
    assert float(total_of_terms(sums, centers, loss.terms)) == exact


def test_rows_with_a_huge_constant_column_train_as_without_it():
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(500, 2)) * 1e-6
    histories = []
    for columns in (rows, np.c_[np.full(500, 1.7e12 + 1 / 3), rows]):
        model = KMeans(None, initial_clusters=columns[:5].copy(), use_mini_batch=False)
        model.train(lambda columns=columns: columns, steps=8)
        histories.append(list(model.history["loss"]))
    assert histories[0] == histories[1]
    assert sorted(histories[0], reverse=True) == histories[0]


def test_the_loss_of_rows_that_are_their_centers_is_zero():
    rows = 1e12 + np.random.default_rng(6).normal(size=(5, 3))
    sums = sums_of(rows, np.arange(5), [Fraction(1)] * 5, 5)
    assert inertia(sums, Centers(rows, EUCLIDEAN)) == 0
