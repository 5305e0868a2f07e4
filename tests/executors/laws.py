"""Laws of executors: every executor returns what `Serial` returns, bit for bit.

A test module defines the fixture `executor` and a subclass of `ExecutorLaws`; pytest then collects
the laws for that executor. An executor that caches must also pass `check_caching`. The module also
has the batches, centers and comparisons that the tests of executors share.
"""

import shutil
import time

import numpy as np
import pytest
import zarr

from dkmeans import Dataset, InvalidData
from dkmeans.distance import Centers, Distance
from dkmeans.errors import ResultLost
from dkmeans.executors import Serial
from dkmeans.partial_sums import accumulate
from dkmeans.prediction.per_chunk import all_distances, score
from tests.exactly import same_partial_sums

# Number of chunks that an executor may draw ahead of the caller, for each thread; see `in_order`.
AHEAD_PER_THREAD = 2


def batches_of(dataset, rows=None):
    return list((dataset.batch(rows) if rows else dataset).batches())


def centers(distance=Distance.SQUARED_EUCLIDEAN, shift=0):
    values = np.random.default_rng(6).normal(size=(9, 6)).astype(np.float32)
    return Centers(values + np.float32(shift), distance)


def totals_of_serial(batches, value):
    """Return the totals of `accumulate` that define those of every executor."""
    return Serial().map_reduce(accumulate, batches, value).totals


def check_iterations(executor, batches, count):
    """Compare some iterations, each with other centers, with those of `Serial`."""
    for number in range(count):
        value = centers(shift=number)
        found = executor.map_reduce(accumulate, batches, value).totals
        assert all(map(same_partial_sums, found, totals_of_serial(batches, value)))
        assert len(found) == len(batches)


BATCHES = {
    "one batch": batches_of,
    "many batches": lambda dataset: batches_of(dataset, 333),
    "a batch of one chunk": lambda dataset: batches_of(dataset, 100)[:1],
    "batches of all sizes": lambda dataset: [*batches_of(dataset), *batches_of(dataset, 333)[:5]],
}


class OnGpu:
    """Sums on a GPU that fails, once in each process, while the sums of a run are added up."""

    failed = False

    def __init__(self, sums):
        self.sums = sums

    def __add__(self, other):
        if not OnGpu.failed:
            OnGpu.failed = True
            raise ResultLost("the GPU failed")
        return OnGpu(self.sums + other.sums)

    def on_host(self):
        return self.sums

    def __reduce__(self):
        raise TypeError("sums on a GPU cannot leave the process")


def accumulate_on_gpu(loaded, value):
    return OnGpu(accumulate(loaded, value))


