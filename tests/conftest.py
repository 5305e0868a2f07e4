"""The real parts that tests share: S3 servers, one careful and one careless, and a Dask cluster."""

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
        *(
            _binary("weed"),
            "server",
            "-s3",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={folder}",
        ),
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
        _point_to(endpoint, environment)
        yield "s3://tests"


@pytest.fixture
def careless_s3(tmp_path, monkeypatch):
    """The URL of a bucket of an rclone server, which takes conditional writes for plain ones."""
    (port,) = _free_ports(1)
    bucket = f"careless-{port}"  # clients remember which server a bucket is on
    (tmp_path / "root" / bucket).mkdir(parents=True)
    command = [_binary("rclone"), "serve", "s3", f"--addr=127.0.0.1:{port}"]
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


def _binary(name):
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


def _point_to(endpoint, environment):
    environment.setenv("AWS_ENDPOINT_URL", endpoint)
    environment.setenv("AWS_ACCESS_KEY_ID", "tests")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "tests")
    environment.setenv("AWS_REGION", "us-east-1")
    environment.setenv("AWS_ALLOW_HTTP", "true")


def _wait_for(server, port, log):
    for _ in range(200):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            break
        time.sleep(0.05)
    pytest.fail(f"rclone did not start:\n{log.read_text()[-3000:]}")


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
