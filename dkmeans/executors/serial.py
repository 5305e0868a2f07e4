"""The serial executor: two loops that define what `map_reduce` and `map` mean.

The other executors must return the same bits (`tests/executors/laws.py`). Notebooks and tests can
use it to step through an algorithm in one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, LoadedChunk
from dkmeans.executors.budget import Memory, free_cache_bytes, system_limit
from dkmeans.executors.chunk_runs import computed_again
from dkmeans.executors.reduction import Cost, Reduction
from dkmeans.state import M, on_host, sum_up

R = TypeVar("R")
V = TypeVar("V")


class Serial(AbstractContextManager["Serial"]):
    """Computes one chunk after another in the calling thread. Caches nothing, measures nothing."""

    def __str__(self) -> str:
        return "1 thread of this process"

    def __exit__(self, *error: object) -> None:
        return

    def memory(self) -> Memory:
        """Return the memory of this process, as one worker with one thread."""
        limit = system_limit()
        return Memory(1, 1, limit, free_cache_bytes(limit))

    def map_reduce(
        self, function: Callable[[LoadedChunk, V], M], batches: Sequence[Batch], value: V
    ) -> Reduction[M]:
        """Apply a function to each chunk of each batch, and add up the results of each batch."""

        def total(batch: Batch) -> M:
            return on_host(sum_up(function(chunk.loaded(), value) for chunk in batch))

        totals = [computed_again(partial(total, batch)) for batch in batches]
        return Reduction(totals, Cost(), workers=1, threads=1)

    def map(
        self, function: Callable[[LoadedChunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """Yield the result of a function for each chunk, in order."""
        return (function(chunk.loaded(), value) for chunk in chunks)
