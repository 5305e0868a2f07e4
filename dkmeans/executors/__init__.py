"""Executors: where functions are applied to chunks, in this process or on a Dask cluster.

`Serial` defines what `map_reduce` and `map` mean, in two loops. `Threads` and `Dask` compute the
same bits in parallel: results are exact monoids, so it does not matter which thread computes which
chunk, in what order they finish, and how their results are grouped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from dkmeans.backends import chooses_gpu
from dkmeans.config import GPU, NONE
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, LoadedChunk
from dkmeans.executors.budget import Memory
from dkmeans.executors.dask import internals
from dkmeans.executors.dask.client_checks import check_client, reports_gpus
from dkmeans.executors.dask.cluster import Cluster
from dkmeans.executors.dask.driver import Dask
from dkmeans.executors.reduction import Cost, Reduction
from dkmeans.executors.serial import Serial
from dkmeans.executors.threads import Threads
from dkmeans.machine import usable_cores
from dkmeans.state import M

R = TypeVar("R")
V = TypeVar("V")

__all__ = [
    "Cost",
    "Dask",
    "Executor",
    "Reduction",
    "Serial",
    "Threads",
    "computes_on_gpu",
    "open_executor",
    "threads_of",
]

# While the GPU computes with the rows of one thread, the other thread copies its rows.
_GPU_THREADS = 2
# Threads that a cluster is taken to have at least: it may be about to get its first workers.
_FEWEST_THREADS = 4


class Executor(Protocol):
    """Applies functions to loaded chunks, each together with one value that all chunks share."""

    def memory(self) -> Memory:
        """Return the workers, their threads and their memory, as they are now."""
        ...

    def map_reduce(
        self, function: Callable[[LoadedChunk, V], M], batches: Sequence[Batch], value: V
    ) -> Reduction[M]:
        """Apply a function to each chunk of each batch, and add up the results of each batch.

        Results are added up in the order of their chunks, in any grouping. With Dask a `value` that
        holds arrays should have `nbytes`, its size in bytes.
        """
        ...

    def map(
        self, function: Callable[[LoadedChunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """Yield the result of a function for each chunk, in order.

        Only a few chunks are computed ahead of the caller.
        """
        ...


def computes_on_gpu(client: Any, backend: str | None) -> bool:
    """Return whether GPUs will compute, as far as the driver can know before they do.

    On a cluster each worker chooses for itself, and workers may come later. The sizes of chunks
    depend on the answer; the sums of the rows do not.

    Args:
        client: As in `open_executor`.
        backend: Name of the backend; None leaves the choice to each process that computes.
    """
    if backend is not None:
        return backend == GPU
    client = _checked(client)
    return chooses_gpu() if client is None else reports_gpus(client)


def threads_of(client: Any) -> int:
    """Return the number of threads that will compute, as far as the driver can know.

    A cluster may get more workers later.

    Args:
        client: As in `open_executor`.

    Raises:
        Invalid, Outage: as `open_executor` does.
    """
    client = _checked(client)
    return usable_cores() if client is None else max(_FEWEST_THREADS, Cluster(client).threads())


def open_executor(client: Any = None, cache: str = NONE, *, on_gpu: bool = False) -> Threads | Dask:
    """Return the executor for a client, or the active client, or the threads of this process.

    Args:
        client: A `distributed.Client`; None takes the active one. Inside a Dask task the active
            client is not used: the task would wait for other tasks that may need its thread.
        cache: One of `dkmeans.config.CACHES`: which rows are cached between iterations.
        on_gpu: True if a GPU computes and other threads read ahead, as in `map_reduce`. So few
            threads of this process are enough. In `map` each thread reads its own chunks.

    Raises:
        Invalid: the client cannot be used here.
        Outage: the scheduler of the client is lost.
    """
    client = _checked(client)
    if client is not None:
        return Dask(client, cache)
    return Threads(_GPU_THREADS if on_gpu else None, cache)


def _checked(client: Any) -> Any:
    """Return the given or the active client, checked; None if there is neither."""
    client = client if client is not None else _active_client()
    if client is not None:
        check_client(client)
    return client


def _active_client() -> Any:
    # Importing distributed takes half a second; without it there is no client.
    if "distributed" not in sys.modules or internals.is_in_task():
        return None
    from distributed import default_client  # noqa: PLC0415

    try:
        return default_client()
    except ValueError:
        # Threads of this process are no substitute for a cluster that was there a moment ago.
        return internals.lost_client()
