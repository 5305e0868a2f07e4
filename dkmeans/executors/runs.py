"""Runs: which chunks are folded together, and how a thread goes over them.

A run is 2^j chunks that begin at a multiple of 2^j. Its fold is therefore a branch of the tree in
which the whole batch is folded, whatever j: results have the same bits however the chunks are
dealt out. There are some runs for each thread, not for each chunk, and they become smaller towards
the end of a thread's share, so that whoever is done early has something left to take over.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate, islice
from time import perf_counter
from typing import Generic, TypeVar

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.executors.cores import usable_cores
from dkmeans.executors.dask.dealing import Throughput
from dkmeans.retry import Retries, retries
from dkmeans.state import FloatArray, M, fold

V = TypeVar("V")

# Chunks that a thread has read for it while it works on another.
AHEAD = 2


@dataclass(frozen=True, slots=True)
class Run:
    """Some consecutive chunks of a batch.

    Attributes:
        batch: The batch's number.
        start: The first chunk's number in the batch.
        stop: The number after the last one's.
        share: Which thread, of all there are, should do it if it can.
    """

    batch: int
    start: int
    stop: int
    share: int

    @property
    def size(self) -> int:
        """How many chunks it has."""
        return self.stop - self.start

    @property
    def place(self) -> tuple[int, int]:
        """What runs are ordered by."""
        return self.batch, self.start

    def makes_a_run_with(self, other: Run) -> bool:
        """Whether the two are the halves of a branch of the tree."""
        return (
            (self.batch, self.stop) == (other.batch, other.start)
            and self.size == other.size
            and self.start % (2 * self.size) == 0
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """What threads have spent, together: a monoid under `+`.

    Attributes:
        read: Seconds that they waited for rows.
        compute: Seconds that they worked on them.
        retries: How often storage was asked again.
        paces: Of each worker, how many chunks it went over in these seconds.
    """

    read: float = 0.0
    compute: float = 0.0
    retries: int = 0
    paces: Mapping[str, Throughput] = field(default_factory=dict)

    def __add__(self, other: Cost) -> Cost:
        paces = dict(self.paces)
        for worker, pace in other.paces.items():
            paces[worker] = paces.get(worker, Throughput()) + pace
        return Cost(
            self.read + other.read,
            self.compute + other.compute,
            self.retries + other.retries,
            paces,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Fold(Generic[M]):
    """What a run has been folded to, and at what cost; `+` takes the run that follows."""

    run: Run
    total: M
    spent: Cost = Cost()

    def __add__(self, other: Fold[M]) -> Fold[M]:
        run = replace(self.run, stop=other.run.stop)
        return Fold(run, self.total + other.total, self.spent + other.spent)

    def by(self, worker: str) -> Fold[M]:
        """The same, as done by a worker."""
        pace = Throughput(self.run.size, self.spent.read + self.spent.compute)
        return replace(self, spent=replace(self.spent, paces={worker: pace}))


def plan(batches: Sequence[Batch], weights: Sequence[float], parts: int) -> list[Run]:
    """Deal the chunks of all batches, in order, into shares.

    Args:
        batches: What is to be folded.
        weights: For each thread how large its share is, beside the others'.
        parts: No run is much smaller than this part of the smallest share.
    """
    total = sum(map(len, batches))
    # Who had nothing to do would never be seen to have become faster.
    weights = [max(weight, sum(weights) / total) for weight in weights]
    whole = sum(weights)
    borders = [total * reached / whole for reached in accumulate(weights)]
    least = _power_of_two(total * min(weights) / whole / parts)
    runs: list[Run] = []
    first = share = 0
    for number, batch in enumerate(batches):
        last = first + len(batch)
        ends = []
        for mine in range(share, len(borders)):
            share = mine
            ends.append((mine, borders[mine] - first))
            if borders[mine] >= last:
                break
        runs += _of_batch(number, len(batch), ends, least)
        first = last
    return runs


def _of_batch(
    number: int, chunks: int, shares: Sequence[tuple[int, float]], least: int
) -> Iterator[Run]:
    """The runs of a batch that several shares have a part of, each up to about a chunk's number."""
    start = 0
    for share, border in shares:
        # There a run of the least size can begin, unless it is where the batch ends.
        end = min(max(math.floor(border / least + 0.5) * least, 0), chunks)
        end = chunks if share == shares[-1][0] else end
        while start < end:
            size = max(least, _power_of_two((end - start) / 2))
            while start % size:
                size //= 2
            yield Run(number, start, min(start + size, end), share)
            start += size


