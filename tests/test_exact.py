"""Exact sums, held to `fractions.Fraction`: any values, any grid, any order and grouping."""

import itertools
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.exact import ExactSums, of_rows
from dkmeans.exact_grid import FewValues, Grid
from dkmeans.exact_total import total_of
from tests.exactly import same_sums
from tests.values import finite, rows_of_clusters, usual


def check_exact(sums, rows, index):
    k, d = sums.shape
    for cluster, column in itertools.product(range(k), range(d)):
        members = map(Fraction, rows[index == cluster, column].tolist())
        assert sums.exact(cluster, column) == sum(members, Fraction(0))


@given(rows_of_clusters())
def test_sums_of_rows_are_those_of_fractions(problem):
    rows, index, k = problem
    check_exact(of_rows(rows, index, k), rows, index)


@given(rows_of_clusters(), st.data())
def test_sums_on_any_grids_add_up_to_those_of_all_rows(problem, data):
    rows, index, k = problem
    parts = []
    for part in np.array_split(np.random.default_rng(0).permutation(len(rows)), 3):
        exponents = data.draw(st.lists(st.integers(-960, 960), min_size=rows.shape[1], max_size=3))
        grid = Grid(np.resize(np.array(exponents, np.int64), rows.shape[1]))
        parts.append(of_rows(rows[part], index[part], k, grid))
    total = parts[0] + parts[1] + parts[2]
    check_exact(total, rows, index)
    assert same_sums(parts[2] + (parts[0] + parts[1]), total)


@given(rows_of_clusters())
def test_means_are_correctly_rounded(problem):
    rows, index, k = problem
    sums, counts = of_rows(rows, index, k), np.bincount(index, minlength=k)
    means = sums.means(counts)
    for cluster, column in np.ndindex(*sums.shape):
        expected = sums.exact(cluster, column) / max(1, int(counts[cluster]))
        assert means[cluster, column] == float(expected)


@pytest.mark.parametrize("count", [1, 3, 7, 500])
def test_means_of_two_planes_are_correctly_rounded(count):
    rng = np.random.default_rng(count)
    planes = {0: rng.integers(-(2**61), 2**61, (40, 5)), -1: rng.integers(-(2**40), 2**40, (40, 5))}
    # Sums that lie in the middle between two float64, or next to it.
    planes[0][:20] = 2**53 * count + rng.integers(-1, 2, (20, 5)) * count
    planes[-1][:20] = rng.integers(-1, 2, (20, 5))
    sums = ExactSums(Grid(np.full(5, -30)), planes)
    means = sums.means(np.full(40, count))
    for cluster, column in np.ndindex(40, 5):
        assert means[cluster, column] == float(sums.exact(cluster, column) / count)


def test_the_mean_of_no_rows_is_zero_and_of_too_large_sums_infinite():
    sums = of_rows(np.full((3, 1), 1.7e308), np.zeros(3, int), 2)
    assert sums.means(np.array([1, 0])).tolist() == [[np.inf], [0.0]]
    assert sums.means(np.array([3, 0])).tolist() == [[1.7e308], [0.0]]


def test_planes_are_carried_before_they_overflow():
    one = of_rows(np.full((2**14, 1), 2.0**8 - 2.0**-16, np.float32), np.zeros(2**14, int), 1)
    total, expected = one, one.exact(0, 0)
    for _ in range(40):  # doubles
        total, expected = total + total, 2 * expected
        assert max(np.abs(plane).max() for plane in total.planes.values()) < 2**62
        assert total.exact(0, 0) == expected


def test_planes_at_their_limits_are_added_exactly():
    grid, least = Grid(np.zeros(1, np.int64)), np.array([[-(2**62)]])
    piece = ExactSums(grid, {0: least})
    assert (piece + piece + piece).exact(0, 0) == -3 * 2**62
    full = np.array([[2**61 - 1]])
    both = ExactSums(grid, {0: full, -1: full})
    assert (both + both + both).exact(0, 0) == 3 * both.exact(0, 0)


@given(rows_of_clusters(), st.integers(-5, 5) | st.just(2**40 + 1) | finite)
def test_products_are_added_to_sums_and_negative_ones_are_taken_away(problem, factor):
    rows, index, k = problem
    sums = of_rows(rows, index, k)
    columns = np.arange(rows.shape[1])
    factors = np.full(len(columns), float(factor))
    changed = sums.plus_products(np.zeros_like(columns), columns, rows[0], factors)
    for column in columns:
        expected = sums.exact(0, column) + Fraction(factor) * Fraction(float(rows[0, column]))
        assert changed.exact(0, column) == expected


