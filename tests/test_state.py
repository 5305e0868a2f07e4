"""The values that are added up: laws of monoids, and of the tree in which they are added."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.state import PartialSums, Score, StopReason, tree_sum

whole = st.integers(-(2**40), 2**40).map(float)
counts = st.integers(0, 2**40)
scores = st.builds(Score, counts, whole)


@st.composite
def partial_sums(draw, k=3, d=2):
    sums = draw(st.lists(whole, min_size=k * d, max_size=k * d))
    assigned = draw(st.lists(counts, min_size=k, max_size=k))
    return PartialSums(np.reshape(sums, (k, d)), np.array(assigned, np.int64), draw(whole))


def same(a, b):
    return (
        a.sums.tobytes() == b.sums.tobytes()
        and a.counts.tobytes() == b.counts.tobytes()
        and a.inertia == b.inertia
    )


def random_parts(number, seed):
    rng = np.random.default_rng(seed)
    return [
        PartialSums(
            rng.normal(size=(2, 3)) * 10.0 ** rng.integers(-9, 9),
            rng.integers(0, 99, 2),
            float(rng.normal()),
        )
        for _ in range(number)
    ]


@given(partial_sums(), partial_sums(), partial_sums())
def test_partial_sums_add_up_in_any_grouping(a, b, c):
    assert same((a + b) + c, a + (b + c))


@given(partial_sums(), partial_sums())
def test_partial_sums_add_up_in_any_order(a, b):
    assert same(a + b, b + a)


@given(partial_sums())
def test_the_sums_of_no_rows_change_nothing(a):
    zero = PartialSums.zero(a.sums.shape)
    assert same(a + zero, a)
    assert same(zero + a, a)


@given(partial_sums(), partial_sums())
def test_adding_leaves_both_terms_as_they_were(a, b):
    before = a.sums.copy(), a.counts.copy(), b.sums.copy(), b.counts.copy()
    a + b  # the sum itself is not needed
    after = a.sums, a.counts, b.sums, b.counts
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))


def test_the_sums_of_no_rows_are_float64_and_int64():
    zero = PartialSums.zero((4, 2))
    assert (zero.sums.shape, zero.sums.dtype) == ((4, 2), np.float64)
    assert (zero.counts.shape, zero.counts.dtype) == ((4,), np.int64)


@given(scores, scores, scores)
def test_scores_add_up_in_any_grouping_and_order(a, b, c):
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + Score(0, 0.0) == a


@given(st.integers(1, 40), st.integers(0, 6), st.integers(0, 2**32))
def test_sums_of_aligned_runs_add_up_to_the_same_bits(number, j, seed):
    parts = random_parts(number, seed)
    size = 2**j
    runs = [parts[start : start + size] for start in range(0, number, size)]
    assert same(tree_sum(tree_sum(run) for run in runs), tree_sum(parts))


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32))
def test_sums_in_levels_add_up_to_the_same_bits(number, i, j, seed):
    parts = random_parts(number, seed)
    level = parts
    for size in (2**i, 2**j):
        level = [tree_sum(level[start : start + size]) for start in range(0, len(level), size)]
    assert same(tree_sum(level), tree_sum(parts))


def test_a_sum_keeps_the_order_of_its_parts():
    for number in range(1, 20):
        parts = [chr(ord("a") + i) for i in range(number)]
        assert tree_sum(parts) == "".join(parts)


def test_the_sum_of_one_part_is_that_part():
    part = Score(3, 1.5)
    assert tree_sum([part]) is part


def test_the_sum_of_no_parts_is_an_error():
    with pytest.raises(ValueError, match="at least one part"):
        tree_sum([])


def test_only_a_small_change_or_unchanged_centers_mean_convergence():
    assert {reason for reason in StopReason if reason.converged} == {
        StopReason.CONVERGED,
        StopReason.UNCHANGED,
    }
