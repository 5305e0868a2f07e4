"""The threads of this process: the embedded default, and the definition of correct."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from threading import Event
from types import TracebackType
from typing import Any, TypeVar
from uuid import uuid4

from dkmeans.config import NONE
from dkmeans.data.batches import Batch
from dkmeans.data.cache import cache_budget, row_cache
from dkmeans.data.chunks import Chunk
from dkmeans.executors import cores
from dkmeans.executors.budget import Memory, budget_for, free_cache_bytes, system_limit
from dkmeans.executors.in_order import in_order
from dkmeans.executors.runs import Cost, Fold, Run, plan, reduce_batches, reduce_runs
from dkmeans.state import M

R = TypeVar("R")
V = TypeVar("V")

# The smallest run of chunks is this part of a thread's share.
_PARTS = 16


class Threads(AbstractContextManager["Threads"]):
    """See the module's docstring.

    Args:
        threads: How many; None: as many as there are processors.
        cache: Whether rows that are read again are kept: one of `CACHES`.
    """

    def __init__(self, threads: int | None = None, cache: str = NONE) -> None:
        self._count = threads or cores.usable_cores()
        self._pool = ThreadPoolExecutor(self._count, "dkmeans")
        self._stopped = Event()
        self._fit, self._cache = uuid4().hex, cache
        self._context: Context | None = None
        self.spent, self.workers, self.threads = Cost(), 1, self._count

    def __str__(self) -> str:
        return f"{self._count} threads of this process"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)
        row_cache.evict_fit(self._fit)

    def memory(self) -> Memory:
        """See `Executor`."""
        limit = system_limit()
        return Memory(1, self._count, limit, free_cache_bytes(limit))

    def map_reduce(
        self, function: Callable[[Chunk, V], M], batches: Sequence[Batch], value: V
    ) -> list[M]:
        """See `Executor`."""
        runs = plan(batches, [1] * self._count, _PARTS)
        with cores.computing:
            try:
                # The large ones first: the small ones then fill up what time is left.
                order = sorted(runs, key=lambda run: -run.size)
                pending = {
                    run: self._submit(self._fold, function, batches[run.batch], run, value)
                    for run in order
                }
                # Woken once: a thread that is woken for each result takes the interpreter away.
                wait(pending.values(), return_when=FIRST_EXCEPTION)
                folds = [part for run in runs for part in pending[run].result()]
                self.spent = sum((fold.spent for fold in folds), Cost())
                return reduce_batches(folds, len(batches))
            except BaseException:
                self._stopped.set()
                _cancel(pending.values())
                raise

    def map(
        self, function: Callable[[Chunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """See `Executor`."""
        tasks = (self._submit(function, chunk, value) for chunk in chunks)
        return in_order(tasks, self._count, Future.result, _cancel)

    def _submit(self, function: Callable[..., R], *arguments: object) -> Future[R]:
        return self._pool.submit(self._keeping().copy().run, function, *arguments)

    def _keeping(self) -> Context:
        """What threads know of the fit they read for; how much they may keep is found out once."""
        if self._context is None:
            self._context = copy_context()
            limit = None if self._cache != NONE else sys.maxsize  # which spares finding it out
            self._context.run(cache_budget.set, budget_for(self._fit, self._cache, limit))
        return self._context

    def _fold(
        self, function: Callable[[Chunk, V], M], batch: Batch, run: Run, value: V
    ) -> list[Fold[M]]:
        """A run's sum; a long one ends at the next chunk when the caller has gone."""

        def guarded(chunk: Chunk, value: V) -> M:
            if self._stopped.is_set():
                raise CancelledError
            return function(chunk, value)

        return reduce_runs(guarded, [run], batch.chunks_between(run.start, run.stop), value)


def _cancel(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
