"""Dask clients for jobs: none for threads, one of a new local cluster, or one of a running cluster.

Each job that computes opens its client with `open_client` and passes the client to the library.
`--cluster` selects the kind. A local cluster lives as long as the job. Dask's cluster classes are
imported late, because the import takes half a second and most commands do not need it.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import logging
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask
import dask.utils
from dkmeans_jobs.signals import defer_signals

from dkmeans import Invalid, Outage
from dkmeans.executors.budget import PROCESS_BYTES
from dkmeans.retry import first_line

logger = logging.getLogger("dkmeans")

_CONNECT_SECONDS = 30
# Time in which a web server answers a request for nothing.
_HTTP_SECONDS = 2
_THREADS_PER_GPU = 2


@contextmanager
def open_client(arguments: argparse.Namespace) -> Iterator[Any]:
    """Open the client of the cluster that the arguments name, and close it after the block.

    Yields:
        A `distributed.Client`; None if the job runs in threads of this process.

    Raises:
        Invalid: the arguments do not go together.
        Outage: no scheduler answers at the address.
    """
    check_cluster(arguments)
    kind = arguments.cluster or "threads"
    if kind == "threads":
        yield None
    elif kind in ("local", "local-cuda"):
        with _local_client(arguments, gpus=kind == "local-cuda") as client:
            yield client
    else:
        with _remote_client(kind) as client:
            yield client


def check_cluster(arguments: argparse.Namespace) -> None:
    """Refuse a kind of cluster that is unknown, and sizes of one that the job does not create.

    Raises:
        Invalid: the arguments do not go together.
    """
    kind = arguments.cluster or "threads"
    if kind not in ("threads", "local", "local-cuda") and "://" not in kind:
        raise Invalid(
            f"--cluster must be threads, local, local-cuda or tcp://host:port, got {kind!r}"
        )
    sizes = {
        "--workers": arguments.workers,
        "--threads-per-worker": arguments.threads_per_worker,
        "--memory-limit": arguments.memory_limit,
    }
    given = [name for name, value in sizes.items() if value is not None]
    if given and kind not in ("local", "local-cuda"):
        names = ", ".join(given)
        raise Invalid(f"{names} must come with --cluster local or local-cuda, got --cluster {kind}")
    _cluster_sizes(arguments)


def _cuda_cluster_class() -> Any:
    """Return the class of clusters that have one worker process for each GPU.

    Raises:
        Invalid: dask-cuda is not installed, or there is no GPU.
    """
    try:
        from dask_cuda import LocalCUDACluster  # noqa: PLC0415 of an extra
    except ImportError as error:
        raise Invalid(
            "--cluster local-cuda must have dask-cuda; install dkmeans[gpu-cuda12] or "
            f"dkmeans[gpu-cuda13]: {error}"
        ) from error
    _check_gpu()
    return LocalCUDACluster


def _check_gpu() -> None:
    """Check that this machine has a GPU, and CuPy for the workers.

    The functions of CUDA's driver that are called here make no context. A context of this process
    would take memory, and a GPU in exclusive mode would refuse that of its worker.

    Raises:
        Invalid: CuPy is not installed, or there is no GPU.
    """
    if find_spec("cupy") is None:
        raise Invalid(
            "--cluster local-cuda must have CuPy; install dkmeans[gpu-cuda12] or "
            "dkmeans[gpu-cuda13]"
        )
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise Invalid("--cluster local-cuda must have a GPU: no NVIDIA driver is there") from error
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise Invalid("--cluster local-cuda must have a GPU: the NVIDIA driver sees none")


@contextmanager
def _remote_client(address: str) -> Iterator[Any]:
    """Connect to the scheduler at an address."""
    from distributed import Client  # noqa: PLC0415 slow to import

    logger.info("connecting to the scheduler at %s", address)
    _check_scheduler(address)
    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    except OSError as error:
        raise Outage(f"--cluster must be a scheduler that answers: {error}") from error
    # When the scheduler is lost, the job logs one line of its own; Dask's would be pages.
    for name in ("distributed.batched", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with client:
        yield client


def _check_scheduler(address: str) -> None:
    """Connect to a scheduler for a moment. A client waits for ever for other kinds of servers.

    Raises:
        Invalid: it is no address of a scheduler, no such host exists, a web server answers, or
            certificates are missing.
        Outage: no scheduler answers.
    """
    from distributed.comm import connect  # noqa: PLC0415 slow to import

    try:
        _ = urlsplit(address).port
    except ValueError as error:
        raise Invalid(
            f"--cluster must be a scheduler's address, got {address!r}: {error}"
        ) from error
    certificates = _certificates(address)

    async def connect_and_close() -> None:
        connecting = connect(address, timeout=_CONNECT_SECONDS, **certificates)
        (await asyncio.wait_for(connecting, _CONNECT_SECONDS)).abort()

    try:
        asyncio.run(connect_and_close())
    except OSError as error:
        if _has_no_host(address):
            host = address.partition("://")[2]
            raise Invalid(f"--cluster must name a host that exists, got {host!r}") from error
        if _answers_http(address):
            raise Invalid(
                f"--cluster must be a scheduler's address, got that of a web server, {address}; "
                "a scheduler's dashboard has another port than the scheduler"
            ) from error
        waited = f"no Dask scheduler answers at {address} within {_CONNECT_SECONDS} s"
        reason = str(error) or f"{waited}, perhaps because another server has that port"
        raise Outage(f"--cluster must be a scheduler that answers: {reason}") from error
    except (TypeError, FutureWarning) as error:
        # Dask knows UCX by name, and has left it to a package of its own.
        scheme = address.partition("://")[0]
        raise Invalid(
            f"--cluster must have an address that this installation can use, got {scheme}://; for "
            "ucx:// install distributed-ucxx"
        ) from error
    except (ValueError, ImportError, RuntimeError) as error:
        raise Invalid(f"--cluster must be a scheduler's address: {first_line(error)}") from error


def _certificates(address: str) -> dict[str, Any]:
    """Return what a client presents at an address, from the configuration of Dask.

    Raises:
        Invalid: the address needs certificates, and there are none that can be read.
    """
    from distributed.security import Security  # noqa: PLC0415 slow to import

    names = [f"distributed.comm.tls.{name}" for name in ("ca-file", "client.cert", "client.key")]
    try:
        found: dict[str, Any] = Security().get_connection_args("client")
    except OSError as error:  # also of a file that holds no certificate
        files = ", ".join(str(dask.config.get(name)) for name in names)
        raise Invalid(f"the certificates of Dask ({files}) cannot be read: {error}") from error
    if address.startswith("tls://") and found.get("ssl_context") is None:
        raise Invalid(
            f"--cluster {address} must have certificates; name their files in the configuration of "
            f"Dask: {', '.join(names)} (or DASK_DISTRIBUTED__COMM__TLS__CA_FILE, ...)"
        )
    return found


def _has_no_host(address: str) -> bool:
    """Return whether it is certain that the host of an address does not exist."""
    try:
        socket.getaddrinfo(urlsplit(address).hostname, None)
    except socket.gaierror as error:  # any other reason may pass
        return error.errno == socket.EAI_NONAME
    return False


def _answers_http(address: str) -> bool:
    """Return whether a server that speaks HTTP answers at an address."""
    place = urlsplit(address)
    try:
        with socket.create_connection((place.hostname, place.port), _HTTP_SECONDS) as connection:
            connection.settimeout(_HTTP_SECONDS)
            connection.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            return connection.recv(5) == b"HTTP/"
    except (OSError, ValueError):  # nothing answers, or the address has no port
        return False


@contextmanager
def _local_client(arguments: argparse.Namespace, *, gpus: bool) -> Iterator[Any]:
    """Start worker processes on this machine and connect to them."""
    from distributed import Client, LocalCluster  # noqa: PLC0415 slow to import

    sizes = _cluster_sizes(arguments)
    if gpus:
        cluster_class = _cuda_cluster_class()
        # While the GPU computes with the rows of one thread, the other thread copies its rows.
        sizes.setdefault("threads_per_worker", _THREADS_PER_GPU)
    else:
        cluster_class = LocalCluster
    _check_scratch()
    logger.info("starting worker processes on this machine")
    # A signal between two starts of processes would leave the first ones running for ever.
    with defer_signals() as raise_if_received:
        cluster = _start_cluster(cluster_class, sizes)
    # Dask warns when it restarts a worker, for example above its memory limit. Users must see that.
    logging.getLogger("distributed.nanny").setLevel(logging.WARNING)
    with cluster, Client(cluster) as client:
        raise_if_received()
        yield client


def _check_scratch() -> None:
    """Check that Dask can make the folder that its worker processes need.

    Raises:
        Invalid: the folder for temporary files cannot be made or written to.
    """
    try:
        folder = dask.config.get("temporary-directory") or tempfile.gettempdir()
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Invalid(
            "worker processes must have a folder for temporary files, named by TMPDIR or "
            f"DASK_TEMPORARY_DIRECTORY: {first_line(error)}"
        ) from error


def _start_cluster(cluster_class: Any, sizes: dict[str, Any]) -> Any:
    try:
        return cluster_class(
            **sizes,
            dashboard_address="127.0.0.1:0",  # any free port, for this machine only
            silence_logs=logging.CRITICAL,  # workers log tracebacks when they are closed
        )
    except (RuntimeError, OSError) as error:  # a worker process died while it started
        raise Outage(f"worker processes must start: {first_line(error)}") from error


def _cluster_sizes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the sizes of a new cluster that were given, by the names of Dask's keywords.

    Raises:
        Invalid: a size is not positive or cannot be parsed.
    """
    for name in ("workers", "threads_per_worker"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise Invalid(f"--{name.replace('_', '-')} must be >= 1, got {value}")
    memory = arguments.memory_limit
    if memory is not None:
        try:
            limit = dask.utils.parse_bytes(memory)
        except ValueError as error:
            raise Invalid(f"--memory-limit must be a size such as 4GB, got {memory!r}") from error
        # Dask kills a worker that needs more than its limit and starts it anew, for ever.
        if 0 < limit < PROCESS_BYTES:  # 0 is no limit
            least = f"{PROCESS_BYTES // 2**20} MiB, which a worker needs without any rows"
            raise Invalid(f"--memory-limit must be at least {least}, got {memory}")
    sizes = {
        "n_workers": arguments.workers,
        "threads_per_worker": arguments.threads_per_worker,
        "memory_limit": memory or "auto",
    }
    return {name: size for name, size in sizes.items() if size is not None}
