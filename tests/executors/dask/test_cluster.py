"""The cluster: its workers and threads, and errors of Dask in this library's words."""

import gc
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster, wait
from distributed.comm import CommClosedError
from distributed.scheduler import NoValidWorkerError

from dkmeans import Invalid, KMeans, Outage, RunConfig
from dkmeans.executors import Dask
from dkmeans.executors.dask import cluster as module
from dkmeans.executors.dask import internals
from dkmeans.executors.dask.cluster import (
    Cluster,
    StrandedError,
    lost_errors,
)
from tests.executors.laws import wait_until


class NoWorkers:
    """A client of a cluster without workers."""

    status = "running"
    scheduler = type("Scheduler", (), {"address": "tcp://nowhere"})

    def nthreads(self):
        return {}


class NoAnswer(NoWorkers):
    """A client whose scheduler does not answer."""

    def nthreads(self):
        raise OSError("Timed out\nand more")


def fail(number):
    raise KeyError(number)


def start(command, folder, *arguments):
    """Start a process of Dask that finds packages in a folder before those that are installed."""
    paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{command}", *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=folder,  # Python would find the package in the root of the repository
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_another_dkmeans_on_the_cluster_is_named_with_its_remedy_and_no_worker_dies(tmp_path):
    missing, copied, older = (tmp_path / name for name in ("missing", "copied", "older"))
    for folder in (missing, copied, older):
        (folder / "dkmeans-0.dist-info").mkdir(parents=True)
    (missing / "dkmeans").mkdir()
    (missing / "dkmeans/__init__.py").write_text("raise ImportError")
    (older / "dkmeans-0.dist-info/METADATA").write_text("Name: dkmeans\nVersion: 0.0.9\n")
    options = {"processes": False, "n_workers": 0, "dashboard_address": ":0"}
    with (
        LocalCluster(**options, protocol="tcp") as cluster,
        Client(cluster, set_as_default=False) as client,
        ExitStack() as stack,
    ):
        worker = [cluster.scheduler_address, "--no-nanny", "--no-dashboard", "--nthreads", "1"]
        for folder in (missing, copied, older):
            process = start("worker", folder, *worker, "--name", folder.name)
            stack.callback(process.wait)
            stack.callback(process.kill)
        client.wait_for_workers(3, timeout=60)
        names = {each["name"]: address for address, each in _workers_of(client).items()}
        with pytest.raises(Invalid, match=r"dkmeans on the cluster must be the driver's") as told:
            Dask(client)
        assert f"none on {names['missing']}" in str(told.value)
        assert f"0.0.9 on {names['older']}" in str(told.value)
        assert names["copied"] not in str(told.value)
        assert "\n" not in str(told.value)
        assert len(client.nthreads()) == 3


def _workers_of(client):
    return client.scheduler_info(n_workers=-1)["workers"]


def test_a_scheduler_without_dkmeans_is_named(client, monkeypatch):
    async def versions(**_):
        return {"packages": {"dkmeans": "0"}}

    monkeypatch.setattr(client.scheduler, "versions", versions)
    found = internals.foreign_versions(client, "dkmeans", list(client.nthreads()))
    assert found == {"the scheduler": "0"}


def test_workers_and_threads_are_those_of_the_client(client):
    cluster = Cluster(client)
    assert cluster.threads_by_worker() == dict(client.nthreads())
    assert cluster.threads() == 2
    assert list(cluster.threads_by_preferred_worker().items()) == sorted(client.nthreads().items())
    assert str(cluster) == f"2 threads of the cluster at {client.scheduler.address}"


def test_memory_is_that_of_the_smallest_worker_and_room_that_of_all(client):
    memory = Cluster(client).memory()
    assert (memory.workers, memory.threads) == (2, 2)
    assert memory.limit > 10**8
    assert 0 <= memory.room < 2 * memory.limit


def test_a_cluster_without_workers_may_yet_get_one():
    cluster = Cluster(NoWorkers())
    assert cluster.threads() == 1
    assert cluster.threads_by_preferred_worker() == {None: 1}


def test_a_cluster_without_workers_says_how_to_get_some(caplog):
    client = NoWorkers()
    Cluster(client)._check_workers([])
    assert caplog.messages == ["the cluster at tcp://nowhere has no workers; waiting for some"]
    client.cluster = "a LocalCluster"
    Cluster(client)._check_workers([])
    assert caplog.messages[1].endswith(
        "waiting for some; after 15 s cluster.scale(n) starts n new ones"
    )


