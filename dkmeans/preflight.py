"""Preflight: what a fit will require of the machines, reported before it begins.

`training` logs it before the first epoch, and the `plan` job prints it without training. Nothing is
read for `examine`; `seconds_per_iteration` computes a few chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from dkmeans.config import MEMORY, NONE
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import TARGET_BYTES, LoadedChunk, Source
from dkmeans.data.points import point_dtype
from dkmeans.data.sources.zarr_array import ZarrRows
from dkmeans.distance import Computation
from dkmeans.errors import Invalid
from dkmeans.executors import Executor
from dkmeans.executors.budget import Memory
from dkmeans.executors.read_ahead import AHEAD
from dkmeans.lloyd import accumulate

# A request for a smaller storage chunk takes longer than reading it. That matters only if a source
# has many of them.
_SMALL_BYTES, _MANY_CHUNKS = 2**17, 1000
# A thread holds the chunk that it computes, those read ahead, and what one is decoded from.
_HELD_PER_THREAD = AHEAD + 2
# Storage chunks of this size suit disks, object stores and memory alike.
_GOOD_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Preflight:
    """Facts about a fit that are known before its first epoch.

    Attributes:
        rows: Number of rows of an epoch; None if only reading can tell.
        columns: Number of columns.
        dtype: Dtype in which rows are computed.
        chunks: Number of chunks of the first batch.
        chunk_bytes: Size in bytes of its largest chunk, decoded.
        is_stored: True if rows are read from storage.
        memory: Workers, threads and memory of the executor.
        cache: One of `dkmeans.config.CACHES`.
        remarks: Sentences on what should be different, each with its remedy.
    """

    rows: int | None
    columns: int
    dtype: str
    chunks: int
    chunk_bytes: int
    is_stored: bool
    memory: Memory
    cache: str
    remarks: tuple[str, ...]

    @property
    def bytes(self) -> int | None:
        """Size in bytes of the rows of an epoch, decoded; None if it is not known."""
        if self.rows is None:
            return None
        return self.rows * self.columns * np.dtype(self.dtype).itemsize

    @property
    def cached_share(self) -> float:
        """Share of the rows that is read only once, because workers cache it or have it."""
        if not self.is_stored:
            return 1.0
        if self.cache == NONE or not self.bytes:
            return 0.0
        return min(1.0, self.memory.room / self.bytes)

    def describe(self) -> Iterator[str]:
        """Yield sentences for people."""
        rows = "any number of" if self.rows is None else f"{self.rows:,}"
        size = "" if self.bytes is None else f", {readable(self.bytes)}"
        yield f"{rows} rows of {self.columns} columns, {self.dtype}{size}"
        if self.is_stored:
            chunks = f"{self.chunks:,} chunks of up to" if self.chunks > 1 else "1 chunk of"
            yield f"{chunks} {readable(self.chunk_bytes)}; {self._describe_cache()}"

    def _describe_cache(self) -> str:
        room = f"{readable(self.memory.room)} of rows fit the memory of {self.memory}"
        if self.cache == NONE:
            return "none are cached: every epoch reads all of them"
        if self.bytes is None:
            return f"{room}: so much is cached"
        if self.cached_share == 1:
            return f"{room}: all are cached, and read once"
        return f"{room}: {self.cached_share:.0%} are cached, the others are read in every epoch"


def examine(batch: Batch, rows: int | None, executor: Executor, cache: str) -> Preflight:
    """Return what a fit will require, without reading rows.

    Args:
        batch: The batch of the first step.
        rows: Number of rows of an epoch; None if it is not known.
        executor: Where the work will be done.
        cache: One of `dkmeans.config.CACHES`.

    Raises:
        Invalid: all rows should be cached, and they do not fit.
    """
    leaves = list(dict.fromkeys(_leaves(batch.sources())))
    dtype = np.result_type(*{point_dtype(source.dtype) for source in leaves})
    width = batch.source.width
    largest = int(batch.sizes().max()) * width * dtype.itemsize
    is_stored = any(source.key is not None for source in leaves)
    memory = executor.memory()
    remarks = tuple(_remarks(leaves, largest, batch, memory)) if is_stored else ()
    found = Preflight(
        rows, width, str(dtype), len(batch), largest, is_stored, memory, cache, remarks
    )
    if cache == MEMORY and found.cached_share < 1:
        raise Invalid(
            f"cache must be 'auto' or 'none' for rows that do not fit in memory, got 'memory': "
            f"{readable(found.bytes or 0)} of rows, and room for {readable(memory.room)} in the "
            f"memory of {memory}"
        )
    return found


def _leaves(sources: Iterator[Source]) -> Iterator[Source]:
    """Yield the sources that read from storage or memory, below any views."""
    for source in sources:
        if source.parts:
            yield from _leaves(part.source for part in source.parts)
        else:
            yield source


def _remarks(leaves: list[Source], largest: int, batch: Batch, memory: Memory) -> Iterator[str]:
    """Yield sentences on chunks that are too large, too small or too few."""
    row = max(1, largest // max(1, int(batch.sizes().max())))
    good = f"{max(1, _GOOD_BYTES // row):,} rows ({readable(_GOOD_BYTES)})"
    most = memory.spare // max(1, _HELD_PER_THREAD * memory.threads_per_worker)
    if largest > most:
        yield (
            f"a chunk is {readable(largest)}, and a worker thread holds {_HELD_PER_THREAD} at a "
            f"time: with {readable(memory.limit)} a worker, chunks should be at most "
            f"{readable(most)}. Write the rows in chunks of {good}, or give workers more memory or "
            "fewer threads"
        )
    for source in leaves:
        if not isinstance(source, ZarrRows):
            continue
        pieces = -(-source.rows // source.array.chunks[0])
        size = int(np.prod(source.array.chunks)) * np.dtype(source.dtype).itemsize
        if size < _SMALL_BYTES and pieces > _MANY_CHUNKS and not source.array.shards:
            yield (
                f"{source.name} is stored in {pieces:,} chunks of {readable(size)}: to ask for "
                f"each takes longer than to read it. Write the rows in chunks of {good}"
            )
    if len(batch) < memory.threads and largest > TARGET_BYTES:
        rows = f"{-(-batch.rows // memory.threads):,}"
        yield (
            f"{len(batch)} chunks are too few for {memory.threads} threads. Write the "
            f"rows in chunks of at most {rows}"
        )


def seconds_per_iteration(
    found: Preflight,
    batch: Batch,
    num_clusters: int,
    computation: Computation,
    executor: Executor,
) -> tuple[float, float]:
    """Return how long iterations will take, from one chunk per thread that is computed now.

    Args:
        found: The preflight of the fit.
        batch: The batch of the first step.
        num_clusters: Number of centers.
        computation: The distance, and the backend that computes it.
        executor: Where the work will be done. It should not cache.

    Returns:
        The seconds of the first iteration, which reads all rows, and of a later one.
    """
    chunks = Batch(tuple(islice(batch, found.memory.threads)))
    first = next(executor.map(LoadedChunk.finite, chunks.chunks_between(0, 1), found.columns))
    centers = computation.centers(np.resize(first, (num_clusters, found.columns)))
    executor.map_reduce(accumulate, [chunks], centers)  # not measured: workers may compile
    cost = executor.map_reduce(accumulate, [chunks], centers).cost
    factor = (found.rows or batch.rows) / chunks.rows / found.memory.threads
    later = (1 - found.cached_share) * cost.read_seconds + cost.compute_seconds
    return factor * (cost.read_seconds + cost.compute_seconds), factor * later


def readable(size: int) -> str:
    """Return a number of bytes for people, such as "16.8 MB"."""
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
