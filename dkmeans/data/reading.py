"""Readings: the size of the chunks of a dataset's table, and changes before they are cut.

`Dataset` holds a `Reading`, which the estimator and the methods of the dataset replace: with the
columns that a model needs, without weights, in larger chunks for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from dkmeans.data.batches import Batch, Cut, Part
from dkmeans.data.chunks import Chunk, even_rows
from dkmeans.data.columns import places_of
from dkmeans.data.sources.named_rows import NamedRows, refuse_others
from dkmeans.data.views import Selected

Change = Callable[[Batch], Batch]

# Tables with so many chunks need no pieces.
_MANY_CHUNKS = 2**12
# Bytes of a value, about: most rows are float32.
_VALUE_BYTES = 4


def _unchanged(batch: Batch) -> Batch:
    return batch


class Reading(NamedTuple):
    """How the underlying table of a dataset is read.

    Attributes:
        change: Returns other chunks of the same rows, before they are cut into batches or shuffled.
        chunk_bytes: Target size of the chunks that the library cuts itself; None for the default.
        drops_weights: True if the rows lose their weights.
    """

    change: Change = _unchanged
    chunk_bytes: int | None = None
    drops_weights: bool = False

    def of(self, batch: Batch) -> Batch:
        """Return the chunks of a table as they are read."""
        changed = self.change(batch)
        return changed.without_weights() if self.drops_weights else changed


def _with_pieces(batch: Batch, chunk_bytes: int | None) -> Batch:
    """Return the chunks of a table; large ones may be cut into pieces of about so many bytes."""
    if not 0 < len(batch) < _MANY_CHUNKS:
        return batch
    size = even_rows(batch.rows, batch.source.width * _VALUE_BYTES, chunk_bytes=chunk_bytes)
    if batch.sizes().max() <= size:
        return batch
    return Batch(tuple(_with_piece_rows(part, size) for part in batch.parts))


def _with_piece_rows(part: Part, size: int) -> Part:
    return replace(part, piece_rows=size) if isinstance(part, Chunk) else part


# No change, chunks of the default size.
AS_IT_IS = Reading()


@dataclass(frozen=True, slots=True)
class Select:
    """A change of a batch: select columns of each row by name.

    Attributes:
        columns: Names of the columns, in their new order.
        given: Names of all columns of the batch.
    """

    columns: tuple[str, ...]
    given: tuple[str, ...]

    def __call__(self, batch: Batch) -> Batch:
        """Return the same rows with the selected columns, which must hold numbers."""
        return refuse_others(self.of(batch))

    def of(self, batch: Batch) -> Batch:
        """Return the same rows with the selected columns, which may be words."""
        return Batch(tuple(map(self._of_part, batch.parts)))

    def _of_part(self, part: Part) -> Chunk:
        assert isinstance(part, Chunk)  # a table is not shuffled before its columns are selected
        source = part.source
        if isinstance(source, NamedRows):
            return replace(part, source=source.select(self.columns))
        places = places_of(self.columns, self.given, source.width)
        return replace(part, source=Selected(source, tuple(places)))


class CutOnce:
    """A table's chunks of about so many bytes.

    Each epoch gets the same source objects, so that an executor sends rows in memory to the workers
    only once. A copy in another process cuts the table again.

    Args:
        cut: Returns the table's chunks of about so many bytes.
    """

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._batches: dict[int | None, Batch] = {}

    def __call__(self, chunk_bytes: int | None) -> Batch:
        """Return the chunks, the same ones for the same size."""
        if chunk_bytes not in self._batches:
            # `Batch.of` drops parts without rows.
            batch = Batch.of(*self._cut(chunk_bytes).parts)
            self._batches[chunk_bytes] = _with_pieces(batch, chunk_bytes)
        return self._batches[chunk_bytes]

    def __reduce__(self) -> tuple[Any, ...]:
        return CutOnce, (self._cut,)
