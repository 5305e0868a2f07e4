"""Rows of a Dask array: each block's own small graph, computed by whoever loads the block.

Of an array that is persisted on a cluster the blocks are there already: each is a future.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import dask
import numpy as np
from dask.optimization import cull
from numpy.typing import DTypeLike

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import AtHand, Chunk, Leaf, Source, Whole

# A block's graph that pickles to more than this, and to more than a byte for each row, is taken to
# hold the rows.
_DESCRIPTION_BYTES = 2**15


@dataclass(frozen=True, eq=False)
class DaskRows(Whole, Leaf):
    """One block of a Dask array: the rows from number `first` on.

    Attributes:
        carries_rows: Whether the graph holds rows itself, as that of `from_array` does, and not
            only says how to make them: an executor ships those once, like other arrays.
    """

    graph: Mapping[Any, Any] = field(repr=False)
    key: Any  # the block's in the graph, which tells it from all others too
    name: str
    rows: int
    width: int
    dtype: DTypeLike
    first: int
    carries_rows: bool

    @property
    def is_repeatable(self) -> bool:
        """A graph is the user's own code."""
        return False

    def read(self, start: int, stop: int) -> Any:
        """These rows, computed in this thread."""
        return dask.get(self.graph, self.key)[start - self.first : stop - self.first]


@dataclass(frozen=True, eq=False)
class FutureRows(Whole, AtHand, Leaf):
    """Rows that a cluster holds in its memory: those from number `first` on."""

    future: Any
    name: str
    rows: int
    width: int
    dtype: DTypeLike
    first: int

    def read(self, start: int, stop: int) -> Any:
        """These rows, fetched to this process."""
        return self.future.result()[start - self.first : stop - self.first]


def from_dask(array: Any, name: str) -> Batch:
    """The row blocks of a 2-D Dask array, whose chunks may also split its columns."""
    if any(np.isnan(size) for sizes in array.chunks for size in sizes):
        array = array.compute_chunk_sizes()
    array = array.rechunk({1: -1})
    futures = _futures(array)
    if futures is None:
        (array,) = dask.optimize(array)
        graph = dict(array.__dask_graph__())
    width, dtype = int(array.shape[1]), array.dtype
    stops = np.cumsum(array.chunks[0]).tolist()
    chunks = []
    carries_rows = None
    for (key,), stop, rows in zip(array.__dask_keys__(), stops, array.chunks[0], strict=True):
        first = stop - int(rows)
        if futures is None:
            part, _ = cull(graph, [key])
            if carries_rows is None:
                carries_rows = len(cloudpickle.dumps(part)) > max(_DESCRIPTION_BYTES, rows)
            table = (int(rows), width, dtype, first)
            source: Source = DaskRows(part, key, name, *table, carries_rows)
        else:
            source = FutureRows(futures[key], name, int(rows), width, dtype, first)
        if rows:
            chunks.append(Chunk(source, first, stop))
    return Batch(tuple(chunks))


def _futures(array: Any) -> dict[Any, Any] | None:
    """The blocks' futures by key where the array rests on persisted data, else None."""
    if "distributed" not in sys.modules:
        return None
    from distributed import futures_of  # noqa: PLC0415 half a second, for those who use it

    if not futures_of(array):
        return None
    array = array.persist()
    return {future.key: future for future in futures_of(array)}
