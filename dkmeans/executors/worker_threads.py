"""Threads of a worker, which compute the runs of one task or call together.

A task or call names all the chunks of the worker's share, so that the number of tasks grows with
the workers and not with their threads. The thread that has the task cuts the runs into pieces,
large ones first. It and other threads take pieces from one queue until the queue is empty, so no
thread waits for a slow one for long. Sums are exact, so it does not matter which thread computes
which piece.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor as ThreadPool
from contextvars import copy_context
from itertools import accumulate
from threading import Lock
from typing import TypeVar

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import LoadedChunk
from dkmeans.executors.runs import RUNS_PER_SHARE, Run, RunTotal, merged, plan, reduce_runs
from dkmeans.state import M, grown

V = TypeVar("V")


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
    computes all pieces itself.

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
    pieces = deque(sorted(_pieces(runs, chunks, threads), key=lambda piece: -piece[0].size))

    def next_piece() -> tuple[Run, Batch] | None:
        try:
            return pieces.popleft()
        except IndexError:
            return None

    totals: list[RunTotal[M]] = []
    adding = Lock()

    def take() -> None:
        nonlocal totals
        try:
            for run, own in iter(next_piece, None):
                found = reduce_runs(function, [run], own, value)
                # At once: the sums of all pieces would need much memory where centers are large.
                with adding:
                    found += totals
                    totals = merged(sorted(found, key=lambda total: total.run.place), grown)
                del found
        except BaseException:
            pieces.clear()  # the other threads would compute them in vain
            raise

    helpers = [pool.submit(copy_context().run, take) for _ in range(min(threads, len(pieces)) - 1)]
    take()
    for helper in helpers:
        if not helper.cancel():  # one that has not begun would find no piece
            helper.result()
    return totals


def _pieces(runs: Sequence[Run], chunks: Batch, threads: int) -> Iterator[tuple[Run, Batch]]:
    """Yield smaller runs for a number of threads, each with its chunks."""
    firsts = [0, *accumulate(run.size for run in runs)]
    for part in plan([range(run.size) for run in runs], [1] * threads, RUNS_PER_SHARE):
        run, first = runs[part.batch].part(part.start, part.stop), firsts[part.batch]
        yield run, chunks.chunks_between(first + part.start, first + part.stop)
