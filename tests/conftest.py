"""The real parts that tests share: an S3 server with conditional writes, and a Dask cluster."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from distributed import Client, LocalCluster


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """The URL of a bucket of a SeaweedFS server, which the environment points to."""
    folder = tmp_path_factory.mktemp("s3")
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    names = ["master", "volume", "filer", "s3"]
    flags = [f"-{name}.port{kind}" for name in names for kind in ("", ".grpc")]
    ports = dict(zip(flags, _free_ports(len(flags)), strict=True))
    command = [
        *(_weed(), "server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-volume.max=20"),
        *("-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=0"),
        *(f"{flag}={port}" for flag, port in ports.items()),
    ]
    endpoint = f"http://127.0.0.1:{ports['-s3.port']}"
    with ExitStack() as stack, pytest.MonkeyPatch.context() as environment:
        log = stack.enter_context((folder / "log").open("wb"))
        server = subprocess.Popen(command, env=own, cwd=folder, stdout=log, stderr=log)
        stack.callback(server.wait)
        stack.callback(server.kill)  # asked to end, it takes 25 s to say goodbye to itself
        _make_bucket(server, f"{endpoint}/tests", folder / "log")
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        environment.setenv("AWS_ACCESS_KEY_ID", "tests")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "tests")
        environment.setenv("AWS_REGION", "us-east-1")
        environment.setenv("AWS_ALLOW_HTTP", "true")
        yield "s3://tests"


@pytest.fixture(scope="session")
def cluster(s3):
    """Two worker processes of one thread each, which know the S3 server; nobody's active client."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    """The active client, for this test only."""
    with Client(cluster, set_as_default=True) as client:
        yield client


def _weed():
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def _free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _make_bucket(server, url, log):
    for _ in range(600):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10)
            # The first write waits for a volume: done here, no test waits for it.
            first = urllib.request.Request(f"{url}/first", data=b"1", method="PUT")
            urllib.request.urlopen(first, timeout=10)
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"SeaweedFS did not start:\n{log.read_text()[-3000:]}")
