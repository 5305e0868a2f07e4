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
from dkmeans.retry import first_line

_CONNECT_SECONDS = 30


@contextmanager
def open_client(arguments: argparse.Namespace) -> Iterator[Any]:
    """A client of the cluster that the arguments name; None for threads.

    Raises:
        Invalid: the arguments do not go together.
        Outage: no scheduler answers at the address.
    """
    where = arguments.cluster or "threads"
    sizes = {
        "--workers": arguments.workers,
        "--threads-per-worker": arguments.threads_per_worker,
        "--memory-limit": arguments.memory_limit,
    }
    given = [name for name, value in sizes.items() if value is not None]
    if where != "local" and given:
        raise Invalid(f"{', '.join(given)} must come with --cluster local, got --cluster {where}")
    if where == "threads":
        yield None
    elif where == "local":
        with _local(arguments) as client:
            yield client
    elif "://" in where:
        from distributed import Client  # noqa: PLC0415 half a second, for those who use it

        try:
            client = Client(where, timeout=_CONNECT_SECONDS)
        except ValueError as error:
            raise Invalid(f"--cluster must be a scheduler's address: {error}") from error
        except OSError as error:
            raise Outage(f"--cluster must be a scheduler that answers: {error}") from error
        for name in ("distributed.batched", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # told in our own words, and shorter
        with client:
            yield client
    else:
        raise Invalid(f"--cluster must be threads, local or tcp://host:port, got {where!r}")


@contextmanager
def _local(arguments: argparse.Namespace) -> Iterator[Any]:
    from distributed import Client  # noqa: PLC0415

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
    with termination_deferred() as heed:
        cluster = _started(arguments, memory or "auto")
    # What restarts a worker, its memory limit above all, must be seen.
    logging.getLogger("distributed.nanny").setLevel(logging.WARNING)
    with cluster, Client(cluster) as client:
        heed()
        yield client


def _started(arguments: argparse.Namespace, memory: str) -> Any:
    from distributed import LocalCluster  # noqa: PLC0415

    # Ctrl-C is sent to every process of a terminal's job: the workers leave it to the driver, which
    # saves what it has and then closes them.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return LocalCluster(
            n_workers=arguments.workers,
            threads_per_worker=arguments.threads_per_worker,
            memory_limit=memory,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,  # workers that are closed complain of it, with traces
        )
    except RuntimeError as error:  # one was killed before it had begun
        raise Outage(f"worker processes must start: {first_line(error)}") from error
    finally:
        signal.signal(signal.SIGINT, previous)
