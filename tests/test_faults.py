"""Failures of workers, drivers and schedulers while a fit runs. No bit of a result changes."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from dkmeans_jobs.__main__ import main

from dkmeans import Invalid, KMeans, Outage, RunConfig
from tests.at_step import at_step
from tests.dask_processes import Processes
from tests.exactly import same_state, state_of
from tests.jobs.commands import COMMAND
from tests.s3_server import free_ports

TRY_AGAIN = 75


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(5).normal(size=(1200, 4)).astype(np.float32)


# Workers that come and go.


def slowly(block, folder=None):
    """Return the block after a while; record the process in a folder, if there is one."""
    if folder:
        Path(folder, str(os.getpid())).touch()
    time.sleep(0.02)
    return block


def fatally(block):
    """Kill the worker."""
    if block.size:
        os.kill(os.getpid(), signal.SIGKILL)
    return block


def fit(client, rows, function=slowly, steps=4, **more):
    data = da.from_array(rows, chunks=(100, 4)).map_blocks(function, **more, meta=rows[:0])
    config = RunConfig(client=client, cache="none")  # rows that are cached are not slow
    model = KMeans(5, None, rows[:5], use_mini_batch=False, config=config)
    model.train(lambda: data, steps=steps)
    return state_of(model.model_dir)


@pytest.fixture(scope="module")
def undisturbed_fit(rows):
    return fit(None, rows)


@contextmanager
def workers(number, **more):
    with (
        LocalCluster(
            n_workers=number, threads_per_worker=1, dashboard_address=":0", **more
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client


def test_a_worker_added_in_the_middle_takes_part(rows, undisturbed_fit, tmp_path):
    with workers(1) as (cluster, client):

        def add():
            cluster.scale(2)
            client.wait_for_workers(2, timeout=30)

        with at_step(2, add):
            assert same_state(fit(client, rows, folder=str(tmp_path)), undisturbed_fit)
    assert len(list(tmp_path.iterdir())) == 2


NOTEBOOK = """
import os, sys, time
import numpy as np
from distributed import Client, LocalCluster
from dkmeans import KMeans

if __name__ == "__main__":
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0"}
    if sys.argv[1:]:
        options["preload"] = sys.argv[1]
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        before = client.run(os.getpid)
        rows = np.eye(4, dtype=np.float32)
        model = KMeans(3, None, rows[:3], use_mini_batch=True)
        try:
            print("training", flush=True)
            model.train(lambda: rows, steps=10**9)
        except KeyboardInterrupt:
            pass
        if sys.argv[1:]:
            time.sleep(1)
            assert client.run(os.getpid) == before
        else:
            while client.nthreads():
                time.sleep(0.1)
            time.sleep(2)  # Dask gives workers this time to come back
            cluster.scale(1)
        model.train(lambda: rows, steps=1)
        print("went on", flush=True)
"""


@pytest.mark.parametrize("recipe", [True, pytest.param(False, marks=pytest.mark.long)])
def test_the_stop_button_of_a_notebook_spares_the_workers_by_the_documented_recipe(
    tmp_path, recipe
):
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    guide = Path(__file__).parents[1] / "docs/operations.md"
    documented = re.search(r'^ignore = "(.*)"$', guide.read_text(), re.MULTILINE)[1]
    arguments = [documented] if recipe else []
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "notebook.py"), *arguments],
        env={**os.environ, "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1s"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout.readline() == "training\n"
            time.sleep(1)
            # Python drops an interrupt that comes while it finalizes an object, such as a future:
            # a user would press the button again.
            for _ in range(3):
                os.killpg(process.pid, signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    told, _ = process.communicate(timeout=40)
                    break
            else:
                pytest.fail("the stop button does not stop the training")
        finally:
            with suppress(ProcessLookupError):  # a test that fails leaves nobody training for ever
                os.killpg(process.pid, signal.SIGKILL)
    assert told == "went on\n"


def test_a_driver_that_was_frozen_goes_on_with_the_same_bits(tmp_path):
    rows = np.random.default_rng(0).normal(size=(20_000, 16)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    job = ["train", str(tmp_path / "rows.npy"), "--num-clusters", "100", "--seed", "1"]
    job += ["--max-steps", "60", "--relative-tolerance", "1e-12", "--model-dir"]
    local = ["--cluster", "local", "--workers", "1"]
    with subprocess.Popen(
        [*COMMAND, *job, str(tmp_path / "frozen"), *local, "--log-format", "json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while '"step": 3,' not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert main([*job, str(tmp_path / "undisturbed")]) == 0
    assert same_state(state_of(tmp_path / "frozen"), state_of(tmp_path / "undisturbed"))


def test_a_worker_retired_in_the_middle_changes_no_bit(rows, undisturbed_fit):
    with workers(2) as (_, client):
        retired = []

        def retire():
            retired.extend(client.retire_workers([next(iter(client.nthreads()))]))

        with at_step(2, retire):
            assert same_state(fit(client, rows), undisturbed_fit)
        assert len(retired) == 1
        assert len(client.nthreads()) == 1


def greedily(block, marker):
    """Return the block; the first call takes more memory than a worker may have."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return block
    taken = []
    for _ in range(200):
        taken.append(b"x" * 2**25)
        time.sleep(0.02)
    return block


