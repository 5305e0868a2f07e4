"""Reading ahead: the next chunks of a run are read while the current one is computed.

On a processor each computing thread has `AHEAD` chunks read for it. A GPU computes as fast as many
cores decode. So where this process computes on a GPU, all cores of the GPU's share read ahead, for
few computing threads and within a limit of memory.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from threading import Lock

import numpy as np

from dkmeans.backends import cores_per_gpu
from dkmeans.data.batches import Batch
from dkmeans.data.cache import cache_budget
from dkmeans.data.chunks import Chunk, LoadedChunk
from dkmeans.executors.budget import system_limit
from dkmeans.machine import usable_cores

# Number of chunks that are read ahead for each computing thread.
AHEAD = 2
# Reading threads mostly wait, so a small machine gets as many as one with this many cores.
_LEAST_CORES = 16
# Where a GPU computes, the chunks that a process reads ahead may have this size in total, and this
# share of its memory limit. Decoding needs about as much again. `AHEAD` chunks are always read.
_GPU_AHEAD_BYTES = 4 * 2**30
_GPU_AHEAD_SHARE = 0.1


class _Runs:
    """The number of runs that threads of this process compute now."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.count = 0

    def add(self, change: int) -> None:
        """Change the number."""
        with self._lock:
            self.count += change


_runs = _Runs()


def loaded(chunks: Batch) -> Iterator[LoadedChunk]:
    """Yield the chunks in order with their rows in memory, reading the next ones ahead.

    Chunks whose rows are in memory already are loaded by the calling thread: to hand them to
    another thread would cost more.
    """
    if all(source.key is None and not source.parts for source in chunks.sources()):
        yield from map(Chunk.loaded, chunks)
        return
    left, waiting = iter(chunks), deque[tuple[Chunk, Future[LoadedChunk] | None]]()
    coming = next(left, None)
    _runs.add(1)
    try:
        while True:
            ahead = AHEAD if coming is None else _ahead(coming)
            while coming is not None and len(waiting) <= ahead:
                waiting.append((coming, None if coming.is_at_hand else _begin(coming)))
                coming = next(left, None)
            if not waiting:
                return
            chunk, reading = waiting.popleft()
            yield chunk.loaded() if reading is None else reading.result()
    finally:
        _runs.add(-1)
        for _, reading in waiting:
            if reading is not None:
                reading.cancel()


def _ahead(chunk: Chunk) -> int:
    """Return how many chunks like this one are read ahead for the calling thread."""
    cores = cores_per_gpu()  # asked each time: the process chooses with its first chunk
    if cores is None:
        return AHEAD
    budget, source = cache_budget.get(), chunk.source
    # Without a cache the budget names no limit of the process.
    process_bytes = system_limit() if budget is None else min(budget.process_bytes, system_limit())
    limit = min(_GPU_AHEAD_BYTES, int(_GPU_AHEAD_SHARE * process_bytes))
    size = chunk.rows * source.width * np.dtype(source.dtype).itemsize
    return max(AHEAD, min(cores, limit // max(1, size)) // max(1, _runs.count))


def _begin(chunk: Chunk) -> Future[LoadedChunk]:
    # The context carries the cache budget and the counter of retries of the calling thread.
    return _readers().submit(copy_context().run, chunk.loaded)


@cache
def _readers() -> ThreadPoolExecutor:
    """Return the reading threads of this process; a thread starts only when it is needed."""
    return ThreadPoolExecutor(AHEAD * max(usable_cores(), _LEAST_CORES), "dkmeans-read")


if hasattr(os, "register_at_fork"):  # a forked child has only the thread that forked it
    os.register_at_fork(after_in_child=_readers.cache_clear)
