"""Chunks: picklable descriptions of some rows, read where the work is done."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from dkmeans.data.cache import cache_budget, row_cache
from dkmeans.data.points import as_points
from dkmeans.errors import Invalid, InvalidData, Outage
from dkmeans.retry import is_outage, with_retries
from dkmeans.state import FloatArray

# Chunks that the library cuts itself are about this large: enough rows to make a task's overhead
# vanish, few enough for every thread to have several.
TARGET_BYTES = 8 * 2**20
SMALLEST_BYTES = 2**20


class Source(Protocol):
    """A table of rows that can be read in slices. Frozen, and cheap to pickle."""

    @property
    def name(self) -> str:
        """What people call it, for messages."""
        ...

    @property
    def first(self) -> int:
        """The number of its first row."""
        ...

    @property
    def rows(self) -> int:
        """How many rows it has."""
        ...

    @property
    def width(self) -> int:
        """How many columns it has."""
        ...

    @property
    def dtype(self) -> DTypeLike:
        """The dtype of what it reads."""
        ...

    @property
    def chunk_rows(self) -> int | None:
        """Its chunks end at multiples of so many rows; None: its rows are one chunk."""
        ...

    @property
    def key(self) -> Hashable | None:
        """What tells these rows from all others; None where caching them would be to no purpose."""
        ...

    @property
    def parts(self) -> tuple[Chunk, ...]:
        """The chunks of other sources that it reads from."""
        ...

    @property
    def is_repeatable(self) -> bool:
        """Whether what failed may be read again: it is not the user's own code."""
        ...

    def read(self, start: int, stop: int) -> Any:
        """These rows, (stop - start, width), of any real dtype."""
        ...

    def with_leaves(self, change: Callable[[Source], Source]) -> Source:
        """The same rows, with each source that this one reads from changed."""
        ...


class Leaf:
    """What sources share that read from no other: storage, which may answer another time."""

    __slots__ = ()

    @property
    def parts(self) -> tuple[Chunk, ...]:
        """See `Source`."""
        return ()

    @property
    def is_repeatable(self) -> bool:
        """See `Source`."""
        return True

    def with_leaves(self: Source, change: Callable[[Source], Source]) -> Source:
        """See `Source`."""
        return change(self)


class AtHand:
    """What sources share that need not be kept, nor read again: who gives the rows has them."""

    __slots__ = ()

    @property
    def key(self) -> None:
        """See `Source`."""
        return None

    @property
    def is_repeatable(self) -> bool:
        """See `Source`."""
        return False


