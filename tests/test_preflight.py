"""The preflight: what is reported before the first epoch, and what is refused."""

import re
from dataclasses import replace

import dask.array as da
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from dkmeans import Dataset, Invalid, KMeans, RunConfig
from dkmeans.data.chunks import GPU_TARGET_BYTES
from dkmeans.distance import Computation, Distance
from dkmeans.executors import Cost, Dask, Serial, Threads
from dkmeans.executors.budget import Memory
from dkmeans.executors.reduction import Throughput
from dkmeans.preflight import examine, scale_remarks, seconds_per_iteration

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
    batch, names = next(dataset.batches()), dataset.columns
    return examine(batch, dataset.rows, machines, cache, names=names)


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
    (remark,) = examined(store(196_608, 64, 65_536), Machines(), "none").remarks
    assert "3 chunks are too few for 4 threads" in remark
    assert remark.endswith("write the rows in chunks of at most 49,152 rows")


def test_fewer_cached_chunks_than_threads_are_cut_and_need_no_remark(store):
    dataset = store(196_608, 64, 65_536)
    for machines in (Machines(), Machines(workers=1, threads=64, limit=64 * GB)):
        assert examined(dataset, machines).remarks == ()


def test_one_cached_chunk_is_too_few_for_two_workers_and_for_shuffled_rows(store):
    dataset = store(131_072, 64, 131_072)
    one_worker = Machines(workers=1, limit=4 * GB)
    assert examined(dataset, one_worker).remarks == ()
    for rows, machines in ((dataset, Machines(limit=4 * GB)), (dataset.shuffle(1), one_worker)):
        (remark,) = examined(rows, machines).remarks
        assert remark.startswith("1 chunk is too few for 4 threads; ")


def examined_on_gpu(dataset, machines):
    dataset = dataset.in_chunks_of(GPU_TARGET_BYTES)
    batch = next(dataset.batches())
    return examine(batch, dataset.rows, machines, "auto", dataset.chunk_bytes)


def test_chunks_that_the_library_cuts_for_gpus_are_never_to_be_written_smaller(store):
    dataset = store(2_000_000, 64, 65_536)
    (remark,) = examined_on_gpu(dataset, Machines()).remarks
    assert remark.startswith("a chunk is 50.3 MB")
    assert "rows in chunks" not in remark
    assert remark.endswith("give workers more memory or fewer threads")
    assert examined_on_gpu(dataset, Machines(threads=4, limit=16 * GB)).remarks == ()


def test_stored_chunks_that_are_too_large_for_gpus_should_be_as_the_library_cuts_them(store):
    remarks = examined_on_gpu(store(8_000_000, 64, 2_000_000), Machines(limit=8 * GB)).remarks
    assert "write the rows in chunks of 524,288 rows (134 MB), or give" in remarks[0]


def test_small_integers_that_become_floats_do_not_make_the_librarys_chunks_too_large(tmp_path):
    path = str(tmp_path / "bytes.zarr")
    zarr.create_array(path, shape=(3_000_000, 16), chunks=(100_000, 16), dtype="u1")
    found = examined(Dataset.from_zarr(path), Machines(workers=1, threads=40, limit=16 * GB))
    assert found.chunk_bytes > 8 * 2**20
    assert found.remarks == ()


def test_the_columns_of_parquet_are_named(tmp_path):
    columns = {f"c{i}": np.zeros(5, "f4") for i in range(9)}
    pq.write_table(pa.table(columns), tmp_path / "many.parquet")
    pq.write_table(pa.table({"a": [1.0], "b": [2.0]}), tmp_path / "few.parquet")
    many, few = (Dataset.from_parquet(str(tmp_path / f"{n}.parquet")) for n in ("many", "few"))
    assert examined(many, Machines()).names == tuple(columns)
    first = [next(examined(each, Machines()).describe()) for each in (many, few)]
    assert first == [
        "5 rows of 9 columns (c0, c1, c2, c3, c4, c5, c6, c7, ...), float32, 180 bytes",
        "1 row of 2 columns (a, b), float64, 16 bytes",
    ]


def test_a_small_table_may_well_be_one_chunk(store):
    found = examined(store(1000, 64, 1000), Machines())
    assert found.remarks == ()
    assert "1 chunk of 256 kB" in list(found.describe())[1]


def test_dask_arrays_of_stored_rows_are_stored_rows(store):
    (batch,) = store(1_000_000, 64, 65_536).batches()
    rows = da.from_zarr(batch.source.array)
    assert examined(Dataset.from_array(rows), Machines()).is_stored


