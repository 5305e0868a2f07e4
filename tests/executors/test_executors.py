"""The same bits wherever the work is done: threads, or real worker processes that may die."""

import gc
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster, get_worker
from threadpoolctl import threadpool_info

from dkmeans import Dataset, InvalidData, KMeans, RunConfig, checkpoints
from dkmeans.data import cache
from dkmeans.distance import Centers, Distance
from dkmeans.executors import Dask, Threads, open_executor
from dkmeans.lloyd import accumulate
from dkmeans.prediction.per_chunk import score

CHUNKS = 41


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("rows") / "rows.zarr")
    rows = np.random.default_rng(5).normal(size=(CHUNKS * 150 - 70, 6)).astype(np.float32)
    zarr.create_array(path, data=rows, chunks=(150, 6), shards=None)
    return path


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("dkmeans.data.chunks.TARGET_BYTES", 1)  # a chunk for each chunk of storage
    monkeypatch.setattr("dkmeans.data.chunks.SMALLEST_BYTES", 1)


@pytest.fixture
def dataset(store):
    return Dataset.from_zarr(store)


def batches_of(dataset, rows=None):
    return list((dataset.batch(rows) if rows else dataset).batches())


def same(one, other):
    return (
        one.sums.tobytes() == other.sums.tobytes()
        and one.counts.tobytes() == other.counts.tobytes()
        and one.inertia == other.inertia
    )


def values(distance=Distance.SQUARED_EUCLIDEAN):
    return Centers(np.random.default_rng(6).normal(size=(9, 6)).astype(np.float32), distance)


