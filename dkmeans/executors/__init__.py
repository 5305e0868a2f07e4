"""Executors: where functions are applied to chunks, in this process or on a Dask cluster.

`Serial` defines what `map_reduce` and `map` mean, in two loops. `Threads` and `Dask` compute the
same bits in parallel: the tree in which results are added up is a function of the list of chunks
alone (`runs`), whichever thread computes which chunk, and in whatever order they finish.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from dkmeans.config import NONE
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, LoadedChunk
from dkmeans.executors.budget import Memory
from dkmeans.executors.dask import internals
from dkmeans.executors.dask.driver import Dask
from dkmeans.executors.reduction import Cost, Reduction
from dkmeans.executors.serial import Serial
from dkmeans.executors.threads import Threads
from dkmeans.state import M

R = TypeVar("R")
V = TypeVar("V")

__all__ = ["Cost", "Dask", "Executor", "Reduction", "Serial", "Threads", "open_executor"]


class Executor(Protocol):
    """Applies functions to loaded chunks, each together with one value that all chunks share."""

    def memory(self) -> Memory:
        """Return the workers, their threads and their memory, as they are now."""
        ...

    def map_reduce(
        self, function: Callable[[LoadedChunk, V], M], batches: Sequence[Batch], value: V
    ) -> Reduction[M]:
        """Apply a function to each chunk of each batch, and add up the results of each batch.

        The results of a batch are added up by `tree_sum`, so that the bits depend only on the
        chunks. With Dask a `value` that holds arrays should have `nbytes`, its size in bytes.
        """
        ...

    def map(
        self, function: Callable[[LoadedChunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """Yield the result of a function for each chunk, in order.

        Only a few chunks are computed ahead of the caller.
        """
        ...


def open_executor(client: Any = None, cache: str = NONE) -> Threads | Dask:
    """Return the executor for a client, or the active client, or the threads of this process.

    Args:
        client: A `distributed.Client`; None takes the active one. Inside a Dask task the active
            client is not used: the task would wait for other tasks that may need its thread.
        cache: One of `dkmeans.config.CACHES`: which rows are cached between iterations.
    """
    client = client if client is not None else _active_client()
    return Dask(client, cache) if client is not None else Threads(cache=cache)


def _active_client() -> Any:
    # Importing distributed takes half a second; without it there is no client.
    if "distributed" not in sys.modules or internals.is_in_task():
        return None
    from distributed import default_client  # noqa: PLC0415

    try:
        client = default_client()
    except ValueError:
        return None
    return client if client.status == "running" else None