def test_an_iteration_is_timed_on_a_few_chunks(store, client):
    dataset = store(200_000, 8, 20_000)
    batch = next(dataset.batches())
    for executor in (Threads(2), Dask(client)):
        with executor:
            found = examine(batch, dataset.rows, executor, "auto")
            assert found.memory.threads == 2
            assert found.memory.limit > 10**8
            first, later = seconds_per_iteration(
                found, batch, 4, Computation(Distance.SQUARED_EUCLIDEAN), executor, rows=200_000
            )
            assert 0 < later < first < 60


class Warming(Serial):
    """An executor over workers that take a second longer for their first chunk.

    Args:
        turns: For each `map_reduce`, the workers that take part.
    """

    def __init__(self, *turns):
        self._turns, self._warm = list(turns), set()

    def map_reduce(self, function, batches, value):
        workers = self._turns.pop(0)
        compute_seconds = 0.5 + len(set(workers) - self._warm)
        self._warm |= set(workers)
        cost = Cost(0.0, compute_seconds, throughputs=dict.fromkeys(workers, Throughput()))
        return replace(super().map_reduce(function, batches, value), cost=cost)


def test_an_iteration_is_timed_when_every_worker_that_computes_it_is_warm(store):
    dataset = store(20_000, 8, 10_000)
    batch = next(dataset.batches())
    executor = Warming("a", "ab", "bc", "ca")
    found = examine(batch, dataset.rows, executor, "auto")
    _, later = seconds_per_iteration(
        found, batch, 4, Computation(Distance.SQUARED_EUCLIDEAN), executor, rows=20_000
    )
    assert 0.5 <= later < 1


def test_more_threads_than_chunks_do_not_make_an_iteration_shorter(store):
    dataset = store(2000, 8, 2000)
    batch = next(dataset.batches())
    executor = Warming("a", "a")
    found = replace(
        examine(batch, dataset.rows, executor, "auto"), memory=Machines(threads=64).memory()
    )
    _, later = seconds_per_iteration(
        found, batch, 4, Computation(Distance.SQUARED_EUCLIDEAN), executor, rows=2000
    )
    assert 0.5 <= later < 1


def test_the_seconds_of_an_iteration_grow_with_its_rows_and_starts_but_reading_does_not(store):
    dataset = store(20_000, 8, 10_000)
    batch = next(dataset.batches())
    found = examine(batch, dataset.rows, Warming(), "auto")

    def later(**sizes):
        computation = Computation(Distance.SQUARED_EUCLIDEAN)
        return seconds_per_iteration(found, batch, 4, computation, Warming("a", "a"), **sizes)[1]

    assert 0.05 <= later(rows=2000) < 0.1
    assert 5 <= later(rows=200_000) < 5.5
    assert 1.5 <= later(rows=20_000, num_starts=3) < 2


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


def test_columns_of_very_different_scales_are_named():
    rows = np.random.default_rng(1).normal(size=(500, 4)) * [1, 2000, 0, 30]

    def remarks(dataset):
        (batch,) = dataset.batches()
        with Serial() as executor:
            return scale_remarks(
                batch, examine(batch, 500, executor, "none", names=dataset.columns), executor
            )

    (plain,) = remarks(Dataset.from_array(rows))
    start = "distances, and so clusters, hardly depend on"
    assert plain.startswith(f"{start} column 0: in 500 rows the variance of column 1 is more than ")
    (named,) = remarks(Dataset.from_array(pa.table({"v": [*rows[:, [0, 2, 3]]], "b": rows[:, 1]})))
    assert named.startswith((f"{start} 'v[0]'", f"{start} 'v[3]'"))
    (both,) = remarks(Dataset.from_array(rows * [1, 1000, 1, 1]))
    assert both.startswith(f"{start} column 0, column 3: ")
    assert not remarks(Dataset.from_array(rows[:, [0, 2, 3]]))
    assert not remarks(Dataset.from_array(np.ones((500, 2))))


def test_training_warns_of_columns_of_very_different_scales(caplog):
    rows = np.random.default_rng(1).normal(size=(500, 2)) * [1, 2000]
    start = "distances, and so clusters, hardly depend on column 0: in the first 8 centers "
    KMeans(8, seed=0).train(lambda: rows, steps=1)
    assert caplog.messages[0].startswith(start)
    caplog.clear()
    KMeans(8, seed=0).train(lambda: Dataset.from_array(rows).standardize(), steps=1)
    KMeans(7, seed=0).train(lambda: rows, steps=1)
    assert not caplog.messages


@pytest.mark.parametrize("distance", ["squared_euclidean", "cosine"])
def test_training_warns_of_values_that_are_too_small_to_square(caplog, distance):
    rows = np.random.default_rng(1).normal(size=(50, 2)) * 1e-200
    KMeans(3, seed=0, distance_metric=distance).train(lambda: rows, steps=1)
    assert re.fullmatch(
        r"the first centers have values up to .*e-(19|20)\d, whose squares float64 does not .*",
        caplog.messages[0],
    )