def test_sums_are_small_when_they_travel():
    sums = of_rows(np.random.default_rng(0).normal(size=(99, 50)), np.zeros(99, int), 200)
    assert len(pickle.dumps(sums)) < 4 * sums.shape[0] * sums.shape[1] * 8


@given(rows_of_clusters(), st.lists(usual.map(abs) | finite.map(abs), min_size=12, max_size=12))
def test_means_by_weights_are_correctly_rounded(problem, weights):
    rows, index, k = problem
    weights = np.array(weights[: len(rows)])
    sums, totals = of_rows(rows, index, k), of_rows(weights[:, None], index, k)
    means = sums.means(totals)
    for cluster, column in np.ndindex(*sums.shape):
        expected = sums.exact(cluster, column) / (totals.exact(cluster, 0) or 1)
        try:
            rounded = float(expected)
        except OverflowError:
            rounded = np.inf if expected > 0 else -np.inf
        assert means[cluster, column] == rounded


def test_means_in_the_middle_between_two_floats_are_rounded_to_even():
    odd, even = 1 + 2.0**-52, 1.0
    for rows, expected in (([even, odd], even), ([odd, odd + 2.0**-52], 1 + 2.0**-51)):
        sums = of_rows(np.array(rows)[:, None], np.zeros(2, np.int64), 1)
        assert sums.means(np.array([2])).item() == expected


@given(rows_of_clusters(), rows_of_clusters(), rows_of_clusters())
def test_sums_grow_in_place_as_by_additions_and_change_no_part(one, two, three):
    k = max(one[2], two[2], three[2])
    d = min(problem[0].shape[1] for problem in (one, two, three))
    parts = [of_rows(rows[:, :d], index, k) for rows, index, _ in (one, two, three)]
    before = [{m: plane.copy() for m, plane in part.planes.items()} for part in parts]
    grown = (parts[0] + parts[1]).plus_in_place(parts[2])
    assert same_sums(grown, parts[0] + parts[1] + parts[2])
    for part, planes in zip(parts, before, strict=True):
        assert all((part.planes[m] == plane).all() for m, plane in planes.items())


def test_a_copy_of_sums_stays_when_these_change():
    sums = of_rows(np.ones((3, 2)), np.zeros(3, np.int64), 2)
    assert sums.compacted() is sums
    sums.planes[0].flags.writeable = False
    received, sums = sums.compacted(), sums.copied()
    assert received.planes[0].flags.writeable
    assert same_sums(received, sums)
    own = sums.copied()
    before = own.exact(0, 0)
    sums.planes[0][:] = 0
    assert own.exact(0, 0) == before


@given(rows_of_clusters())
def test_the_total_of_sums_is_that_of_their_values(problem):
    rows, index, k = problem
    assert of_rows(rows, index, k).total() == total_of(rows)


@given(rows_of_clusters())
def test_sums_are_rounded_once(problem):
    sums = of_rows(*problem)
    found = sums.rounded()
    for cluster, column in np.ndindex(*sums.shape):
        try:
            expected = float(sums.exact(cluster, column))
        except OverflowError:
            expected = np.inf if sums.exact(cluster, column) > 0 else -np.inf
        assert found[cluster, column] == expected


def test_sums_are_rounded_to_integers_only_if_all_are_whole():
    index = np.array([0, 1, 1])
    whole = of_rows(np.array([[3.0], [0.5], [0.5]]), index, 2).rounded()
    assert (whole.dtype, whole.tolist()) == (np.int64, [[3], [1]])
    other = of_rows(np.array([[3.0], [0.5], [0.25]]), index, 2).rounded()
    assert (other.dtype, other.tolist()) == (np.float64, [[3.0], [0.75]])
    large = of_rows(np.array([[2.0**60], [0.0], [1.0]]), index, 2).rounded()
    assert large.dtype == np.float64


