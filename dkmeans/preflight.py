"""Preflight: what a fit will require of the machines, reported before it begins.

`training` logs it before the first epoch, and the `plan` job prints it without training. Nothing is
read for `examine`; `seconds_per_iteration` computes a few chunks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from dkmeans.config import MEMORY, NONE
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import TARGET_BYTES, LoadedChunk, Source
from dkmeans.data.columns import Names, places_named
from dkmeans.data.points import point_dtype
from dkmeans.data.sources.zarr_array import ZarrRows
from dkmeans.distance import LEAST_SQUARED, Centers, Computation
from dkmeans.errors import Invalid, counted, readable
from dkmeans.executors import Cost, Executor
from dkmeans.executors.budget import Memory
from dkmeans.executors.chunk_pieces import num_pieces
from dkmeans.executors.read_ahead import AHEAD
from dkmeans.partial_sums import accumulate
from dkmeans.state import FloatArray

# A request for a smaller storage chunk takes longer than reading it. That matters only if a source
# has many of them.
_SMALL_BYTES, _MANY_CHUNKS = 2**17, 1000
# A thread holds the chunk that it computes, those read ahead, and what one is decoded from.
_HELD_PER_THREAD = AHEAD + 2
# Storage chunks of this size suit disks, object stores and memory alike. Where the library reads
# larger chunks, on GPUs, larger ones are as good.
_GOOD_BYTES = 16 * 2**20
# Largest number of names of columns in a sentence.
_MOST_NAMES = 8
# Columns whose variances differ by more than this factor are reported.
_MOST_TIMES_VARIANCE = 1e4
# The variances of fewer first centers may differ so much by chance.
_FEWEST_CENTERS = 8


@dataclass(frozen=True, slots=True)
class Preflight:
    """Facts about a fit that are known before its first epoch.

    Attributes:
        rows: Number of rows of an epoch; None if only reading can tell.
        columns: Number of columns.
        names: Names of the columns, in order; empty for rows without names.
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
    names: tuple[str, ...]
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
        """Part of the rows that is read only once, as workers cache or have it; 0 if unknown."""
        if not self.is_stored:
            return 1.0
        if self.cache == NONE or not self.bytes:
            return 0.0
        return min(1.0, self.memory.room / self.bytes)

    def describe(self) -> Iterator[str]:
        """Yield sentences for people."""
        rows = "any number of rows" if self.rows is None else counted(self.rows, "row")
        size = "" if self.bytes is None else f", {readable(self.bytes)}"
        yield f"{rows} of {self._describe_columns()}, {self.dtype}{size}"
        if self.is_stored:
            chunks = counted(self.chunks, "chunk") + (" of up to" if self.chunks > 1 else " of")
            yield f"{chunks} {readable(self.chunk_bytes)}; {self._describe_cache()}"

    def _describe_columns(self) -> str:
        columns, names = counted(self.columns, "column"), ", ".join(self.names[:_MOST_NAMES])
        dots = ", ..." if len(self.names) > _MOST_NAMES else ""
        return f"{columns} ({names}{dots})" if names else columns

    def _describe_cache(self) -> str:
        room = f"{readable(self.memory.room)} of rows fit the memory of {self.memory}"
        if self.cache == NONE:
            return "none are cached: every epoch reads all of them"
        if self.bytes is None:
            return f"{room}: so much is cached"
        if self.cached_share == 1:
            return f"{room}: all are cached, and read once"
        return f"{room}: {self.cached_share:.0%} are cached, the others are read in every epoch"


