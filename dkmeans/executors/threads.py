"""The threads of this process: the default executor, with nothing to set up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from itertools import chain, islice
from threading import Event
from time import perf_counter
from typing import Any, TypeVar
from uuid import uuid4

from dkmeans.config import NONE
from dkmeans.data.batches import Batch
from dkmeans.data.cache import cache_budget, row_cache
from dkmeans.data.chunks import Chunk, LoadedChunk
from dkmeans.errors import counted
from dkmeans.executors import cores
from dkmeans.executors.budget import Memory, budget_for, free_cache_bytes, system_limit
from dkmeans.executors.chunk_pieces import in_pieces
from dkmeans.executors.chunk_runs import (
    RUNS_PER_SHARE,
    RunTotal,
    cut_into_runs,
    reduce_batches,
    reduce_runs,
)
from dkmeans.executors.in_order import in_order
from dkmeans.executors.reduction import Cost, Reduction
from dkmeans.executors.run_queue import RunQueue
from dkmeans.executors.short_iterations import ShortIterations
from dkmeans.machine import usable_cores
from dkmeans.state import M

R = TypeVar("R")
V = TypeVar("V")


class Threads(AbstractContextManager["Threads"]):
    """Computes chunks in the threads of this process.

    Args:
        threads: Number of threads; None takes the number of cores.
        cache: One of `dkmeans.config.CACHES`: which rows are cached between iterations.
    """

    def __init__(self, threads: int | None = None, cache: str = NONE) -> None:
        self._count = threads or usable_cores()
        self._pool = ThreadPoolExecutor(self._count, "dkmeans")
        self._closed = Event()
        self._fit, self._cache = uuid4().hex, cache
        self._context: Context | None = None
        self._latest: tuple[object, ShortIterations] = None, ShortIterations()

    def __str__(self) -> str:
        return f"{counted(self._count, 'thread')} of this process"

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._pool.shutdown(cancel_futures=True)
        row_cache.evict_fit(self._fit)

    def memory(self) -> Memory:
        """Return the memory of this process, as one worker with these threads."""
        limit = system_limit()
        return Memory(1, self._count, limit, free_cache_bytes(limit))

    def map_reduce(
        self, function: Callable[[LoadedChunk, V], M], batches: Sequence[Batch], value: V
    ) -> Reduction[M]:
        """Apply a function to each chunk of each batch, and add up the results of each batch."""
        batches = self._cache_context().copy().run(in_pieces, batches, self._count)
        runs = cut_into_runs(batches, [1] * self._count, RUNS_PER_SHARE)
        chunks = [batches[run.batch].chunks_between(run.start, run.stop) for run in runs]

        def unless_closed(loaded: LoadedChunk, value: V) -> M:
            if self._closed.is_set():
                raise CancelledError
            return function(loaded, value)

        # To start threads can take longer than a single run.
        short = self._times_of(function) if len(runs) > 1 else None
        alone = short is None or short.begin()
        began = perf_counter()
        if alone:
            context, whole = self._cache_context().copy(), Batch.chained(chunks)
            totals = context.run(reduce_runs, unless_closed, runs, whole, value)
        else:
            totals = self._shared(RunQueue(unless_closed, zip(runs, chunks, strict=True), value))
        cost = sum((total.cost for total in totals), Cost())
        busy = cost.read_seconds + cost.compute_seconds
        if short is not None:
            short.end(perf_counter() - began, busy, alone=alone)
        return Reduction(reduce_batches(totals), cost, 1, 1 if alone else self._count)

    def _shared(self, queue: RunQueue[V, M]) -> list[RunTotal[M]]:
        """Return the totals of the runs of a queue, computed by all threads."""
        with cores.computing:
            try:
                wait([self._submit(queue.compute) for _ in range(min(self._count, len(queue)))])
            except BaseException:
                queue.stop()
                raise
        return queue.result()

    def _times_of(self, function: object) -> ShortIterations:
        """Return the measured times of a function; empty if the last call was of another one."""
        if self._latest[0] is not function:
            self._latest = function, ShortIterations()
        return self._latest[1]

    def map(
        self, function: Callable[[LoadedChunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """Yield the result of a function for each chunk, in order."""
        remaining = iter(chunks)
        firsts = list(islice(remaining, 2))
        if len(firsts) == 1:  # to start a thread can take longer than a single chunk
            yield self._cache_context().copy().run(_apply, function, firsts[0], value)
            return
        tasks = (self._submit(_apply, function, c, value) for c in chain(firsts, remaining))
        yield from in_order(tasks, self._count, Future.result, _cancel)

    def _submit(self, function: Callable[..., R], *arguments: object) -> Future[R]:
        return self._pool.submit(self._cache_context().copy().run, function, *arguments)

    def _cache_context(self) -> Context:
        """Return the context in which threads compute: it holds the cache budget of the fit.

        The budget is computed once, before the first rows are cached.
        """
        if self._context is None:
            self._context = copy_context()
            # Without a cache no limit is needed: to find it would import distributed.
            limit = None if self._cache != NONE else sys.maxsize
            self._context.run(cache_budget.set, budget_for(self._fit, self._cache, limit))
        return self._context


def _apply(function: Callable[[LoadedChunk, V], R], chunk: Chunk, value: V) -> R:
    return function(chunk.loaded(), value)


def _cancel(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
