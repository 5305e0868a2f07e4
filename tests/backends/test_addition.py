"""The grid that backends share, and the values that do not lie on it."""

import numpy as np
import pytest

from dkmeans.backends.addition import (
    as_added,
    grid_for,
    plus_rest,
    plus_rows,
    rest_of_squares,
    whole_parts,
)
from dkmeans.backends.rounding import QUIET
from dkmeans.distance import Centers, Distance, directions
from dkmeans.exact import ExactSums, of_rows
from dkmeans.exact_grid import Grid, NotFinite
from dkmeans.exact_total import total_of_squares
from tests.exactly import same_sums

EUCLIDEAN, COSINE = Distance.SQUARED_EUCLIDEAN, Distance.COSINE
ROWS = np.exp(np.random.default_rng(0).uniform(-30, 30, (60, 4))).astype(np.float32)
INDEX = np.arange(60) % 3


def test_the_grid_is_of_the_rows_and_for_cosine_of_directions():
    for distance, grid in ((EUCLIDEAN, Grid.of(ROWS)), (COSINE, Grid.of_directions(4))):
        found = grid_for(ROWS, Centers(ROWS[:2], distance))
        finer = grid.exponents - found.exponents
        assert finer.tolist() == [int(distance is EUCLIDEAN)] * 4


def test_chunks_share_the_grid_of_the_first_if_it_suits_them():
    centers = Centers(ROWS[:2], EUCLIDEAN)
    first = grid_for(ROWS, centers).exponents.tolist()
    for factor, suits in [(4, True), (8, False), (0.125, True), (0.0625, False)]:
        rows = ROWS * np.float32(factor)
        found = grid_for(rows, centers).exponents.tolist()
        assert found == (first if suits else Grid.of(rows).exponents.tolist())


def test_directions_are_rounded_to_the_nearest_integer_on_their_grid():
    (part,), left = whole_parts(ROWS, Grid.of_directions(4), COSINE)
    assert not left.any()
    assert np.abs(part * 2.0**-45 - directions(ROWS)).max() <= 2.0**-46


def test_what_a_row_adds_is_what_is_in_the_sums():
    for distance in Distance:
        grid = grid_for(ROWS, Centers(ROWS[:2], distance))
        parts, left = whole_parts(ROWS, grid, distance)
        added = as_added(ROWS, distance)
        assert (parts[0] / grid.scales)[~left].tolist() == added[~left].tolist()


def test_only_rows_without_a_direction_are_left_for_cosine():
    rows = np.array([[1.0, 2.0], [np.inf, 0.0], [1e200, 0.0], [0.0, 0.0]])
    with QUIET:
        _, left = whole_parts(rows, Grid.of_directions(2), COSINE)
    assert left.any(axis=1).tolist() == [False, True, True, False]


def test_the_rest_completes_the_sums():
    grid = Grid.of(ROWS)
    (part,), left = whole_parts(ROWS, grid, EUCLIDEAN)
    assert left.any()
    plane = np.zeros((3, 4), np.int64)
    np.add.at(plane, INDEX, part.astype(np.int64))
    some = np.flatnonzero(left.any(axis=1))
    found = plus_rest(ExactSums(grid, {0: plane}), ROWS[some], INDEX[some], EUCLIDEAN)
    assert same_sums(found, of_rows(ROWS, INDEX, 3))


def test_whole_rows_are_added_to_sums_without_them():
    sums = of_rows(ROWS[:50], INDEX[:50], 3)
    assert same_sums(plus_rows(sums, ROWS[50:], INDEX[50:], EUCLIDEAN), of_rows(ROWS, INDEX, 3))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    rows, index = np.array([[bad, 1.0]]), np.zeros(1, int)
    zero = ExactSums.zero((1, 2))
    for distance in Distance:
        with pytest.raises(NotFinite):
            plus_rest(zero, rows, index, distance)
    with pytest.raises(NotFinite):
        rest_of_squares(rows[0])
    assert rest_of_squares(ROWS[0]) == total_of_squares(ROWS[0])
