"""Chunks: picklable descriptions of some rows, read where the work is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans.errors import Invalid, InvalidData, InvalidType, Outage
from dkmeans.retry import is_outage, patiently
from dkmeans.state import FloatArray

# Chunks that the library cuts itself are about this large: enough rows to make a task's overhead
# vanish, few enough for every thread to have several.
TARGET_BYTES = 8 * 2**20
SMALLEST_BYTES = 2**20

# float32 holds every integer up to here, and not every one above.
_LARGEST_EXACT_INTEGER = 2**24


class Source(Protocol):
    """A table of rows that can be read in slices. Frozen, and cheap to pickle."""

    @property
    def name(self) -> str:
        """What people call it, for messages."""
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

    def read(self, start: int, stop: int) -> Any:
        """These rows, (stop - start, width), of any real dtype."""
        ...

    def with_leaves(self, change: Callable[[Source], Source]) -> Source:
        """The same rows, with each source that this one reads from changed."""
        ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive rows of a source: what one task loads.

    Attributes:
        source: Where the rows are.
        start: The first row's number in the source.
        stop: The number after the last row's.
    """

    source: Source
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.stop - self.start

    def cut(self, start: int, stop: int) -> Chunk:
        """A part of this chunk; both numbers count from the chunk's own first row."""
        return replace(self, start=self.start + start, stop=self.start + stop)

    def load(self, width: int) -> FloatArray:
        """The rows, (n, width) float32 or float64, contiguous.

        Raises:
            InvalidData: the rows are not as wide as they should be, or cannot be read.
            Outage: the storage that they are in does not answer.
        """
        what = f"rows {self.start} to {self.stop - 1} of {self.source.name}"
        try:
            # A Dask graph is the user's own code, which may not bear being run twice.
            read = partial(self.source.read, self.start, self.stop)
            values = read() if hasattr(self.source, "graph") else patiently(what, read)
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
        points = as_points(values, self.source.name)
        if points.shape != (self.rows, width):
            raise InvalidData(
                f"{self.source.name} must give rows of {width} columns, as the centers have; "
                f"got an array of shape {points.shape} for {self.rows} rows"
            )
        return points

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


Batch = tuple[Chunk, ...]


def batch_rows(batch: Batch) -> int:
    """How many rows a batch has."""
    return sum(chunk.rows for chunk in batch)


def as_array(values: Any, name: str) -> NDArray[Any]:
    """Values as a NumPy array.

    Raises:
        InvalidData: they are rows of different lengths, or some are masked.
    """
    if np.ma.is_masked(values):
        raise InvalidData(f"{name} must have no masked values; fill them first")
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InvalidData(f"{name} must be a table of numbers: {error}") from error


def as_points(values: Any, name: str) -> FloatArray:
    """Values as (n, d) rows to compute with, contiguous.

    float32 and float64 stay as they are; other real dtypes become float32.

    Raises:
        InvalidType: the values are not real numbers.
        InvalidData: they are not 2-D, or hold an integer that float32 does not.
    """
    values = as_array(values, name)
    if values.dtype.kind not in "fiub":
        raise InvalidType(f"{name} must hold real numbers, got dtype {values.dtype}")
    if values.ndim != 2:
        raise InvalidData(f"{name} must be 2-D (rows, columns), got shape {values.shape}")
    if values.dtype.kind in "iu" and values.dtype.itemsize > 2 and values.size:
        low, high = int(values.min()), int(values.max())
        largest = low if -low > high else high
        if abs(largest) > _LARGEST_EXACT_INTEGER:
            raise InvalidData(
                f"{name} must hold integers that float32 holds exactly, up to "
                f"{_LARGEST_EXACT_INTEGER}; got {largest}. Convert the rows to float64, or scale "
                "the columns"
            )
    return np.ascontiguousarray(values, dtype=point_dtype(values.dtype))


def point_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """The dtype in which rows of this dtype are computed: float64 stays, the rest is float32."""
    native = np.dtype(dtype).newbyteorder("=")
    return np.dtype(np.float64 if native == np.float64 else np.float32)


