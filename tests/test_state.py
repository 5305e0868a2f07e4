"""The values that are added up: laws of monoids."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.exact import ExactSums
from dkmeans.exact_grid import FewValues, Grid
from dkmeans.exact_total import ExactTotal
from dkmeans.state import (
    Farthest,
    PartialSums,
    Score,
    SideBySide,
    StopReason,
    on_host,
    sum_up,
)
from tests.exactly import same_partial_sums, sums_of

number = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**40)
totals = st.builds(ExactTotal, st.integers())
scores = st.builds(Score, totals, totals)


@st.composite
def partial_sums(draw, k=3, d=2):
    values = draw(st.lists(number, min_size=k * d, max_size=k * d))
    assigned = draw(st.lists(counts, min_size=k, max_size=k))
    sums = sums_of(np.reshape(values, (k, d)))
    return PartialSums(sums, np.array(assigned, np.int64), draw(totals))


@given(partial_sums(), partial_sums(), partial_sums())
def test_partial_sums_add_up_in_any_grouping(a, b, c):
    assert same_partial_sums((a + b) + c, a + (b + c))


@given(partial_sums(), partial_sums())
def test_partial_sums_add_up_in_any_order(a, b):
    assert same_partial_sums(a + b, b + a)


@given(partial_sums())
def test_the_sums_of_no_rows_change_nothing(a):
    zero = PartialSums.zero(a.sums.shape)
    assert same_partial_sums(a + zero, a)
    assert same_partial_sums(zero + a, a)


@given(partial_sums(), partial_sums())
def test_adding_leaves_both_terms_as_they_were(a, b):
    before = pickle.dumps((a, b))
    a + b  # the sum itself is not needed
    assert pickle.dumps((a, b)) == before


def test_the_sums_of_no_rows_are_zero():
    zero = PartialSums.zero((4, 2))
    assert same_partial_sums(zero, PartialSums(sums_of(np.zeros((4, 2))), np.zeros(4, np.int64)))
    assert (zero.counts.shape, zero.counts.dtype) == ((4,), np.int64)


@given(scores, scores, scores)
def test_scores_add_up_in_any_grouping_and_order(a, b, c):
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + Score() == a


def test_a_sum_keeps_the_order_of_its_parts():
    for number in range(1, 20):
        parts = [chr(ord("a") + i) for i in range(number)]
        assert sum_up(parts) == "".join(parts)


def test_the_sum_of_one_part_is_that_part():
    part = Score(ExactTotal.of(3), ExactTotal(5))
    assert sum_up([part]) is part


def test_a_sum_shares_no_memory_with_its_parts():
    parts = [PartialSums(ExactSums.of_counts(np.full(2, i)), np.full(2, i)) for i in range(4)]
    total = sum_up(SideBySide((part,)) for part in parts).parts[0]
    assert total.sums.planes[0].tolist() == [[6], [6]]
    assert [part.sums.planes[0][0, 0] for part in parts] == [0, 1, 2, 3]
    assert [part.counts[0] for part in parts] == [0, 1, 2, 3]


def test_the_few_values_of_sums_are_in_their_planes_once_they_leave_their_thread():
    rows, index, grid = np.full((2, 1), 0.5), np.zeros(2, np.int64), Grid(np.zeros(1, np.int64))
    few = FewValues.of(index, index, rows.ravel(), grid)
    sums = PartialSums(ExactSums.zero((2, 1), grid).plus_few(few), np.array([2, 0]))
    (sent,) = on_host(SideBySide((sums,))).parts
    assert (sums.sums.few, sent.sums.few) == (few, None)
    assert sent.sums.exact(0, 0) == 1


def test_the_sum_of_no_parts_is_an_error():
    with pytest.raises(TypeError):
        sum_up([])


def test_only_small_changes_and_unchanged_centers_mean_convergence():
    assert {reason for reason in StopReason if reason.converged} == {
        StopReason.CONVERGED,
        StopReason.STILL,
        StopReason.UNCHANGED,
    }


def test_parts_with_weights_and_parts_without_add_up():
    rows = np.array([[1.0, 2.0]])
    one = PartialSums(sums_of(3 * rows), np.array([2]), weights=sums_of([[3.0]]))
    other = PartialSums(sums_of(rows), np.array([1]))
    for total in (one + other, other + one):
        assert total.counts.tolist() == [3]
        assert total.totals.tolist() == [4]
        assert total.means.tolist() == rows.tolist()
    assert (other + other).weights is None


def test_equal_rows_among_the_farthest_are_one_entry_of_their_total_weight():
    def farthest(weight):
        table = np.array([[1.0], [2.0]]), np.array([5.0, 4.0]), np.zeros(2, int), np.ones(2, int)
        return Farthest.among(*table, most=2, weights=weight and sums_of([[weight]] * 2))

    both = farthest(0.25) + farthest(0.5)
    assert both.copies.tolist() == [2, 2]
    assert [both.row_weights.exact(i, 0) for i in range(2)] == [0.75, 0.75]
    mixed = farthest(None) + farthest(0.5)
    assert [mixed.row_weights.exact(i, 0) for i in range(2)] == [1.5, 1.5]
    assert (farthest(None) + farthest(None)).weights is None
