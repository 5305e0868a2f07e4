"""Clusters of a job: the result does not depend on where the job computes."""

import argparse
import ctypes
import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import dask
import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from dkmeans_jobs import client

from dkmeans import Invalid, checkpoints
from tests.executors.laws import wait_until
from tests.jobs.commands import train


def test_either_backend_finds_the_same_clusters(run_json, store, tmp_path):
    results = []
    for backend in ("native", "numpy"):
        model, output = tmp_path / backend, tmp_path / f"{backend}.zarr"
        more = ["--backend", backend]
        trained = run_json(*train(store, model, *more))
        run_json("predict", store, "--model-dir", model, "--output", output, *more)
        results.append((trained["step"], zarr.open_group(output)["cluster_index"][:].tolist()))
    assert results[0] == results[1]


def test_a_local_cluster_gives_the_same_bits_as_threads(run_json, store, tmp_path):
    cluster = ["--cluster", "local", "--workers", 2, "--threads-per-worker", 1]
    for name, where in (("threads", []), ("local", [*cluster, "--memory-limit", "1GB"])):
        run_json(*train(store, tmp_path / name, "--max-steps", 6, *where))
        output = tmp_path / f"{name}.parquet"
        run_json("predict", store, "--model-dir", tmp_path / name, "--output", output, *where)
    threads, local = (checkpoints.latest(str(tmp_path / n)).state for n in ("threads", "local"))
    assert np.array_equal(threads.centers, local.centers)
    assert threads.inertia == local.inertia
    assert pq.read_table(tmp_path / "threads.parquet").equals(
        pq.read_table(tmp_path / "local.parquet")
    )


def test_a_worker_process_that_is_started_again_never_gets_the_signals_of_the_driver():
    sizes = {"workers": 1, "threads_per_worker": 1, "memory_limit": None}
    arguments = argparse.Namespace(cluster="local", **sizes)
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}),
        client.open_client(arguments) as opened,
    ):
        ((_, first),) = opened.run(os.getpid).items()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: set(opened.run(os.getpid, on_error="ignore").values()) - {first})
        (blocked,) = opened.run(signal.pthread_sigmask, signal.SIG_BLOCK, ()).values()
    assert {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1} <= set(blocked)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(client, "_CONNECT_SECONDS", 0.5)


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that answers each request with an error, and logs nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture(params=["nothing", "HTTP"])
def other_server(request):
    """Kind and port of a server that accepts connections and answers nothing, or HTTP."""
    handler = QuietHandler if request.param == "HTTP" else None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if handler:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        yield request.param, server.server_port
        if handler:
            server.shutdown()


def test_a_port_without_a_scheduler_is_an_outage_and_that_of_a_web_server_a_mistake(
    run, store, tmp_path, impatient, other_server
):
    kind, port = other_server
    code, _, err = run(*train(store, tmp_path / "m"), "--cluster", f"tcp://127.0.0.1:{port}")
    expected, message = {
        "nothing": (75, "no Dask scheduler answers at tcp://127.0.0.1:"),
        "HTTP": (2, "--cluster must be a scheduler's address, got that of a web server, tcp://"),
    }[kind]
    assert (code, err.count("\n")) == (expected, 2)  # the first line: connecting to the scheduler
    assert message in err


def test_a_port_that_cannot_be_is_a_mistake(run, store, tmp_path):
    code, _, err = run(*train(store, tmp_path / "m"), "--cluster", "tcp://127.0.0.1:99999")
    assert code == 2
    assert "got 'tcp://127.0.0.1:99999': Port out of range" in err


def test_a_protocol_whose_package_is_missing_is_a_mistake(run, store, tmp_path):
    code, _, err = run(*train(store, tmp_path / "m"), "--cluster", "ucx://127.0.0.1:1")
    assert (code, err.count("\n")) == (2, 2)
    assert "got ucx://; for ucx:// install distributed-ucxx" in err


