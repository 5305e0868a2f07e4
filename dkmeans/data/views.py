"""Views: sources that read from other sources and hold no rows themselves.

A view puts the rows of other sources side by side (`Columns`), selects values of each row
(`Selected`), or puts some rows in another order (`Picked`) or one after another (`Joined`).
`shuffling`, `dataset`, `input_fn`, `initialization` and `prediction` make views. A view is never
cached; the sources that it reads from are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans.data.chunks import AtHand, Chunk, Source, Whole, finite_points
from dkmeans.data.points import as_float64, point_dtype
from dkmeans.state import FloatArray


@dataclass(frozen=True, slots=True)
class Columns(AtHand):
    """Chunks side by side: a row has the columns of the first chunk, then those of the second.

    Attributes:
        parts: The chunks, all of the same number of rows.
        first: Number of the first row in the table that these rows are a part of.
    """

    parts: tuple[Chunk, ...]
    first: int = 0

    @property
    def name(self) -> str:
        """Names of the parts, for messages."""
        return " + ".join(part.source.name for part in self.parts)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.parts[0].rows

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(part.source.width for part in self.parts)

    @property
    def dtype(self) -> DTypeLike:
        """Dtype of the rows: float32 or float64, the `point_dtype` of the parts' common dtype."""
        return point_dtype(np.result_type(*(part.source.dtype for part in self.parts)))

    @property
    def chunk_rows(self) -> int | None:
        """Smallest of the parts' chunk sizes; None if a part is one chunk."""
        sizes = [part.source.chunk_rows for part in self.parts]
        return None if None in sizes else min(size for size in sizes if size is not None)

    def read(self, start: int, stop: int) -> Any:
        """Return these rows, with the columns of all parts."""
        low, high = start - self.first, stop - self.first
        return np.hstack([self._column(part.cut(low, high)) for part in self.parts])

    def _column(self, part: Chunk) -> FloatArray:
        """Return the rows of a part, in the dtype of all."""
        if self.dtype == np.float64 and np.dtype(part.source.dtype).kind in "iu":
            return as_float64(part.values(), part.source.name)  # float32 may not hold them
        return part.load(part.source.width).astype(self.dtype, copy=False)

    def with_leaves(self, change: Callable[[Source], Source]) -> Source:
        """Return the same view of changed sources."""
        return replace(self, parts=tuple(part.with_leaves(change) for part in self.parts))


@dataclass(frozen=True, slots=True)
class RowView(AtHand):
    """Base of views that make each row of one row of a source. Rows keep their numbers.

    Attributes:
        source: The source.
    """

    source: Source

    @property
    def parts(self) -> tuple[Chunk, ...]:
        """All rows of the source."""
        return (Chunk(self.source, self.first, self.first + self.rows),)

    @property
    def name(self) -> str:
        """Name of the source, for messages."""
        return self.source.name

    @property
    def first(self) -> int:
        """Number of the source's first row."""
        return self.source.first

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.source.rows

    @property
    def dtype(self) -> DTypeLike:
        """Dtype of the source: `read` returns its values as float32 or float64."""
        return self.source.dtype

    @property
    def chunk_rows(self) -> int | None:
        """Size of the source's chunks."""
        return self.source.chunk_rows

    def source_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return these rows of the source."""
        return Chunk(self.source, start, stop).load(self.source.width)

    def with_leaves(self, change: Callable[[Source], Source]) -> Self:
        """Return the same view of a changed source."""
        return replace(self, source=self.source.with_leaves(change))


@dataclass(frozen=True, slots=True)
class Selected(RowView):
    """Some values of each row of a source, in another order.

    Attributes:
        places: Places of the values in a row of the source.
    """

    places: tuple[int, ...]

    @property
    def width(self) -> int:
        """Number of values in a row."""
        return len(self.places)

    def read(self, start: int, stop: int) -> Any:
        """Return these rows with the selected values."""
        return self.source_rows(start, stop)[:, list(self.places)]


@dataclass(frozen=True, slots=True)
class ChunkView(Whole, AtHand):
    """A view of one chunk: base of the views that return its rows in another order.

    Attributes:
        chunk: The chunk that is read.
    """

    chunk: Chunk

    first: ClassVar[int] = 0

    @property
    def parts(self) -> tuple[Chunk, ...]:
        """The one chunk that is read."""
        return (self.chunk,)

    @property
    def name(self) -> str:
        """Name of the chunk's source, for messages."""
        return self.chunk.source.name

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.chunk.rows

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.chunk.source.width

    @property
    def dtype(self) -> DTypeLike:
        """Dtype of the chunk's source: `read` returns its values as float32 or float64."""
        return self.chunk.source.dtype

    def with_leaves(self, change: Callable[[Source], Source]) -> Self:
        """Return the same view of changed sources."""
        return replace(self, chunk=self.chunk.with_leaves(change))


@dataclass(frozen=True, slots=True)
class Picked(ChunkView):
    """Selected rows of a chunk.

    Attributes:
        numbers: Numbers of the rows, counted from the first row of the chunk, in the order in
            which the rows are returned.
    """

    numbers: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.numbers)

    def read(self, start: int, stop: int) -> Any:
        """Return these rows; refuse those that are not finite, by their numbers in storage."""
        numbers = list(self.numbers[start:stop])
        picked = self.chunk.load(self.width)[numbers]
        wrong = np.flatnonzero(~np.isfinite(picked).all(axis=1)).tolist()
        if wrong:  # others of the chunk may have the weight zero
            place = min(wrong, key=numbers.__getitem__)
            row = self.chunk.cut(numbers[place], numbers[place] + 1)
            raise row.complaint(picked[place : place + 1])
        return picked


@dataclass(frozen=True, slots=True)
class Joined(Whole, AtHand):
    """Chunks one after another, as one chunk.

    Attributes:
        parts: The chunks, in order.
        first: Number of the first row in the dataset.
    """

    parts: tuple[Chunk, ...]
    first: int

    @property
    def name(self) -> str:
        """Name of the first part, for messages."""
        return self.parts[0].source.name

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(part.rows for part in self.parts)

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.parts[0].source.width

    @property
    def dtype(self) -> DTypeLike:
        """Dtype of the rows: float64 if any of the parts is, else float32."""
        return np.result_type(*(point_dtype(part.source.dtype) for part in self.parts))

    def read(self, start: int, stop: int) -> Any:
        """Return these rows; refuse parts with rows that are not finite."""
        parts = [finite_points(part, self.width) for part in self.parts]
        return np.concatenate(parts)[start - self.first : stop - self.first]

    def with_leaves(self, change: Callable[[Source], Source]) -> Source:
        """Return the same view of changed sources."""
        return replace(self, parts=tuple(part.with_leaves(change) for part in self.parts))
