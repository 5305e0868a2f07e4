"""The functions that run on Dask workers: module-level functions of chunks and a value.

`driver` submits them as tasks, or calls `reduce_again`. The functions that they apply to chunks are
elsewhere: partial sums in `partial_sums`, scores and predictions in `prediction.per_chunk`. Tasks
over chunks are pure: computed again, on any worker, they return the same bits. `take` and
`merge_once` can run only once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any, Generic, TypeVar
from weakref import ref

import numpy as np

from dkmeans.data.batches import Batch
from dkmeans.data.cache import cache_budget, row_cache
from dkmeans.data.chunks import LoadedChunk, Source
from dkmeans.data.sources.dask_array import DaskRows
from dkmeans.data.sources.memory import ShippedRows
from dkmeans.executors.budget import budget_for
from dkmeans.executors.chunk_runs import Run, RunTotal, merged
from dkmeans.executors.dask import internals, shares
from dkmeans.executors.dask.packets import Incoming, Packet
from dkmeans.executors.dask.process import prepare_worker
from dkmeans.executors.dask.shares import Share
from dkmeans.executors.run_queue import reduce_shared
from dkmeans.state import M, grown

R = TypeVar("R")
V = TypeVar("V")

# Largest number of results that one task, one worker or the driver adds up, so that none adds up
# all of them.
FAN_IN = 16
# Largest number of values that a worker holds until their tasks run: several fits may send values.
_MOST_HELD = 8
_held: OrderedDict[str, Incoming] = OrderedDict()
# Part of its own time limit for which a worker waits for the workers below it. So a worker answers
# in time even if a worker below it does not.
_PATIENCE = 0.8


class ValueLost(Exception):
    """Loss of a value, or of sums, with the worker that held them: the driver computes again."""


class SingleUse(Generic[M]):
    """Totals that only one task takes, so that it may add up large totals in place.

    If the result of that task is lost with its worker, the totals are lost too.

    Args:
        totals: The totals, which nothing else uses.
    """

    def __init__(self, totals: list[RunTotal[M]]) -> None:
        self._totals: list[RunTotal[M]] | None = totals

    def taken(self) -> list[RunTotal[M]]:
        """Return the totals, to the first caller only.

        Raises:
            ValueLost: they have been taken.
        """
        totals, self._totals = self._totals, None
        if totals is None:
            raise ValueLost("sums were lost with the worker that added them up")
        return totals


@dataclass(frozen=True, slots=True)
class ReadContext:
    """The fit that a task reads rows for, and where these rows may be cached.

    Attributes:
        fit: Name of the fit.
        cache: One of `dkmeans.config.CACHES`.
        preferred_worker: Address of the worker that should run the task. Rows are cached only on
            that worker; None: nowhere.
        call: Name of the call that may ask this worker for the same share again. None if no call
            will: the task computes a part of a share, or a single chunk, in one thread.
    """

    fit: str
    cache: str
    preferred_worker: str | None = None
    call: str | None = None


def unchanged(value: V) -> V:
    """Return the value. As the result of a task it lies on a worker and can be computed again."""
    return value


def hold(name: str, packet: Packet) -> bool:
    """Add a packet to a value that a task will take; keep only the newest `_MOST_HELD` values."""
    if name not in _held:
        _held[name] = Incoming(packet)
    _held[name].add(packet)
    while len(_held) > _MOST_HELD:
        _held.popitem(last=False)
    return True


def take(name: str) -> Any:
    """Return a value that this worker holds, and forget it: Dask keeps the result of the task.

    Raises:
        ValueLost: the value was sent to another worker, or has been dropped, or is not whole.
    """
    incoming = _held.pop(name, None)
    # If a value was dropped between two of its packets, `_held` has only the later packets.
    if incoming is None or not incoming.is_whole:
        raise ValueLost("a value was lost with the worker that it was sent to")
    return incoming.value()


def unpack(rows: Any) -> Any:
    """Return shipped rows: an aligned array, or the result of the shipped graph.

    A received array may start at any address; backends would copy an unaligned one in every
    iteration.
    """
    if isinstance(rows, DaskRows):
        return rows.read(rows.first, rows.first + rows.rows)
    return np.require(rows, requirements="A")


def apply(
    function: Callable[[LoadedChunk, V], R],
    chunks: Batch,
    value: V,
    reading: ReadContext,
    *arrays: Any,
) -> R:
    """Return the result of a function for one chunk, the only one of `chunks`."""
    prepare_worker()
    (chunk,) = _with_arrays(chunks, arrays)

    return _run(_this_worker(), reading, lambda: function(chunk.loaded(), value))


def reduce_share(
    function: Callable[[LoadedChunk, V], M],
    runs: Sequence[Run],
    chunks: Batch,
    value: V,
    reading: ReadContext,
    *arrays: Any,
) -> list[RunTotal[M]]:
    """Return the totals of some runs, `merged`, and remember the share for `reduce_again`."""
    prepare_worker()
    worker = _this_worker()
    share = _with_arrays(chunks, arrays)
    totals = _reduce(worker, reading, function, runs, share, value)
    if reading.call is not None and reading.preferred_worker == worker.address:
        with suppress(TypeError):  # rows of a type that allows no weak references
            remembered = Share(function, runs, chunks, reading, tuple(map(ref, arrays)))
            shares.computed.add(reading.call, worker.address, remembered)
    return totals


def reduce_share_once(*arguments: Any) -> SingleUse[Any]:
    """Return the totals of `reduce_share`, for `merge_once`."""
    return SingleUse(reduce_share(*arguments))


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Totals of the shares that calls have computed.

    Attributes:
        shares: Numbers of the shares.
        totals: Their totals, `merged`.
    """

    shares: frozenset[int] = frozenset()
    totals: Sequence[RunTotal[Any]] = ()


