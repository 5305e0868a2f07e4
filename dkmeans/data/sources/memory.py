"""Rows in the memory of a process: NumPy arrays, and placeholders for them.

An array on the driver becomes one `MemoryRows` per chunk. The Dask executor sends each of these
arrays to the cluster once, and puts a `ShippedRows` in its place in every task. The worker replaces
the placeholder by a `MemoryRows` again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import AtHand, Chunk, Leaf, Source, Whole, even_rows
from dkmeans.data.points import point_dtype
from dkmeans.errors import InvalidData


@dataclass(frozen=True, eq=False)
class MemoryRows(Whole, AtHand, Leaf):
    """Rows of a 2-D array in memory.

    Two of them are equal only if they are the same object: an executor sends each to the workers
    once.

    Attributes:
        array: The array.
        name: Name of the array, for messages.
        first: Number of the first row in the table that the array is a part of.
        is_lent: True if the array is one that an iterator has yielded: it may refill the array for
            its next batch (`owned`).
    """

    array: Any
    name: str
    first: int = 0
    is_lent: bool = False

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.array)

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.array.shape[1])

    @property
    def dtype(self) -> DTypeLike:
        """Dtype of the array."""
        dtype: DTypeLike = self.array.dtype
        return dtype

    def read(self, start: int, stop: int) -> Any:
        """Return these rows, a view of the array."""
        return self.array[start - self.first : stop - self.first]


def lent(batch: Batch) -> Batch:
    """Return a batch whose rows in memory are lent until its iterator yields the next batch."""
    return _changed(batch, lambda rows: replace(rows, is_lent=True))


def owned(batch: Batch) -> Batch:
    """Return a batch that stays as it is when its iterator yields the next one.

    Rows that are lent are copied. What holds several batches of a dataset at once must own them.
    """
    # All chunks of a batch are alike.
    first = () if not len(batch) else (batch[0].source, batch[0].weights)
    if not any(source is not None and _is_lent(source) for source in first):
        return batch
    return _changed(batch, _copied)


def _changed(batch: Batch, change: Callable[[MemoryRows], MemoryRows]) -> Batch:
    """Return a batch with changed rows in memory: sources that several chunks share stay shared."""
    done: dict[MemoryRows, MemoryRows] = {}

    def changed(source: Source) -> Source:
        if not isinstance(source, MemoryRows):
            return source
        if source not in done:
            done[source] = change(source)
        return done[source]

    return batch.with_leaves(changed)


def _is_lent(source: Source) -> bool:
    if isinstance(source, MemoryRows):
        return source.is_lent
    return any(_is_lent(part.source) for part in source.parts)


def _copied(rows: MemoryRows) -> MemoryRows:
    return replace(rows, array=rows.array.copy(), is_lent=False) if rows.is_lent else rows


@dataclass(frozen=True, slots=True)
class ShippedRows(Whole, AtHand, Leaf):
    """Placeholder for rows that are an argument of the task that reads them.

    Attributes:
        argument: Number of the argument, counted from 0.
        name: Name of the rows, for messages.
        rows: Number of rows.
        width: Number of columns.
        dtype: Dtype of the rows.
        first: Number of the first row in the table that the rows are a part of.
    """

    argument: int
    name: str
    rows: int
    width: int
    dtype: DTypeLike
    first: int

    def read(self, start: int, stop: int) -> Any:
        """Refuse to read: the rows must take the place of the placeholder first.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(f"{self.name} was not shipped with the task that reads it")

    def filled(self, rows: Any) -> MemoryRows:
        """Return the source that takes the place of this one when its rows have arrived.

        Raises:
            InvalidData: the rows have another shape than this source.
        """
        return MemoryRows(with_shape_of(self, rows), self.name, self.first)


def with_shape_of(source: Source, block: Any) -> Any:
    """Return a block of rows after checking that it has the shape and precision of its source.

    Raises:
        InvalidData: it has another shape, because a function of `map_blocks` removed or added rows
            of a Dask array. Slicing would lose the added ones in silence. Or its values are of
            float64, against the declaration, and would be rounded in silence.
    """
    declared, found = (source.rows, source.width), np.shape(block)
    if found != declared:
        raise InvalidData(
            f"{source.name} must have blocks of the shapes that it declares, {declared} for the "
            f"one that begins at row {source.first}, got {found}; give map_blocks the chunks of "
            "its result, with nan for unknown numbers of rows"
        )
    dtype = getattr(block, "dtype", np.dtype(object))
    if dtype.kind == "f" and point_dtype(dtype) != point_dtype(source.dtype) == np.float32:
        must = f"have blocks of the dtype that it declares, {source.dtype} for the one that begins"
        raise InvalidData(
            f"{source.name} must {must} at row {source.first}, got {dtype}; give map_blocks the "
            "dtype of its result"
        )
    return block


def from_array(array: Any, name: str, chunk_bytes: int | None = None) -> Batch:
    """Return the chunks of a 2-D array, each a source of its own and of about the same size."""
    row_bytes = array.dtype.itemsize * array.shape[1]
    size = even_rows(len(array), row_bytes, chunk_bytes=chunk_bytes)
    starts = range(0, len(array), size)
    sources = [MemoryRows(array[start : start + size], name, start) for start in starts]
    return Batch(tuple(Chunk(s, s.first, s.first + s.rows) for s in sources))
