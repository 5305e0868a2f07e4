"""Chunks: picklable descriptions of some rows, loaded on the worker that computes with them.

A `Source` can read slices of a table. A `Chunk` names consecutive rows of a source, and reads them
through the row cache and with retries. A `LoadedChunk` is a chunk with its rows in memory:
executors pass it to the function that they map over a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import DTypeLike

from dkmeans.data.cache import cache_budget, row_cache
from dkmeans.data.columns import places_named
from dkmeans.data.points import as_points
from dkmeans.errors import Invalid, InvalidData, Outage, counted
from dkmeans.retry import is_outage, with_retries
from dkmeans.state import FloatArray, IndexArray

# Target size of the chunks that the library cuts itself: enough rows that a task's overhead does
# not count, few enough that every thread has several chunks.
TARGET_BYTES = 8 * 2**20
# The same where GPUs compute. Launching the kernels of one chunk and waiting for them takes as long
# as computing megabytes of rows.
GPU_TARGET_BYTES = 128 * 2**20
# For a large model, the rows of a chunk have this many times the bytes of the model's sums
# (`chunk_bytes_for`). A sum has 8 bytes.
_ROWS_OF_SUMS, _SUM_BYTES = 8, 8
# Largest target size for a large model: a worker has room for several such chunks.
_LARGEST_BYTES = 32 * 2**20
# The chunks of a large model are smaller if a table would have fewer of them than this for each
# thread: one thread computes a chunk, and in the end some threads have none.
_CHUNKS_PER_THREAD = 4
# `even_rows` does not cut a table into much smaller chunks than this to give every thread a share:
# a table of 1.5 times this size becomes two chunks.
SMALLEST_BYTES = 2**20
# Nor does `even_rows` cut a table into much smaller chunks than the target size divided by this.
_SMALLEST_PART = 16
# The number of chunks of a table is about a multiple of this, so that 2, 4 or 8 threads have equal
# shares.
_SHARES = 8


class Source(Protocol):
    """A table of rows that can be read in slices. Frozen, and cheap to pickle."""

    @property
    def name(self) -> str:
        """Name for messages."""
        ...

    @property
    def first(self) -> int:
        """Number of the first row, which need not be 0: `read` and `Chunk` count from it."""
        ...

    @property
    def rows(self) -> int:
        """Number of rows."""
        ...

    @property
    def width(self) -> int:
        """Number of columns."""
        ...

    @property
    def dtype(self) -> DTypeLike:
        """Dtype of the values that `read` returns."""
        ...

    @property
    def chunk_rows(self) -> int | None:
        """Chunks end at multiples of this number of rows; None if all rows are one chunk."""
        ...

    @property
    def key(self) -> Hashable | None:
        """Unique key of the rows for the cache; None if caching them would not save anything."""
        ...

    @property
    def parts(self) -> tuple[Chunk, ...]:
        """Chunks of other sources that this source reads from."""
        ...

    @property
    def is_repeatable(self) -> bool:
        """True if a failed read may be retried. Not for rows in memory, views and code of users."""
        ...

    def read(self, start: int, stop: int) -> Any:
        """Return the rows `start:stop`, numbered from `first` on, (stop - start, width)."""
        ...

    def with_leaves(self, change: Callable[[Source], Source]) -> Source:
        """Return this source with `change` applied to each leaf source that it reads from."""
        ...


class Leaf:
    """Base of sources that read from storage or memory, and not from other sources."""

    __slots__ = ()
    parts: ClassVar[tuple[Chunk, ...]] = ()
    # Storage that failed may answer the next time.
    is_repeatable: ClassVar[bool] = True

    def with_leaves(self: Source, change: Callable[[Source], Source]) -> Source:
        """Return the changed source."""
        return change(self)


class AtHand:
    """Base of sources that are neither cached nor retried: rows in memory, and views."""

    __slots__ = ()
    # A failed read would fail again, or was retried by the source below.
    is_repeatable: ClassVar[bool] = False

    @property
    def key(self) -> Hashable | None:
        """No key."""
        return None


class Whole:
    """Base of sources whose rows are one chunk."""

    __slots__ = ()
    chunk_rows: ClassVar[None] = None


class Weights(ABC):
    """Base of sources of weights that remember spans without zeros."""

    __slots__ = ()

    @abstractmethod
    def are_positive(self, start: int, stop: int, weights: FloatArray) -> bool:
        """Return whether all weights of some rows are above zero.

        Args:
            start: Number of the first row.
            stop: Number of the row after the last one.
            weights: (stop - start,) their weights.
        """


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of a source. The chunks of a dataset's batches have at least one row.

    As a part of a batch (`batches.Part`) a chunk may span several of the source's own chunks, so
    that a batch of a million chunks is described by a few numbers. The methods `chunks`, `chunk`
    and `chunks_between` cut such a span where the source's chunks end. `load` reads one chunk.

    Attributes:
        source: The source.
        start: Number of the first row in the source.
        stop: Number of the row after the last one.
        offset: Number of a row in the batch minus its number in the source, if the batch is
            `numbered`; else 0.
        weights: Table of one column, the weights of all rows of the source, with the same row
            numbers (`row_weights`); None if every row has the weight one.
        piece_rows: About the number of rows of a piece, if threads may compute pieces of a chunk
            once its rows are in memory (`executors.chunk_pieces`); None if they may not.
    """

    source: Source
    start: int
    stop: int
    offset: int = 0
    weights: Source | None = field(default=None, repr=False)
    piece_rows: int | None = field(default=None, repr=False)

    @property
    def number(self) -> int:
        """Number of the first row in the batch, if the batch is `numbered`."""
        return self.start + self.offset

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start

    # Methods of `batches.Part`.

    @property
    def num_chunks(self) -> int:
        """Number of the source's chunks that the rows lie in."""
        size = self.source.chunk_rows
        if size is None:
            return int(self.rows > 0)
        # Number of the chunk after the last row's chunk, minus the number of the first row's chunk.
        return -(-self.stop // size) - self.start // size if self.rows else 0

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows cut into the source's chunks."""
        size = self.source.chunk_rows
        if size is None:
            yield self
            return
        start = self.start
        while start < self.stop:
            end = min(start // size * size + size, self.stop)
            # Not `replace`: it takes as long as all else that an iteration does with a cached
            # chunk.
            yield Chunk(self.source, start, end, self.offset, self.weights, self.piece_rows)
            start = end

    def chunk(self, number: int) -> Chunk:
        """Return the chunk of this number, counted from 0."""
        size = self.source.chunk_rows
        if size is None:
            return self
        first = (self.start // size + number) * size
        return replace(self, start=max(first, self.start), stop=min(first + size, self.stop))

    def chunks_between(self, start: int, stop: int) -> tuple[Chunk, ...]:
        """Return the rows of the chunks `start:stop`, counted from 0, as one part."""
        first, last = self.chunk(start), self.chunk(stop - 1)
        return (replace(self, start=first.start, stop=last.stop),)

    def rows_between(self, start: int, stop: int) -> tuple[Chunk, ...]:
        """Return the rows `start:stop`, counted from this part's first row, as one part."""
        return (self.cut(start, stop),)

    def sizes(self) -> IndexArray:
        """Return the number of rows of each chunk."""
        size = self.source.chunk_rows
        if size is None:
            return np.array([self.rows])
        # The multiples of `size` strictly inside the span.
        ends = np.arange(self.start // size + 1, -(-self.stop // size), dtype=np.int64) * size
        return np.diff(ends, prepend=self.start, append=self.stop)

    def sources(self) -> Iterator[Source]:
        """Yield the source."""
        yield self.source

    def numbered(self, number: int) -> Chunk:
        """Return this part with its rows numbered in the batch from `number` on."""
        return replace(self, offset=number - self.start)

    def joined(self, after: object) -> Chunk | None:
        """Return both chunks as one if `after` continues the same source where this one ends."""
        if not isinstance(after, Chunk) or self.source is not after.source:
            return None
        if self.weights is not after.weights:
            return None
        return replace(self, stop=after.stop) if self.stop == after.start else None

    def with_leaves(self, change: Callable[[Source], Source]) -> Chunk:
        """Return the same rows with `change` applied to each leaf source."""
        weights = self.weights and self.weights.with_leaves(change)
        return replace(self, source=self.source.with_leaves(change), weights=weights)

    def with_view(self, view: Callable[[Source], Source]) -> Chunk:
        """Return this part with a view of its source in place of the source."""
        return replace(self, source=view(self.source))

    @property
    def has_weights(self) -> bool:
        """True if the rows have weights."""
        return self.weights is not None

    def without_weights(self) -> Chunk:
        """Return the same rows, each of the weight one."""
        return replace(self, weights=None)

    def of_weights(self) -> Chunk:
        """Return the weights of the rows, which must have some, as rows of one column.

        They have no pieces: rows with a weight are counted by chunk (`initialization.Ranks`).
        """
        if self.weights is None:
            raise LookupError("the rows of this chunk have no weights")
        return replace(self, source=self.weights, weights=None, piece_rows=None)

    def description(self) -> Iterator[bytes]:
        """Yield bytes that are equal for the same rows in any process."""
        yield repr(self).encode()

    # Loading.

    def cut(self, start: int, stop: int) -> Chunk:
        """Return a part of this chunk; both numbers count from its own first row."""
        return replace(self, start=self.start + start, stop=self.start + stop)

    @property
    def is_piece(self) -> bool:
        """True unless these rows are exactly one chunk of the source."""
        return self._source_chunk()[1:] != (self.start, self.stop)

    @property
    def is_at_hand(self) -> bool:
        """True if nothing has to be read from storage, so that no reading thread is needed.

        That is the case if the rows (of a view: the rows it reads from) and their weights are
        cached, or have no key because caching them would save nothing.
        """
        source, (key, first, stop) = self.source, self._source_chunk()
        if key is not None:
            has_rows = self.stop <= stop and (key, first, stop) in row_cache
        elif isinstance(source, Whole):
            has_rows = all(part.is_at_hand for part in source.parts)
        else:  # rows in memory, or a view that makes each row of the same row of its parts
            low, high = self.start - source.first, self.stop - source.first
            has_rows = all(part.cut(low, high).is_at_hand for part in source.parts)
        return has_rows and (self.weights is None or self.of_weights().is_at_hand)

    def loaded(self) -> LoadedChunk:
        """Load the chunk: return it with its rows in memory, except rows of weight zero.

        Raises:
            InvalidData, Outage: as `load` does.
        """
        points = self.load(self.source.width)
        if self.weights is None:
            return LoadedChunk(self, points)
        weights = self.of_weights().load(1)[:, 0]
        if isinstance(self.weights, Weights):
            are_positive = self.weights.are_positive(self.start, self.stop, weights)
        else:  # a view, such as that of a shuffled chunk
            are_positive = have_no_zeros(weights)
        if are_positive:
            return LoadedChunk(self, points, weights)
        kept = np.flatnonzero(weights)
        return LoadedChunk(self, points[kept], weights[kept], kept)

    def load(self, width: int) -> FloatArray:
        """Return the rows, (n, width) float32 or float64, contiguous.

        Raises:
            InvalidData: the rows have another width, or cannot be read.
            Outage: the storage does not answer.
        """
        points = self._points()
        if points.shape != (self.rows, width):
            raise _wrong_shape(self, points, width)
        return points

    def _points(self) -> FloatArray:
        """Return the rows, cut from the whole chunk of the source if that may be cached."""
        key, first, stop = self._source_chunk()
        is_cached = key is not None and cache_budget.get() is not None
        # Rows that cross chunks of the source (those of a view may) are not cached.
        if not is_cached or not first <= self.start <= self.stop <= stop:
            return self._read()
        in_parts = (first, stop) != (self.start, self.stop)
        whole = replace(self, start=first, stop=stop) if in_parts else self
        try:
            points = row_cache.rows((key, first, stop), whole._read, in_parts=in_parts)
        except InvalidData:
            if not in_parts:
                raise
            return self._read()  # the invalid row may lie elsewhere in the source's chunk
        return points[self.start - first : self.stop - first]

    def _source_chunk(self) -> tuple[Hashable | None, int, int]:
        """Return key, first row and stop row of the source's chunk that these rows begin in."""
        source, size = self.source, self.source.chunk_rows
        stop = source.first + source.rows
        if size is None:
            return source.key, source.first, stop
        first = self.start // size * size
        return source.key, max(first, source.first), min(first + size, stop)

    def _read(self) -> FloatArray:
        return as_points(self.values(), self.source.name)

    def values(self) -> Any:
        """Read the rows from the source, in its dtype, with retries where the source allows them.

        Raises:
            InvalidData: they cannot be read.
            Outage: the storage does not answer.
        """
        try:
            if not self.source.is_repeatable:
                return self.source.read(self.start, self.stop)
            return with_retries(self._name(), partial(self.source.read, self.start, self.stop))
        except (Invalid, Outage):
            raise
        except MemoryError as error:  # nothing is wrong with the rows
            error.add_note(self._name())
            raise
        except Exception as error:
            # Codecs, stores and graphs raise anything for broken data.
            kind = Outage if is_outage(error) else InvalidData
            text = f"{self._name()} cannot be read: {type(error).__name__}: {error}"
            raise kind(text) from error

    def _name(self) -> str:
        """Return the name of the rows, for messages."""
        return f"rows {self.start} to {self.stop - 1} of {self.source.name}"

    def complaint(self, points: FloatArray, kept: IndexArray | None = None) -> InvalidData:
        """Return the error for rows whose distances are not finite.

        Args:
            points: The rows as loaded, (n, d).
            kept: (n,) numbers of these rows in the chunk; None for all rows of the chunk.
        """
        rows = np.flatnonzero(~np.isfinite(points).all(axis=1))
        if len(rows):
            column = int(np.flatnonzero(~np.isfinite(points[rows[0]]))[0])
            number = self.start + int(rows[0] if kept is None else kept[rows[0]])
            text = f"rows must be finite; row {number} of {self.source.name} has "
            # Only sources of named columns have `described`.
            names = places_named(getattr(self.source, "described", None), points.shape[1])
            text += f"{points[rows[0], column]} in {names[column]}"
            if self.rows > 1:
                among = f"among rows {self.start} to {self.stop - 1}"
                text += f" ({counted(len(rows), 'such row')} {among})"
            return InvalidData(text)
        # Every value is finite, so a squared distance overflowed.
        also = "" if self.weights is None else " times their weights"
        return InvalidData(
            f"values of {self.source.name} are up to {np.abs(points).max():g}, too large for "
            f"squared distances{also} to be finite; scale the columns first"
        )


def have_no_zeros(weights: FloatArray) -> bool:
    """Return whether all of these weights, which are not negative, are above zero."""
    return bool(weights.min(initial=1.0) > 0)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedChunk:
    """A chunk and its rows.

    Attributes:
        chunk: The chunk.
        points: (n, d) float32 or float64, contiguous. Rows of weight zero are left out.
        weights: (n,) float64, the weights of the rows, above zero; None if each is one.
        kept: (n,) numbers of the rows, counted from the first row of the chunk; None for all rows.
    """

    chunk: Chunk
    points: FloatArray
    weights: FloatArray | None = None
    kept: IndexArray | None = None

    def of_width(self, width: int) -> FloatArray:
        """Return the rows, (n, width).

        Raises:
            InvalidData: they have another width.
        """
        if self.points.shape[1] != width:
            raise _wrong_shape(self.chunk, self.points, width)
        return self.points

    def finite(self, width: int) -> FloatArray:
        """Return the rows, (n, width), after checking that all values are finite.

        Raises:
            InvalidData: they have another width, or a value is not finite.
        """
        points = self.of_width(width)
        if not np.isfinite(points).all():
            raise self.complaint()
        return points

    def complaint(self) -> InvalidData:
        """Return the error for rows whose distances are not finite."""
        return self.chunk.complaint(self.points, self.kept)


def _wrong_shape(chunk: Chunk, points: FloatArray, width: int) -> InvalidData:
    return InvalidData(
        f"{chunk.source.name} must give rows of {counted(width, 'column')}, got an array of shape "
        f"{points.shape} for {counted(chunk.rows, 'row')}"
    )


def finite_points(chunk: Chunk, width: int) -> FloatArray:
    """Return a chunk's rows, (n, width), after checking that those with a weight are finite.

    Rows of weight zero are returned too, unchecked.

    Raises:
        InvalidData: as `Chunk.load` does, or a value is not finite.
        Outage: the storage does not answer.
    """
    points = chunk.load(width)
    if not np.isfinite(points).all():
        chunk.loaded().finite(width)
    return points


def chunk_bytes_for(num_sums: int, table_bytes: int | None, threads: int) -> int | None:
    """Return the target size of chunks for a model with so many sums; None for the usual size.

    Each chunk has sums of its own. If they are larger than the rows, much time is spent on
    allocating them and adding them to those of other chunks.
    """
    wanted = min(_LARGEST_BYTES, _ROWS_OF_SUMS * _SUM_BYTES * num_sums)
    if table_bytes is not None:
        wanted = min(wanted, table_bytes // (_CHUNKS_PER_THREAD * threads))
    return wanted if wanted > TARGET_BYTES else None


def rows_per_chunk(bytes_per_row: int, chunk_bytes: int | None = None) -> int:
    """Return the number of rows in a chunk of about `chunk_bytes`; None for `TARGET_BYTES`."""
    return max(1, (chunk_bytes or TARGET_BYTES) // max(1, bytes_per_row))


def even_rows(rows: int, bytes_per_row: int, unit: int = 1, chunk_bytes: int | None = None) -> int:
    """Return the number of rows in each of the chunks that cut a table evenly.

    Chunks are whole units of storage of `unit` rows, and have at most about `chunk_bytes`, or one
    unit. Their number is a multiple of 8 before it is rounded to whole rows and units, so that 2, 4
    or 8 threads have about equal shares. Small tables have fewer chunks.
    """
    target, size = chunk_bytes or TARGET_BYTES, max(1, rows * bytes_per_row)
    smallest = max(SMALLEST_BYTES, target // _SMALLEST_PART)
    chunks = _SHARES * -(-size // (_SHARES * target))
    even = -(-rows // min(chunks, -(-size // smallest)))
    return max(1, even // unit) * unit