async def reduce_again(
    call: str, value: Any, below: Sequence[str], seconds: float, dask_worker: Any
) -> Answer:
    """Compute again, with a new value, the shares that this worker and others below it remember.

    The workers are a tree: each calls some workers, which call the workers below them, and adds
    their totals to its own. So the value and the totals take few steps, and a driver of many
    workers waits for one answer.

    Args:
        call: Name of the call.
        value: The new value.
        below: The workers below this one, in the order of their shares, which follow its own.
        seconds: Time within which this worker must answer.
        dask_worker: The worker, supplied by Dask.

    Returns:
        The totals. Shares whose computation failed, or whose workers do not answer, are missing: a
        task computes such a share again and raises the error.
    """
    loop, threads = asyncio.get_running_loop(), internals.task_threads(dask_worker)
    # In the threads of the worker's tasks: the event loop must stay free for messages.
    reducing = [
        loop.run_in_executor(threads, _reduce_remembered, share, value, dask_worker)
        for share in shares.computed.of(call, dask_worker.address)
    ]
    size, patience = -(-len(below) // FAN_IN), _PATIENCE * seconds
    asking = [
        internals.call_worker(
            dask_worker, first, patience, reduce_again, call, value, rest, patience
        )
        for first, *rest in (below[i : i + size] for i in range(0, len(below), size or 1))
    ]
    done = await asyncio.gather(*reducing, *asking, return_exceptions=True)
    answers = [each for each in done if isinstance(each, Answer)]
    return await loop.run_in_executor(threads, joined, answers) if below else joined(answers)


def joined(answers: Sequence[Answer]) -> Answer:
    """Return several answers as one."""
    totals = chain.from_iterable(answer.totals for answer in answers)
    return Answer(
        frozenset().union(*(answer.shares for answer in answers)),
        merged(sorted(totals, key=lambda total: total.run.place)),
    )


def merge(*parts: list[RunTotal[M]]) -> list[RunTotal[M]]:
    """Return the totals of several tasks, with those of adjacent runs added up."""
    return merged(chain.from_iterable(parts))


def merge_once(*parts: SingleUse[M]) -> SingleUse[M]:
    """Return the totals of several tasks as `merge` does, added up in the memory of the first."""
    totals = chain.from_iterable(part.taken() for part in parts)
    # Received arrays may be read-only: `on_host` copies such arrays.
    return SingleUse(merged((each.on_host() for each in totals), grown))


def evict_fit(fit: str) -> None:
    """Evict what this process has cached for a fit."""
    row_cache.evict_fit(fit)


def _reduce_remembered(share: Share, value: Any, worker: Any) -> Answer:
    chunks = _with_arrays(share.chunks, share.rows())
    totals = _reduce(worker, share.reading, share.function, share.runs, chunks, value)
    return Answer(frozenset([share.number]), totals)


def _reduce(
    worker: Any,
    reading: ReadContext,
    function: Callable[..., Any],
    runs: Sequence[Run],
    chunks: Batch,
    value: Any,
) -> list[RunTotal[Any]]:
    # A task with a call computes a whole share, in all threads. Without one, it is one of several
    # tasks that a worker runs at a time, each in one thread.
    threads = 1 if reading.call is None else internals.thread_count(worker)
    pool = internals.task_threads(worker)
    totals = _run(worker, reading, reduce_shared, pool, threads, function, runs, chunks, value)
    return [total.of_worker(worker.address) for total in totals]


def _this_worker() -> Any:
    from distributed import get_worker  # noqa: PLC0415 a worker has imported it

    return get_worker()


def _run(worker: Any, reading: ReadContext, function: Callable[..., R], *arguments: Any) -> R:
    """Call a function with the cache budget of a fit, and evict if memory is short afterwards."""
    budget = _budget(reading.fit, reading.cache, internals.memory_limit(worker))
    if worker.address != reading.preferred_worker:
        # The preferred worker caches these rows, and gets the same rows in the next iteration.
        budget = replace(budget, cache_bytes=0)
    # In a copy of the context, so that no other task of this thread finds this budget.
    context = copy_context()
    context.run(cache_budget.set, budget)
    result: R = context.run(function, *arguments)
    row_cache.relieve(budget)
    return result


# The budget of a fit in this process is computed once, before its first rows are read.
_budget = lru_cache(maxsize=16)(budget_for)


def _with_arrays(chunks: Batch, arrays: Sequence[Any]) -> Batch:
    """Return the chunks with the shipped arrays in place of their `ShippedRows`."""

    def unpacked(source: Source) -> Source:
        if not isinstance(source, ShippedRows):
            return source
        return source.filled(arrays[source.argument])

    return chunks.with_leaves(unpacked) if arrays else chunks
