"""Runs: the pieces in which the chunks of an iteration are computed and added up.

A run is some consecutive chunks of a batch. Results are exact monoids, so totals have the same bits
however the chunks are dealt. The chunks are dealt into shares, one for each thread or worker. The
runs of a share become smaller towards its end, so that a thread that finishes early can take over a
small run of another share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise
from operator import add
from time import perf_counter
from typing import Generic, TypeVar

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import LoadedChunk
from dkmeans.errors import ResultLost
from dkmeans.executors.read_ahead import loaded
from dkmeans.executors.reduction import Cost, Throughput, skips
from dkmeans.retry import EventCount, retries
from dkmeans.state import Growing, M, on_host, sum_up

V = TypeVar("V")

# The smallest run is about the smallest share divided by this.
RUNS_PER_SHARE = 16


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive chunks of a batch.

    Attributes:
        batch: Number of the batch.
        start: Number of the first chunk in the batch.
        stop: Number of the chunk after the last one.
        share: Number of the share that has the run: of a thread, or of all threads of a worker.
    """

    batch: int
    start: int
    stop: int
    share: int

    @property
    def size(self) -> int:
        """Number of chunks."""
        return self.stop - self.start

    @property
    def place(self) -> tuple[int, int]:
        """Sort key of runs: number of the batch, then of the first chunk."""
        return self.batch, self.start

    def part(self, start: int, stop: int) -> Run:
        """Return the chunks from number `start` to before `stop`, counted from this run's first."""
        return replace(self, start=self.start + start, stop=self.start + stop)

    def precedes(self, other: Run) -> bool:
        """Return True if the other run is of the same batch, and begins where this one ends."""
        return (self.batch, self.stop) == (other.batch, other.start)


@dataclass(frozen=True, slots=True, eq=False)
class RunTotal(Growing, Generic[M]):
    """Total of a run and its cost; `a + b` adds the total of the run that follows.

    Attributes:
        run: The run.
        total: Sum of the results of its chunks.
        cost: Cost of computing the total.
    """

    run: Run
    total: M
    cost: Cost

    def _plus(self, other: RunTotal[M], plus: Callable[[M, M], M]) -> RunTotal[M]:
        run = replace(self.run, stop=other.run.stop)
        return RunTotal(run, plus(self.total, other.total), self.cost + other.cost)

    def on_host(self) -> RunTotal[M]:
        """Return the same total in the memory of the host."""
        return replace(self, total=on_host(self.total))

    def of_worker(self, worker: str) -> RunTotal[M]:
        """Return the same total; its cost also has the throughput of this worker."""
        seconds = self.cost.read_seconds + self.cost.compute_seconds
        throughputs = {worker: Throughput(self.run.size, seconds)}
        return replace(self, cost=replace(self.cost, throughputs=throughputs))


def cut_into_runs(
    batches: Sequence[Sized], share_sizes: Sequence[float], runs_per_share: int
) -> list[Run]:
    """Deal the chunks of all batches, in order, into shares of these sizes, and into runs.

    A share is a range of the chunks of all batches together. No run crosses the end of a share or
    of a batch.

    Args:
        batches: The batches; only their lengths are used.
        share_sizes: Size of each share, relative to the others.
        runs_per_share: About the number of smallest runs in the smallest share.

    Returns:
        The runs in the order of their chunks.
    """
    total = sum(map(len, batches))
    # A share is at least about one chunk: a worker without chunks has no throughput to measure.
    sizes = [max(size, sum(share_sizes) / total) for size in share_sizes]
    unrounded = [total * reached / sum(sizes) for reached in accumulate(sizes)]
    ends = [*(math.floor(end + 0.5) for end in unrounded[:-1]), total]
    if total >= len(ends):  # rounding must leave no share without a chunk
        ends = list(accumulate([0, *ends], lambda before, end: max(before + 1, end)))[1:]
        ends = [min(end, total - len(ends) + number) for number, end in enumerate(ends, 1)]
    smallest = max(1, int(total * min(sizes) / sum(sizes) / runs_per_share))
    starts = [0, *accumulate(map(len, batches))]
    runs: list[Run] = []
    share = place = 0  # the share and the chunk, among all chunks, where the next run begins
    for batch, (first, last) in enumerate(pairwise(starts)):
        while place < last:
            while ends[share] <= place:
                share += 1
            rest = min(ends[share], last) - place
            size = min(rest, max(smallest, rest // 2))
            runs.append(Run(batch, place - first, place - first + size, share))
            place += size
    return runs


def reduce_runs(
    function: Callable[[LoadedChunk, V], M], runs: Sequence[Run], chunks: Batch, value: V
) -> list[RunTotal[M]]:
    """Return the totals of some runs, `merged`, in the memory of the host.

    Args:
        function: Returns the result of a chunk.
        runs: The runs, in order.
        chunks: Their chunks, in the same order.
        value: Second argument of the function.
    """
    # No other call uses this context meanwhile. Reading threads copy it, so they count here too.
    retried, skipped = EventCount(), EventCount()
    retries.set(retried)
    skips.set(skipped)

    def attempt() -> list[RunTotal[M]]:
        # One iterator for all runs: reading ahead does not stop at the end of a run.
        coming = loaded(chunks)
        totals = merged(_reduce_run(function, run, coming, value, retried, skipped) for run in runs)
        return [each.on_host() for each in totals]

    return computed_again(attempt)


def computed_again(attempt: Callable[[], V]) -> V:
    """Return the result of an attempt; if a failing GPU has lost it, of a second one."""
    with suppress(ResultLost):
        return attempt()
    # Not within `suppress`: only here the first traceback is gone, whose frames hold its chunks.
    return attempt()


def _reduce_run(
    function: Callable[[LoadedChunk, V], M],
    run: Run,
    chunks: Iterator[LoadedChunk],
    value: V,
    retried: EventCount,
    skipped: EventCount,
) -> RunTotal[M]:
    read_seconds = compute_seconds = 0.0
    before = retried.count, skipped.count

    def results() -> Iterator[M]:
        nonlocal read_seconds, compute_seconds
        for _ in range(run.size):
            began = perf_counter()
            chunk = next(chunks)
            read = perf_counter()
            result = function(chunk, value)
            # The time that this thread waited; another thread may have done the reading.
            read_seconds += read - began
            compute_seconds += perf_counter() - read
            yield result
            # Sums of large centers would be kept while the next chunk is computed.
            del result

    total = sum_up(results())
    counts = retried.count - before[0], skipped.count - before[1]
    return RunTotal(run, total, Cost(read_seconds, compute_seconds, *counts))


def merged(
    totals: Iterable[RunTotal[M]],
    plus: Callable[[RunTotal[M], RunTotal[M]], RunTotal[M]] = add,
) -> list[RunTotal[M]]:
    """Return totals in the order of their runs, with those of adjacent runs added up.

    Args:
        totals: The totals, in the order of their runs.
        plus: Adds two totals: `grown` if nothing else uses the totals, which saves memory.
    """
    stack: list[RunTotal[M]] = []
    for total in totals:
        if stack and stack[-1].run.precedes(total.run):
            total = plus(stack.pop(), total)
        stack.append(total)
    return stack


def reduce_batches(totals: Sequence[RunTotal[M]]) -> list[M]:
    """Return the total of each batch, from the totals of all its runs, which are in order."""
    batches = groupby(totals, lambda total: total.run.batch)
    return [sum_up(total.total for total in own) for _, own in batches]
