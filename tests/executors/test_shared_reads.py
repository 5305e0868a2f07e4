"""Shared reads: the calls of several threads are computed together, each chunk loaded once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import pytest

from dkmeans import Dataset
from dkmeans.executors import Serial
from dkmeans.executors.reduction import participant
from dkmeans.executors.shared_reads import Participant, SharedReads


@dataclass(frozen=True)
class Total:
    value: float
    numbers: frozenset = frozenset()

    def __add__(self, other):
        return Total(self.value + other.value, self.numbers | other.numbers)


def weighed(loaded, factor):
    return Total(factor * float(loaded.points.sum()), frozenset([participant.get()]))


class Counting(Serial):
    """An executor that counts its passes."""

    passes = 0

    def map_reduce(self, function, batches, value):
        self.passes += 1
        return super().map_reduce(function, batches, value)


def batch(size=20):
    (found,) = Dataset.from_array(np.arange(size, dtype=float)[:, None]).batches()
    return found


def test_what_is_computed_together_sees_the_context_of_no_participant():
    own, seen = ContextVar("own", default=None), []

    class Watching(Counting):
        def map_reduce(self, function, batches, value):
            seen.append(own.get())
            return super().map_reduce(function, batches, value)

        def map(self, function, chunks, value):
            seen.append(own.get())
            return super().map(function, chunks, value)

    shared = SharedReads(Watching(), 1)
    own.set("a participant")
    Participant(shared, 0).map_reduce(weighed, [batch()], 1.0)
    assert list(Participant(shared, 0).map(weighed, batch(), 1.0))
    assert seen == [None, None]


def test_calls_over_the_same_batch_are_one_pass_and_others_are_passes_of_their_own():
    inner, same, other = Counting(), batch(), batch(10)
    shared = SharedReads(inner, 3)

    def work(number):
        own = Participant(shared, number)
        first = own.map_reduce(weighed, [same.numbered() if number else same], float(number))
        second = own.map_reduce(weighed, [other if number == 2 else same], float(number))
        shared.leave()
        return first.totals + second.totals

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(work, range(3)))
    for number, totals in enumerate(found):
        assert [total.value for total in totals] == [number * 190, number * (45, 190)[number < 2]]
        assert {*totals[0].numbers, *totals[1].numbers} == {number}
    assert inner.passes == 3


def test_participants_that_have_left_are_not_waited_for():
    shared, rows = SharedReads(Serial(), 2), batch()
    shared.leave()
    (total,) = Participant(shared, 1).map_reduce(weighed, [rows], 2.0).totals
    assert total.value == 380
    parts = Participant(shared, 1).map(weighed, rows, 1.0)
    assert sum(part.value for part in parts) == 190


def test_an_error_reaches_every_call_and_a_stop_ends_those_that_wait():
    def failing(loaded, value):
        raise ValueError(value)

    shared, rows = SharedReads(Serial(), 1), batch()
    with pytest.raises(ValueError, match="bad"):
        Participant(shared, 0).map_reduce(failing, [rows], "bad")
    shared = SharedReads(Serial(), 2)
    timer = threading.Timer(0.05, shared.stop)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        Participant(shared, 0).map_reduce(weighed, [rows], 1.0)
    timer.join()
