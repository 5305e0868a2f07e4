"""Fixtures that tests share: two S3 servers and a Dask cluster, all of them real.

`s3` is SeaweedFS, which supports conditional writes; `s3_without_conditional_writes` is rclone,
which ignores their conditions. `faulty_place` is SeaweedFS behind a `proxy` that makes it fail.
"""

import gc
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from functools import cache
from urllib.parse import urlsplit
from uuid import uuid4

import dask
import pytest
from distributed import Client, LocalCluster
from distributed.utils import get_mp_context
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import settings

from tests.s3_proxy import Proxy, no_fault
from tests.s3_server import binary, free_ports, shared_server

# Processes that tests start would compile this project's modules again, each of them, and every run
# of pytest the tests, if the environment forbids to keep what is compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# How often Dask measures itself, in this process and in those that it starts. With Dask's defaults
# of 10 to 500 ms, the clusters that wait for their next test take a third of a core.
os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__INTERVAL"] = "200ms"
os.environ["DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL"] = "1s"
os.environ["DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL"] = "2s"
dask.config.refresh()
# Workers of the clusters in this process are forked from one process that has imported what they
# need, which takes each of them two seconds. The jobs that tests start as commands spawn theirs.
dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
get_mp_context().set_forkserver_preload(
    ["distributed", "dkmeans.backends.native.backend", "tests.preload"]
)

# Garbage is collected rarely: importing, and compiling kernels, takes 5 % longer with Python's
# threshold of 700 objects.
gc.set_threshold(50_000, 20, 20)

# Properties are tested with few examples; `make test-long` tests them with many.
settings.register_profile("short", max_examples=30, deadline=None)
settings.register_profile("long", max_examples=400, deadline=None)
settings.load_profile("short")


# Folders and files whose tests share an expensive part, so that one process runs all of them:
# TensorFlow; kernels that Numba compiles, for which another process would wait. The kernels of
# bounds are others than those of a pass without bounds, and take as long to compile. The tests of
# data need no kernels.
_TOGETHER = {
    "data/": "data",
    "exports": "exports",
    "backends/native/test_all_pairs.py": "bounds",
    "backends/native/test_bounds.py": "bounds",
    "backends/native/test_reassign.py": "bounds",
    "backends/native": "native",
    "backends/test_backends.py": "native",
}
# The groups that start first. In a fresh clone one process compiles kernels that the tests of many
# groups wait for; the others run groups without such kernels meanwhile. Then come the groups that
# take longest: those that mostly wait for processes of their own alternate with those that compute.
_FIRST = (
    "native",
    "backends/cuda/test_launches.py",
    "backends/cuda/test_kernel_trial.py",
    "backends/cuda/test_chunk_sums.py",
    "backends/cuda/test_host_cuda.py",
    "deploy/test_deploy.py",
    "data",
    "test_faults.py",
    "bounds",
    "test_notebooks.py",
    "executors/dask/test_driver.py",
    "prediction/test_output.py",
    "test_mlflow.py",
    "test_storage_faults.py",
    "test_sklearn.py",
    "test_kills.py",
    "exports",
    "test_site.py",
    "test_sklearn_behaviour.py",
    "test_restarts.py",
    "test_report_page.py",
    "test_lloyd.py",
    "test_sweeping.py",
    "test_training.py",
    "jobs/test_signals.py",
    "checkpoints/test_loading.py",
    "checkpoints/test_checkpoint.py",
    "checkpoints/test_commit.py",
    "initialization/test_kmeans_parallel.py",
    "test_estimator.py",
)


@cache
def _group_of(file):
    name = file.removeprefix("tests/")
    return next((group for start, group in _TOGETHER.items() if name.startswith(start)), name)


def _rank(group):
    return _FIRST.index(group) if group in _FIRST else len(_FIRST)


def pytest_collection_modifyitems(items):
    """Order the groups of tests for processes beside each other.

    None of the slowest groups is left over at the end.
    """
    groups = {}
    for item in items:
        groups.setdefault(_group_of(item.nodeid.split("::")[0]), []).append(item)
    items[:] = [item for group in sorted(groups, key=_rank) for item in groups[group]]


