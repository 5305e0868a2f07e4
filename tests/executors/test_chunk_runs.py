"""Runs: however chunks are dealt to threads, each is in one run and totals keep their order."""

import time

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.executors.chunk_runs import (
    Run,
    RunTotal,
    cut_into_runs,
    merged,
    reduce_batches,
    reduce_runs,
)
from dkmeans.executors.reduction import Cost, Throughput
from tests.executors.slow_rows import SlowRows
from tests.numbered import Numbers


def batch_of(chunks):
    return Batch.of(Chunk(Numbers(chunks), 0, chunks))


counts = st.lists(st.integers(1, 300), min_size=1, max_size=4)
sizes_of_threads = st.lists(st.floats(0.01, 100), min_size=1, max_size=12)


@given(counts, sizes_of_threads, st.sampled_from([1, 4, 16]))
def test_every_chunk_is_in_one_run_and_the_runs_add_up_in_order(chunks, sizes, parts):
    runs = cut_into_runs([batch_of(n) for n in chunks], sizes, parts)
    for number, count in enumerate(chunks):
        own_runs = [run for run in runs if run.batch == number]
        assert [i for run in own_runs for i in range(run.start, run.stop)] == list(range(count))
    shares = [run.share for run in runs]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] < len(sizes)
    names = [[f"{i};" for i in range(count)] for count in chunks]
    totals = [
        RunTotal(run, "".join(names[run.batch][run.start : run.stop]), Cost()) for run in runs
    ]
    expected = ["".join(each) for each in names]
    assert reduce_batches(totals) == expected
    assert reduce_batches(merged(totals)) == expected
    assert len(merged(totals)) == len(chunks)
    # Merged in parts, as several tasks do it.
    some = [total for i in range(0, len(totals), 3) for total in merged(totals[i : i + 3])]
    assert reduce_batches(merged(some)) == expected


@given(st.integers(1, 10**6), st.integers(1, 64))
def test_there_are_some_runs_for_each_thread_however_many_chunks(chunks, shares):
    runs = cut_into_runs([batch_of(chunks)], [1] * shares, 4)
    assert len(runs) <= 12 * shares
    loads = np.bincount([run.share for run in runs], [run.size for run in runs], shares)
    assert loads.max() <= 1.3 * chunks / shares + 1


@given(st.integers(1000, 10**6), sizes_of_threads)
@example(2124, [1.3, 48.8, 99.8, 0.125, 0.0625, 0.0625, 67.2, 99.2])
def test_a_share_is_in_proportion_to_its_size(chunks, sizes):
    runs = cut_into_runs([batch_of(chunks)], sizes, 4)
    loads = np.bincount([run.share for run in runs], [run.size for run in runs], len(sizes))
    wanted = chunks * np.array(sizes) / sum(sizes)
    assert loads.min() >= 1
    assert (np.abs(loads - wanted) <= 0.3 * wanted.min() + len(sizes) + 2).all()
    assert len(runs) <= 40 * len(sizes)


def test_runs_become_smaller_towards_the_end_of_a_share():
    runs = cut_into_runs([batch_of(64)], [1, 1], 8)
    assert [run.size for run in runs] == [16, 8, 4, 4, 16, 8, 4, 4]
    assert [run.share for run in runs] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_the_steps_of_an_iteration_are_dealt_together():
    runs = cut_into_runs([batch_of(1) for _ in range(10)], [1, 1], 4)
    assert [run.share for run in runs] == [0] * 5 + [1] * 5


def test_waiting_for_rows_and_computing_are_measured_apart():
    def function(chunk, seconds):
        time.sleep(seconds)
        return 1

    def cost(seconds):
        batch = Batch.of(Chunk(SlowRows(8), 0, 8))
        (found,) = reduce_runs(function, cut_into_runs([batch], [1], 4), batch, seconds)
        assert found.total == 8
        return found.cost

    assert 0.05 < cost(0).read_seconds > 3 * cost(0).compute_seconds
    assert 0.32 < cost(0.04).compute_seconds > 3 * cost(0.04).read_seconds


def test_the_cost_of_a_run_is_the_throughput_of_its_worker():
    total = RunTotal(Run(0, 4, 8, 1), 7, Cost(1.0, 2.0, 3)).of_worker("worker")
    assert (total.run.size, total.total, total.cost.retries) == (4, 7, 3)
    assert total.cost.throughputs == {"worker": Throughput(4, 3.0)}
