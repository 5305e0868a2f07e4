"""What a fit will ask of the machines, told before it begins."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from dkmeans.backends import select
from dkmeans.config import MEMORY, NONE
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import TARGET_BYTES, Chunk, Source, finite_points
from dkmeans.data.points import point_dtype
from dkmeans.data.sources.zarr_array import ZarrRows
from dkmeans.distance import Centers, Distance
from dkmeans.errors import Invalid
from dkmeans.executors import Executor
from dkmeans.executors.budget import Memory
from dkmeans.executors.runs import AHEAD

# Storage chunks smaller than this cost more to ask for than to read; so many of them matter.
_SMALL_BYTES, _MANY = 2**17, 1000
# A thread holds the chunk it works on, those read ahead, and what one is decoded from.
_HELD_PER_THREAD = AHEAD + 2
# Storage chunks of this size suit disks, object stores and memory alike.
_GOOD_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Preflight:
    """What is known of a fit before its first pass.

    Attributes:
        rows: How many rows a pass has; None where only reading can tell.
        columns: How many values a row has.
        dtype: In which dtype rows are computed.
        chunks: How many chunks the first batch has.
        chunk_bytes: How large the largest of its chunks is, decoded.
        is_stored: Whether rows are read from storage.
        memory: What the workers have.
        cache: One of `CACHES`.
        remarks: What would better be otherwise, each with its remedy.
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
        """How large the rows of a pass are, decoded."""
        if self.rows is None:
            return None
        return self.rows * self.columns * np.dtype(self.dtype).itemsize

    @property
    def kept(self) -> float:
        """Which part of the rows is read only once, because the workers keep it."""
        if not self.is_stored:
            return 1.0
        if self.cache == NONE or not self.bytes:
            return 0.0
        return min(1.0, self.memory.room / self.bytes)

    def describe(self) -> Iterator[str]:
        """Sentences for people."""
        rows = "any number of" if self.rows is None else f"{self.rows:,}"
        size = "" if self.bytes is None else f", {readable(self.bytes)}"
        yield f"{rows} rows of {self.columns} columns, {self.dtype}{size}"
        if self.is_stored:
            chunks = f"{self.chunks:,} chunks of up to" if self.chunks > 1 else "1 chunk of"
            yield f"{chunks} {readable(self.chunk_bytes)}; {self._keeping()}"

    def _keeping(self) -> str:
        room = f"{readable(self.memory.room)} of rows fit the memory of {self.memory}"
        if self.cache == NONE:
            return "none are kept: every pass reads all of them"
        if self.bytes is None:
            return f"{room}: so much is kept"
        if self.kept == 1:
            return f"{room}: all are kept, and read once"
        return f"{room}: {self.kept:.0%} are kept, the others are read in every pass"


def examine(batch: Batch, rows: int | None, executor: Executor, cache: str) -> Preflight:
    """Find out what a fit will ask for, without reading rows.

    Args:
        batch: What the first step goes over.
        rows: How many rows a pass has, where that is known.
        executor: Where the work is to be done.
        cache: One of `CACHES`.

    Raises:
        Invalid: everything is to be kept, and does not fit.
    """
    leaves = list(dict.fromkeys(_leaves(batch.sources())))
    dtype = np.result_type(*{point_dtype(source.dtype) for source in leaves})
    width = batch.source.width
    largest = int(batch.sizes().max()) * width * dtype.itemsize
    is_stored = any(source.key is not None for source in leaves)
    memory = executor.memory()
    found = Preflight(
        rows, width, str(dtype), len(batch), largest, is_stored, memory, cache,
        tuple(_remarks(leaves, largest, batch, memory)) if is_stored else (),
    )  # fmt: skip
    if cache == MEMORY and found.kept < 1:
        raise Invalid(
            f"cache must be 'auto' or 'none' for rows that do not fit in memory, got 'memory': "
            f"{readable(found.bytes or 0)} of rows, and room for {readable(memory.room)} in the "
            f"memory of {memory}"
        )
    return found


def _leaves(sources: Iterator[Source]) -> Iterator[Source]:
    for source in sources:
        if source.parts:
            yield from _leaves(part.source for part in source.parts)
        else:
            yield source


def _remarks(leaves: list[Source], largest: int, batch: Batch, memory: Memory) -> Iterator[str]:
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
        if size < _SMALL_BYTES and pieces > _MANY and not source.array.shards:
            yield (
                f"{source.name} is stored in {pieces:,} chunks of {readable(size)}: to ask for "
                f"each takes longer than to read it. Write the rows in chunks of {good}"
            )
    if len(batch) < memory.threads and largest > TARGET_BYTES:  # else we made them so
        rows = f"{-(-batch.rows // memory.threads):,}"
        yield (
            f"{len(batch)} chunks are too few for {memory.threads} threads. Write the "
            f"rows in chunks of at most {rows}"
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """How long some rows took: a monoid under `+`."""

    rows: int
    read: float
    compute: float

    def __add__(self, other: Sample) -> Sample:
        return Sample(self.rows + other.rows, self.read + other.read, self.compute + other.compute)


def seconds_per_iteration(
    found: Preflight, batch: Batch, num_clusters: int, distance: Distance,
    executor: Executor, backend: str | None,
) -> tuple[float, float]:  # fmt: skip
    """How long an iteration will take, from a few chunks that are gone over now.

    Returns:
        The seconds of a first iteration, which reads all rows, and of a later one.
    """
    chunks = list(islice(batch, found.memory.threads))
    first = next(executor.map(finite_points, chunks[:1], found.columns))
    centers = Centers(np.resize(first, (num_clusters, found.columns)), distance, backend)
    list(executor.map(_sample, chunks, centers))  # which may compile
    sample = sum(executor.map(_sample, chunks, centers), Sample(0, 0.0, 0.0))
    share = (found.rows or batch.rows) / sample.rows / found.memory.threads
    later = (1 - found.kept) * sample.read + sample.compute
    return share * (sample.read + sample.compute), share * later


def _sample(chunk: Chunk, centers: Centers) -> Sample:
    began = time.perf_counter()
    points = chunk.load(centers.width)
    loaded = time.perf_counter()
    select(centers.backend).partial_sums(points, centers)
    return Sample(chunk.rows, loaded - began, time.perf_counter() - loaded)


def readable(size: int) -> str:
    """A number of bytes for people."""
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
