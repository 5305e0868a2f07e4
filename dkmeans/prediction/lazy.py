"""Lazy predictions: from a Dask array or data frame, a Dask array, series or data frame.

`KMeans.predict_dask` calls this module. Nothing is computed here: the results are collections that
Dask computes together with others, block by block. The centers are one task of their graph, so they
do not depend on the model's directory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask
import numpy as np
from numpy.typing import NDArray

from dkmeans.data.chunks import Chunk, Source
from dkmeans.data.columns import Names
from dkmeans.data.scaled import ScaledRows
from dkmeans.data.sources.frames import (
    arrays_of,
    labeled_by_text,
    partition_name,
    schema_of_dask,
    stacked,
)
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.errors import InvalidData, InvalidType, counted
from dkmeans.feature_columns.layout import Layout
from dkmeans.feature_columns.named import NamedValues
from dkmeans.prediction.per_chunk import ALL_DISTANCES, CLUSTER_INDEX, Task, predict
from dkmeans.scaling import Scaling


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What to do with a block of rows.

    Attributes:
        task: What to predict: one result.
        scaling: Means and deviations by which the rows are standardized; None for none.
    """

    task: Task
    scaling: Scaling | None = None


def of_array(array: Any, block: Block) -> Any:
    """Return the result of a task for a Dask array of rows, as a Dask array of the same blocks.

    Returns:
        (n,) int64 for `cluster_index`, (n, k) float32 for `all_distances`.

    Raises:
        InvalidData: the rows are not as wide as the centers.
        InvalidType: the rows are not numbers.
    """
    if array.ndim != 2:
        raise InvalidData(f"rows must be 2-D (rows, columns), got shape {array.shape}")
    if array.dtype.kind not in "fiub":
        raise InvalidType(f"rows must hold real numbers, got dtype {array.dtype}")
    _check_width(array.shape[1], block)
    meta = _without_rows(block)
    blocks: dict[str, Any] = {"drop_axis": 1}
    if meta.ndim == 2:
        blocks = {"chunks": (array.chunks[0], (meta.shape[1],))}
    return array.rechunk({1: -1}).map_blocks(_of_block, _held_once(block), meta=meta, **blocks)


def of_frame(frame: Any, block: Block, columns: Names) -> Any:
    """Return the result of a task for a Dask data frame, with its index and partitions.

    It reads `columns` in the model's order; None for all.

    Returns:
        A series `cluster_index` of int64, or a data frame of float32 with a column for each center.

    Raises:
        InvalidData: the rows are not as wide as the centers.
        InvalidType: a column does not hold numbers.
    """
    named = labeled_by_text(frame)
    chosen = named if columns is None else named[list(columns)]
    schema = schema_of_dask(chosen, "the data frame")
    _check_width(sum(schema.widths), block)
    return _of_partitions(chosen, block, partial(stacked, schema=schema))


def of_features(frame: Any, block: Block, layout: Layout) -> Any:
    """Return the result of a task for the rows that feature columns make, as `of_frame` does.

    Raises:
        InvalidData: the rows are not as wide as the centers.
        Invalid: a column is missing.
    """
    named = labeled_by_text(frame)
    layout.check_keys(named.columns, "the data frame")
    _check_width(layout.width, block)
    chosen = named[list(layout.keys)]
    return _of_partitions(chosen, block, partial(_rows_of_features, layout=layout))


def _of_partitions(frame: Any, block: Block, read: Callable[..., Any]) -> Any:
    """Return the result of a task for a Dask data frame.

    `read` is a function of a partition and, for messages, its `name`; it returns the rows.
    """
    meta = _with_index(_without_rows(block), frame._meta)
    return frame.map_partitions(_of_partition, _held_once(block), read, meta=meta)


def _held_once(block: Block) -> Any:
    """Return a task of Dask that holds a value, so that the graph has the value once."""
    return dask.delayed(block, pure=True, traverse=False)


def _check_width(width: int, block: Block) -> None:
    centers = block.task.centers
    if width != centers.width:
        columns = counted(centers.width, "column")
        raise InvalidData(f"rows must have {columns}, as the centers have, got {width}")


def _without_rows(block: Block) -> NDArray[Any]:
    """Return the result of a task for no rows."""
    task = block.task
    if task.names == (ALL_DISTANCES,):
        return np.empty((0, len(task.centers.values)), np.float32)
    return np.empty(0, np.int64)


def _of_block(rows: Any, block: Block, block_id: tuple[int, ...]) -> NDArray[Any]:
    """Return the result of a task for a block of a Dask array. Runs on a worker.

    Dask passes `block_id`, the place of the block in the array.

    Raises:
        InvalidData: the rows are not finite.
    """
    return _predicted(rows, block, f"block {block_id[0]} of the rows")


def _predicted(rows: Any, block: Block, name: str) -> NDArray[Any]:
    """Return the result of a task for some rows; `name` is theirs, for messages."""
    if not len(rows):
        return _without_rows(block)
    source: Source = MemoryRows(rows, name)
    if block.scaling is not None:
        source = ScaledRows(source, block.scaling)
    (result,) = predict(Chunk(source, 0, len(rows)).loaded(), block.task).values()
    return result


def _of_partition(
    partition: Any,
    block: Block,
    read: Callable[..., Any],
    partition_info: dict[str, Any] | None = None,
) -> Any:
    """Return the result of a task for a partition of a data frame. Runs on a worker.

    Dask passes `partition_info`, which has the number of the partition.
    """
    name = partition_name("the data frame", partition_info)
    return _with_index(_predicted(read(partition, name=name), block, name), partition)


def _with_index(result: NDArray[Any], partition: Any) -> Any:
    """Return a result as a series or data frame of pandas, with the index of a partition."""
    import pandas as pd  # noqa: PLC0415 only a process with Dask's data frames has it

    if result.ndim == 2:
        return pd.DataFrame(result, index=partition.index)
    return pd.Series(result, index=partition.index, name=CLUSTER_INDEX)


def _rows_of_features(partition: Any, layout: Layout, name: str) -> Any:
    """Return the rows that feature columns make of a partition."""
    arrays = arrays_of(partition, layout.keys, name)
    values = {
        key: NamedValues(array if array.ndim == 2 else array[:, None], key, name, 0)
        for key, array in arrays.items()
    }
    return layout.rows(values)
