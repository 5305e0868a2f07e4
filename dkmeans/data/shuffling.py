"""Shuffling: the chunks of a batch in random order, and the rows of each chunk too.

`Dataset.shuffle` calls `shuffled_epoch`. `Shuffle` is a part that holds a whole batch, with its
chunks in another order. `Shuffled` is the view that orders the rows of a chunk, on the worker that
reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dkmeans.data.batches import Batch, Part
from dkmeans.data.chunks import Chunk, Source, finite_points
from dkmeans.data.views import ChunkView
from dkmeans.state import IndexArray


def shuffled_epoch(batches: Iterator[Batch], seed: int, epoch: int) -> Iterator[Batch]:
    """Yield the batches of an epoch, each shuffled in an order of its own."""
    # After `repeat(2)` an epoch has two batches. Each holds all rows, and is shuffled by a number
    # of its own, counted from that of the epoch. A second `repeat` around it makes the numbers
    # overlap (0 and 1, then 1 and 2), so an order can occur again.
    for number, batch in enumerate(batches, epoch):
        yield shuffled(batch, (seed, number))


def shuffled(batch: Batch, seed: tuple[int, ...]) -> Batch:
    """Return the chunks of a batch, and the rows within each, in orders drawn from a seed."""
    order = np.random.default_rng(seed).permutation(len(batch))
    return Batch.of(Shuffle(batch, order, seed))


@dataclass(frozen=True, eq=False)
class Shuffle:
    """The chunks of a batch in another order, and the rows of each chunk in another order.

    Attributes:
        batch: The batch before shuffling.
        order: (c,) int64, numbers of chunks of `batch`, in their new order; after a cut not all of
            them.
        seed: Seed of the orders of rows: a chunk has the same order wherever it is loaded.
        number: Number of the first row in the outer batch, if that is `numbered`; else 0.
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

        If every source can be cut into chunks, the part keeps the whole batch, which is pickled as
        a few numbers. Otherwise the result has only the chunks that are asked for.
        """
        if all(source.chunk_rows is not None for source in self.batch.sources()):
            number = self._first_number(start)
            return (replace(self, order=self.order[start:stop], number=number),)
        return tuple(map(self.chunk, range(start, stop)))

    def rows_between(self, start: int, stop: int) -> tuple[Part, ...]:
        """Return the rows from number `start` to before `stop`.

        `start` lies in the chunk at place `first`, and `stop` in or at the end of the one at
        `last`. The result is the rest of the first chunk if `start` lies within it, then the whole
        chunks, and then the beginning of the last chunk if `stop` lies within it. If both lie in
        one chunk, the result is one part of that chunk.
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

    def with_view(self, view: Callable[[Source], Source]) -> Shuffle:
        """Return the rows of this part as a view of their sources returns them."""
        return replace(self, batch=self.batch.with_view(view))

    @property
    def has_weights(self) -> bool:
        """True if some rows have weights."""
        return self.batch.has_weights

    def without_weights(self) -> Shuffle:
        """Return the same rows, each of the weight one."""
        return replace(self, batch=self.batch.without_weights())

    def description(self) -> Iterator[bytes]:
        """Yield bytes that are equal for the same rows in the same order, in any process."""
        yield repr(self.seed).encode() + self.order.tobytes()
        yield from self.batch.description()

    def __getstate__(self) -> dict[str, Any]:
        # Without the cached `stops`, which have one number for each chunk.
        return {name: value for name, value in self.__dict__.items() if name != "stops"}


@dataclass(frozen=True, slots=True)
class Shuffled(ChunkView):
    """The rows of a chunk in random order: the same seed gives the same order on every worker.

    Attributes:
        seed: Seed of the random generator.
    """

    seed: tuple[int, ...]

    def read(self, start: int, stop: int) -> Any:
        """Return these rows; refuse a chunk with rows that are not finite.

        The check is made here because the error names a row by its number in storage. The caller
        knows only the number after shuffling.
        """
        order = np.random.default_rng(self.seed).permutation(self.rows)[start:stop]
        return finite_points(self.chunk, self.width)[order]
