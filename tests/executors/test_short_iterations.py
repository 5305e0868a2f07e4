"""Short iterations: the faster of two ways is found, and the slower one is rarely tried."""

import threading

import numpy as np
import pytest

from dkmeans.data.arrays import array_chunks
from dkmeans.executors.short_iterations import ShortIterations
from dkmeans.executors.threads import Threads


def run(short, together, alone, reductions, busy=2.0):
    """Return for each reduction whether one thread computes it, given what both ways take."""
    chosen = []
    for _ in range(reductions):
        is_alone = short.begin()
        seconds = alone if is_alone else together
        short.end(seconds, alone if is_alone else busy * together, alone=is_alone)
        chosen.append(is_alone)
    return chosen


def test_the_other_way_is_tried_twice_and_then_the_faster_one_taken():
    chosen = run(ShortIterations(), together=0.005, alone=0.003, reductions=12)
    assert chosen == [False] * 3 + [True] * 9
    chosen = run(ShortIterations(), together=0.003, alone=0.005, reductions=23)
    assert chosen == [False] * 3 + [True] * 2 + [False] * 15 + [True] * 2 + [False]


def test_the_first_reduction_of_a_way_does_not_count():
    short, before, chosen = ShortIterations(), False, []
    for _ in range(60):
        is_alone = short.begin()
        # Threads that have slept are slow at first, and then they are the faster way.
        seconds = 0.005 if is_alone else 0.006 if before else 0.004
        short.end(seconds, 2 * seconds, alone=is_alone)
        before = is_alone
        chosen.append(is_alone)
    assert chosen.count(True) <= 3 * 2


@pytest.mark.parametrize(("together", "alone"), [(0.005, 0.003), (0.003, 0.005)])
def test_the_slower_way_is_tried_more_and_more_rarely(together, alone):
    chosen = run(ShortIterations(), together, alone, reductions=1000)
    slower = alone > together
    assert 2 * 3 <= chosen[3:].count(slower) <= 2 * 7


def test_both_ways_are_tried_anew_when_iterations_become_shorter():
    short = ShortIterations()
    assert run(short, together=0.008, alone=0.012, reductions=12).count(True) == 2
    assert run(short, together=0.005, alone=0.003, reductions=5)[1:] == [True] * 4


def test_one_thread_never_takes_on_long_iterations_or_those_of_many_cores():
    assert not any(run(ShortIterations(), together=0.02, alone=0.01, reductions=50))
    assert not any(run(ShortIterations(), together=0.005, alone=0.003, reductions=50, busy=16.0))
    short = ShortIterations()
    assert run(short, together=0.005, alone=0.003, reductions=5)[-1]
    assert run(short, together=0.05, alone=0.04, reductions=5) == [True] + [False] * 4


def test_times_that_differ_at_random_lead_to_few_trials():
    short, rng, chosen = ShortIterations(), np.random.default_rng(0), []
    for _ in range(200):
        is_alone = short.begin()
        seconds = (0.006 if is_alone else 0.003) * rng.uniform(0.7, 1.5)
        short.end(seconds, seconds, alone=is_alone)
        chosen.append(is_alone)
    assert chosen.count(True) < 200 / 4


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_first_error_of_one_thread_is_raised_and_the_next_reduction_works(monkeypatch, error):
    batch = array_chunks(np.arange(4000.0).reshape(-1, 2), "rows", chunk_bytes=2000)
    monkeypatch.setattr(ShortIterations, "begin", lambda _: True)

    def fail(loaded, first):
        if loaded.chunk.start >= first:
            raise error(loaded.chunk.start)
        return 1

    with Threads(2) as threads:
        starts = [chunk.start for chunk in batch]
        with pytest.raises(error, match=f"^{starts[3]}$"):
            threads.map_reduce(fail, [batch], starts[3])
        assert threads.map_reduce(fail, [batch], 10**9).totals == [len(starts)]


def test_one_thread_computes_the_same_as_all_of_them(monkeypatch):
    batch = array_chunks(np.arange(4000.0).reshape(-1, 2), "rows", chunk_bytes=2000)
    names: set[str] = set()

    def add_up(loaded, value):
        names.add(threading.current_thread().name)
        return float(loaded.of_width(2).sum()) + value

    with Threads(2) as threads:
        found = []
        for is_alone in (False, True):
            names.clear()
            monkeypatch.setattr(ShortIterations, "begin", lambda _, is_alone=is_alone: is_alone)
            found.append(threads.map_reduce(add_up, [batch, batch], 1.0).totals)
            is_here = names == {threading.current_thread().name}
            assert is_here == is_alone
    assert found[0] == found[1]
    assert len(found[0]) == 2