@pytest.fixture(scope="module", params=[1, 2, 7])
def workers(request):
    with (
        LocalCluster(
            n_workers=request.param, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize("distance", Distance)
def test_any_number_of_workers_gives_the_bits_of_any_number_of_threads(workers, dataset, distance):
    batches = [*batches_of(dataset), *batches_of(dataset, 333)[:5]]
    assert len(batches[0]) == CHUNKS
    expected = [accumulate(chunk.loaded(), values(distance)) for chunk in batches[0]]
    with Threads(1) as threads:
        one = threads.map_reduce(accumulate, batches, values(distance)).totals
    assert np.allclose(sum(part.sums for part in expected), one[0].sums)
    for executor in (Threads(2), Threads(5), Dask(workers)):
        with executor:
            other = executor.map_reduce(accumulate, batches, values(distance)).totals
        assert all(map(same, one, other))


@pytest.mark.parametrize("settings", [{"use_mini_batch": False}, {}, {"steps": 3}])
def test_a_fit_on_workers_is_the_fit_on_threads_to_the_last_bit(workers, dataset, settings):
    settings = dict(settings)
    steps = settings.pop("steps", 1)

    def fit(client):
        config = RunConfig(client=client)
        model = KMeans(
            7, None, seed=2, mini_batch_steps_per_iteration=steps, config=config, **settings
        )
        model.train(lambda: dataset.shuffle(1).batch(1000).repeat(), steps=7)
        return checkpoints.latest(model.model_dir).state

    on_threads, on_workers = fit(None), fit(workers)
    assert on_threads.centers.tobytes() == on_workers.centers.tobytes()
    assert on_threads.counts.tobytes() == on_workers.counts.tobytes()
    assert on_threads.inertia == on_workers.inertia


def test_predictions_on_workers_are_those_on_threads(workers, dataset):
    model = KMeans(7, None, seed=2, use_mini_batch=False).train(lambda: dataset, steps=1)
    config = RunConfig(client=workers)
    other = KMeans(7, model.model_dir, use_mini_batch=False, config=config)
    for one, two in zip(
        model.predict(lambda: dataset), other.predict(lambda: dataset), strict=True
    ):
        assert one["cluster_index"] == two["cluster_index"]
        assert np.array_equal(one["all_distances"], two["all_distances"])
    assert model.evaluate(lambda: dataset) == other.evaluate(lambda: dataset)


def slowly(block):
    time.sleep(0.03)
    return block


def test_a_worker_killed_in_the_middle_of_an_iteration_costs_time_and_no_bit(store, caplog):
    rows = da.from_zarr(store, chunks=(150, 6)).map_blocks(slowly)
    first = np.asarray(rows[:8])

    def fit(client, on_step_two=None):
        config = RunConfig(client=client, cache="none")  # rows that are kept are not slow
        model = KMeans(8, None, first, use_mini_batch=False, config=config)
        handler = _Calls(on_step_two)
        logger = logging.getLogger("dkmeans")
        logger.addHandler(handler)
        try:
            with caplog.at_level(logging.DEBUG, "dkmeans"):
                model.train(lambda: rows, steps=5)
        finally:
            logger.removeHandler(handler)
        return checkpoints.latest(model.model_dir).state

    calm = fit(None)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        pids = client.run(os.getpid)
        killed = []

        def kill():
            time.sleep(0.2)  # an iteration takes three times as long
            killed.append(next(iter(pids.values())))
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        shaken = fit(client, killer.start)
        killer.join()
        assert killed[0] not in client.run(os.getpid).values()
    assert calm.step == shaken.step == 5
    assert calm.centers.tobytes() == shaken.centers.tobytes()
    assert calm.inertia == shaken.inertia


class _Calls(logging.Handler):
    """Calls something once, when step 2 is reported."""

    def __init__(self, call):
        super().__init__(logging.DEBUG)
        self.call = call

    def emit(self, record):
        if self.call and getattr(record, "progress", None) and record.progress.step == 2:
            call, self.call = self.call, None
            call()


def test_an_active_client_is_used_when_there_is_one_and_threads_when_not(cluster):
    with Client(cluster), open_executor() as executor:
        assert isinstance(executor, Dask)
    with open_executor() as executor:
        assert isinstance(executor, Threads)


def test_a_client_that_is_named_goes_before_the_active_one(client, cluster):
    with Client(cluster, set_as_default=False) as named:
        KMeans(3, None, seed=1, config=RunConfig(client=named)).train(
            lambda: np.eye(3, dtype=np.float32), steps=1
        )
        with open_executor(named) as executor:
            rows = batches_of(Dataset.from_array(np.eye(6, dtype=np.float32)))
            executor.map_reduce(score, rows, values())
            assert executor._client is named


def test_rows_in_memory_travel_once_and_not_in_every_iteration(client):
    rows = np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)
    sent = []
    submit = client.submit

    def watched(function, *arguments, **options):
        sent.extend(a.nbytes for a in arguments if isinstance(a, np.ndarray))
        sent.extend(a.array.nbytes for a in arguments if hasattr(a, "array"))
        return submit(function, *arguments, **options)

    client.submit = watched
    batch = batches_of(Dataset.from_array(rows))
    with Dask(client) as executor:
        for _ in range(4):
            executor.map_reduce(accumulate, batch, values())
    assert sum(sent) == rows.nbytes


def test_tasks_grow_with_the_workers_and_not_with_the_chunks(client):
    def tasks(chunks):
        (batch,) = batches_of(Dataset.from_array(da.zeros((chunks * 2, 6), chunks=(2, 6))))
        assert len(batch) == chunks
        count = []
        submit = client.submit
        client.submit = lambda *a, **k: (count.append(1), submit(*a, **k))[1]
        with Dask(client) as executor:
            executor.map_reduce(score, [batch], values())
        client.submit = submit
        return len(count)

    assert tasks(400) <= tasks(50) <= 20


# What is quick, and like the last, is asked for by calls.


@pytest.fixture
def submitted(client):
    """What has been submitted; it is the client's own again when the test ends."""
    functions, submit = [], client.submit
    client.submit = lambda function, *a, **k: (
        functions.append(function),
        submit(function, *a, **k),
    )[1]
    yield functions
    client.submit = submit


def iterations(executor, batches, count):
    """Iterations whose centers differ, and what threads make of them."""
    for number in range(count):
        centers = Centers(values().values + np.float32(number), Distance.SQUARED_EUCLIDEAN)
        (mine,) = executor.map_reduce(accumulate, batches, centers).totals
        with Threads(1) as threads:
            assert same(mine, threads.map_reduce(accumulate, batches, centers).totals[0])


@pytest.mark.parametrize("stored", [True, False])
def test_a_quick_iteration_that_is_like_the_last_takes_no_tasks(client, submitted, dataset, stored):
    rows = np.random.default_rng(1).normal(size=(900, 6)).astype(np.float32)
    batches = batches_of(dataset if stored else Dataset.from_array(rows))
    with Dask(client) as executor:
        iterations(executor, batches, 2)
        assert submitted

        def takes_no_tasks():
            submitted.clear()
            iterations(executor, batches, 1)
            return not submitted

        # On a busy machine one may be slow, or be done by another worker than the one that should.
        wait_until(takes_no_tasks)
        iterations(executor, batches_of(dataset, 500)[:1], 1)
        assert submitted


def test_rows_that_dask_has_let_go_of_are_shipped_again(client, submitted):
    rows = np.random.default_rng(1).normal(size=(900, 6)).astype(np.float32)
    batches = batches_of(Dataset.from_array(rows))
    with Dask(client) as executor:
        iterations(executor, batches, 3)
        executor._shipping.forget()
        executor._held.clear()
        wait_until(lambda: not any(client.has_what().values()))
        submitted.clear()
        iterations(executor, batches, 1)
        assert submitted


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_quick_iteration_whose_workers_change_is_done_by_those_that_are_there(dataset):
    batches = batches_of(dataset)
    with (
        LocalCluster(n_workers=3, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
        Dask(client, "auto") as executor,
    ):
        iterations(executor, batches, 3)
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        iterations(executor, batches, 3)
        retired = sorted(client.nthreads())[0]
        client.retire_workers([retired])
        assert retired not in client.nthreads()
        iterations(executor, batches, 3)
        cluster.scale(4)
        client.wait_for_workers(3, timeout=60)
        iterations(executor, batches, 3)


def test_a_scheduler_that_allows_no_calls_is_given_tasks(dataset):
    batches = batches_of(dataset)
    blocked = {"distributed.scheduler.blocked-handlers": ["broadcast"]}
    with (
        dask.config.set(blocked),
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
        Dask(client) as executor,
    ):
        with pytest.raises(ValueError, match="broadcast"):
            client.run(os.getpid)
        iterations(executor, batches, 4)


def test_what_goes_wrong_in_a_call_is_told_by_the_task_that_does_it_again(client, dataset):
    batches = batches_of(dataset)
    with Dask(client) as executor:
        iterations(executor, batches, 3)
        far = Centers(np.full((9, 6), 1e300), Distance.SQUARED_EUCLIDEAN)
        with pytest.raises(InvalidData, match="too large for squared distances"):
            executor.map_reduce(accumulate, batches, far)
        iterations(executor, batches, 2)


def test_the_steps_of_an_iteration_are_taken_by_all_workers_at_once(client, dataset):
    batches = batches_of(dataset, 300)
    batches = batches[: len(batches) // 2 * 2]
    with Dask(client) as executor:
        executor.map_reduce(who, batches, None)  # the first is dealt out more finely
        pids = executor.map_reduce(who, batches, None).totals
    half = len(batches) // 2
    assert len(set(pids[:half])) == len(set(pids[half:])) == 1
    assert pids[0] != pids[-1]


def who(chunk, _):
    return Pid(os.getpid())


class Pid(int):
    """A worker's process; the sum of its own is itself."""

    def __add__(self, other):
        assert int(self) == int(other)
        return self


def test_a_worker_that_is_much_slower_is_dealt_less_with_the_same_bits(client, dataset):
    batches = batches_of(dataset)
    slow = sorted(client.nthreads())[0]
    chunks_of_slow = []
    with Dask(client) as executor:
        for _ in range(7):
            (found,) = executor.map_reduce(slowly_on_one, batches, (values(), slow)).totals
            chunks_of_slow.append(found.slow)
            with Threads(1) as threads:
                assert same(found.sums, threads.map_reduce(accumulate, batches, values()).totals[0])
    assert chunks_of_slow[0] >= CHUNKS * 0.4
    assert chunks_of_slow[-1] <= CHUNKS * 0.25


@dataclass(frozen=True)
class Told:
    """The sums of some chunks, and how many a certain worker went over."""

    sums: object
    slow: int

    def __add__(self, other):
        return Told(self.sums + other.sums, self.slow + other.slow)


def slowly_on_one(chunk, value):
    centers, slow = value
    is_slow = get_worker().address == slow
    time.sleep(0.03 if is_slow else 0.003)
    return Told(accumulate(chunk, centers), int(is_slow))


def test_within_a_task_the_threads_do_it_as_the_worker_would_wait_for_itself():
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as one:
        assert one.submit(where_it_runs).result(timeout=30) == "Threads"
        assert type(open_executor()).__name__ == "Dask"


def where_it_runs():
    with open_executor() as executor:
        return type(executor).__name__


# What workers keep.


@pytest.mark.parametrize("where", ["threads", "workers"])
def test_rows_that_are_kept_are_read_once_and_give_the_same_bits(where, client, tmp_path):
    path = str(tmp_path / "rows.zarr")
    rows = np.random.default_rng(5).normal(size=(20 * 150 - 70, 6)).astype(np.float32)
    zarr.create_array(path, data=rows, chunks=(150, 6), shards=None)
    batches = batches_of(Dataset.from_zarr(path))
    with Threads(1) as executor:
        (expected,) = executor.map_reduce(accumulate, batches, values()).totals

    def opened(cache):
        return Threads(2, cache) if where == "threads" else Dask(client, cache)

    with opened("auto") as caching, opened("none") as streaming:
        for _ in range(3):  # a worker that took over from another has not kept what it read
            assert same(caching.map_reduce(accumulate, batches, values()).totals[0], expected)
        assert same(streaming.map_reduce(accumulate, batches, values()).totals[0], expected)
        shutil.rmtree(tmp_path / "rows.zarr" / "c")  # which Zarr reads as zeros
        assert same(caching.map_reduce(accumulate, batches, values()).totals[0], expected)
        assert not same(streaming.map_reduce(accumulate, batches, values()).totals[0], expected)


def test_steps_smaller_than_a_chunk_decode_it_once_even_where_nothing_is_kept(tmp_path):
    path = str(tmp_path / "rows.zarr")
    zarr.create_array(path, data=np.ones((300, 6), np.float32), chunks=(300, 6))
    batches = batches_of(Dataset.from_zarr(path), 10)
    with Threads(2, "none") as executor:
        executor.map_reduce(accumulate, batches[:4], values())
        shutil.rmtree(tmp_path / "rows.zarr" / "c")
        sums = executor.map_reduce(accumulate, batches[4:], values()).totals
    assert sum(each.sums.sum() for each in sums) == 260 * 6


def test_what_workers_keep_goes_when_the_fit_ends(client, dataset):
    with Dask(client, "auto") as executor:
        for _ in range(3):
            executor.map_reduce(accumulate, batches_of(dataset), values())
        kept = client.run(lambda: cache.row_cache.bytes)
        assert sum(kept.values()) == dataset.rows * 6 * 4
        assert min(kept.values()) > 0.3 * sum(kept.values())  # each its own share
    assert set(client.run(lambda: cache.row_cache.bytes).values()) == {0}


def test_a_worker_gives_back_no_memory_that_the_next_chunk_needs(client, dataset):
    with Dask(client) as executor:
        executor.map_reduce(accumulate, batches_of(dataset), values())

    def touched():
        """Pages touched for the first time by the second of two arrays of 16 MB."""
        faults = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            np.ones(2**21)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        return faults[-1]

    assert max(client.run(touched).values()) < 400


def test_dask_does_not_remember_all_that_it_was_sent(client, dataset, monkeypatch):
    def remembered(dask_scheduler):
        return sum(len(comm.recent_message_log) for comm in dask_scheduler.stream_comms.values())

    monkeypatch.setattr("dkmeans.executors.dask.shipping._LOGGED_BYTES", 2000)
    with Dask(client) as executor:
        for _ in range(60):
            executor.map_reduce(accumulate, batches_of(dataset), values())
    assert client.run_on_scheduler(remembered) < 60
    assert len(client.scheduler_comm.recent_message_log) < 60


def test_nothing_is_left_on_the_cluster_when_a_fit_has_ended(client, dataset):
    KMeans(3, None, seed=1, config=RunConfig(client=client)).train(
        lambda: dataset.batch(500), steps=5
    )
    gc.collect()
    deadline = time.monotonic() + 10
    while client.futures and time.monotonic() < deadline:
        time.sleep(0.05)  # the client lets go of what was collected in its own thread
    assert client.futures == {}


def test_results_come_in_order_and_only_a_little_ahead(client, dataset):
    batch = batches_of(dataset)[0]
    for executor in (Threads(2), Dask(client)):
        drawn = []
        with executor:
            results = executor.map(score, (drawn.append(c) or c for c in batch), values())
            assert drawn == []
            first = next(results)
            assert first == score(batch[0].loaded(), values())
            assert len(drawn) <= 6
            assert next(results) == score(batch[1].loaded(), values())
            results.close()
            assert len(drawn) <= 7


@pytest.mark.parametrize("where", ["threads", "workers"])
def test_a_row_that_is_not_finite_is_named_wherever_it_is_found(request, where, tmp_path):
    rows = np.ones((900, 3), np.float32)
    rows[457, 2] = np.inf
    zarr.create_array(str(tmp_path / "r.zarr"), data=rows, chunks=(100, 3))
    dataset = Dataset.from_zarr(str(tmp_path / "r.zarr"))
    client = request.getfixturevalue("client") if where == "workers" else None
    config = RunConfig(client=client)
    model = KMeans(2, None, rows[:2] * [[1], [2]], use_mini_batch=False, config=config)
    with pytest.raises(InvalidData, match=r"row 457 of .*r\.zarr has inf in column 2"):
        model.train(lambda: dataset, steps=1)


def test_a_chunk_that_cannot_be_read_is_named_and_what_was_done_is_saved(tmp_path):
    rows = np.random.default_rng(3).normal(size=(600, 4)).astype(np.float32)
    path = tmp_path / "r.zarr"
    zarr.create_array(str(path), data=rows, chunks=(100, 4))
    (path / "c" / "3" / "0").write_bytes(b"not what was written")
    model = KMeans(3, str(tmp_path / "m"), seed=1)
    with pytest.raises(InvalidData, match=r"rows 300 to 399 of .*r\.zarr cannot be read"):
        model.train(lambda: Dataset.from_zarr(str(path)).batch(100))
    assert model.get_variable_value("global_step") == 3


def test_workers_in_another_folder_find_what_a_relative_path_means(client, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    rows = np.random.default_rng(3).normal(size=(600, 4)).astype(np.float32) + 7
    zarr.create_array(str(tmp_path / "r.zarr"), data=rows, chunks=(100, 4))
    np.save(tmp_path / "r.npy", rows)
    client.run(os.chdir, str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    for dataset in (Dataset.from_zarr("r.zarr"), Dataset.from_npy("r.npy")):
        model = KMeans(3, "m", rows[:3], use_mini_batch=False)
        model.train(lambda dataset=dataset: dataset.repeat(), steps=1)
        assert model.cluster_centers().min() > 3
        for output in ("out.parquet", "out.zarr"):
            assert model.write_predictions(lambda dataset=dataset: dataset, output) == 600
            assert not (tmp_path / "elsewhere" / output).exists()


def test_a_worker_that_does_not_see_an_array_says_so_and_reads_no_zeros(client, tmp_path):
    rows = np.ones((600, 4), np.float32)
    zarr.create_array(str(tmp_path / "r.zarr"), data=rows, chunks=(100, 4))
    dataset = Dataset.from_zarr(str(tmp_path / "r.zarr"))
    (tmp_path / "r.zarr").rename(tmp_path / "moved.zarr")
    with pytest.raises(InvalidData, match=r"there is no Zarr array at .*r\.zarr on "):
        KMeans(2, None, rows[:2] * [[1], [2]], use_mini_batch=False).train(lambda: dataset, steps=1)


def test_fits_that_overlap_leave_the_process_as_it_was(dataset):
    before = sys.getswitchinterval(), [pool["num_threads"] for pool in threadpool_info()]
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
    assert before == (
        sys.getswitchinterval(),
        [pool["num_threads"] for pool in threadpool_info()],
    )


def test_a_forked_process_fits_too(dataset):
    def fit():
        KMeans(3, None, seed=1, use_mini_batch=False).train(lambda: dataset, steps=1)

    fit()
    child = multiprocessing.get_context("fork").Process(target=fit)
    child.start()
    child.join(60)
    assert child.exitcode == 0


# Dask looks at the frames of a worker's threads a hundred times a second while it computes.
LOOKING = """
import gc, sys, threading, time
from dkmeans.executors.dask.process import prepare_worker

prepare_worker()
gc.callbacks.append(lambda *about: time.sleep(0))
gc.set_threshold(1)


def begin_threads():
    for _ in range(300):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()


beginning = threading.Thread(target=begin_threads)
beginning.start()
while beginning.is_alive():
    sys._current_frames()
"""


def test_a_worker_whose_threads_are_looked_at_while_others_begin_does_not_hang():
    subprocess.run([sys.executable, "-c", LOOKING], check=True, timeout=60)