class ExecutorLaws:
    """The laws, as tests of the fixture `executor`."""

    @pytest.mark.parametrize(
        ("cut", "distance"),
        list(zip(BATCHES.values(), [*Distance, *Distance], strict=True)),
        ids=BATCHES,
    )
    def test_totals_are_those_of_serial_to_the_bit(self, executor, dataset, cut, distance):
        batches, value = cut(dataset), centers(distance)
        found = executor.map_reduce(accumulate, batches, value).totals
        expected = totals_of_serial(batches, value)
        assert len(found) == len(expected) == len(batches)
        assert all(map(same_partial_sums, found, expected))

    def test_several_iterations_are_those_of_serial_to_the_bit(self, executor, dataset):
        check_iterations(executor, batches_of(dataset), 4)

    def test_sums_that_a_gpu_has_lost_are_computed_again(self, executor, dataset, monkeypatch):
        monkeypatch.setattr(OnGpu, "failed", False)
        batches, value = batches_of(dataset), centers()
        for _ in range(2):  # the second time on GPUs that do not fail
            found = executor.map_reduce(accumulate_on_gpu, batches, value).totals
            assert all(map(same_partial_sums, found, totals_of_serial(batches, value)))

    def test_results_come_in_the_order_of_the_chunks(self, executor, dataset):
        (batch,) = batches_of(dataset)
        found = list(executor.map(all_distances, batch, centers()))
        expected = list(Serial().map(all_distances, batch, centers()))
        assert [each.tobytes() for each in found] == [each.tobytes() for each in expected]
        assert len(found) == len(batch)

    def test_chunks_are_drawn_only_a_little_ahead_and_not_after_the_end(self, executor, dataset):
        (batch,) = batches_of(dataset)
        drawn, most = [], AHEAD_PER_THREAD * executor.memory().threads + 1
        results = executor.map(score, (drawn.append(c) or c for c in batch), centers())
        assert drawn == []
        assert next(results) == score(batch[0].loaded(), centers())
        assert len(drawn) <= most
        assert next(results) == score(batch[1].loaded(), centers())
        results.close()
        assert len(drawn) <= most + 1

    def test_an_error_of_a_function_is_raised_as_it_is(self, executor, dataset):
        (batch,) = batches_of(dataset)
        number = batch[17].start
        for run in (
            lambda: list(executor.map(fail_at, batch, number)),
            lambda: executor.map_reduce(fail_at, [batch], number),
        ):
            with pytest.raises(BrokenChunkError, match=f"^chunk at row {number}$"):
                run()

    def test_a_row_that_is_not_finite_is_named(self, executor, tmp_path):
        rows = np.ones((900, 6), np.float32)
        rows[457, 2] = np.inf
        zarr.create_array(str(tmp_path / "r.zarr"), data=rows, chunks=(100, 6))
        (batch,) = batches_of(Dataset.from_zarr(str(tmp_path / "r.zarr")))
        for run in (
            lambda: list(executor.map(score, batch, centers())),
            lambda: executor.map_reduce(accumulate, [batch], centers()),
        ):
            with pytest.raises(InvalidData, match=r"row 457 of .*r\.zarr has inf in column 2"):
                run()

    def test_a_reduction_names_its_workers_and_threads(self, executor, dataset):
        memory = executor.memory()
        reduction = executor.map_reduce(accumulate, batches_of(dataset), centers())
        assert (reduction.workers, reduction.threads) == (memory.workers, memory.threads)
        assert 1 <= reduction.workers <= reduction.threads

    @pytest.mark.parametrize("value", [3, None, {"factor": [1, 2]}])
    def test_a_value_needs_no_nbytes(self, executor, dataset, value):
        batches = batches_of(dataset)
        (total,) = executor.map_reduce(describe, batches, value).totals
        assert total == "".join(f"{chunk.start} {value};" for chunk in batches[0])
        first = next(executor.map(describe, batches[0], value))
        assert first == f"0 {value};"


class BrokenChunkError(Exception):
    """An error that the library does not know."""


def fail_at(chunk, number):
    if chunk.chunk.start == number:
        raise BrokenChunkError(f"chunk at row {number}")
    return 1


def describe(chunk, value):
    return f"{chunk.chunk.start} {value};"


def check_caching(open_executor, tmp_path):
    """Check that cached rows are read once, and that an executor without a cache reads them again.

    Args:
        open_executor: Returns the executor with a cache of this kind.
        tmp_path: Folder for the rows.
    """
    path = str(tmp_path / "rows.zarr")
    rows = np.random.default_rng(5).normal(size=(20 * 150 - 70, 6)).astype(np.float32)
    zarr.create_array(path, data=rows, chunks=(150, 6), shards=None)
    batches = batches_of(Dataset.from_zarr(path))
    (expected,) = totals_of_serial(batches, centers())

    def total(executor):
        return executor.map_reduce(accumulate, batches, centers()).totals[0]

    with open_executor("auto") as caching, open_executor("none") as streaming:
        for _ in range(3):  # a worker that took over from another has not cached what it read
            assert same_partial_sums(total(caching), expected)
        assert same_partial_sums(total(streaming), expected)
        shutil.rmtree(tmp_path / "rows.zarr" / "c")  # Zarr reads missing chunks as zeros
        assert same_partial_sums(total(caching), expected)
        assert not same_partial_sums(total(streaming), expected)


def wait_until(condition):
    deadline = time.monotonic() + 120  # a busy machine is given time
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
