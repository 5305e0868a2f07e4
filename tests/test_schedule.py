"""How batches are dealt into iterations; numbers stand for batches."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.schedule import Schedule


def dealt(schedule, batches, pending_steps=0, limit=None):
    return list(schedule.iterations(iter(batches), pending_steps, limit))


def test_a_full_batch_is_an_iteration_and_forgets_its_counts():
    assert Schedule.full_batch() == Schedule(1, keeps_counts=False)
    assert dealt(Schedule.full_batch(), "abc") == [("a",), ("b",), ("c",)]


def test_a_single_mini_batch_is_an_iteration_and_keeps_its_counts():
    assert Schedule.mini_batch(1) == Schedule(1, keeps_counts=True)
    assert dealt(Schedule.mini_batch(1), "ab") == [("a",), ("b",)]


def test_several_mini_batches_are_an_iteration_and_forget_their_counts():
    assert Schedule.mini_batch(3) == Schedule(3, keeps_counts=False)
    assert dealt(Schedule.mini_batch(3), "abcdef") == [("a", "b", "c"), ("d", "e", "f")]


def test_the_last_iteration_stays_incomplete_when_the_batches_end():
    assert dealt(Schedule.mini_batch(3), "abcd") == [("a", "b", "c"), ("d",)]


def test_the_first_iteration_completes_the_one_that_was_begun():
    assert dealt(Schedule.mini_batch(3), "abcd", pending_steps=2) == [("a",), ("b", "c", "d")]


def test_a_limit_counts_steps_not_iterations():
    assert dealt(Schedule.mini_batch(3), "abcdef", limit=4) == [("a", "b", "c"), ("d",)]
    assert dealt(Schedule.mini_batch(3), "abcdef", 1, limit=1) == [("a",)]


def test_no_batches_make_no_iterations():
    assert dealt(Schedule.mini_batch(3), "") == []
    assert dealt(Schedule.mini_batch(3), "", pending_steps=1) == []


@pytest.mark.parametrize("steps", [1, 3])
def test_no_batch_is_taken_beyond_the_limit(steps):
    batches = count()
    iterations = Schedule.mini_batch(steps).iterations(batches, 0, 4)
    assert [batch for iteration in iterations for batch in iteration] == [0, 1, 2, 3]
    assert next(batches) == 4


def test_batches_are_taken_one_iteration_at_a_time():
    batches = count()
    iterations = Schedule.mini_batch(2).iterations(batches, 0, None)
    assert next(iterations) == (0, 1)
    assert next(batches) == 2


@given(st.integers(1, 7), st.integers(0, 30), st.one_of(st.none(), st.integers(1, 40)), st.data())
def test_every_batch_up_to_the_limit_is_dealt_once_and_in_order(steps, number, limit, data):
    pending = data.draw(st.integers(0, steps - 1))
    iterations = dealt(Schedule.mini_batch(steps), range(number), pending, limit)
    batches = [batch for iteration in iterations for batch in iteration]
    assert batches == list(range(number if limit is None else min(number, limit)))
    sizes = [len(iteration) for iteration in iterations]
    if sizes:
        sizes[0] += pending
        assert all(size == steps for size in sizes[:-1])
        assert 0 < sizes[-1] <= steps
