"""Views: sources that read from other sources, side by side, in other orders, one after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from dkmeans.data.chunks import AtHand, Chunk, Source, Whole, finite_points
from dkmeans.data.points import point_dtype


@dataclass(frozen=True, slots=True)
class Columns(AtHand):
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

    @property
    def chunk_rows(self) -> int | None:
        """That of the part whose chunks are the smallest."""
        sizes = [part.source.chunk_rows for part in self.parts]
        return None if None in sizes else min(size for size in sizes if size is not None)

    def read(self, start: int, stop: int) -> Any:
        """These rows."""
        low, high = start - self.first, stop - self.first
        return np.hstack([p.cut(low, high).load(p.source.width) for p in self.parts])

    def with_leaves(self, change: Callable[[Source], Source]) -> Source:
        """See `Source`."""
        parts = tuple(replace(p, source=p.source.with_leaves(change)) for p in self.parts)
        return replace(self, parts=parts)


@dataclass(frozen=True, slots=True)
class _OfChunk(Whole, AtHand):
    """What the sources below share: each gives the rows of one chunk, in an order of its own."""

    chunk: Chunk

    @property
    def parts(self) -> tuple[Chunk, ...]:
        """The chunk."""
        return (self.chunk,)

    @property
    def first(self) -> int:
        """The number of its first row."""
        return 0

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
    """A chunk's rows in an order drawn from a seed: the same order wherever it is drawn."""

    seed: tuple[int, ...]

    def read(self, start: int, stop: int) -> Any:
        """These rows; that they are finite is checked here, where their numbers are known."""
        order = np.random.default_rng(self.seed).permutation(self.rows)[start:stop]
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
class Joined(Whole, AtHand):
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