def test_a_worker_restarted_for_its_memory_changes_no_bit(
    rows, undisturbed_fit, tmp_path, monkeypatch
):
    monkeypatch.setattr("dkmeans.executors.dask.cluster._CHECK_SECONDS", 0.2)
    with workers(1, memory_limit="700MB") as (_, client):
        before = list(client.run(os.getpid).values())
        disturbed = fit(client, rows, greedily, marker=str(tmp_path / "marker"))
        assert same_state(disturbed, undisturbed_fit)
        assert before != list(client.run(os.getpid).values())


def test_chunks_that_no_worker_survives_are_a_mistake_that_can_be_mended(rows):
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        workers(1) as (_, client),
        pytest.raises(Invalid, match=r"memory of the workers must suffice.*smaller chunks"),
    ):
        fit(client, rows, fatally)


def test_a_cluster_that_adapts_gives_the_same_bits(rows, undisturbed_fit):
    with workers(0) as (cluster, client):
        cluster.adapt(minimum=1, maximum=2, interval="100ms")
        assert same_state(fit(client, rows), undisturbed_fit)


def test_a_cluster_without_workers_is_waited_for_and_given_up(
    rows, undisturbed_fit, caplog, monkeypatch
):
    monkeypatch.setattr("dkmeans.executors.dask.cluster._CHECK_SECONDS", 0.2)
    with workers(0) as (cluster, client):
        adder = threading.Timer(1, cluster.scale, [1])
        adder.start()
        assert same_state(fit(client, rows), undisturbed_fit)
        assert caplog.text.count("has no workers; waiting for some") == 1
        adder.join()
        cluster.scale(0)
        monkeypatch.setattr("dkmeans.executors.dask.cluster._DESERTED_SECONDS", 0.6)
        with pytest.raises(Outage, match=r"the cluster at .* has had no workers for"):
            fit(client, rows)


# The scheduler.


def test_a_killed_scheduler_ends_the_job_with_75_and_the_same_command_continues(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40_000, 16)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    (port,) = free_ports(1)
    argv = ["train", tmp_path / "rows.npy", "--num-clusters", 30, "--seed", 1, "--max-steps", 80]
    argv = [*map(str, argv), "--cluster", f"tcp://127.0.0.1:{port}", "--model-dir"]
    command = [sys.executable, "-m", "dkmeans_jobs", *argv, str(tmp_path / "m")]
    with ExitStack() as stack:
        cluster = Processes(stack, port)
        cluster.worker()
        job = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        while "step 1 " not in job.stderr.readline():
            assert job.poll() is None
        cluster.scheduler.kill()
        _, err = job.communicate(timeout=60)
    assert job.returncode == TRY_AGAIN, err
    assert "Traceback" not in err
    assert f"the cluster at {cluster.address} cannot be reached" in err
    assert "Run the same command again" in err
    assert 0 < state_of(tmp_path / "m").step < 80
    with ExitStack() as stack:
        Processes(stack, port).worker()
        assert main([*argv, str(tmp_path / "m")]) == 0
    on_threads = [*argv, str(tmp_path / "calm"), "--cluster", "threads"]
    assert main(on_threads) == 0
    assert same_state(state_of(tmp_path / "m"), state_of(tmp_path / "calm"))


def slower(block):
    time.sleep(0.1)
    return block


@pytest.mark.parametrize("done", ["nothing", "some"])
def test_workers_lost_together_of_which_one_comes_back_at_its_address_are_not_waited_for(
    rows, undisturbed_fit, monkeypatch, caplog, done
):
    if done == "some":  # a task for each run, and not for a share
        monkeypatch.setattr("dkmeans.executors.dask.dealing._LONG_SECONDS", 0)
    monkeypatch.setattr("dkmeans.executors.dask.cluster._CHECK_SECONDS", 0.2)
    monkeypatch.setattr("dkmeans.executors.dask.cluster._IDLE_SECONDS", 1)
    with ExitStack() as stack:
        port, *ports = free_ports(3)
        cluster = Processes(stack, port)
        first, second = map(cluster.worker, ports)
        client = stack.enter_context(Client(cluster.address, set_as_default=False))
        client.wait_for_workers(2, timeout=30)

        def lose():
            time.sleep(0.3)  # an iteration takes twice as long
            first.kill()
            second.kill()
            first.join()
            cluster.worker(ports[0])

        loser = threading.Thread(target=lose)
        with at_step(2, loser.start):
            assert same_state(fit(client, rows, slower), undisturbed_fit)
        loser.join()
    assert "has lost workers, and their tasks; the iteration starts over" in caplog.text
