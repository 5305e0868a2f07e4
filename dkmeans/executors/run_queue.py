"""A queue of runs, which several threads compute together: those of this process or of a worker.

The threads take runs from the queue, large ones first, until it is empty, so no thread waits for a
slow one for long. Sums are exact, so it does not matter which thread computes which run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import Executor as ThreadPool
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from threading import Lock
from typing import Generic, TypeVar

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import LoadedChunk
from dkmeans.executors.chunk_pieces import in_pieces
from dkmeans.executors.chunk_runs import (
    RUNS_PER_SHARE,
    Run,
    RunTotal,
    cut_into_runs,
    merged,
    reduce_runs,
)
from dkmeans.state import M, grown

V = TypeVar("V")


class RunQueue(Generic[V, M]):
    """Runs to compute. Each thread that takes part calls `compute`.

    Args:
        function: Returns the result of a chunk.
        runs: The runs, each with its chunks.
        value: Second argument of the function.
    """

    def __init__(
        self,
        function: Callable[[LoadedChunk, V], M],
        runs: Iterable[tuple[Run, Batch]],
        value: V,
    ) -> None:
        self._function, self._value = function, value
        self._left = deque(sorted(runs, key=lambda each: -each[0].size))
        self._totals: list[RunTotal[M]] = []
        self._lock = Lock()
        self._is_stopped = False
        self._failed: tuple[Run, BaseException] | None = None

    def __len__(self) -> int:
        return len(self._left)

    def compute(self) -> None:
        """Compute runs until none is left.

        If a run fails, later ones are not computed any more. Earlier ones are, because `result`
        raises the first error in the order of the chunks, in whichever order they are computed.
        """
        for run, chunks in iter(self._next, None):
            if not self._is_needed(run):  # before a chunk of it is read
                continue
            try:
                self._add(reduce_runs(partial(self._apply, run), [run], chunks, self._value))
            except BaseException as error:
                with self._lock:
                    if self._is_needed(run):
                        self._failed = run, error

    def stop(self) -> None:
        """End all threads, before their next chunks."""
        self._is_stopped = True

    def result(self) -> list[RunTotal[M]]:
        """Return the totals of all runs, `merged`. No thread may be computing any more.

        Raises:
            BaseException: the first error of the function.
            CancelledError: the queue was stopped.
        """
        if self._failed is not None:
            try:
                raise self._failed[1]
            finally:  # the traceback of the error refers to the queue
                self._failed = None
        if self._is_stopped:
            raise CancelledError
        return self._totals

    def _add(self, found: list[RunTotal[M]]) -> None:
        """Merge the totals of a run with the others now: a list of all totals needs much memory."""
        with self._lock:
            found += self._totals
            self._totals = merged(sorted(found, key=lambda total: total.run.place), grown)

    def _next(self) -> tuple[Run, Batch] | None:
        try:
            return self._left.popleft()
        except IndexError:
            return None

    def _is_needed(self, run: Run) -> bool:
        """Return whether the outcome of a run still matters."""
        failed = self._failed
        return not self._is_stopped and (failed is None or run.place < failed[0].place)

    def _apply(self, run: Run, loaded: LoadedChunk, value: V) -> M:
        if not self._is_needed(run):
            raise CancelledError
        return self._function(loaded, value)


def reduce_shared(
    pool: ThreadPool,
    threads: int,
    function: Callable[[LoadedChunk, V], M],
    runs: Sequence[Run],
    chunks: Batch,
    value: V,
) -> list[RunTotal[M]]:
    """Return the totals of some runs, `merged`, computed by the calling thread and by others.

    The calling thread does not depend on the others: if the pool has no thread to spare, it
    computes all of the runs itself.

    Args:
        pool: The threads that help. The calling thread may be one of them.
        threads: Number of threads that compute, the calling thread included.
        function: Returns the result of a chunk.
        runs: The runs, in order.
        chunks: Their chunks, in the same order.
        value: Second argument of the function.
    """
    if threads == 1:
        return reduce_runs(function, runs, chunks, value)
    spans = _spans(runs)
    ends = [0, *accumulate(span.size for span in spans)]
    batches = [chunks.chunks_between(*both) for both in pairwise(ends)]
    queue = RunQueue(function, _runs_of(in_pieces(batches, threads), threads), value)
    others = min(threads, len(queue)) - 1
    helpers = [pool.submit(copy_context().run, queue.compute) for _ in range(others)]
    queue.compute()
    for helper in helpers:
        if not helper.cancel():  # one that has not begun would find no run
            helper.result()
    # The queue has one total for each batch: it has counted pieces, where chunks were cut.
    return [replace(total, run=spans[total.run.batch]) for total in queue.result()]


def _spans(runs: Sequence[Run]) -> list[Run]:
    """Return some runs, in order, with adjacent ones as one run."""
    spans: list[Run] = []
    for run in runs:
        if spans and spans[-1].precedes(run):
            spans[-1] = replace(spans[-1], stop=run.stop)
        else:
            spans.append(run)
    return spans


def _runs_of(batches: Sequence[Batch], threads: int) -> Iterator[tuple[Run, Batch]]:
    """Yield the runs of some batches for a number of threads, each with its chunks."""
    for run in cut_into_runs(batches, [1] * threads, RUNS_PER_SHARE):
        yield run, batches[run.batch].chunks_between(run.start, run.stop)