def examine(
    batch: Batch,
    rows: int | None,
    executor: Executor,
    cache: str,
    target_bytes: int = TARGET_BYTES,
    names: Names = None,
) -> Preflight:
    """Return what a fit will require, given its first batch, without reading rows.

    Raises:
        Invalid: all rows should be cached, and they do not fit.
    """
    leaves = list(dict.fromkeys(_leaves(batch.sources())))
    dtype = np.result_type(*{point_dtype(source.dtype) for source in leaves})
    width = batch.source.width
    largest = int(batch.sizes().max()) * width * dtype.itemsize
    is_stored = any(source.key is not None for source in leaves)
    memory = executor.memory()
    # Chunks are cut by their size in the stored dtype; decoded they may be larger.
    widening = max(dtype.itemsize / np.dtype(source.dtype).itemsize for source in leaves)
    own = int(target_bytes * max(1.0, widening))
    found = Preflight(
        rows, width, names or (), str(dtype), len(batch), largest, is_stored, memory, cache, ()
    )
    if cache == MEMORY and found.cached_share < 1:
        size = "rows of unknown size" if found.bytes is None else f"{readable(found.bytes)} of rows"
        raise Invalid(
            "cache must be 'auto' or 'none' for rows that do not fit in memory, got 'memory': "
            f"{size}, and room for {readable(memory.room)} in the memory of {memory}"
        )
    remarks = _chunk_remarks(found, leaves, own, batch) if is_stored else ()
    return replace(found, remarks=tuple(remarks))


def _leaves(sources: Iterator[Source]) -> Iterator[Source]:
    """Yield the sources that read from storage or memory, below any views."""
    for source in sources:
        if source.parts:
            yield from _leaves(part.source for part in source.parts)
        else:
            yield source