@pytest.mark.parametrize(("number", "expected"), [(socket.EAI_NONAME, 2), (socket.EAI_AGAIN, 75)])
def test_a_host_that_does_not_exist_is_a_mistake_and_a_name_server_that_is_lost_an_outage(
    run, store, tmp_path, impatient, monkeypatch, number, expected
):
    def fail(*_, **__):
        raise socket.gaierror(number, "of the name server")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    code, _, err = run(*train(store, tmp_path / "m"), "--cluster", "tcp://skeduler:8786")
    assert (code, err.count("\n")) == (expected, 2)
    assert "skeduler:8786" in err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "--cluster tls://127.0.0.1:1 must have certificates; name their files"),
        (
            {"ca-file": "a.pem", "client.cert": "b.pem", "client.key": "c.pem"},
            "the certificates of Dask (a.pem, b.pem, c.pem) cannot be read: [Errno 2]",
        ),
    ],
)
def test_encryption_without_certificates_is_a_mistake(run, store, tmp_path, files, message):
    settings = {f"distributed.comm.tls.{name}": file for name, file in files.items()}
    with dask.config.set(settings):
        code, _, err = run(*train(store, tmp_path / "m"), "--cluster", "tls://127.0.0.1:1")
    assert (code, err.count("\n")) == (2, 2)
    assert message in err


def test_a_temporary_folder_that_cannot_be_made_is_a_mistake(run, store, tmp_path):
    (tmp_path / "file").touch()
    with dask.config.set({"temporary-directory": str(tmp_path / "file")}):
        code, _, err = run(*train(store, tmp_path / "m"), "--cluster", "local", "--workers", 1)
    assert code == 2
    assert "worker processes must have a folder for temporary files" in err


class CudaDriver:
    """A stand-in for the library of the NVIDIA driver, with only what makes no context.

    Args:
        count: Number of GPUs.
        error: CUDA's error code of `cuInit`.
    """

    def __init__(self, count=1, error=0):
        self._count, self._error = count, error

    def cuInit(self, flags):
        return self._error

    def cuDeviceGetCount(self, pointer):
        pointer._obj.value = self._count
        return 0


@pytest.fixture
def on_machine(monkeypatch):
    """Replace the driver's library, and the packages for GPUs."""

    def replace(driver, packages=("cupy", "dask_cuda")):
        def load(name):
            assert name == "libcuda.so.1"
            if driver is None:
                raise OSError("libcuda.so.1: cannot open shared object file")
            return driver

        monkeypatch.setattr(client, "ctypes", SimpleNamespace(**{**vars(ctypes), "CDLL": load}))
        for name in ("cupy", "dask_cuda"):
            module = ModuleType(name) if name in packages else None
            if module is not None:
                module.__spec__, module.LocalCUDACluster = ModuleSpec(name, None), "the class"
            monkeypatch.setitem(sys.modules, name, module)

    return replace


def test_with_a_gpu_the_cluster_is_that_of_dask_cuda(on_machine):
    on_machine(CudaDriver(2))
    assert client._cuda_cluster_class() == "the class"


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (None, "no NVIDIA driver is there"),
        (CudaDriver(count=0), "the NVIDIA driver sees none"),
        (CudaDriver(error=100), "the NVIDIA driver sees none"),
    ],
)
def test_without_a_gpu_there_is_no_cluster_of_gpus(on_machine, driver, message):
    on_machine(driver)
    with pytest.raises(Invalid, match=f"--cluster local-cuda must have a GPU: {message}"):
        client._cuda_cluster_class()


@pytest.mark.parametrize(
    ("packages", "missing"), [(("dask_cuda",), "CuPy"), (("cupy",), "dask-cuda")]
)
def test_without_a_package_the_error_names_the_extras(on_machine, packages, missing):
    on_machine(CudaDriver(), packages)
    with pytest.raises(Invalid, match=rf"must have {missing}; install dkmeans\[gpu-cuda12"):
        client._cuda_cluster_class()


def test_a_folder_for_temporary_files_that_cannot_be_made_exits_with_2(run, store, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with dask.config.set({"temporary-directory": str(tmp_path / "file" / "below")}):
        code, _, err = run(*train(store, tmp_path / "m", "--cluster", "local"))
    assert code == 2
    assert "worker processes must have a folder for temporary files" in err
