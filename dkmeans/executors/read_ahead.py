"""Reading ahead: the next chunks of a run are read while the current one is computed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from itertools import islice

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, LoadedChunk
from dkmeans.executors.cores import usable_cores

# Number of chunks that are read ahead for each computing thread.
AHEAD = 2
# Reading threads mostly wait, so a small machine gets as many as one with this many cores.
_LEAST_CORES = 16


def loaded(chunks: Batch) -> Iterator[LoadedChunk]:
    """Yield the chunks in order with their rows in memory, reading the next ones ahead.

    Chunks whose rows are in memory already are loaded by the calling thread: to hand them to
    another thread would cost more.
    """
    if all(source.key is None and not source.parts for source in chunks.sources()):
        yield from map(Chunk.loaded, chunks)
        return
    left, waiting = iter(chunks), deque[tuple[Chunk, Future[LoadedChunk] | None]]()
    try:
        while True:
            for chunk in islice(left, AHEAD + 1 - len(waiting)):
                waiting.append((chunk, None if chunk.is_at_hand else _begin(chunk)))
            if not waiting:
                return
            chunk, reading = waiting.popleft()
            yield chunk.loaded() if reading is None else reading.result()
    finally:
        for _, reading in waiting:
            if reading is not None:
                reading.cancel()


def _begin(chunk: Chunk) -> Future[LoadedChunk]:
    # The context carries the cache budget and the counter of retries of the calling thread.
    return _readers().submit(copy_context().run, chunk.loaded)


@cache
def _readers() -> ThreadPoolExecutor:
    """Return the reading threads of this process; a thread starts only when it is needed."""
    return ThreadPoolExecutor(AHEAD * max(usable_cores(), _LEAST_CORES), "dkmeans-read")


if hasattr(os, "register_at_fork"):  # a forked child has only the thread that forked it
    os.register_at_fork(after_in_child=_readers.cache_clear)
