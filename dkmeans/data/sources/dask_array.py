"""Rows of a Dask array, block by block.

Each block of rows becomes a source that carries only the tasks of its own block. The worker that
loads the chunk computes them. The blocks of an array that is persisted on a cluster are in its
memory already; their sources carry futures.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import cloudpickle
import dask
import numpy as np
from dask.optimization import cull
from numpy.typing import DTypeLike

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import AtHand, Chunk, Leaf, Source, Whole
from dkmeans.data.sources.memory import with_shape_of
from dkmeans.errors import InvalidData
from dkmeans.extras import is_of

# A graph is assumed to contain the rows themselves if it pickles to more bytes than this and to
# more than one byte for each row.
_DESCRIPTION_BYTES = 2**15


@dataclass(frozen=True, eq=False)
class DaskRows(Whole, Leaf):
    """Rows of one block of a Dask array.

    Attributes:
        graph: The tasks that compute the block.
        key: Key of the block in the graph. Dask makes keys unique, so this is also the cache key.
        name: Name of the array, for messages.
        rows: Number of rows.
        width: Number of columns.
        dtype: Dtype of the block.
        first: Number of the first row in the array.
        carries_rows: True if the graph contains the rows, as a graph of `dask.array.from_array`
            does. Executors send such a graph once, like an array in memory.
    """

    graph: Mapping[Any, Any] = field(repr=False)
    key: Any
    name: str
    rows: int
    width: int
    dtype: DTypeLike
    first: int
    carries_rows: bool

    # The graph is code of the user, and that is not run again after an error.
    is_repeatable: ClassVar[bool] = False

    def read(self, start: int, stop: int) -> Any:
        """Compute the block in this thread and return these rows.

        Raises:
            InvalidData: the block has another shape than the array says.
        """
        block = with_shape_of(self, dask.get(self.graph, self.key))
        return block[start - self.first : stop - self.first]


@dataclass(frozen=True, eq=False)
class FutureRows(Whole, AtHand, Leaf):
    """Rows of one persisted block of a Dask array, in the memory of a cluster.

    Attributes:
        future: The future of the block.
        name: Name of the array, for messages.
        rows: Number of rows.
        width: Number of columns.
        dtype: Dtype of the block.
        first: Number of the first row in the array.
    """

    future: Any
    name: str
    rows: int
    width: int
    dtype: DTypeLike
    first: int

    def read(self, start: int, stop: int) -> Any:
        """Fetch the block to this process and return these rows.

        Raises:
            InvalidData: the block has another shape than the array says.
        """
        block = with_shape_of(self, self.future.result())
        return block[start - self.first : stop - self.first]


def is_dask_array(values: Any) -> bool:
    """Return whether the values are a Dask array.

    `dask.array` takes a fifth of the start of a process to import. A process that has not imported
    it has no such array.
    """
    return is_of(values, "dask.array", "Array")


def from_dask(array: Any, name: str) -> Batch:
    """Return the row blocks of a 2-D Dask array. The chunks of the array may split its columns."""
    client = _client_of(array, name)
    with nullcontext() if client is None else client.as_current():
        # Rows that are computed from persisted ones are persisted before their sizes are computed.
        array = _with_sizes(array if client is None else array.persist()).rechunk({1: -1})
        futures = None if client is None else _futures(array.persist())
    if futures is None:
        (array,) = dask.optimize(array)
        graph = dict(array.__dask_graph__())
    width, dtype = int(array.shape[1]), array.dtype
    stops = np.cumsum(array.chunks[0]).tolist()
    chunks = []
    carries_rows = None
    for (key,), stop, rows in zip(array.__dask_keys__(), stops, array.chunks[0], strict=True):
        first = stop - int(rows)
        if not rows:
            continue
        if futures is None:
            tasks, _ = cull(graph, [key])
            # Pickling is slow: one block is measured, and all blocks are taken to be alike.
            if carries_rows is None:
                carries_rows = len(cloudpickle.dumps(tasks)) > max(_DESCRIPTION_BYTES, rows)
            table = (int(rows), width, dtype, first)
            source: Source = DaskRows(tasks, key, name, *table, carries_rows)
        else:
            source = FutureRows(futures[key], name, int(rows), width, dtype, first)
        chunks.append(Chunk(source, first, stop))
    return Batch(tuple(chunks))


def _with_sizes(array: Any) -> Any:
    """Return an array whose blocks have known numbers of rows. Unknown ones are computed."""
    if not any(np.isnan(size) for sizes in array.chunks for size in sizes):
        return array
    # Of a copy: Dask writes the sizes into the array itself, which is the caller's.
    return type(array)(array.dask, array.name, array.chunks, meta=array).compute_chunk_sizes()


def _client_of(array: Any, name: str) -> Any:
    """Return the client of the cluster that has rows of an array; None if none are persisted.

    Raises:
        InvalidData: the cluster is closed that has the rows, or it has lost them.
    """
    # A process that never imported distributed has no persisted data.
    if "distributed" not in sys.modules:
        return None
    from distributed import futures_of  # noqa: PLC0415 importing takes half a second

    futures = futures_of(array)
    if not futures:
        return None
    # Dask computes persisted blocks again whose worker was lost, but not what was scattered.
    if any(each.client.status != "running" or each.status == "cancelled" for each in futures):
        raise InvalidData(
            f"{name} must be in the memory of a running cluster, got rows whose cluster is closed "
            "or has lost them; persist or scatter them again"
        )
    return futures[0].client


def _futures(array: Any) -> dict[Any, Any]:
    """Return the futures of the blocks of a persisted array, by key."""
    from distributed import futures_of  # noqa: PLC0415 importing takes half a second

    return {future.key: future for future in futures_of(array)}
