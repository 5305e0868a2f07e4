"""The Dask executor: the laws for any number of workers; workers that die, leave or are slow."""

import gc
import os
import re
import signal
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster, get_worker

from dkmeans import Dataset, InvalidData, KMeans, Outage, RunConfig, checkpoints
from dkmeans.distance import Centers, Distance
from dkmeans.executors import Dask
from dkmeans.executors.chunk_pieces import in_pieces
from dkmeans.executors.dask import internals, shares
from dkmeans.executors.dask.cluster import Cluster, StrandedError
from dkmeans.executors.dask.dealing import Dealing
from dkmeans.partial_sums import accumulate
from dkmeans.prediction.per_chunk import score
from tests.at_step import at_step
from tests.exactly import same_partial_sums
from tests.executors.laws import (
    ExecutorLaws,
    batches_of,
    centers,
    check_caching,
    check_iterations,
    totals_of_serial,
    wait_until,
)


@pytest.fixture
def executor(workers):
    with Dask(workers) as executor:
        yield executor


class TestDask(ExecutorLaws):
    """The laws, for 3 workers and for 1."""


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


def test_cached_rows_are_read_once_and_give_the_same_bits(client, tmp_path):
    check_caching(lambda cache: Dask(client, cache), tmp_path)


# Workers that are lost, retired or slow.


def slowly(block):
    time.sleep(0.03)
    return block


