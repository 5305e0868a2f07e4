"""A SeaweedFS server, which the processes of a test run share."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

_started = []  # servers of this process: a `Popen` that is forgotten warns of its running process


@contextmanager
def shared_server(folder):
    """Yield the URL of the server of a folder.

    The first process that needs the server starts it, and the last one that used it ends it.
    """
    state, lock = folder / "server.json", FileLock(folder / "server.lock")
    with lock:
        found = json.loads(state.read_text()) if state.exists() else {**_start(folder), "users": 0}
        state.write_text(json.dumps({**found, "users": found["users"] + 1}))
    try:
        yield found["endpoint"]
    finally:
        with lock:
            found = json.loads(state.read_text())
            if found["users"] > 1:
                state.write_text(json.dumps({**found, "users": found["users"] - 1}))
            else:
                state.unlink()
                os.kill(found["process"], signal.SIGKILL)  # SIGTERM would take 25 s
                with suppress(ChildProcessError):  # another process has started it
                    os.waitpid(found["process"], 0)


def _start(folder):
    """Start a server with a bucket, `tests`; return its URL and the number of its process."""
    # Another process may take one of the ports before the server does: try again on others.
    for number in range(3):
        endpoint, server = _launch(folder / f"try-{number}")
        if _makes_bucket(server, f"{endpoint}/tests"):
            _started.append(server)
            return {"endpoint": endpoint, "process": server.pid}
        server.kill()
        server.wait()
    raise RuntimeError(f"SeaweedFS did not start: {(folder / 'try-2' / 'log').read_text()[-3000:]}")


def _launch(folder):
    folder.mkdir()
    # Without the AWS variables of the developer, which weed would read too.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    names = ["master", "volume", "filer", "s3"]
    flags = [f"-{name}.port{kind}" for name in names for kind in ("", ".grpc")]
    ports = dict(zip(flags, free_ports(len(flags)), strict=True))
    command = [
        *(binary("weed"), "server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-dir={folder}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
        *("-volume.max=20", "-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=0"),
        *(f"{flag}={port}" for flag, port in ports.items()),
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=variables, cwd=folder, stdout=log, stderr=log)
    return f"http://127.0.0.1:{ports['-s3.port']}", server


def _makes_bucket(server, url):
    """Wait until the server has created the bucket and written a first file; return if it did."""
    for _ in range(600):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10)
            # The first write waits until a volume exists. Do it here, before the tests.
            first = urllib.request.Request(f"{url}/first", data=b"1", method="PUT")
            urllib.request.urlopen(first, timeout=10)
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return True
    return False


def binary(name):
    """Return the path of a program that a Python package installs, or of the one on PATH."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


def free_ports(count):
    """Return free TCP ports, below those that Linux gives to outgoing connections."""
    free = []
    while len(free) < count:
        port = random.randrange(10_000, 32_768)
        with socket.socket() as tried:
            if port not in free and tried.connect_ex(("127.0.0.1", port)) != 0:
                free.append(port)
    return free