def _power_of_two(value: float) -> int:
    """The largest one that is not above a value; 1 at least."""
    return 1 << max(0, int(value).bit_length() - 1)


def loaded(run: Batch) -> Iterator[Chunk]:
    """The chunks of a run, their rows in memory: the next are read while one is worked on."""
    if all(source.key is None and not source.parts for source in run.sources()):
        yield from run
        return
    chunks, waiting = iter(run), deque[tuple[Chunk, Future[FloatArray] | None]]()
    try:
        while True:
            for chunk in islice(chunks, AHEAD + 1 - len(waiting)):
                waiting.append((chunk, None if chunk.is_at_hand else _begin(chunk)))
            if not waiting:
                return
            chunk, reading = waiting.popleft()
            if reading is not None:
                rows = MemoryRows(reading.result(), chunk.source.name, chunk.start)
                chunk = replace(chunk, source=rows)
            yield chunk
    finally:
        for _, reading in waiting:
            if reading is not None:
                reading.cancel()


def reduce_runs(
    function: Callable[[Chunk, V], M], runs: Sequence[Run], chunks: Batch, value: V
) -> list[Fold[M]]:
    """`function` of each chunk and a value, added up by `fold`, for each run.

    Args:
        function: What to do with a chunk.
        runs: Some runs, in order.
        chunks: Their chunks.
        value: What the function is given beside a chunk.

    Returns:
        The folds of these runs, `merged`.
    """
    tried = Retries()
    retries.set(tried)
    coming = loaded(chunks)
    return merged(_fold(function, run, coming, value, tried) for run in runs)


def _fold(
    function: Callable[[Chunk, V], M], run: Run, chunks: Iterator[Chunk], value: V, tried: Retries
) -> Fold[M]:
    waited = computed = 0.0
    before = tried.count

    def parts() -> Iterator[M]:
        nonlocal waited, computed
        for _ in range(run.size):
            began = perf_counter()
            chunk = next(chunks)
            there = perf_counter()
            part = function(chunk, value)
            waited, computed = waited + there - began, computed + perf_counter() - there
            yield part

    total = fold(parts())
    return Fold(run, total, Cost(waited, computed, tried.count - before))


def merged(folds: Iterable[Fold[M]]) -> list[Fold[M]]:
    """The folds of consecutive runs as those of the longest runs that they make."""
    stack: list[Fold[M]] = []
    for longer in folds:
        while stack and stack[-1].run.makes_a_run_with(longer.run):
            longer = stack.pop() + longer
        stack.append(longer)
    return stack


def reduce_batches(folds: Sequence[Fold[M]], batches: int) -> list[M]:
    """For each batch, by its number, the fold of all its runs, which are in order."""
    found: list[list[Fold[M]]] = [[] for _ in range(batches)]
    for each in folds:
        found[each.run.batch].append(each)
    return [fold([f.total for f in mine], [f.run.size for f in mine]) for mine in found]


def _begin(chunk: Chunk) -> Future[FloatArray]:
    return _readers().submit(copy_context().run, chunk.load, chunk.source.width)


@cache
def _readers() -> ThreadPoolExecutor:
    """Threads that read; there are no more than have been needed at a time."""
    return ThreadPoolExecutor(AHEAD * max(usable_cores(), 16), "dkmeans-read")


if hasattr(os, "register_at_fork"):  # a child has no threads but the one that forked it
    os.register_at_fork(after_in_child=_readers.cache_clear)
