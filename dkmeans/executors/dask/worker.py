"""What a worker is asked to do: module-level functions, of chunks and a value and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any, TypeVar
from weakref import ref

import numpy as np

from dkmeans.data.batches import Batch
from dkmeans.data.cache import CacheBudget, cache_budget, row_cache
from dkmeans.data.chunks import Chunk, Source
from dkmeans.data.sources.dask_array import DaskRows
from dkmeans.data.sources.memory import MemoryRows, ShippedRows
from dkmeans.executors.budget import budget_for
from dkmeans.executors.cores import prepare_worker
from dkmeans.executors.dask import shares
from dkmeans.executors.dask.shares import Share
from dkmeans.executors.runs import Fold, Run, merged, reduce_runs
from dkmeans.state import M

R = TypeVar("R")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Reading:
    """On whose behalf a task reads.

    Attributes:
        fit: Names the fit.
        cache: One of `CACHES`.
        home: The worker that should do the task. Only there are its rows kept.
        call: What would ask that worker to do the same again; None: nothing will.
    """

    fit: str
    cache: str
    home: str | None = None
    call: str | None = None


def identity(value: V) -> V:
    """A value, which thereby is on a worker, and can be made again."""
    return value


def unpack(rows: Any) -> Any:
    """Rows as they were shipped, or made by the graph that was.

    What travels arrives at any address, and would be copied to a better one in every iteration.
    """
    if isinstance(rows, DaskRows):
        return rows.read(rows.first, rows.first + rows.rows)
    return np.require(rows, requirements="A")


def apply(
    function: Callable[[Chunk, V], R], chunks: Batch, value: V, reading: Reading, *arrays: Any
) -> R:
    """`function` of one chunk and a value."""
    prepare_worker()
    (chunk,) = _unpacked(chunks, arrays)
    return _run(_this_worker(), reading, function, chunk, value)


def reduce_share(
    function: Callable[[Chunk, V], M], runs: Sequence[Run], chunks: Batch, value: V,
    reading: Reading, *arrays: Any,
) -> list[Fold[M]]:  # fmt: skip
    """The folds of some runs of chunks, `merged`."""
    prepare_worker()
    worker = _this_worker()
    folds = _folded(worker, reading, function, runs, _unpacked(chunks, arrays), value)
    if reading.call is not None and reading.home == worker.address:
        with suppress(TypeError):  # rows of a kind that cannot be referred to weakly
            share = Share(function, runs, chunks, reading, tuple(map(ref, arrays)))
            shares.done.add(reading.call, share)
    return folds


async def reduce_again(call: str, value: Any, dask_worker: Any) -> dict[int, list[Fold[Any]]]:
    """The folds of the shares that this worker has done, with another value, by their numbers.

    What fails is missing: it is done by a task again, which tells.
    """
    mine, loop = shares.done.of(call), asyncio.get_running_loop()
    threads = dask_worker.executors["default"]
    folding = [loop.run_in_executor(threads, _fold, share, value, dask_worker) for share in mine]
    found = await asyncio.gather(*folding, return_exceptions=True)
    pairs = zip(mine, found, strict=True)
    return {share.number: each for share, each in pairs if not isinstance(each, BaseException)}


def _fold(share: Share, value: Any, worker: Any) -> list[Fold[Any]]:
    chunks = _unpacked(share.chunks, share.rows())
    return _folded(worker, share.reading, share.function, share.runs, chunks, value)


def _folded(
    worker: Any, reading: Reading, function: Callable[..., Any], runs: Sequence[Run],
    chunks: Batch, value: Any,
) -> list[Fold[Any]]:  # fmt: skip
    folds = _run(worker, reading, reduce_runs, function, runs, chunks, value)
    return [fold.by(worker.address) for fold in folds]


def merge(*parts: list[Fold[M]]) -> list[Fold[M]]:
    """What several tasks have folded, as the folds of the longest runs that they make."""
    return merged(chain.from_iterable(parts))


def forget(fit: str) -> None:
    """Let go of what this worker keeps for a fit."""
    row_cache.evict_fit(fit)


def _this_worker() -> Any:
    from distributed import get_worker  # noqa: PLC0415 this is a worker: it is imported

    return get_worker()


def _run(worker: Any, reading: Reading, function: Callable[..., R], *arguments: Any) -> R:
    """Call a function; of the rows it reads, this worker keeps what it should and can."""
    limit = worker.memory_manager.memory_limit
    fit = _keeping(reading.fit, reading.cache, limit)
    if worker.address != reading.home:  # who should have done this will want to do it again
        fit = replace(fit, cache_bytes=0)
    context = copy_context()
    context.run(cache_budget.set, fit)
    result: R = context.run(function, *arguments)
    row_cache.relieve(fit)
    return result


@lru_cache(maxsize=16)
def _keeping(fit: str, cache: str, limit: int | None) -> CacheBudget:
    """What this process keeps: found out once, before it has read."""
    return budget_for(fit, cache, limit)


def _unpacked(chunks: Batch, arrays: Sequence[Any]) -> Batch:
    """The chunks with the arrays that travelled beside them put where they belong."""

    def unpack(source: Source) -> Source:
        if not isinstance(source, ShippedRows):
            return source
        return MemoryRows(arrays[source.argument], source.name, source.first)

    return chunks.with_leaves(unpack) if arrays else chunks