class Whole:
    """What sources share whose rows are one chunk."""

    __slots__ = ()

    @property
    def chunk_rows(self) -> None:
        """See `Source`."""
        return None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive rows of a source: what one task loads, or, in a batch, many tasks.

    Attributes:
        source: Where the rows are.
        start: The first row's number in the source.
        stop: The number after the last row's.
        offset: How much higher a row's number is in the batch, if that is `numbered`.
    """

    source: Source
    start: int
    stop: int
    offset: int = 0

    @property
    def number(self) -> int:
        """The first row's number in the batch, if that is `numbered`."""
        return self.start + self.offset

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.stop - self.start

    def cut(self, start: int, stop: int) -> Chunk:
        """A part of this chunk; both numbers count from the chunk's own first row."""
        return replace(self, start=self.start + start, stop=self.start + stop)

    @property
    def is_at_hand(self) -> bool:
        """Whether loading it takes no time: its rows are in memory."""
        key, first, _ = self._whole()
        mine = key is None or (key, first) in row_cache
        return mine and all(part.is_at_hand for part in self.source.parts)

    def load(self, width: int) -> FloatArray:
        """The rows, (n, width) float32 or float64, contiguous.

        Raises:
            InvalidData: the rows are not as wide as they should be, or cannot be read.
            Outage: the storage that they are in does not answer.
        """
        points = self._points()
        if points.shape != (self.rows, width):
            raise InvalidData(
                f"{self.source.name} must give rows of {width} columns, as the centers have; "
                f"got an array of shape {points.shape} for {self.rows} rows"
            )
        return points

    def _points(self) -> FloatArray:
        """The rows; those of storage as a part of the whole chunk that storage has."""
        key, first, last = self._whole()
        kept_whole = key is not None and cache_budget.get() is not None
        if not kept_whole or not first <= self.start <= self.stop <= last:
            return self._read()
        whole = replace(self, start=first, stop=last)
        try:
            points = row_cache.rows((key, first), whole._read, in_parts=whole != self)
        except InvalidData:
            if whole == self:
                raise
            return self._read()  # what is wrong may lie elsewhere in the chunk
        return points[self.start - first : self.stop - first]

    def _whole(self) -> tuple[Hashable | None, int, int]:
        """What is known of the source's own chunk that these rows begin in: its key and rows."""
        source, size = self.source, self.source.chunk_rows
        last = source.first + source.rows
        if size is None:
            return source.key, source.first, last
        first = self.start // size * size
        return source.key, max(first, source.first), min(first + size, last)

    def _read(self) -> FloatArray:
        return as_points(self.values(), self.source.name)

    def values(self) -> Any:
        """The rows as the source has them, of any dtype.

        Raises:
            InvalidData: they cannot be read; Outage: the storage that they are in does not answer.
        """
        what = f"rows {self.start} to {self.stop - 1} of {self.source.name}"
        try:
            read = partial(self.source.read, self.start, self.stop)
            return with_retries(what, read) if self.source.is_repeatable else read()
        except (Invalid, Outage):
            raise
        except MemoryError as error:  # nothing is wrong with the rows
            error.add_note(what)
            raise
        except Exception as error:
            # Whatever a codec, a store or a graph makes of broken data.
            kind = Outage if is_outage(error) else InvalidData
            text = f"{what} cannot be read: {type(error).__name__}: {error}"
            raise kind(text) from error

    def complaint(self, points: FloatArray) -> InvalidData:
        """Why these rows, as loaded, lead to a distance that is not finite."""
        rows = np.flatnonzero(~np.isfinite(points).all(axis=1))
        if len(rows):
            column = int(np.flatnonzero(~np.isfinite(points[rows[0]]))[0])
            return InvalidData(
                f"rows must be finite; row {self.start + int(rows[0])} of {self.source.name} has "
                f"{points[rows[0], column]} in column {column} ({len(rows)} such rows among "
                f"rows {self.start} to {self.stop - 1})"
            )
        return InvalidData(
            f"{self.source.name} has values up to {np.abs(points).max():g}, too large for squared "
            "distances to be finite; scale the columns first"
        )


def finite_points(chunk: Chunk, width: int) -> FloatArray:
    """A chunk's rows, refused where one is not finite.

    Raises:
        InvalidData: as `Chunk.load` does, or a row is not finite.
    """
    points = chunk.load(width)
    if not np.isfinite(points).all():
        raise chunk.complaint(points)
    return points


def rows_per_chunk(bytes_per_row: int) -> int:
    """How many rows make a chunk of about `TARGET_BYTES`."""
    return max(1, TARGET_BYTES // max(1, bytes_per_row))


def even_rows(rows: int, bytes_per_row: int, unit: int = 1) -> int:
    """How many rows make chunks of at most about `TARGET_BYTES` that share a table evenly.

    There are a multiple of eight of them, so that two, four or eight threads have equal shares;
    of a small table fewer.

    Args:
        rows: How many rows the table has.
        bytes_per_row: How large each is.
        unit: Chunks are of whole units of storage, so many rows each.
    """
    size = max(1, rows * bytes_per_row)
    chunks = 8 * -(-size // (8 * TARGET_BYTES))
    even = -(-rows // min(chunks, -(-size // SMALLEST_BYTES)))
    return max(1, even // unit) * unit
