"""Grids: which values lie on them, and that nothing of the others is lost."""

from fractions import Fraction

import numpy as np
from hypothesis import given

from dkmeans.exact_grid import Grid, total_of_digits
from dkmeans.exact_total import total_of_squares
from tests.values import fraction, rows_of_clusters


@given(rows_of_clusters())
def test_a_grid_holds_the_usual_values_and_names_all_others(problem):
    rows, _, _ = problem
    grid = Grid.of(rows)
    planes, left = grid.split(rows)
    for row, column in np.ndindex(*rows.shape):
        held = sum(Fraction(float(p[row, column])) / 2 ** (32 * i) for i, p in enumerate(planes))
        held *= Fraction(2) ** int(grid.exponents[column])
        assert held == (0 if left[row, column] else Fraction(float(rows[row, column])))


def test_few_values_of_common_distributions_are_off_the_grid():
    rng = np.random.default_rng(1)
    for rows in (rng.normal(size=(10_000, 4)), 1e6 + rng.normal(size=(10_000, 4))):
        for dtype in (np.float32, np.float64):
            assert Grid.of(rows.astype(dtype)).split(rows.astype(dtype))[1].mean() < 2e-4
    cauchy = rng.standard_cauchy((10_000, 4)).astype(np.float32)
    assert Grid.of(cauchy).split(cauchy)[1].mean() < 0.02


@given(rows_of_clusters())
def test_products_of_digits_give_the_squares_of_what_is_on_the_grid(problem):
    rows, _, _ = problem
    grid = Grid.of(rows)
    products, left = grid.digit_products(rows)
    total = total_of_digits(products, grid, rows.dtype) + total_of_squares(rows[left])
    expected = sum((Fraction(value) ** 2 for value in rows.ravel().tolist()), Fraction(0))
    assert fraction(total) == expected
