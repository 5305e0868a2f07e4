"""Runs: however chunks are dealt out, they are folded in the same tree."""

import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.errors import InvalidData
from dkmeans.executors.read_ahead import AHEAD, loaded
from dkmeans.executors.reduction import Cost
from dkmeans.executors.runs import RunTotal, merged, plan, reduce_batches, reduce_runs
from dkmeans.state import tree_sum
from tests.numbered import Numbers

fast = settings(max_examples=200, deadline=None)


class Tree(str):
    """A monoid that shows how it was added up."""

    def __add__(self, other):
        return Tree(f"({self!s} {other!s})")


def batch_of(chunks):
    return Batch.of(Chunk(Numbers(chunks), 0, chunks))


counts = st.lists(st.integers(1, 300), min_size=1, max_size=4)
weights_of_threads = st.lists(st.floats(0.01, 100), min_size=1, max_size=12)


@fast
@given(counts, weights_of_threads, st.sampled_from([1, 4, 16]))
def test_every_chunk_is_in_one_run_and_the_runs_fold_to_the_same_tree(chunks, weights, parts):
    runs = plan([batch_of(n) for n in chunks], weights, parts)
    for number, count in enumerate(chunks):
        mine = [run for run in runs if run.batch == number]
        assert [i for run in mine for i in range(run.start, run.stop)] == list(range(count))
    shares = [run.share for run in runs]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] < len(weights)
    leaves = [[Tree(i) for i in range(count)] for count in chunks]
    folds = [
        RunTotal(run, tree_sum(leaves[run.batch][run.start : run.stop]), Cost()) for run in runs
    ]
    expected = [tree_sum(each) for each in leaves]
    assert reduce_batches(folds, len(chunks)) == expected
    assert reduce_batches(merged(folds), len(chunks)) == expected
    some = [part for i in range(0, len(folds), 3) for part in merged(folds[i : i + 3])]
    assert reduce_batches(merged(some), len(chunks)) == expected


@fast
@given(st.integers(1, 10**6), st.integers(1, 64))
def test_there_are_some_runs_for_each_thread_however_many_chunks(chunks, shares):
    runs = plan([batch_of(chunks)], [1] * shares, 4)
    assert len(runs) <= 12 * shares
    loads = np.bincount([run.share for run in runs], [run.size for run in runs], shares)
    assert loads.max() <= 1.3 * chunks / shares + 1


@fast
@given(st.integers(1000, 10**6), weights_of_threads)
def test_a_share_is_as_large_as_its_weight_says(chunks, weights):
    runs = plan([batch_of(chunks)], weights, 4)
    loads = np.bincount([run.share for run in runs], [run.size for run in runs], len(weights))
    wanted = chunks * np.array(weights) / sum(weights)
    assert loads.min() >= 1
    assert (np.abs(loads - wanted) <= 0.3 * wanted.min() + len(weights) + 2).all()
    assert len(runs) <= 40 * len(weights)


def test_runs_become_smaller_towards_the_end_of_a_share():
    runs = plan([batch_of(64)], [1, 1], 8)
    assert [run.size for run in runs] == [16, 8, 4, 4, 16, 8, 4, 4]
    assert [run.share for run in runs] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_the_steps_of_an_iteration_are_dealt_out_together():
    runs = plan([batch_of(1) for _ in range(10)], [1, 1], 4)
    assert [run.share for run in runs] == [0] * 5 + [1] * 5


# Reading ahead.


@dataclass(frozen=True)
class Slow(Numbers):
    """Rows that take a while to read."""

    key: str = "slow"
    broken: int = -1

    def read(self, start, stop):
        with LOCK:
            READING.append(start)
        time.sleep(0.02)
        if start == self.broken:
            raise ValueError("broken")
        return super().read(start, stop)


LOCK, READING = threading.Lock(), []


@pytest.fixture(autouse=True)
def nothing_read():
    READING.clear()


def test_the_next_chunks_are_read_while_one_is_worked_on_and_no_more():
    seen = []
    for number, chunk in enumerate(loaded(Batch.of(Chunk(Slow(6), 0, 6)))):
        time.sleep(0.06)
        seen.append(chunk.points[0, 0])
        assert len(READING) == min(number + AHEAD + 1, 6)
    assert seen == list(range(6))
    assert sorted(READING) == list(range(6))


def test_what_threads_wait_for_is_told_from_what_they_compute():
    def function(chunk, seconds):
        time.sleep(seconds)
        return 1

    def spent(seconds):
        batch = Batch.of(Chunk(Slow(8), 0, 8))
        (found,) = reduce_runs(function, plan([batch], [1], 4), batch, seconds)
        assert found.total == 8
        return found.cost

    assert 0.05 < spent(0).read_seconds > 3 * spent(0).compute_seconds
    assert 0.32 < spent(0.04).compute_seconds > 3 * spent(0.04).read_seconds


def test_an_error_comes_when_its_chunk_is_due():
    chunks = loaded(Batch.of(Chunk(Slow(4, broken=2), 0, 4)))
    assert [next(chunks).chunk.start, next(chunks).chunk.start] == [0, 1]
    with pytest.raises(
        InvalidData, match="rows 2 to 2 of numbers cannot be read: ValueError: broken"
    ):
        next(chunks)


def test_who_stops_early_does_not_read_on():
    chunks = loaded(Batch.of(Chunk(Slow(50), 0, 50)))
    next(chunks)
    chunks.close()
    time.sleep(0.1)
    assert len(READING) <= AHEAD + 1
