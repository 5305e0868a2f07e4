"""Threads of this process: the laws for any number of them, and what they leave behind."""

import multiprocessing
import shutil
import sys
import threading

import numpy as np
import pytest
import zarr
from threadpoolctl import threadpool_info

from dkmeans import Dataset, InvalidData, KMeans
from dkmeans.data.cache import row_cache
from dkmeans.executors import Threads
from dkmeans.partial_sums import accumulate
from tests.exactly import floats
from tests.executors.laws import (
    ExecutorLaws,
    batches_of,
    centers,
    check_caching,
    check_iterations,
)


@pytest.fixture(params=[1, 2, 5])
def executor(request):
    with Threads(request.param) as threads:
        yield threads


class TestThreads(ExecutorLaws):
    """The laws, for 1, 2 and 5 threads."""


def test_cached_rows_are_read_once_and_give_the_same_bits(tmp_path):
    check_caching(lambda cache: Threads(2, cache), tmp_path)


def test_cached_rows_are_evicted_when_the_fit_ends(dataset):
    before = row_cache.bytes
    with Threads(2, "auto") as executor:
        executor.map_reduce(accumulate, batches_of(dataset), centers())
        assert row_cache.bytes == before + dataset.rows * 6 * 4
    assert row_cache.bytes == before


def test_a_single_chunk_is_computed_by_the_calling_thread():
    used = []

    def rows_of(loaded, _):
        used.append(threading.current_thread())
        return len(loaded.points)

    (batch,) = Dataset.from_array(np.ones((1, 2))).batches()
    with Threads(2) as executor:
        assert list(executor.map(rows_of, batch, None)) == [1]
        assert executor.map_reduce(rows_of, [batch], None).totals == [1]
    assert used == [threading.current_thread()] * 2


def test_a_cost_has_the_time_of_all_threads(dataset):
    with Threads(2) as executor:
        cost = executor.map_reduce(accumulate, batches_of(dataset), centers()).cost
    assert cost.compute_seconds > 0
    assert cost.read_seconds > 0
    assert cost.throughputs == {}


def test_batches_smaller_than_a_chunk_decode_it_once_even_without_a_cache(tmp_path):
    path = str(tmp_path / "rows.zarr")
    zarr.create_array(path, data=np.ones((300, 6), np.float32), chunks=(300, 6))
    batches = batches_of(Dataset.from_zarr(path), 10)
    with Threads(2, "none") as executor:
        executor.map_reduce(accumulate, batches[:4], centers())
        shutil.rmtree(tmp_path / "rows.zarr" / "c")
        sums = executor.map_reduce(accumulate, batches[4:], centers()).totals
    assert sum(floats(each.sums).sum() for each in sums) == 260 * 6


def test_an_error_of_one_call_does_not_stop_the_next_one(dataset):
    def fail(loaded, value):
        raise InvalidData("bad rows")

    with Threads(2) as executor:
        for _ in range(2):
            with pytest.raises(InvalidData, match="bad rows"):
                executor.map_reduce(fail, batches_of(dataset), None)
        check_iterations(executor, batches_of(dataset), 1)


def test_fits_that_overlap_leave_the_process_as_it_was(dataset):
    before = sys.getswitchinterval(), threads_of_libraries()
    fits = [
        threading.Thread(
            target=lambda steps=steps: KMeans(3, None, seed=1, use_mini_batch=False).train(
                lambda: dataset.repeat(), steps=steps
            )
        )
        for steps in (3, 9, 6)
    ]
    for fit in fits:
        fit.start()
    for fit in fits:
        fit.join()
    assert sys.getswitchinterval() == before[0]
    after = threads_of_libraries()  # a fit may be the first to load one of them
    assert {path: after[path] for path in before[1]} == before[1]


def threads_of_libraries():
    """Return the number of threads that each library for parallel loops would start."""
    return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}


def test_a_forked_process_fits_too(dataset):
    def fit():
        KMeans(3, None, seed=1, use_mini_batch=False).train(lambda: dataset, steps=1)

    fit()
    child = multiprocessing.get_context("fork").Process(target=fit)
    child.start()
    child.join(60)
    assert child.exitcode == 0
