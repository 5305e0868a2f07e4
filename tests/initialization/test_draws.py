"""Random draws by row number: uniform, independent, and the same for any grouping of rows."""

from functools import reduce
from itertools import pairwise
from operator import add

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.distance import Distance
from dkmeans.initialization.draws import (
    Draw,
    Drawn,
    Seed,
    as_weights,
    has_direction,
    lengthened,
)
from dkmeans.state import sum_up

EUCLIDEAN, COSINE = Distance.SQUARED_EUCLIDEAN, Distance.COSINE


def drawn(draw, weights, points, cuts=()):
    """Return the draw from rows that are cut at these numbers, added up in a tree."""
    borders = [0, *cuts, len(weights)]
    return sum_up(
        Drawn.of(draw, weights[low:high], low, points[low:high]) for low, high in pairwise(borders)
    )


def test_numbers_are_uniform_and_differ_by_seed_purpose_and_row():
    rows = np.arange(200_000)
    columns = [Seed(seed).of(purpose).uniform(rows) for seed in (0, 1) for purpose in (0, 1)]
    for column in columns:
        assert 0 < column.min() < column.max() < 1
        hits, _ = np.histogram(column, 100, (0, 1))
        # Chi squared of 99 degrees: 99 +- 14.
        assert ((hits - 2000) ** 2 / 2000).sum() < 99 + 6 * 14
        assert abs(np.corrcoef(column[1:], column[:-1])[0, 1]) < 0.012
    # Pairs of columns: 0 +- 1 / sqrt(200,000) = 0.0022.
    assert np.abs(np.corrcoef(columns) - np.eye(4)).max() < 0.012


def test_rows_far_apart_have_numbers_of_their_own():
    rows = np.array([0, 1, 2**32, 2**32 + 1, 2**53, 10**15])
    assert len(np.unique(Seed(7).uniform(rows))) == len(rows)


@given(st.integers(0, 2**100), st.integers(0, 10**15), st.integers(1, 50))
def test_a_rows_number_does_not_depend_on_its_neighbours(entropy, first, count):
    rows = np.arange(first, first + count)
    together = Seed(entropy).uniform(rows)
    assert [Seed(entropy).uniform(rows[i : i + 1])[0] for i in range(count)] == together.tolist()


def test_a_row_is_drawn_with_its_probability():
    weights = np.array([0.0, 1.0, 2.0, 5.0, 12.0])
    points, hits, tries = np.arange(5.0)[:, None], np.zeros(5), 4000
    for seed in range(tries):
        hits[drawn(Draw(Seed(seed), 3.0, False, EUCLIDEAN), weights, points, (2,)).numbers] += 1
    chances = np.minimum(1, 3 * weights / weights.sum())
    assert chances[-1] == 1
    # 4000 tries: a standard deviation of at most 0.8 %.
    assert (np.abs(hits / tries - chances) < 0.04).all()
    assert hits[0] == 0
    assert hits[-1] == tries


@given(st.data())
def test_parts_together_draw_the_rows_that_all_rows_at_once_draw(data):
    n = data.draw(st.integers(1, 60))
    # Eighths: their sums are exact, however they are grouped.
    weights = np.array(data.draw(st.lists(st.integers(0, 80), min_size=n, max_size=n))) / 8
    points = np.arange(float(n))[:, None]
    count, seed = data.draw(st.integers(1, 40)), Seed(data.draw(st.integers(0, 99)))
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1)))) if n > 1 else []
    found = drawn(Draw(seed, count, False, EUCLIDEAN), weights, points, cuts)
    chances = count * weights / weights.sum() if weights.any() else weights
    expected = np.flatnonzero(seed.uniform(np.arange(n)) < chances)
    assert sorted(found.numbers.tolist()) == expected.tolist()
    assert sorted(found.different()[:, 0].tolist()) == expected.tolist()


@given(st.data())
def test_as_many_different_rows_are_drawn_as_there_are(data):
    values = np.array(data.draw(st.lists(st.integers(0, 8), min_size=2, max_size=40)), float)
    draw = Draw(Seed(3), data.draw(st.integers(0, 12)), True, EUCLIDEAN)
    cuts = sorted(
        data.draw(st.sets(st.integers(1, 39)).map(lambda s: s & set(range(1, len(values)))))
    )
    found = drawn(draw, values, values[:, None], cuts)
    assert len(found.rows) == min(draw.count, len(np.unique(values[values > 0])))
    assert len(np.unique(found.rows)) == len(found.rows)
    whole = drawn(draw, values, values[:, None])
    np.testing.assert_array_equal(np.sort(found.numbers), np.sort(whole.numbers))


def test_parts_of_many_rows_keep_few():
    rng = np.random.default_rng(0)
    draw = Draw(Seed(1), 50.0, False, EUCLIDEAN)
    parts = [Drawn.of(draw, rng.random(1000), 1000 * i, rng.random((1000, 2))) for i in range(20)]
    assert all(len(part.numbers) < 50 + 6 * 50**0.5 for part in parts)
    assert len(reduce(add, parts).numbers) < 50 + 6 * 50**0.5


def test_rows_of_one_direction_are_copies_for_cosine_only():
    rows = np.array([[1, 2, 3], [3, 6, 9], [0.1, 0.2, 0.3], [-1, -2, -3]], np.float32)
    for distance, different in ((EUCLIDEAN, 4), (COSINE, 2)):
        draw = Draw(Seed(0), 4, True, distance)
        assert len(Drawn.of(draw, np.ones(4), 0, rows).rows) == different


def test_minus_zero_is_zero():
    rows = np.array([[0.0], [-0.0]], np.float32)
    assert len(Drawn.of(Draw(Seed(0), 2, True, EUCLIDEAN), np.ones(2), 0, rows).rows) == 1


def test_the_rounding_error_of_a_cosine_distance_has_no_weight():
    distances = np.array([0.0, 1e-16, 1e-15, 1e-12, 2.0])
    rows = np.ones((5, 2))
    assert as_weights(distances, rows, COSINE).tolist() == [0, 0, 0, 1e-12, 2.0]
    assert as_weights(distances, rows, EUCLIDEAN) is distances


def test_the_part_of_a_cosine_distance_that_no_center_can_take_away_has_no_weight():
    lengths = np.array([0.0, 1e-30, 1e-8, 5e-7, 1.0])
    rows = lengths[:, None] * np.array([0.6, 0.8])
    scaled = np.minimum(lengths * 1e6, 1)  # as the documented estimator scales rows
    for cosine in (1.0, 0.5, -1.0):
        weights = as_weights(1 - scaled * cosine, rows, COSINE)
        expected = np.where(scaled > 1e-6, scaled * (1 - cosine), 0.0)
        np.testing.assert_allclose(weights, expected, rtol=1e-12, atol=1e-14)


def test_short_rows_become_candidates_of_length_one_for_cosine_only():
    rows = np.array([[0, 0], [3e-30, 4e-30], [3e-9, 4e-9], [3, 4]], np.float32)
    found = lengthened(rows, COSINE)
    expected = [[0, 0], [0.6, 0.8], [0.6, 0.8], [3, 4]]
    np.testing.assert_allclose(found, np.array(expected, np.float32))
    assert found.dtype == np.float32
    assert lengthened(rows, EUCLIDEAN) is rows
    assert has_direction(rows, COSINE).tolist() == [False, False, True, True]
    assert has_direction(rows, EUCLIDEAN).all()
