"""Batches: what one step goes over, as a description that is short however many chunks it has."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain
from typing import Any

import numpy as np

from dkmeans.data.chunks import Chunk, Source
from dkmeans.data.views import Shuffled
from dkmeans.state import IndexArray


@dataclass(frozen=True, eq=False)
class Shuffle:
    """Chunks of a batch in another order, and the rows of each in another order.

    Attributes:
        batch: The batch.
        order: The numbers of the chunks.
        seed: Of the random draws: the same rows in the same order wherever they are drawn.
        number: The first row's number in the batch that this is a part of, if that is `numbered`.
    """

    batch: Batch
    order: IndexArray
    seed: tuple[int, ...]
    number: int = 0

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def stops(self) -> IndexArray:
        """How many rows there are up to the end of each chunk."""
        stops: IndexArray = np.cumsum(self.batch.sizes()[self.order])
        return stops

    def chunk(self, number: int) -> Chunk:
        """The chunk in this place."""
        which = int(self.order[number])
        source = Shuffled(self.batch[which], (*self.seed, which))
        return Chunk(source, 0, source.rows, self._number(number))

    def _number(self, place: int) -> int:
        """The number of the first row of the chunk in this place."""
        return self.number + (int(self.stops[place - 1]) if place else 0)

    def between(self, start: int, stop: int) -> tuple[Part, ...]:
        """The chunks from this place to before that.

        They are described by what they are drawn from, unless that is as long as a list of them:
        then the others need not come along.
        """
        if all(source.chunk_rows is not None for source in self.batch.sources()):
            return (replace(self, order=self.order[start:stop], number=self._number(start)),)
        return tuple(map(self.chunk, range(start, stop)))

    def __getstate__(self) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "order": self.order,
            "seed": self.seed,
            "number": self.number,
        }


# Consecutive rows of a source, of any length: chunks end where the source's do.
Part = Chunk | Shuffle


@dataclass(frozen=True, eq=False)
class Batch:
    """Chunks, in order; none is made before it is asked for.

    Attributes:
        parts: What they are of.
    """

    parts: tuple[Part, ...] = ()

    @classmethod
    def of(cls, *parts: Part) -> Batch:
        """A batch of these parts, without those that have no rows."""
        return cls(tuple(part for part in parts if _rows(part)))

    @classmethod
    def joined(cls, batches: Iterable[Batch]) -> Batch:
        """The rows of batches, one after another; what follows in its source too is one part."""
        parts: list[Part] = []
        for part in chain.from_iterable(batch.parts for batch in batches):
            if parts:
                parts[-1:] = _in_one(parts[-1], part)
            else:
                parts.append(part)
        return cls(tuple(parts))

    @cached_property
    def _chunk_stops(self) -> list[int]:
        return list(accumulate(_count(part) for part in self.parts))

    @cached_property
    def _row_stops(self) -> list[int]:
        return list(accumulate(_rows(part) for part in self.parts))

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._row_stops[-1] if self.parts else 0

    @property
    def source(self) -> Source:
        """What the first rows are of."""
        return self[0].source

    def sources(self) -> Iterator[Source]:
        """What the rows are of."""
        for part in self.parts:
            if isinstance(part, Shuffle):
                yield from part.batch.sources()
            else:
                yield part.source

    def __len__(self) -> int:
        return self._chunk_stops[-1] if self.parts else 0

    def __iter__(self) -> Iterator[Chunk]:
        for part in self.parts:
            yield from _chunks(part)

    def __getitem__(self, number: int) -> Chunk:
        which = bisect_right(self._chunk_stops, number)
        if not 0 <= number < len(self):
            raise IndexError(number)
        part, before = self.parts[which], self._chunk_stops[which - 1] if which else 0
        return (
            part.chunk(number - before)
            if isinstance(part, Shuffle)
            else _nth(part, number - before)
        )

    def __add__(self, other: Batch) -> Batch:
        return Batch(self.parts + other.parts)

    def chunks_between(self, start: int, stop: int) -> Batch:
        """The chunks from this number to before that."""
        parts: list[Part] = []
        for which in range(bisect_right(self._chunk_stops, start), len(self.parts)):
            part = self.parts[which]
            before = self._chunk_stops[which - 1] if which else 0
            if before >= stop:
                break
            low, high = max(start - before, 0), min(stop - before, _count(part))
            if isinstance(part, Shuffle):
                parts.extend(part.between(low, high))
            else:
                first, last = _nth(part, low), _nth(part, high - 1)
                parts.append(replace(part, start=first.start, stop=last.stop))
        return Batch(tuple(parts))

    def rows_between(self, start: int, stop: int) -> Batch:
        """The rows from this number to before that, counted from the first row."""
        parts: list[Part] = []
        for which in range(bisect_right(self._row_stops, start), len(self.parts)):
            part = self.parts[which]
            before = self._row_stops[which - 1] if which else 0
            if before >= stop:
                break
            low, high = max(start - before, 0), min(stop - before, _rows(part))
            parts.extend(_cut(part, low, high))
        return Batch.of(*parts)

    def sizes(self) -> IndexArray:
        """How many rows each chunk has."""
        return np.concatenate([_sizes(part) for part in self.parts] or [np.empty(0, np.int64)])

    def shuffled(self, seed: tuple[int, ...]) -> Batch:
        """Its chunks in an order drawn from a seed, and the rows of each too."""
        order = np.random.default_rng(seed).permutation(len(self))
        return Batch.of(Shuffle(self, order, seed))

    def numbered(self) -> Batch:
        """The same rows; each chunk knows the number of its first row in this batch."""
        starts = [0, *self._row_stops]
        return Batch(tuple(map(_numbered, self.parts, starts)))

    def with_leaves(self, change: Callable[[Source], Source]) -> Batch:
        """The same rows, with each source that is read from changed."""
        return Batch(tuple(_with_leaves(part, change) for part in self.parts))

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts}


def _in_one(part: Part, after: Part) -> tuple[Part, ...]:
    """Two parts as one, if the second begins in the source where the first ends."""
    if isinstance(part, Shuffle) or isinstance(after, Shuffle):
        return part, after
    if part.source is not after.source or part.stop != after.start:
        return part, after
    return (replace(part, stop=after.stop),)


def _numbered(part: Part, number: int) -> Part:
    """A part whose first row has this number in the batch."""
    if isinstance(part, Shuffle):
        return replace(part, number=number)
    return replace(part, offset=number - part.start)


def _rows(part: Part) -> int:
    if isinstance(part, Shuffle):
        return int(part.stops[-1]) if len(part) else 0
    return part.rows


def _count(part: Part) -> int:
    if isinstance(part, Shuffle):
        return len(part)
    size = part.source.chunk_rows
    if size is None:
        return int(part.rows > 0)
    return -(-part.stop // size) - part.start // size if part.rows else 0


def _chunks(part: Part) -> Iterator[Chunk]:
    if isinstance(part, Shuffle):
        yield from map(part.chunk, range(len(part)))
        return
    source, size, stop = part.source, part.source.chunk_rows, part.stop
    if size is None:
        yield part
        return
    start = part.start
    while start < stop:
        end = min(start // size * size + size, stop)
        yield Chunk(source, start, end, part.offset)
        start = end


def _nth(part: Chunk, number: int) -> Chunk:
    size = part.source.chunk_rows
    if size is None:
        return part
    first = (part.start // size + number) * size
    start, stop = max(first, part.start), min(first + size, part.stop)
    return Chunk(part.source, start, stop, part.offset)


def _cut(part: Part, low: int, high: int) -> Iterator[Part]:
    """The rows from number `low` to before `high` of a part."""
    if not isinstance(part, Shuffle):
        yield part.cut(low, high)
        return
    first, last = np.searchsorted(part.stops, [low, high - 1], "right").tolist()
    if last < first:  # of no rows
        return
    offset = int(part.stops[first - 1]) if first else 0
    whole = first + (low > offset)
    if low > offset:
        chunk = part.chunk(first)
        yield chunk.cut(low - offset, min(high - offset, chunk.rows))
    end = last + (high == part.stops[last])
    if end > whole:
        yield from part.between(whole, end)
    if end == last and last >= whole:
        chunk = part.chunk(last)
        yield chunk.cut(0, high - (int(part.stops[last - 1]) if last else 0))


def _sizes(part: Part) -> IndexArray:
    if isinstance(part, Shuffle):
        return np.diff(part.stops, prepend=0)
    size = part.source.chunk_rows
    if size is None:
        return np.array([part.rows])
    borders = np.arange(part.start // size + 1, -(-part.stop // size), dtype=np.int64) * size
    return np.diff(borders, prepend=part.start, append=part.stop)


def _with_leaves(part: Part, change: Callable[[Source], Source]) -> Part:
    if isinstance(part, Shuffle):
        return replace(part, batch=part.batch.with_leaves(change))
    return replace(part, source=part.source.with_leaves(change))
