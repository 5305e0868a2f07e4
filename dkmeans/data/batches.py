"""Batches: the rows of one step. A span of a stored array takes a few numbers, whatever its size.

Datasets make batches, and executors cut them into runs of chunks. A batch is a list of parts. A
part is a span of a source (`Chunk`) or a shuffled batch (`Shuffle`, which orders the chunks; the
rows in each are ordered by `views.Shuffled`). The chunks of both are made only when they are asked
for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain
from typing import Any, Protocol

import numpy as np

from dkmeans.data.chunks import Chunk, Source
from dkmeans.data.views import Shuffled
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

    def description(self) -> Iterator[bytes]:
        """Yield bytes that are equal for the same rows in the same order, in any process.

        Leaf sources must have a repr that identifies them. `prediction.identity` puts stand-ins
        with such a repr in their place first.
        """
        ...


@dataclass(frozen=True, eq=False)
class Shuffle:
    """The chunks of a batch in another order, and the rows of each chunk in another order.

    Attributes:
        batch: The batch before shuffling.
        order: (c,) int64, numbers of chunks of `batch`, in their new order; after a cut not all of
            them.
        seed: Seed of the orders of rows: a chunk has the same order wherever it is loaded.
        number: Number of the first row in the batch that has this part, if that batch is
            `numbered`; else 0.
    """

    batch: Batch
    order: IndexArray
    seed: tuple[int, ...]
    number: int = 0

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.stops[-1]) if len(self.order) else 0

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return len(self.order)

    @cached_property
    def stops(self) -> IndexArray:
        """Number of rows up to the end of each chunk, (c,)."""
        stops: IndexArray = np.cumsum(self.batch.sizes()[self.order])
        return stops

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks in their new order."""
        return map(self.chunk, range(len(self.order)))

    def chunk(self, number: int) -> Chunk:
        """Return the chunk at this place of the new order."""
        original = int(self.order[number])
        chunk = self.batch[original]
        # Seeded by the original number: a chunk has the same order of rows in every cut.
        source = Shuffled(chunk, (*self.seed, original))
        # The same seed gives the weights the same order.
        weights = chunk.weights and Shuffled(chunk.of_weights(), source.seed)
        # A view counts its rows from 0, so the offset is the number of its first row.
        return Chunk(source, 0, source.rows, self._first_number(number), weights)

    def _first_number(self, place: int) -> int:
        return self.number + (int(self.stops[place - 1]) if place else 0)

    def chunks_between(self, start: int, stop: int) -> tuple[Part, ...]:
        """Return the chunks from place `start` to before `stop`.

        The result keeps the whole batch if each of its sources has several chunks: that is small.
        If a source is a single chunk, the result has only the chunks asked for, so that less is
        pickled.
        """
        if all(source.chunk_rows is not None for source in self.batch.sources()):
            number = self._first_number(start)
            return (replace(self, order=self.order[start:stop], number=number),)
        return tuple(map(self.chunk, range(start, stop)))

    def rows_between(self, start: int, stop: int) -> tuple[Part, ...]:
        """Return the rows from number `start` to before `stop`.

        `start` lies in the chunk at place `first`, and `stop` in or at the end of the one at
        `last`. The result is up to three pieces: the rest of the first chunk if `start` lies within
        it, the whole chunks, and the beginning of the last chunk if `stop` lies within it. Where
        both lie within the same chunk, the first piece is all.
        """
        first, last = np.searchsorted(self.stops, [start, stop - 1], "right").tolist()
        if last < first:  # no rows, at the end of a chunk
            return ()
        pieces: list[Part] = []
        begin = int(self.stops[first - 1]) if first else 0
        whole = first + (start > begin)
        if start > begin:
            chunk = self.chunk(first)
            pieces.append(chunk.cut(start - begin, min(stop - begin, chunk.rows)))
        # Places of the chunks that are returned whole: from `whole` to before `end`.
        end = last + (stop == self.stops[last])
        if end > whole:
            pieces.extend(self.chunks_between(whole, end))
        if end == last and last >= whole:  # the last chunk is cut, and is not the first piece
            begin = int(self.stops[last - 1]) if last else 0
            pieces.append(self.chunk(last).cut(0, stop - begin))
        return tuple(pieces)

    def sizes(self) -> IndexArray:
        """Return the number of rows of each chunk."""
        return np.diff(self.stops, prepend=0)

    def sources(self) -> Iterator[Source]:
        """Yield the sources of the batch."""
        return self.batch.sources()

    def numbered(self, number: int) -> Shuffle:
        """Return this part with its rows numbered in the batch from `number` on."""
        return replace(self, number=number)

    def joined(self, after: object) -> None:
        """Return None: a shuffled batch and what follows it are two parts."""
        return

    def with_leaves(self, change: Callable[[Source], Source]) -> Shuffle:
        """Return the same rows with `change` applied to each leaf source."""
        return replace(self, batch=self.batch.with_leaves(change))

    def description(self) -> Iterator[bytes]:
        """Yield bytes that are equal for the same rows in the same order, in any process."""
        yield repr(self.seed).encode() + self.order.tobytes()
        yield from self.batch.description()

    def __getstate__(self) -> dict[str, Any]:
        # Without the cached `stops`, which have one number for each chunk.
        return {
            "batch": self.batch,
            "order": self.order,
            "seed": self.seed,
            "number": self.number,
        }


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
        """Return the chunks of several batches as one batch."""
        return cls.of(*chain.from_iterable(batch.parts for batch in batches))

    @classmethod
    def concatenated(cls, batches: Iterable[Batch]) -> Batch:
        """Return the rows of several batches as one, with as few parts as possible."""
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
        """Yield the sources of all rows."""
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

    def shuffled(self, seed: tuple[int, ...]) -> Batch:
        """Return the chunks, and the rows within each, in orders drawn from a seed."""
        order = np.random.default_rng(seed).permutation(len(self))
        return Batch.of(Shuffle(self, order, seed))

    def numbered(self) -> Batch:
        """Return the same rows; a chunk's `number` is then that of its first row in this batch."""
        # One number more than parts: the end of the last part.
        starts = [0, *self._row_stops]
        return Batch(tuple(part.numbered(n) for part, n in zip(self.parts, starts, strict=False)))

    def with_leaves(self, change: Callable[[Source], Source]) -> Batch:
        """Return the same rows with `change` applied to each leaf source."""
        return Batch(tuple(part.with_leaves(change) for part in self.parts))

    def description(self) -> Iterator[bytes]:
        """Yield bytes that are equal for the same rows in the same order, in any process."""
        for part in self.parts:
            yield from part.description()

    def __getstate__(self) -> dict[str, Any]:
        # Without the cached stops, which have one number for each part.
        return {"parts": self.parts}


def with_view(batch: Batch, view: Callable[[Source], Source]) -> Batch:
    """Return the rows of a batch as a view of their sources returns them.

    Args:
        batch: The rows.
        view: Returns a source of as many rows, with the same numbers, that reads from another one.
    """
    return Batch(tuple(_part_with_view(part, view) for part in batch.parts))


def _part_with_view(part: Part, view: Callable[[Source], Source]) -> Part:
    if isinstance(part, Shuffle):
        return replace(part, batch=with_view(part.batch, view))
    assert isinstance(part, Chunk)  # for the type checker
    return replace(part, source=view(part.source))


# Returns the chunks of a table, given their target size in bytes; None stands for the usual size.
Cut = Callable[[int | None], Batch]


def _overlapping(stops: list[int], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield the intervals that overlap [start, stop). The intervals are consecutive and begin at 0.

    Args:
        stops: End of each interval, ascending.
        start: Start of the range.
        stop: End of the range.

    Yields:
        Number of an interval, and the start and end of the overlap, counted from the start of the
        interval.
    """
    for which in range(bisect_right(stops, start), len(stops)):
        begin = stops[which - 1] if which else 0
        if begin >= stop:
            break
        yield which, max(start - begin, 0), min(stop, stops[which]) - begin
