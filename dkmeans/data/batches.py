"""Batches: the rows of one step. A few numbers describe a batch, even one of a million chunks.

Datasets make batches, and executors cut them into runs of chunks. A batch is a list of parts. A
part is consecutive rows of a source (a `Chunk`, which may span several chunks of the source) or a
shuffled batch (`shuffling.Shuffle`). Its single chunks are made only when they are asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import Any, Protocol

import numpy as np

from dkmeans.data.chunks import Chunk, Source
from dkmeans.state import IndexArray


class Part(Protocol):
    """Consecutive rows of a batch, in one chunk or several."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        ...

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        ...

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks."""
        ...

    def chunk(self, number: int) -> Chunk:
        """Return the chunk of this number, counted from 0."""
        ...

    def chunks_between(self, start: int, stop: int) -> tuple[Part, ...]:
        """Return the chunks from number `start` to before `stop`."""
        ...

    def rows_between(self, start: int, stop: int) -> tuple[Part, ...]:
        """Return the rows from number `start` to before `stop`."""
        ...

    def sizes(self) -> IndexArray:
        """Return the number of rows of each chunk."""
        ...

    def sources(self) -> Iterator[Source]:
        """Yield sources, among them those of the rows."""
        ...

    def numbered(self, number: int) -> Part:
        """Return this part with its rows numbered in the batch from `number` on."""
        ...

    def joined(self, after: object) -> Part | None:
        """Return this part and the one after it as one part; None if they cannot be joined."""
        ...

    def with_leaves(self, change: Callable[[Source], Source]) -> Part:
        """Return the same rows with `change` applied to each leaf source."""
        ...

    def with_view(self, view: Callable[[Source], Source]) -> Part:
        """Return this part with a view of its sources."""
        ...

    @property
    def has_weights(self) -> bool:
        """True if some rows have weights."""
        ...

    def without_weights(self) -> Part:
        """Return the same rows, each of the weight one."""
        ...

    def description(self) -> Iterator[bytes]:
        """Yield bytes that are equal for the same rows in the same order, in any process.

        Leaf sources (`chunks.Leaf`) must have a repr that identifies them: `prediction.identity`
        first puts others with such a repr in their place.
        """
        ...


@dataclass(frozen=True, eq=False)
class Batch:
    """The chunks of one step, in order.

    Attributes:
        parts: Spans of sources and shuffled batches, in order.
    """

    parts: tuple[Part, ...] = ()

    @classmethod
    def of(cls, *parts: Part) -> Batch:
        """Return a batch of these parts, without the parts that have no rows."""
        return cls(tuple(part for part in parts if part.rows))

    @classmethod
    def chained(cls, batches: Iterable[Batch]) -> Batch:
        """Return the chunks of several batches as one batch, with their parts as they are."""
        return cls.of(*chain.from_iterable(batch.parts for batch in batches))

    @classmethod
    def concatenated(cls, batches: Iterable[Batch]) -> Batch:
        """Return the rows of several batches as one.

        Adjacent parts of a source become one part, so chunks may end at other rows than before.
        """
        parts: list[Part] = []
        for part in chain.from_iterable(batch.parts for batch in batches):
            together = parts[-1].joined(part) if parts else None
            if together is None:
                parts.append(part)
            else:
                parts[-1] = together
        return cls(tuple(parts))

    @cached_property
    def _chunk_stops(self) -> list[int]:
        return list(accumulate(part.num_chunks for part in self.parts))

    @cached_property
    def _row_stops(self) -> list[int]:
        return list(accumulate(part.rows for part in self.parts))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._row_stops[-1] if self.parts else 0

    @property
    def source(self) -> Source:
        """Source of the first rows."""
        return self[0].source

    def sources(self) -> Iterator[Source]:
        """Yield the sources of the parts: those of shuffled parts may have further rows."""
        for part in self.parts:
            yield from part.sources()

    def __len__(self) -> int:
        """Return the number of chunks."""
        return self._chunk_stops[-1] if self.parts else 0

    def __iter__(self) -> Iterator[Chunk]:
        for part in self.parts:
            yield from part.chunks()

    def __getitem__(self, number: int) -> Chunk:
        if not 0 <= number < len(self):
            raise IndexError(number)
        which = bisect_right(self._chunk_stops, number)
        before = self._chunk_stops[which - 1] if which else 0
        return self.parts[which].chunk(number - before)

    def __add__(self, other: Batch) -> Batch:
        return Batch(self.parts + other.parts)

    def chunks_between(self, start: int, stop: int) -> Batch:
        """Return the chunks from number `start` to before `stop`."""
        cut = _overlapping(self._chunk_stops, start, stop)
        pieces = (self.parts[which].chunks_between(low, high) for which, low, high in cut)
        return Batch(tuple(chain.from_iterable(pieces)))

    def rows_between(self, start: int, stop: int) -> Batch:
        """Return the rows from number `start` to before `stop`, counted from the first row."""
        cut = _overlapping(self._row_stops, start, stop)
        pieces = (self.parts[which].rows_between(low, high) for which, low, high in cut)
        return Batch.of(*chain.from_iterable(pieces))

    def sizes(self) -> IndexArray:
        """Return the number of rows of each chunk, (c,)."""
        return np.concatenate([part.sizes() for part in self.parts] or [np.empty(0, np.int64)])

    def numbered(self) -> Batch:
        """Return the same rows; a chunk's `number` is then that of its first row in this batch."""
        # One number more than parts: the end of the last part.
        starts = [0, *self._row_stops]
        return Batch(tuple(part.numbered(n) for part, n in zip(self.parts, starts, strict=False)))

    def with_leaves(self, change: Callable[[Source], Source]) -> Batch:
        """Return the same rows with `change` applied to each leaf source."""
        return Batch(tuple(part.with_leaves(change) for part in self.parts))

    def with_view(self, view: Callable[[Source], Source]) -> Batch:
        """Return this batch with a view of its sources.

        Args:
            view: Returns a source that reads from another one, with the same rows and numbers.
        """
        return Batch(tuple(part.with_view(view) for part in self.parts))

    @property
    def has_weights(self) -> bool:
        """True if some rows have weights."""
        return any(part.has_weights for part in self.parts)

    def without_weights(self) -> Batch:
        """Return the same rows, each of the weight one."""
        return Batch(tuple(part.without_weights() for part in self.parts))

    def description(self) -> Iterator[bytes]:
        """Yield bytes that are equal for the same rows in the same order, in any process."""
        for part in self.parts:
            yield from part.description()

    def __getstate__(self) -> dict[str, Any]:
        # Without the cached stops, which have one number for each part.
        return {"parts": self.parts}


# Returns the chunks of a table, given their target size in bytes; None stands for the usual size.
Cut = Callable[[int | None], Batch]


def _overlapping(stops: list[int], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield the intervals that overlap [start, stop). The intervals are consecutive and begin at 0.

    Yields:
        Number of an interval, and the start and end of the overlap, counted from the start of the
        interval.
    """
    for which in range(bisect_right(stops, start), len(stops)):
        begin = stops[which - 1] if which else 0
        if begin >= stop:
            break
        yield which, max(start - begin, 0), min(stop, stops[which]) - begin