@given(rows_of_clusters(), rows_of_clusters())
def test_rows_of_sums_follow_one_another_and_are_gathered_in_groups(one, other):
    sums = [of_rows(rows[:, :1], np.arange(len(rows)), len(rows)) for rows, _, _ in (one, other)]
    both = sums[0].followed_by(sums[1])
    values = [Fraction(x) for rows in (one[0], other[0]) for x in rows[:, 0].tolist()]
    assert [both.exact(i, 0) for i in range(len(values))] == values
    order = np.random.default_rng(0).permutation(len(values))
    starts = np.arange(0, len(values), 3)
    groups = both.gathered(order, starts)
    for i, start in enumerate(starts):
        assert groups.exact(i, 0) == sum(values[j] for j in order[start : start + 3])
    assert both.gathered(order, starts[:0]).shape == (0, 1)


@given(finite, finite)
def test_the_terms_of_a_sum_add_up_to_it(a, b):
    sums = of_rows(np.array([[a], [b]]), np.zeros(2, np.int64), 1)
    assert sum(map(Fraction, sums.terms(0)), Fraction(0)) == Fraction(a) + Fraction(b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounded_rows_and_what_was_rounded_away_are_the_rows(dtype):
    rng = np.random.default_rng(8)
    rows = (rng.normal(size=(300, 5)) * 10.0 ** rng.integers(-30, 3, (300, 5))).astype(dtype)
    rows[0] = [0.0, -0.0, np.finfo(dtype).smallest_subnormal, -1.0, 2.0**-1 / 3]
    index, grid = rng.integers(4, size=300), Grid(np.full(5, -38, np.int64))
    scaled = rows.astype(np.float64) * 2.0**38
    planes = {0: np.rint(scaled)}
    if dtype == np.float64:
        planes[-1] = np.rint((scaled - planes[0]) * 2.0**32)
    sums = ExactSums.zero((4, 5), grid)
    for m, values in planes.items():
        plane = np.zeros((4, 5), np.int64)
        np.add.at(plane, index, values.astype(np.int64))
        sums += ExactSums(grid, {m: plane})
    some = [slice(0, 100), slice(100, 300)]
    parts = [
        ExactSums.zero((4, 5), grid).plus_few(grid.rounded_away(rows[s]).moved(index[s]))
        for s in some
    ]
    assert same_sums(parts[0] + parts[1] + sums, of_rows(rows, index, 4))
    assert same_sums(sums.plus_in_place(parts[1]).plus_in_place(parts[0]), of_rows(rows, index, 4))


def test_few_values_are_added_to_the_planes_before_they_are_many(monkeypatch):
    monkeypatch.setattr("dkmeans.exact._FEW_VALUES", 10)
    grid, one = Grid(np.zeros(2, np.int64)), np.full(6, 0.25)
    place = np.arange(6) % 2
    part = ExactSums.zero((2, 2), grid).plus_few(FewValues.of(place, place, one, grid))
    total = part + ExactSums.zero((2, 2), grid)
    assert len(total.few) == 6
    total = total.plus_in_place(part)
    assert total.few is None
    assert total.means(np.ones(2, np.int64)).tolist() == [[1.5, 0.0], [0.0, 1.5]]
    assert part.total() == part.in_planes().total()
    assert part.exact(1, 1) == part.on(Grid(grid.exponents - 7)).exact(1, 1) == 0.75


def test_few_values_stay_beside_large_planes_and_count_in_each_piece(monkeypatch):
    monkeypatch.setattr("dkmeans.exact._LARGE_SUMS", 40)
    monkeypatch.setattr("dkmeans.exact._PIECE_SUMS", 4)
    rng, grids = np.random.default_rng(0), [Grid(np.full(2, each)) for each in (0, -3)]
    rows, index = rng.integers(-9, 9, (60, 2)) / 16, np.arange(60) % 20
    expected = of_rows(np.concatenate([rows, rows]), np.concatenate([index, index]), 20)
    clusters, columns = np.repeat(index, 2), np.tile(np.arange(2), 60)
    few = [FewValues.of(clusters, columns, rows.ravel(), grid) for grid in grids]
    parts = [
        ExactSums.zero((20, 2), grid).plus_few(each) for grid, each in zip(grids, few, strict=True)
    ]
    assert len(parts[0].compacted().few) == len(few[0])
    counts = np.full(20, 6)
    total = parts[0] + parts[1]
    assert same_sums(total, expected)
    assert np.array_equal((parts[0] + parts[0]).means(counts), expected.means(counts))