def rows_per_chunk(bytes_per_row: int, unit: int = 1) -> int:
    """How many rows make a chunk of about `TARGET_BYTES`, in whole units of storage."""
    return max(1, TARGET_BYTES // max(1, bytes_per_row) // unit) * unit


def even_rows(rows: int, bytes_per_row: int) -> int:
    """How many rows make chunks of at most about `TARGET_BYTES` that share a table evenly.

    There are a multiple of eight of them, so that two, four or eight threads have equal shares;
    of a small table fewer.
    """
    size = max(1, rows * bytes_per_row)
    chunks = 8 * -(-size // (8 * TARGET_BYTES))
    return max(1, -(-rows // min(chunks, -(-size // SMALLEST_BYTES))))


def cut(source: Source, rows: int) -> Batch:
    """A source in chunks of this many rows, the last one perhaps smaller."""
    return tuple(
        Chunk(source, start, min(start + rows, source.rows))
        for start in range(0, source.rows, rows)
    )


@dataclass(frozen=True, slots=True)
class Columns:
    """Sources side by side: their columns, in this order, are the columns of each row.

    They hold the rows from number `first` on of something larger.
    """

    parts: tuple[Chunk, ...]
    first: int = 0

    @property
    def name(self) -> str:
        """What people call it."""
        return " + ".join(part.source.name for part in self.parts)

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.parts[0].rows

    @property
    def width(self) -> int:
        """How many columns it has."""
        return sum(part.source.width for part in self.parts)

    @property
    def dtype(self) -> DTypeLike:
        """float64 where any of the columns is."""
        return np.result_type(*(point_dtype(part.source.dtype) for part in self.parts))

    def read(self, start: int, stop: int) -> Any:
        """These rows."""
        low, high = start - self.first, stop - self.first
        return np.hstack([p.cut(low, high).load(p.source.width) for p in self.parts])

    def with_leaves(self, change: Callable[[Source], Source]) -> Source:
        """See `Source`."""
        parts = tuple(replace(p, source=p.source.with_leaves(change)) for p in self.parts)
        return replace(self, parts=parts)


@dataclass(frozen=True, slots=True)
class _OfChunk:
    """What the sources below share: each gives the rows of one chunk, in an order of its own."""

    chunk: Chunk

    @property
    def name(self) -> str:
        """What people call it."""
        return self.chunk.source.name

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.chunk.rows

    @property
    def width(self) -> int:
        """How many columns it has."""
        return self.chunk.source.width

    @property
    def dtype(self) -> DTypeLike:
        """The dtype of what it reads."""
        return self.chunk.source.dtype

    def with_leaves(self, change: Callable[[Source], Source]) -> Self:
        """See `Source`."""
        source = self.chunk.source.with_leaves(change)
        return replace(self, chunk=replace(self.chunk, source=source))


@dataclass(frozen=True, slots=True)
class Shuffled(_OfChunk):
    """A chunk's rows in an order drawn from a key: the same order wherever it is drawn."""

    key: tuple[int, ...]

    def read(self, start: int, stop: int) -> Any:
        """These rows; that they are finite is checked here, where their numbers are known."""
        order = np.random.default_rng(self.key).permutation(self.rows)[start:stop]
        return finite_points(self.chunk, self.width)[order]


@dataclass(frozen=True, slots=True)
class Picked(_OfChunk):
    """Some rows of a chunk, by their numbers in it, in this order."""

    numbers: tuple[int, ...]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(self.numbers)

    def read(self, start: int, stop: int) -> Any:
        """These rows; that they are finite is checked here, where their numbers are known."""
        points = self.chunk.load(self.width)
        picked = points[list(self.numbers[start:stop])]
        if not np.isfinite(picked).all():
            raise self.chunk.complaint(points)
        return picked


@dataclass(frozen=True, slots=True)
class Joined:
    """Chunks one after another: the rows from number `first` on of a whole data set."""

    parts: tuple[Chunk, ...]
    first: int

    @property
    def name(self) -> str:
        """What people call it."""
        return self.parts[0].source.name

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(part.rows for part in self.parts)

    @property
    def width(self) -> int:
        """How many columns it has."""
        return self.parts[0].source.width

    @property
    def dtype(self) -> DTypeLike:
        """The dtype of what it reads."""
        return np.result_type(*(point_dtype(part.source.dtype) for part in self.parts))

    def read(self, start: int, stop: int) -> Any:
        """These rows."""
        parts = [finite_points(part, self.width) for part in self.parts]
        return np.concatenate(parts)[start - self.first : stop - self.first]

    def with_leaves(self, change: Callable[[Source], Source]) -> Source:
        """See `Source`."""
        parts = (replace(p, source=p.source.with_leaves(change)) for p in self.parts)
        return replace(self, parts=tuple(parts))
