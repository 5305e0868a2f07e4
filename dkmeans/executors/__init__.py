"""Where the work is done: the threads of this process, or the workers of a Dask cluster.

Both give the same bits: the tree in which results are added is a function of the list of chunks
alone (`runs`), whoever computes which run of them, and in whatever order they are done.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from dkmeans.config import NONE
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.executors.budget import Memory
from dkmeans.executors.dask.driver import Dask
from dkmeans.executors.runs import Cost
from dkmeans.executors.threads import Threads
from dkmeans.state import M

R = TypeVar("R")
V = TypeVar("V")

__all__ = ["Dask", "Executor", "Threads", "open_executor"]


class Executor(Protocol):
    """Applies a function to chunks and a value, wherever it does.

    Attributes:
        spent: What its threads have spent in the last `map_reduce`.
        workers: How many workers that was dealt to.
        threads: How many threads they had.
    """

    spent: Cost
    workers: int
    threads: int

    def memory(self) -> Memory:
        """What the workers have now."""
        ...

    def map_reduce(
        self, function: Callable[[Chunk, V], M], batches: Sequence[Batch], value: V
    ) -> list[M]:
        """One result for each batch: `function` of each of its chunks, added up by `fold`."""
        ...

    def map(
        self, function: Callable[[Chunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """`function` of each chunk, in order, a little ahead of the caller and no more."""
        ...


def open_executor(client: Any = None, cache: str = NONE) -> Threads | Dask:
    """The executor for the client given, or else the active one, or else this process's threads.

    Within a task of Dask's nobody is active: those it waits for might need its thread.

    Args:
        client: A `distributed.Client`.
        cache: Whether rows that are read again are kept: one of `dkmeans.config.CACHES`.
    """
    client = client if client is not None else _active_client()
    return Dask(client, cache) if client is not None else Threads(cache=cache)


def _active_client() -> Any:
    if "distributed" not in sys.modules:  # nobody has made a client; spare half a second
        return None
    from distributed import default_client  # noqa: PLC0415
    from distributed.worker import thread_state  # noqa: PLC0415

    if getattr(thread_state, "key", None) is not None:  # its worker would wait for this task
        return None
    try:
        client = default_client()
    except ValueError:
        return None
    return client if client.status == "running" else None
