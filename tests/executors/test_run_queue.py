"""The queue of runs: any number of threads compute them together, and return the same totals."""

import gc
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from weakref import WeakSet

import pytest

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.executors import Threads
from dkmeans.executors.chunk_runs import cut_into_runs, reduce_runs
from dkmeans.executors.run_queue import RunQueue, reduce_shared
from tests.numbered import Numbers


@pytest.fixture(params=[1, 2, 8])
def pool(request):
    with ThreadPoolExecutor(request.param) as pool:
        yield pool


def batches_of(*chunks):
    return [Batch.of(Chunk(Numbers(n), 0, n)) for n in chunks]


def name(loaded, value):
    return f"{loaded.chunk.start}{value}"


@pytest.mark.parametrize("chunks", [(1,), (100,), (3, 1, 50, 7), (1,) * 30])
@pytest.mark.parametrize("threads", [1, 3, 8])
def test_totals_are_those_of_one_thread_in_the_order_of_the_chunks(pool, threads, chunks):
    batches = batches_of(*chunks)
    runs = cut_into_runs(batches, [1, 2], 4)
    own = runs[len(runs) // 3 :]
    rows = sum((batches[run.batch].chunks_between(run.start, run.stop) for run in own), Batch())
    found = reduce_shared(pool, threads, name, own, rows, ";")
    expected = reduce_runs(name, own, rows, ";")
    assert [(total.run, total.total) for total in found] == [
        (total.run, total.total) for total in expected
    ]


def test_a_thread_that_is_slow_computes_less_than_the_others():
    slow = threading.get_ident()
    computed = []

    def function(loaded, value):
        computed.append(threading.get_ident())
        time.sleep(0.02 if threading.get_ident() == slow else 0.001)
        return 1

    (batch,) = batches_of(64)
    with ThreadPoolExecutor(1) as pool:
        (total,) = reduce_shared(pool, 2, function, cut_into_runs([batch], [1], 1), batch, None)
    assert total.total == 64
    assert 0 < computed.count(slow) < 44  # 32 of them at once


def test_a_request_needs_no_other_thread():
    (batch,) = batches_of(64)
    occupied = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(occupied.wait)
        (total,) = reduce_shared(pool, 8, lambda *_: 1, cut_into_runs([batch], [1], 1), batch, None)
        occupied.set()
    assert total.total == 64


@pytest.mark.parametrize("error", [IndexError, KeyError])
def test_the_first_error_in_order_is_raised_and_later_chunks_are_not_computed(pool, error):
    computed = []

    def function(loaded, value):
        start = loaded.chunk.start
        computed.append(start)
        if start in (3, 600):
            time.sleep(0.05 if start == 3 else 0)  # the later one fails first
            raise error(f"chunk {start}")
        time.sleep(0.001)
        return 1

    (batch,) = batches_of(1000)
    with pytest.raises(error, match="chunk 3"):
        reduce_shared(pool, 2, function, cut_into_runs([batch], [1], 1), batch, None)
    # Two runs of a quarter each are computed first, and fail; the half that is left is not begun.
    assert len(computed) < 400


def test_an_error_in_adding_totals_is_raised_by_every_executor_of_threads():
    class Fails(int):
        def __add__(self, other):
            raise MemoryError("no room")

    (batch,) = batches_of(2)  # a run each: only the queue adds
    with ThreadPoolExecutor(2) as pool, pytest.raises(MemoryError, match="no room"):
        reduce_shared(pool, 2, lambda *_: Fails(1), cut_into_runs([batch], [1], 1), batch, None)
    with Threads(2) as threads, pytest.raises(MemoryError, match="no room"):
        threads.map_reduce(lambda *_: Fails(1), [batch], None)


def test_an_error_that_is_raised_leaves_no_reference_cycle():
    (batch,) = batches_of(4)
    (run,) = cut_into_runs([batch], [1], 1)[:1]

    def function(loaded, value):
        raise KeyError("gone")

    queue = RunQueue(function, [(run, batch.chunks_between(run.start, run.stop))], None)
    queue.compute()
    gc.collect()
    gc.disable()
    try:
        with suppress(KeyError):
            queue.result()
        kept = weakref.ref(queue)
        del queue
        assert kept() is None
    finally:
        gc.enable()


def test_a_queue_that_is_stopped_computes_no_further_chunk_and_has_no_result():
    (batch,) = batches_of(1000)
    computed = []

    def function(loaded, value):
        computed.append(loaded.chunk.start)
        if len(computed) == 5:
            queue.stop()
        return 1

    (run,) = cut_into_runs([batch], [1], 1)[:1]
    queue = RunQueue(function, [(run, batch.chunks_between(run.start, run.stop))], None)
    queue.compute()
    assert len(computed) == 5
    with pytest.raises(CancelledError):
        queue.result()


living = WeakSet()


class Heavy:
    """A result that grows in place; counts the results in memory."""

    def __init__(self):
        living.add(self)

    def __add__(self, other):
        return Heavy()

    def plus_in_place(self, other):
        return self


# The thread that looks has one sum. Each of three others may have a sum, a result, and the sum of
# both that it makes. Between the runs of the four, five totals may be done.
@pytest.mark.parametrize(("threads", "most"), [(1, 1), (4, 1 + 3 * 3 + 5)])
def test_few_results_are_in_memory_however_many_chunks_and_pieces(threads, most):
    found = []

    def function(*_):
        found.append(len(living))
        return Heavy()

    (batch,) = batches_of(400)
    with ThreadPoolExecutor(threads) as pool:
        reduce_shared(pool, threads, function, cut_into_runs([batch], [1], 1), batch, None)
    assert max(found) <= most