def _chunk_remarks(found: Preflight, leaves: list[Source], own: int, batch: Batch) -> Iterator[str]:
    """Yield sentences on chunks that are too large, too small or too few.

    Args:
        found: The facts about the fit.
        leaves: The sources.
        own: Size in bytes of the chunks that the library cuts itself, decoded. Larger chunks come
            from larger chunks of the storage: only these can be written smaller.
        batch: The batch of the first step.
    """
    memory, largest = found.memory, found.chunk_bytes
    row = max(1, largest // max(1, int(batch.sizes().max())))
    most = memory.spare // max(1, _HELD_PER_THREAD * memory.threads_per_worker)
    good_bytes = min(max(_GOOD_BYTES, own), max(most, own))
    good = f"{counted(max(1, good_bytes // row), 'row')} ({readable(good_bytes)})"
    if largest > most:
        remedy = "give workers more memory or fewer threads"
        if most >= own:
            remedy = f"write the rows in chunks of {good}, or {remedy}"
        yield (
            f"a chunk is {readable(largest)}, and a worker thread holds {_HELD_PER_THREAD} at a "
            f"time: with {readable(memory.limit)} a worker, chunks should be at most "
            f"{readable(most)}; {remedy}"
        )
    for source in leaves:
        if not isinstance(source, ZarrRows):
            continue
        pieces = -(-source.rows // source.array.chunks[0])
        size = int(np.prod(source.array.chunks)) * np.dtype(source.dtype).itemsize
        if size < _SMALL_BYTES and pieces > _MANY_CHUNKS and not source.array.shards:
            yield (
                f"{source.name} is stored in {counted(pieces, 'chunk')} of {readable(size)}: to "
                f"ask for each takes longer than to read it; write the rows in chunks of {good}"
            )
    # Smaller chunks do not help where cached chunks are cut: several would be read as one chunk, as
    # large as a piece.
    is_each_worker_busy = found.cached_share == 1 and len(batch) >= memory.workers
    is_few = largest > own and _busy_threads(found, batch) < memory.threads
    if is_few and not (is_each_worker_busy and num_pieces(batch) > len(batch)):
        chunks = f"{counted(len(batch), 'chunk')} {'is' if len(batch) == 1 else 'are'} too few"
        rows = counted(-(-batch.rows // memory.threads), "row")
        yield (
            f"{chunks} for {counted(memory.threads, 'thread')}; write the rows in chunks of at "
            f"most {rows}"
        )


def _busy_threads(found: Preflight, batch: Batch) -> int:
    """Return the number of threads that have chunks of the batch to compute after the first epoch.

    If all rows are cached, the threads of a worker may compute pieces of its chunks.
    """
    memory, chunks = found.memory, len(batch)
    if chunks >= memory.threads or found.cached_share < 1:
        return min(chunks, memory.threads)
    of_workers = min(chunks, memory.workers) * memory.threads_per_worker
    return min(of_workers, memory.threads, num_pieces(batch))


def scale_remarks(batch: Batch, found: Preflight, executor: Executor) -> list[str]:
    """Return a sentence on different scales of columns in the first chunk, if there are any."""
    first = batch.chunks_between(0, 1)
    variances = next(executor.map(_variances, first, found.columns))
    return list(_remarks_of_scales(variances, counted(first.rows, "row"), found.names))


def center_scale_remarks(centers: FloatArray, names: Names) -> list[str]:
    """Return a sentence on different scales of columns, if the first centers, (k, d), have any.

    The scales of few centers are not compared. Centers that are too small to square get a sentence
    however few they are.
    """
    largest = float(np.abs(centers).max())
    if 0 < largest < LEAST_SQUARED:
        return [
            f"the first centers have values up to {largest:.3g}, whose squares float64 does not "
            "hold: rows that differ so little count as equal; scale the columns first"
        ]
    if len(centers) < _FEWEST_CENTERS:
        return []
    variances = centers.astype(np.float64).var(axis=0)
    return list(
        _remarks_of_scales(variances, f"the first {counted(len(centers), 'center')}", names)
    )


def _remarks_of_scales(variances: FloatArray, where: str, names: Names) -> Iterator[str]:
    """Yield a sentence on the columns whose variances are far below the largest one.

    Columns of one value only are not compared.
    """
    largest = int(np.argmax(variances))
    is_low = (variances > 0) & (variances < variances[largest] / _MOST_TIMES_VARIANCE)
    named, low = places_named(names, len(variances)), np.flatnonzero(is_low)
    if not len(low):
        return
    more = f" and {len(low) - _MOST_NAMES} more" if len(low) > _MOST_NAMES else ""
    yield (
        f"distances, and so clusters, hardly depend on "
        f"{', '.join(named[j] for j in low[:_MOST_NAMES])}{more}: in {where} the variance of "
        f"{named[largest]} is more than {_MOST_TIMES_VARIANCE:,.0f} times as large; give "
        "--standardize (in Python Dataset.standardize), or use other columns"
    )


def _variances(loaded: LoadedChunk, columns: int) -> NDArray[np.float64]:
    """Return the variance of each column of a chunk. Runs on a worker."""
    variances: NDArray[np.float64] = loaded.finite(columns).var(axis=0, dtype=np.float64)
    return variances


def seconds_per_iteration(
    found: Preflight,
    batch: Batch,
    num_clusters: int,
    computation: Computation,
    executor: Executor,
    *,
    rows: int,
    num_starts: int = 1,
) -> tuple[float, float]:
    """Return how long iterations of so many rows will take, after computing one chunk per thread.

    The executor should not cache. Each row is read once for all starts.

    Returns:
        The seconds of the first iteration, which reads all its rows, and of a later one.
    """
    # Threads beyond the chunks have nothing to do in the first iteration over stored rows.
    threads = min(found.memory.threads, len(batch))
    chunks = Batch(tuple(islice(batch, threads)))
    first = next(executor.map(LoadedChunk.finite, chunks.chunks_between(0, 1), found.columns))
    centers = computation.centers(np.resize(first, (num_clusters, found.columns)))
    cost, seconds = _measured(chunks, centers, executor)
    # Messages, additions and waiting, which every iteration has.
    overhead = max(0.0, seconds - (cost.read_seconds + cost.compute_seconds) / threads)
    factor = rows / chunks.rows / threads
    reading, computing = factor * cost.read_seconds, factor * cost.compute_seconds * num_starts
    computing_later = computing * threads / max(threads, _busy_threads(found, batch))
    later = overhead + (1 - found.cached_share) * reading + computing_later
    return overhead + reading + computing, later


def _measured(chunks: Batch, centers: Centers, executor: Executor) -> tuple[Cost, float]:
    """Return the cost of some chunks, and the seconds, in processes that are all warm.

    A process imports and compiles when it computes its first chunk. Dask may give a chunk to
    another worker than before, so only an iteration counts whose workers have all computed already.
    """
    warm: set[str] = set()
    while True:
        began = time.perf_counter()
        cost = executor.map_reduce(accumulate, [chunks], centers).cost
        seconds = time.perf_counter() - began
        # Threads of this process have no throughput by worker.
        workers = set(cost.throughputs) or {"this process"}
        if workers <= warm:
            return cost, seconds
        warm |= workers
