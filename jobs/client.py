"""Where a job runs: the threads of this process, a cluster of its own, or one that is there."""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask.utils
from dkmeans_jobs.signals import termination_deferred

from dkmeans import Invalid, Outage
from dkmeans.backends import select
from dkmeans.retry import first_line

_CONNECT_SECONDS = 30
_THREADS_PER_GPU = 2


@contextmanager
def open_client(arguments: argparse.Namespace) -> Iterator[Any]:
    """A client of the cluster that the arguments name; None for threads.

    Raises:
        Invalid: the arguments do not go together.
        Outage: no scheduler answers at the address.
    """
    where = arguments.cluster or "threads"
    _check_sizes(arguments, where)
    if where == "threads":
        yield None
    elif where in ("local", "local-cuda"):
        with _local(arguments, gpus=where == "local-cuda") as client:
            yield client
    elif "://" in where:
        with _remote(where) as client:
            yield client
    else:
        raise Invalid(
            f"--cluster must be threads, local, local-cuda or tcp://host:port, got {where!r}"
        )


def _check_sizes(arguments: argparse.Namespace, where: str) -> None:
    sizes = {
        "--workers": arguments.workers,
        "--threads-per-worker": arguments.threads_per_worker,
        "--memory-limit": arguments.memory_limit,
    }
    given = [name for name, value in sizes.items() if value is not None]
    if given and where not in ("local", "local-cuda"):
        names = ", ".join(given)
        raise Invalid(
            f"{names} must come with --cluster local or local-cuda, got --cluster {where}"
        )


def _gpu_cluster() -> Any:
    """The kind of cluster that has a worker process for each GPU.

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
    try:
        select("cuda")
    except Invalid as error:
        raise Invalid(f"--cluster local-cuda must have a GPU: {error}") from error
    return LocalCUDACluster


@contextmanager
def _remote(address: str) -> Iterator[Any]:
    from distributed import Client  # noqa: PLC0415 half a second, for those who use it

    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    except ValueError as error:
        raise Invalid(f"--cluster must be a scheduler's address: {error}") from error
    except OSError as error:
        raise Outage(f"--cluster must be a scheduler that answers: {error}") from error
    for name in ("distributed.batched", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # told in our own words, and shorter
    with client:
        yield client


@contextmanager
def _local(arguments: argparse.Namespace, *, gpus: bool) -> Iterator[Any]:
    from distributed import Client, LocalCluster  # noqa: PLC0415

    sizes = _sizes(arguments)
    if gpus:
        kind = _gpu_cluster()
        # While one thread's rows are computed, another's are copied.
        sizes.setdefault("threads_per_worker", _THREADS_PER_GPU)
    else:
        kind = LocalCluster
    with termination_deferred() as heed:
        cluster = _started(kind, sizes)
    # What restarts a worker, its memory limit above all, must be seen.
    logging.getLogger("distributed.nanny").setLevel(logging.WARNING)
    with cluster, Client(cluster) as client:
        heed()
        yield client


def _started(kind: Any, sizes: dict[str, Any]) -> Any:
    # Ctrl-C is sent to every process of a terminal's job: the workers leave it to the driver, which
    # saves what it has and then closes them.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return kind(
            **sizes,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,  # workers that are closed complain of it, with traces
        )
    except RuntimeError as error:  # one was killed before it had begun
        raise Outage(f"worker processes must start: {first_line(error)}") from error
    finally:
        signal.signal(signal.SIGINT, previous)


def _sizes(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sizes of a cluster that are given, by the names that clusters know."""
    for name in ("workers", "threads_per_worker"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise Invalid(f"--{name.replace('_', '-')} must be >= 1, got {value}")
    memory = arguments.memory_limit
    if memory is not None:
        try:
            dask.utils.parse_bytes(memory)
        except ValueError as error:
            raise Invalid(f"--memory-limit must be a size such as 4GB, got {memory!r}") from error
    sizes = {
        "n_workers": arguments.workers,
        "threads_per_worker": arguments.threads_per_worker,
        "memory_limit": memory or "auto",
    }
    return {name: size for name, size in sizes.items() if size is not None}
