"""The threads of this process: the default executor, with nothing to set up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from itertools import chain, islice
from threading import Event
from typing import Any, TypeVar
from uuid import uuid4

from dkmeans.config import NONE
from dkmeans.data.batches import Batch
from dkmeans.data.cache import cache_budget, row_cache
from dkmeans.data.chunks import Chunk, LoadedChunk
from dkmeans.errors import counted
from dkmeans.executors import cores
from dkmeans.executors.budget import Memory, budget_for, free_cache_bytes, system_limit
from dkmeans.executors.in_order import in_order
from dkmeans.executors.reduction import Cost, Reduction
from dkmeans.executors.runs import RUNS_PER_SHARE, Run, RunTotal, plan, reduce_batches, reduce_runs
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
        self._stopped = Event()
        self._fit, self._cache = uuid4().hex, cache
        self._context: Context | None = None

    def __str__(self) -> str:
        return f"{counted(self._count, 'thread')} of this process"

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
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
        runs = plan(batches, [1] * self._count, RUNS_PER_SHARE)
        if len(runs) == 1:  # starting a thread would take longer than many a single run
            context, batch = self._cache_context().copy(), batches[runs[0].batch]
            totals = context.run(self._reduce, function, batch, runs[0], value, Event())
            return self._reduction(totals)
        pending: dict[Run, Future[list[RunTotal[M]]]] = {}
        failed = Event()
        with cores.computing:
            try:
                # Large runs first; small runs then even out when the threads finish.
                order = sorted(runs, key=lambda run: -run.size)
                for run in order:
                    batch = batches[run.batch]
                    pending[run] = self._submit(self._reduce, function, batch, run, value, failed)
                # One wait for all: waking up for each result would take the interpreter lock from
                # the computing threads.
                wait(pending.values(), return_when=FIRST_EXCEPTION)
                totals = [total for run in runs for total in pending[run].result()]
            except BaseException:
                failed.set()
                _cancel(pending.values())
                raise
        return self._reduction(totals)

    def _reduction(self, totals: list[RunTotal[M]]) -> Reduction[M]:
        cost = sum((total.cost for total in totals), Cost())
        return Reduction(reduce_batches(totals), cost, 1, self._count)

    def map(
        self, function: Callable[[LoadedChunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """Yield the result of a function for each chunk, in order."""
        remaining = iter(chunks)
        firsts = list(islice(remaining, 2))
        if len(firsts) == 1:  # as in `map_reduce`
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
            # Without a cache the limit is not needed, and finding it would import distributed.
            limit = None if self._cache != NONE else sys.maxsize
            self._context.run(cache_budget.set, budget_for(self._fit, self._cache, limit))
        return self._context

    def _reduce(
        self,
        function: Callable[[LoadedChunk, V], M],
        batch: Batch,
        run: Run,
        value: V,
        failed: Event,
    ) -> list[RunTotal[M]]:
        """Return the total of a run.

        Raises:
            CancelledError: at the next chunk, once another run has failed, which sets `failed`, or
                this executor is closed.
        """

        def guarded(loaded: LoadedChunk, value: V) -> M:
            if failed.is_set() or self._stopped.is_set():
                raise CancelledError
            return function(loaded, value)

        return reduce_runs(guarded, [run], batch.chunks_between(run.start, run.stop), value)


def _apply(function: Callable[[LoadedChunk, V], R], chunk: Chunk, value: V) -> R:
    return function(chunk.loaded(), value)


def _cancel(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
