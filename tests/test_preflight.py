"""The preflight: what is reported before the first epoch, and what is refused."""

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import zarr

from dkmeans import Dataset, Invalid, KMeans, RunConfig
from dkmeans.distance import Computation, Distance
from dkmeans.executors import Dask, Threads
from dkmeans.executors.budget import Memory
from dkmeans.preflight import examine, readable, seconds_per_iteration

GB = 10**9


class Machines:
    """An executor that only has a memory."""

    def __init__(self, **changes):
        self._memory = replace(Memory(workers=2, threads=4, limit=GB, room=GB // 2), **changes)

    def memory(self):
        return self._memory


@pytest.fixture
def store(tmp_path):
    def make(rows, columns, chunk, **options):
        path = str(tmp_path / f"{rows}-{chunk}.zarr")
        zarr.create_array(
            path, shape=(rows, columns), chunks=(chunk, columns), dtype="f4", **options
        )
        return Dataset.from_zarr(path)

    return make


def examined(dataset, machines, cache="auto"):
    return examine(next(dataset.batches()), dataset.rows, machines, cache)


def test_rows_that_fit_are_cached(store):
    found = examined(store(1_000_000, 64, 65_536), Machines())
    assert (found.rows, found.columns, found.dtype, found.chunks) == (1_000_000, 64, "float32", 16)
    assert found.cached_share == 1
    assert list(found.describe()) == [
        "1,000,000 rows of 64 columns, float32, 256 MB",
        "16 chunks of up to 16.8 MB; 500 MB of rows fit the memory of 2 workers with 4 threads: "
        "all are cached, and read once",
    ]
    assert found.remarks == ()


def test_of_rows_that_half_fit_half_are_cached(store):
    found = examined(store(4_000_000, 64, 65_536), Machines())
    assert found.cached_share == pytest.approx(0.488, abs=1e-3)
    assert "49% are cached, the others are read in every epoch" in list(found.describe())[1]


def test_nothing_is_cached_where_that_is_requested(store):
    found = examined(store(1_000_000, 64, 65_536), Machines(), "none")
    assert found.cached_share == 0
    assert "none are cached" in list(found.describe())[1]


def test_caching_all_rows_is_refused_where_they_do_not_fit(store):
    with pytest.raises(Invalid, match=r"^cache must be.*'memory': 1.0 GB of rows.*500 MB"):
        examined(store(4_000_000, 64, 65_536), Machines(), "memory")
    assert examined(store(1_000_000, 64, 65_536), Machines(), "memory").cached_share == 1


def test_rows_in_memory_are_neither_cached_again_nor_remarked_upon():
    found = examined(Dataset.from_array(np.zeros((10, 3))), Machines())
    assert found.cached_share == 1
    assert list(found.describe()) == ["10 rows of 3 columns, float64, 240 bytes"]
    assert found.remarks == ()


def test_a_stream_of_batches_is_of_any_number_of_rows():
    batches = Dataset.of_batches(3, Dataset.from_array(np.zeros((10, 3), "f4")).batches())
    assert next(examined(batches, Machines()).describe()) == (
        "any number of rows of 3 columns, float32"
    )


def test_chunks_too_large_for_a_worker_are_remarked_upon_with_a_remedy(store):
    (remark,) = examined(store(8_000_000, 64, 1_000_000), Machines()).remarks
    assert remark.startswith("a chunk is 256 MB")
    assert "chunks should be at most 25.0 MB" in remark
    assert "chunks of 65,536 rows" in remark
    assert "fewer threads" in remark


def test_chunks_too_small_to_be_worth_a_request_are_remarked_upon(store):
    (remark,) = examined(store(3_000_000, 4, 1000), Machines()).remarks
    assert "is stored in 3,000 chunks of 16.0 kB" in remark
    assert "chunks of 1,048,576 rows" in remark


def test_fewer_chunks_than_threads_are_remarked_upon(store):
    (remark,) = examined(store(196_608, 64, 65_536), Machines()).remarks
    assert "3 chunks are too few for 4 threads" in remark
    assert remark.endswith("in chunks of at most 49,152")


def test_a_small_table_may_well_be_one_chunk(store):
    found = examined(store(1000, 64, 1000), Machines())
    assert found.remarks == ()
    assert "1 chunk of 256 kB" in list(found.describe())[1]


def test_dask_arrays_of_stored_rows_are_stored_rows(store):
    (batch,) = store(1_000_000, 64, 65_536).batches()
    rows = da.from_zarr(batch.source.array)
    assert examined(Dataset.from_array(rows), Machines()).is_stored


def test_sizes_are_written_for_people():
    texts = [readable(size) for size in (0, 999, 1000, 25_000_000, 160_000_000_000, 10**18)]
    assert texts == ["0 bytes", "999 bytes", "1.0 kB", "25.0 MB", "160 GB", "1000 PB"]


def test_an_iteration_is_timed_on_a_few_chunks(store, client):
    dataset = store(200_000, 8, 20_000)
    batch = next(dataset.batches())
    for executor in (Threads(2), Dask(client)):
        with executor:
            found = examine(batch, dataset.rows, executor, "auto")
            assert found.memory.threads == 2
            assert found.memory.limit > 10**8
            first, later = seconds_per_iteration(
                found, batch, 4, Computation(Distance.SQUARED_EUCLIDEAN), executor
            )
            assert 0 < later < first < 60


def test_training_logs_the_preflight_before_the_first_step(store, tmp_path, caplog):
    caplog.set_level("INFO", "dkmeans")
    KMeans(2, tmp_path / "m", np.eye(2, 4), config=RunConfig(cache="none")).train(
        lambda: store(3000, 4, 1000), max_steps=1
    )
    # The first message says that no chunk of the store is written.
    messages = [record.message for record in caplog.records][1:]
    assert messages[0] == "3,000 rows of 4 columns, float32, 48.0 kB"
    assert "none are cached" in messages[1]
    with pytest.raises(Invalid, match=r"^cache must be one of 'auto', 'none', 'memory', got 'all'"):
        RunConfig(cache="all")