def test_a_worker_killed_in_the_middle_of_an_iteration_costs_time_and_no_bit(client, store):
    rows = da.from_zarr(store, chunks=(150, 6)).map_blocks(slowly)
    first = np.asarray(rows[:8])

    def fit(client):
        config = RunConfig(client=client, cache="none")  # rows that are cached are not slow
        model = KMeans(8, None, first, use_mini_batch=False, config=config)
        model.train(lambda: rows, steps=5)
        return checkpoints.latest(model.model_dir).state

    undisturbed = fit(None)
    killed, _ = client.run(os.getpid).values()

    def kill():
        time.sleep(0.2)  # an iteration takes three times as long
        os.kill(killed, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    with at_step(2, killer.start):
        disturbed = fit(client)
    killer.join()
    client.wait_for_workers(2, timeout=60)
    assert killed not in client.run(os.getpid).values()
    assert undisturbed.step == disturbed.step == 5
    assert undisturbed.centers.tobytes() == disturbed.centers.tobytes()
    assert undisturbed.inertia == disturbed.inertia


def test_a_worker_that_is_frozen_is_named_also_in_iterations_by_calls(
    client, dataset, monkeypatch, caplog
):
    monkeypatch.setattr("dkmeans.executors.dask.driver._CALL_SECONDS", 1)
    monkeypatch.setattr("dkmeans.executors.dask.cluster._CHECK_SECONDS", 0.2)
    batches = batches_of(dataset)
    with Dask(client) as executor:
        check_iterations(executor, batches, 4)
        address, frozen = next(iter(client.run(os.getpid).items()))
        os.kill(frozen, signal.SIGSTOP)
        timer = threading.Timer(3, os.kill, (frozen, signal.SIGCONT))
        timer.start()
        check_iterations(executor, batches, 1)
        timer.join()
    (late,) = [text for text in caplog.messages if text.startswith("waiting for ")]
    assert re.match(rf"waiting for {address}, longer than the usual [\d.]+ s of an iteration", late)


@pytest.mark.parametrize("stored", [True, False])
def test_other_workers_take_over_from_a_worker_that_is_frozen(
    client, dataset, monkeypatch, caplog, stored
):
    monkeypatch.setattr("dkmeans.executors.dask.driver._CALL_SECONDS", 1)
    monkeypatch.setattr("dkmeans.executors.dask.cluster._CHECK_SECONDS", 0.2)
    monkeypatch.setattr("dkmeans.executors.dask.frozen_workers._SILENT_SECONDS", 3)
    rows = np.random.default_rng(1).normal(size=(90, 6)).astype(np.float32)
    batches = batches_of(dataset if stored else Dataset.from_array(rows))
    with Dask(client) as executor:
        check_iterations(executor, batches, 4)
        address, frozen = next(iter(client.run(os.getpid).items()))
        os.kill(frozen, signal.SIGSTOP)
        try:
            check_iterations(executor, batches, 3)
        finally:
            os.kill(frozen, signal.SIGCONT)
        started_over = f"{address} is frozen: other workers take over; the iteration starts over"
        assert started_over in caplog.messages
        wait_until(lambda: len(executor._cluster.threads_by_preferred_worker()) == 2)
        check_iterations(executor, batches, 1)


@pytest.mark.parametrize("has_results", [True, False])
def test_results_in_order_go_on_without_a_worker_that_is_frozen(
    client, dataset, monkeypatch, caplog, has_results
):
    monkeypatch.setattr("dkmeans.executors.dask.cluster._CHECK_SECONDS", 0.2)
    monkeypatch.setattr("dkmeans.executors.dask.cluster._HEARTBEAT_SECONDS", 0.5)
    monkeypatch.setattr("dkmeans.executors.dask.frozen_workers._SILENT_SECONDS", 3)
    chunks = list(batches_of(dataset)[0])
    expected = [accumulate(chunk.loaded(), centers()) for chunk in chunks]
    with Dask(client) as executor:
        address, frozen = next(iter(client.run(os.getpid).items()))
        found = executor.map(accumulate, chunks, centers())
        results = [next(found)] if has_results else []
        # Each worker has several results that the driver has not asked for.
        wait_until(lambda: not any(client.processing().values()))
        os.kill(frozen, signal.SIGSTOP)
        try:
            results += found
        finally:
            os.kill(frozen, signal.SIGCONT)
        assert all(map(same_partial_sums, results, expected))
        assert len(results) == len(expected)
        taken_over = f"{address} is frozen: other workers take over; their chunks are computed"
        # Said again if chunks were sent to the worker before it was known to be frozen.
        assert taken_over in caplog.text
        wait_until(lambda: len(executor._cluster.threads_by_preferred_worker()) == 2)


def test_a_short_iteration_whose_workers_change_is_computed_by_those_that_are_left(dataset):
    batches = batches_of(dataset)
    with (
        LocalCluster(n_workers=3, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
        Dask(client, "auto") as executor,
    ):
        check_iterations(executor, batches, 3)
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        check_iterations(executor, batches, 3)
        retired = sorted(client.nthreads())[0]
        client.retire_workers([retired])
        assert retired not in client.nthreads()
        check_iterations(executor, batches, 3)
        cluster.scale(4)
        client.wait_for_workers(3, timeout=60)
        check_iterations(executor, batches, 3)


def test_a_worker_that_is_much_slower_is_dealt_less_with_the_same_bits(client, dataset):
    batches = batches_of(dataset)
    slow = sorted(client.nthreads())[0]
    (expected,) = totals_of_serial(batches, centers())
    chunks_of_slow = []
    with Dask(client) as executor:

        def is_dealt_less():
            (total,) = executor.map_reduce(slowly_on_one, batches, (centers(), slow)).totals
            chunks_of_slow.append(total.slow)
            assert same_partial_sums(total.sums, expected)
            return total.slow <= len(batches[0]) * 0.25

        # Some iterations are needed to measure; on a busy machine more, as both workers are slow.
        wait_until(is_dealt_less)
    assert chunks_of_slow[0] > chunks_of_slow[-1]


@dataclass(frozen=True)
class CountedSums:
    """Partial sums of some chunks, and the number of those that a certain worker computed."""

    sums: object
    slow: int

    def __add__(self, other):
        return CountedSums(self.sums + other.sums, self.slow + other.slow)


def slowly_on_one(chunk, value):
    centers, slow = value
    is_slow = get_worker().address == slow
    time.sleep(0.03 if is_slow else 0.003)
    return CountedSums(accumulate(chunk, centers), int(is_slow))


def test_the_steps_of_an_iteration_are_computed_by_all_workers_at_once(client, dataset):
    batches = batches_of(dataset, 300)
    batches = batches[: len(batches) // 2 * 2]
    half = len(batches) // 2
    with Dask(client) as executor:

        def each_computes_half():
            totals = executor.map_reduce(process_of, batches, None).totals
            one, other = frozenset().union(*totals[:half]), frozenset().union(*totals[half:])
            return len(one) == len(other) == 1 and one != other

        # The first iteration is dealt in smaller runs; on a busy machine a share may move.
        wait_until(each_computes_half)


def process_of(chunk, _):
    return Processes([os.getpid()])


class Processes(frozenset):
    """Process ids of workers; the sum has those of both."""

    def __add__(self, other):
        return Processes(self | other)


# Tasks and calls.


def test_all_threads_of_a_worker_compute_pieces_of_few_chunks_also_in_long_iterations(
    tmp_path, monkeypatch
):
    rows = np.random.default_rng(1).normal(size=(600, 6)).astype(np.float32)
    zarr.create_array(str(tmp_path / "x.zarr"), data=rows, chunks=(300, 6))
    batches, counts = batches_of(Dataset.from_zarr(str(tmp_path / "x.zarr"))), []

    def noted(batches, threads):
        cut = in_pieces(batches, threads)
        counts.append((threads, sum(map(len, cut))))
        return cut

    monkeypatch.setattr("dkmeans.executors.run_queue.in_pieces", noted)
    monkeypatch.setattr(Dealing, "runs_per_thread", 16)
    monkeypatch.setattr(Dealing, "can_call", False)
    workers = {"n_workers": 1, "threads_per_worker": 3, "dashboard_address": ":0"}
    with (
        LocalCluster(processes=False, **workers) as cluster,
        Client(cluster, set_as_default=False) as client,
        Dask(client, "auto") as executor,
    ):
        check_iterations(executor, batches, 3)
    assert counts == [(3, 2), (3, 600), (3, 600)]


def test_tasks_grow_with_the_workers_and_not_with_the_chunks(client, monkeypatch):
    def tasks(chunks):
        (batch,) = batches_of(Dataset.from_array(da.zeros((chunks * 2, 6), chunks=(2, 6))))
        assert len(batch) == chunks
        count = []
        submit = client.submit
        client.submit = lambda *a, **k: (count.append(1), submit(*a, **k))[1]
        with Dask(client) as executor:
            executor.map_reduce(score, [batch], centers())
        client.submit = submit
        return len(count)

    assert tasks(400) <= tasks(50) <= 20
    # Of large centers each worker has one task, and the sums of both workers are merged in pairs.
    monkeypatch.setattr("dkmeans.executors.dask.driver._ADDED_BYTES", 0)
    assert tasks(50) <= 4


@pytest.mark.parametrize("stored", [True, False])
def test_a_short_iteration_that_is_like_the_last_takes_no_tasks(client, submitted, dataset, stored):
    rows = np.random.default_rng(1).normal(size=(90, 6)).astype(np.float32)
    batches = batches_of(dataset if stored else Dataset.from_array(rows))
    with Dask(client) as executor:
        check_iterations(executor, batches, 2)
        assert submitted

        def takes_no_tasks():
            submitted.clear()
            check_iterations(executor, batches, 1)
            return not submitted

        # On a busy machine an iteration may be slow, or a share may move to another worker.
        wait_until(takes_no_tasks)
        check_iterations(executor, batches_of(dataset, 500)[:1], 1)
        assert submitted


def test_many_workers_call_each_other_and_tasks_do_only_what_one_has_forgotten_or_left(
    dataset, monkeypatch
):
    # On a busy machine some workers are slow: their shares would be dealt anew.
    monkeypatch.setattr("dkmeans.executors.dask.share_sizes._WORTHWHILE", 0)
    # Without limits of memory: each worker would count that of the whole process, and pause.
    options = {"memory_limit": 0, "processes": False, "dashboard_address": ":0"}
    batches = batches_of(dataset)
    with (
        LocalCluster(n_workers=20, threads_per_worker=2, **options) as cluster,
        Client(cluster, set_as_default=False) as client,
        Dask(client) as executor,
    ):
        count = []
        submit = client.submit
        client.submit = lambda *a, **k: (count.append(1), submit(*a, **k))[1]

        def tasks():
            count.clear()
            check_iterations(executor, batches, 1)
            return len(count)

        def one_task_if_one_share_is_forgotten():
            if tasks():  # on a busy machine the iteration is dealt anew
                return False
            last = [key for key in shares.computed._computed if key[1] in client.nthreads()][-1]
            del shares.computed._computed[last]
            return tasks() == 1

        wait_until(one_task_if_one_share_is_forgotten)

        def one_task_for_each_chunk_if_one_leaves_and_one_task_if_another_joins():
            before = sorted(client.nthreads())
            client.retire_workers(before[-1:])
            left = tasks(), tasks()
            cluster.scale(len(cluster.worker_spec) + 1)
            wait_until(lambda: client.nthreads().keys() - before)
            return set(left) <= {1, 2, 3} and (tasks(), tasks()) == (1, 0)

        wait_until(one_task_for_each_chunk_if_one_leaves_and_one_task_if_another_joins)


def test_rows_that_dask_has_released_are_shipped_again(client, submitted):
    rows = np.random.default_rng(1).normal(size=(90, 6)).astype(np.float32)
    batches = batches_of(Dataset.from_array(rows))
    with Dask(client) as executor:
        check_iterations(executor, batches, 3)
        executor._shipping.forget()
        executor._held.clear()
        gc.collect()
        wait_until(lambda: not any(client.has_what().values()))
        submitted.clear()
        check_iterations(executor, batches, 1)
        assert submitted


@pytest.mark.parametrize("recovers", [True, False])
def test_chunks_whose_workers_are_lost_again_and_again_are_given_up(
    executor, dataset, monkeypatch, recovers
):
    lost, results = [], Cluster.results

    def stranded(self, *arguments):
        if recovers and len(lost) == 4:
            return results(self, *arguments)
        lost.append(arguments)
        raise StrandedError("the cluster has lost workers, and their tasks")

    monkeypatch.setattr(Cluster, "results", stranded)
    batch = next(dataset.batches()).numbered()
    expected = nullcontext() if recovers else pytest.raises(Outage, match="lost 5 times in a row")
    for compute in (
        lambda: list(executor.map(score, batch, centers())),
        lambda: executor.map_reduce(score, [batch], centers()),
    ):
        lost.clear()
        with expected:
            compute()
        assert len(lost) == (4 if recovers else 5)


def test_a_scheduler_that_allows_no_calls_is_given_tasks(dataset, monkeypatch):
    monkeypatch.setattr(internals, "reaches_workers", lambda client, workers: False)
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
        check_iterations(executor, batches, 4)


def test_an_error_in_a_call_is_raised_by_the_task_that_computes_it_again(client, dataset):
    batches = batches_of(dataset)
    with Dask(client) as executor:
        check_iterations(executor, batches, 3)
        wide = Centers(np.ones((9, 7)), Distance.SQUARED_EUCLIDEAN)
        with pytest.raises(InvalidData, match="rows of 7 columns"):
            executor.map_reduce(accumulate, batches, wide)
        check_iterations(executor, batches, 2)


# What a fit leaves, and where its paths lead.


def test_nothing_is_left_on_the_cluster_when_a_fit_has_ended(client, dataset):
    KMeans(3, None, seed=1, config=RunConfig(client=client)).train(
        lambda: dataset.batch(500), steps=5
    )
    gc.collect()
    deadline = time.monotonic() + 10
    while client.futures and time.monotonic() < deadline:
        time.sleep(0.05)  # the client releases collected futures in its own thread
    assert client.futures == {}


def test_a_fit_uses_the_client_of_its_configuration(client, cluster):
    with Client(cluster, set_as_default=False) as given:
        KMeans(3, None, seed=1, config=RunConfig(client=given)).train(
            lambda: np.eye(3, dtype=np.float32), steps=1
        )
        with Dask(given) as executor:
            rows = batches_of(Dataset.from_array(np.eye(6, dtype=np.float32)))
            executor.map_reduce(score, rows, centers())
            assert executor._client is given


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


def test_an_array_that_a_worker_does_not_see_is_an_error_and_not_zeros(client, tmp_path):
    rows = np.ones((600, 4), np.float32)
    zarr.create_array(str(tmp_path / "r.zarr"), data=rows, chunks=(100, 4))
    dataset = Dataset.from_zarr(str(tmp_path / "r.zarr"))
    (tmp_path / "r.zarr").rename(tmp_path / "moved.zarr")
    with pytest.raises(InvalidData, match=r"there is no Zarr array at .*r\.zarr on "):
        KMeans(2, None, rows[:2] * [[1], [2]], use_mini_batch=False).train(lambda: dataset, steps=1)
