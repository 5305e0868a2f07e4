"""Rows in the memory of a process: NumPy arrays, and whatever gives one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import DTypeLike

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import AtHand, Chunk, Leaf, Whole, even_rows


@dataclass(frozen=True, eq=False)
class MemoryRows(Whole, AtHand, Leaf):
    """A 2-D array, which holds the rows from number `first` on of something larger.

    Equal only to itself: an executor ships each to the workers once.
    """

    array: Any
    name: str
    first: int = 0

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(self.array)

    @property
    def width(self) -> int:
        """How many columns it has."""
        return int(self.array.shape[1])

    @property
    def dtype(self) -> DTypeLike:
        """The dtype of what it reads."""
        dtype: DTypeLike = self.array.dtype
        return dtype

    def read(self, start: int, stop: int) -> Any:
        """These rows."""
        return self.array[start - self.first : stop - self.first]


@dataclass(frozen=True, slots=True)
class ShippedRows(Whole, AtHand, Leaf):
    """Stands for rows that travel beside a task, as its argument of this number."""

    argument: int
    name: str
    rows: int
    width: int
    dtype: DTypeLike
    first: int

    def read(self, start: int, stop: int) -> Any:
        """Not before the rows have been put in its place."""
        raise RuntimeError(f"{self.name} was not shipped with the task that reads it")


def from_array(array: Any, name: str) -> Batch:
    """Chunks of about the same size of a 2-D array, each a source of its own."""
    size = even_rows(len(array), array.dtype.itemsize * array.shape[1])
    starts = range(0, len(array), size)
    sources = [MemoryRows(array[start : start + size], name, start) for start in starts]
    return Batch(tuple(Chunk(s, s.first, s.first + s.rows) for s in sources))


def in_memory(chunk: Chunk, width: int) -> Chunk:
    """The same chunk with its rows, of so many columns, loaded.

    Raises:
        InvalidData, Outage: as `Chunk.load` does.
    """
    return replace(chunk, source=MemoryRows(chunk.load(width), chunk.source.name, chunk.start))
