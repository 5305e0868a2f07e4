"""Weights of rows: a table of one column beside the rows, which a chunk has in `weights`.

`weighted` puts the weights of a table beside its rows, before the rows are cut into batches or
shuffled. A worker reads both. Rows of weight zero are left out when a chunk is loaded
(`Chunk.loaded`), so nothing else needs to know of them (docs/decisions/018).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from dkmeans.data.batches import Batch, Part
from dkmeans.data.chunks import Chunk, Source, Weights, have_no_zeros
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.errors import InvalidData, InvalidType, counted
from dkmeans.state import FloatArray

K = TypeVar("K")
V = TypeVar("V")

# Rows of a span that is remembered, and the largest number of these spans: batches may have other
# spans in each step.
_LARGE_SPAN, _MOST_SPANS = 2**12, 2**12
# float64 holds every integer up to this one.
_LARGEST_EXACT_INTEGER = 2**53


# Number of calls that have read an input in this process.
_calls = 0


def begin_call() -> None:
    """Have weights in memory checked and converted anew: the program may have changed them."""
    global _calls
    _calls += 1


class _Remembered(dict[K, V]):
    """What this process has found out about weights: it is not pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Remembered, ()


@dataclass(frozen=True, slots=True)
class RowWeights(Weights):
    """The weights of the rows of another source, checked, as a column of float64.

    Attributes:
        parts: Chunks of one column, one after another; none if every row has the weight one.
        first: Number of the first row, as in the other source.
        rows: Number of rows.
        chunk_rows: As in the other source, so that weights are cached with their rows.
        checked: Parts in memory, and their rows, whose weights have been checked, with the number
            of the call. Grows by `read`.
        held: The weights in memory by the number of their part, once they are read: a view of
            contiguous float64 weights, a copy of others. Each with the number of the call.
        positive: First and stop row of large spans without zeros, with the number of the call.
            Grows by `are_positive`: to look at all weights takes longer than a late iteration.
    """

    parts: tuple[Chunk, ...]
    first: int
    rows: int
    chunk_rows: int | None
    checked: dict[tuple[int, int, int], int] = field(
        default_factory=_Remembered, repr=False, compare=False
    )
    held: dict[int, tuple[int, FloatArray]] = field(
        default_factory=_Remembered, repr=False, compare=False
    )
    positive: dict[tuple[int, int], int] = field(
        default_factory=_Remembered, repr=False, compare=False
    )

    width: ClassVar[int] = 1
    dtype: ClassVar[np.dtype[np.float64]] = np.dtype(np.float64)

    @property
    def name(self) -> str:
        """Name of the weights, for messages."""
        return self.parts[0].source.name if self.parts else "the weights"

    @property
    def key(self) -> Hashable | None:
        """Keys and places of the parts; None if there are none, or one of them is in memory."""
        keys = [part.source.key for part in self.parts]
        if not keys or None in keys:
            return None
        places = tuple((part.start, part.stop) for part in self.parts)
        return "weights", tuple(keys), places, self.first

    # The parts retry their own reads.
    is_repeatable: ClassVar[bool] = False

    def read(self, start: int, stop: int) -> Any:
        """Return these weights, (stop - start, 1) float64.

        Raises:
            InvalidData: a weight is negative or not finite.
        """
        if not self.parts:
            return np.ones((stop - start, 1))
        found, first = [], self.first
        for number, part in enumerate(self.parts):
            low, high = max(start - first, 0), min(stop - first, part.rows)
            if low < high:
                found.append(self._read(number, low, high))
            first += part.rows
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _read(self, number: int, low: int, high: int) -> FloatArray:
        """Return some weights of a part.

        In a call, a part in memory is converted once, and each span that is read is checked once.
        """
        part, span = self.parts[number], (number, low, high)
        if not isinstance(part.source, MemoryRows):
            return _checked(part.cut(low, high))
        if self.checked.get(span) != _calls:
            _checked(part.cut(low, high))
            self.checked[span] = _calls
        found = self.held.get(number)
        if found is None or found[0] != _calls:
            found = self.held[number] = _calls, _as_weights(part.values())
        return found[1][low:high]

    def with_leaves(self, change: Callable[[Source], Source]) -> Source:
        """Return the weights of changed sources, which have the same values.

        What is known of the values is shared. The arrays are not: a worker may release its own.
        """
        parts = tuple(part.with_leaves(change) for part in self.parts)
        return replace(self, parts=parts, held=_Remembered())

    def are_positive(self, start: int, stop: int, weights: FloatArray) -> bool:
        """Return whether all weights of some rows are above zero.

        Large spans without zeros are remembered until the next call.
        """
        if self.positive.get((start, stop)) == _calls:
            return True
        are_positive = have_no_zeros(weights)
        if are_positive and stop - start >= _LARGE_SPAN:
            if len(self.positive) >= _MOST_SPANS:
                self.positive.clear()
            self.positive[start, stop] = _calls
        return are_positive