def test_a_fit_whose_workers_are_all_paused_says_so_and_goes_on_when_one_has_room(
    caplog, monkeypatch
):
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.1)
    monkeypatch.setattr(module, "_HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.5)
    # This process has more memory than this, of which Dask knows nothing but that it is full.
    options = {"n_workers": 1, "threads_per_worker": 1, "memory_limit": "64 MiB"}
    with (
        dask.config.set({"distributed.worker.memory.terminate": False}),
        LocalCluster(processes=False, dashboard_address=None, **options) as paused,
        Client(paused) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        worker = paused.workers[0]
        wait_until(lambda: worker.status.name == "paused")
        rows = np.arange(40.0).reshape(20, 2)
        model = KMeans(2, initial_clusters=rows[:2], config=RunConfig(client=client))
        fit = pool.submit(model.train, lambda: rows, max_steps=2)
        wait_until(lambda: "has paused all workers" in caplog.text)
        time.sleep(1)  # longer than tasks may be without a worker
        worker.memory_manager.memory_limit = 2**40
        fit.result(timeout=60)
    assert caplog.text.count("has paused all workers") == 1
    assert "lost workers" not in caplog.text


def test_results_come_in_the_order_of_their_tasks(client):
    futures = [client.submit(pow, 2, number, pure=False) for number in range(5)]
    cluster = Cluster(client)
    assert cluster.results(futures) == [1, 2, 4, 8, 16]
    assert cluster.results([futures[3]]) == [8]


def test_the_error_of_a_task_is_raised_as_it_is(client):
    cluster = Cluster(client)
    with pytest.raises(KeyError, match="7"), cluster.errors_translated():
        cluster.results([client.submit(fail, 7, pure=False)])


def test_the_error_of_a_task_is_raised_before_the_other_tasks_are_done(client, monkeypatch):
    monkeypatch.setattr("dkmeans.executors.dask.cluster._CHECK_SECONDS", 0.1)
    slow = client.submit(time.sleep, 3, pure=False)
    broken = client.submit(fail, 7, pure=False)
    with pytest.raises(KeyError):
        Cluster(client).results([slow, broken])
    assert not slow.done()


def test_tasks_that_were_awaited_for_long_are_released_at_once(client, monkeypatch):
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.05)
    task = client.submit(time.sleep, 0.3, pure=False)
    gc.disable()  # an error that refers to itself would hold the task
    try:
        Cluster(client).results([task])
        key = task.key
        del task
        wait_until(lambda: key not in client.futures)
    finally:
        gc.enable()


def test_a_frozen_worker_is_found_also_if_tasks_only_need_a_result_of_it(client, monkeypatch):
    for name in ("_CHECK_SECONDS", "_HEARTBEAT_SECONDS"):
        monkeypatch.setattr(module, name, 0.2)
    monkeypatch.setattr("dkmeans.executors.dask.frozen_workers._SILENT_SECONDS", 2)
    cluster = Cluster(client)
    holder, other = cluster.threads_by_preferred_worker()
    rows = client.submit(bytes, 10, workers=[holder])
    wait(rows)
    process = client.run(os.getpid, workers=[holder])[holder]
    os.kill(process, signal.SIGSTOP)
    try:
        task = client.submit(len, rows, workers=[other])
        with pytest.raises(StrandedError, match=f"{holder} is frozen: other workers take over"):
            cluster.results([task], [rows])
        assert cluster.threads_by_preferred_worker() == {other: 1}
    finally:
        os.kill(process, signal.SIGCONT)
    wait_until(lambda: cluster.threads_by_preferred_worker() == {holder: 1, other: 1})


def test_a_scheduler_that_does_not_answer_is_an_outage():
    with pytest.raises(Outage, match=r"^the cluster at tcp://nowhere cannot be reached: .*Timed"):
        Cluster(NoAnswer()).threads()


def test_a_closed_client_is_an_outage_and_cancels_nothing(cluster):
    with Client(cluster, set_as_default=False) as client:
        future = client.submit(pow, 2, 3, pure=False)
        closed = Cluster(client)
    closed.cancel([future])
    message = "cannot be reached: the client is closed"
    with pytest.raises(Outage, match=message), closed.errors_translated():
        raise AssertionError("not reached")


@pytest.mark.parametrize(
    "error",
    [
        CancelledError("task"),
        CommClosedError("closed"),
        NoValidWorkerError("task", set(), set(), {}, 30.0),
    ],
)
def test_errors_of_a_lost_cluster_are_outages(client, error):
    assert isinstance(error, lost_errors())
    cluster = Cluster(client)
    with pytest.raises(Outage, match="cannot be reached"), cluster.errors_translated():
        raise error


def test_workers_that_were_asked_for_just_now_are_not_asked_for_again(monkeypatch):
    asked, now = [], [0.0]

    class Scheduler:
        address = "tcp://scheduler"

    class Connected:
        scheduler = Scheduler()

        def nthreads(self):
            asked.append(now[0])
            return {"b": 2, "a": 1}

    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Cluster, "compare_versions", lambda *_: None)
    workers = Cluster(Connected())
    for seconds in (1.0, 1.05, 1.09, 1.2):
        now[0] = seconds
        assert list(workers.known_threads().items()) == [("a", 1), ("b", 2)]
    assert asked == [1.0, 1.2]
    now[0] = 1.21
    workers.threads_by_preferred_worker()
    assert asked == [1.0, 1.2, 1.21]