def pytest_collection_finish():
    """Keep what is imported and collected, a million objects, out of each garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Return a scheduler that gives a whole group of tests to one process."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 the tests run without xdist too

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return _group_of(nodeid.split("::")[0])

    return ByGroup(config, log)


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """URL of a folder of this process in a bucket of SeaweedFS, which the environment names."""
    folder = tmp_path_factory.getbasetemp()
    # All processes of xdist have the server of the folder around theirs.
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    (folder / "seaweedfs").mkdir(exist_ok=True)
    with (
        shared_server(folder / "seaweedfs") as endpoint,
        pytest.MonkeyPatch.context() as environment,
    ):
        _point_to(endpoint, environment)
        yield f"s3://tests/{uuid4().hex[:8]}"


@pytest.fixture
def s3_without_conditional_writes(tmp_path, monkeypatch):
    """URL of a bucket of an rclone server, which treats conditional writes as plain writes."""
    (port,) = free_ports(1)
    bucket = f"unconditional-{port}"  # a new name: clients cache the server of a bucket
    (tmp_path / "root" / bucket).mkdir(parents=True)
    command = [binary("rclone"), "serve", "s3", f"--addr=127.0.0.1:{port}"]
    command += ["--auth-key=tests,tests", "--config=", str(tmp_path / "root")]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(server, port, tmp_path / "log")
        _point_to(f"http://127.0.0.1:{port}", monkeypatch)
        yield f"s3://{bucket}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def proxy(s3):
    """A proxy before a bucket of the S3 server that is used through it alone."""
    proxy = Proxy(urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    with suppress(urllib.error.HTTPError):  # another process has made the bucket
        request = urllib.request.Request(f"{proxy.url}/faults", method="PUT")
        urllib.request.urlopen(request, timeout=10)
    yield proxy
    proxy.shutdown()
    thread.join()
    proxy.server_close()


@pytest.fixture
def faulty_place(proxy, monkeypatch):
    """A folder behind the proxy, where nothing fails yet."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    proxy.fault, proxy.faults = no_fault, []
    yield f"s3://faults/{uuid4().hex[:8]}"
    proxy.fault = no_fault


@pytest.fixture(scope="session", autouse=True)
def short_pauses():
    """Ask again soon for an object that is missing: most of those in the tests never come."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("dkmeans.retry", "dkmeans.storage.stores"):
            patch.setattr(f"{module}.MISSING_PAUSES_SECONDS", (0.02, 0.1))
        yield


@pytest.fixture(autouse=True)
def forget_memory():
    """Remove what a test leaves at memory:// addresses: every look-up there visits all files."""
    files, folders = MemoryFileSystem.store, MemoryFileSystem.pseudo_dirs
    before, folders_before = set(files), list(folders)
    yield
    for name in files.keys() - before:
        del files[name]
    folders[:] = folders_before


@pytest.fixture
def short_patience(monkeypatch):
    """Retry for less than a second, so that a test does not take a minute."""
    monkeypatch.setattr("dkmeans.retry._FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("dkmeans.retry._PATIENCE_SECONDS", 0.6)
    monkeypatch.setitem(sys.modules["dkmeans.retry"].REQUESTS, "max_retries", 2)


@pytest.fixture(scope="session")
def cluster(s3):
    """Cluster of two worker processes of one thread each, which can reach the S3 server."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, env=variables
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    """Client of the cluster, active for one test."""
    with Client(cluster, set_as_default=True) as client:
        yield client


def _point_to(endpoint, environment):
    """Set the environment variables that obstore and fsspec read."""
    environment.setenv("AWS_ENDPOINT_URL", endpoint)
    environment.setenv("AWS_ACCESS_KEY_ID", "tests")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "tests")
    environment.setenv("AWS_REGION", "us-east-1")
    environment.setenv("AWS_ALLOW_HTTP", "true")


def _wait_for(server, port, log):
    """Wait until the server accepts connections."""
    for _ in range(200):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            break
        time.sleep(0.05)
    pytest.fail(f"rclone did not start:\n{log.read_text()[-3000:]}")