def _checked(chunk: Chunk) -> FloatArray:
    """Return the weights of a chunk, (n, 1) float64, after checking them."""
    # Not `Chunk.load`, which makes float32 of integers.
    values, source = np.asarray(chunk.values()), chunk.source
    if values.shape != (chunk.rows, 1):
        raise InvalidData(
            f"weights must be one number for each of {counted(chunk.rows, 'row')}, got an array of "
            f"shape {values.shape} from {source.name}"
        )
    weights = _as_weights(values)
    is_integer = values.dtype.kind in "iu"
    most = _LARGEST_EXACT_INTEGER if is_integer else float(np.finfo(np.float64).max)
    checked = values if is_integer else weights
    # The comparison is false for NaN, which `min` and `max` return if there is one.
    if not (checked.min(initial=0) >= 0 and checked.max(initial=0) <= most):
        row = int(np.flatnonzero(~((checked >= 0) & (checked <= most)))[0])
        is_large = is_integer and checked[row, 0] > most
        must = f"at most 2^53 = {most:,}, as integers" if is_large else "finite and >= 0"
        raise InvalidData(
            f"weights must be {must}; row {chunk.start + row} of {source.name} has {values[row, 0]}"
        )
    return weights


def _as_weights(values: Any) -> FloatArray:
    return np.ascontiguousarray(values, np.float64)


def weighted(rows: Batch, weights: Batch, name: str) -> Batch:
    """Return the rows of a table that is not shuffled, with a table of their weights beside them.

    Raises:
        InvalidData: there are more or fewer weights than rows, or weights of several columns.
        InvalidType: the weights are not numbers.
    """
    if rows.rows != weights.rows:
        raise InvalidData(
            f"weights must be one for each row of {name}, {rows.rows}, got {weights.rows}"
        )
    for source in weights.sources():
        if source.width != 1:
            raise InvalidData(f"weights must be one column, got {source.width} in {source.name}")
        if np.dtype(source.dtype).kind not in "fiub":
            raise InvalidType(f"weights must be numbers, got {source.dtype} in {source.name}")
    parts: list[Part] = []
    start = 0
    for part in _chunks(rows):
        stop = start + part.rows
        beside = tuple(_chunks(weights.rows_between(start, stop)))
        source = RowWeights(beside, part.start, part.rows, part.source.chunk_rows)
        parts.append(replace(part, weights=source))
        start = stop
    return Batch(tuple(parts))


def _chunks(batch: Batch) -> Iterator[Chunk]:
    """Yield the parts of a table that is not shuffled."""
    for part in batch.parts:
        assert isinstance(part, Chunk)  # for the type checker
        yield part


def weights_of(batch: Batch) -> Batch:
    """Return the weights of the rows of a batch, as rows of one column in the same chunks."""
    return Batch(tuple(map(_weights_of_chunk, batch)))


def _weights_of_chunk(chunk: Chunk) -> Chunk:
    if chunk.weights is not None:
        return chunk.of_weights()
    ones = RowWeights((), chunk.source.first, chunk.source.rows, chunk.source.chunk_rows)
    return replace(chunk, source=ones, piece_rows=None)
