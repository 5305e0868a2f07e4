"""Columns of the input that are written beside the predictions, such as the ids of the rows.

Rows are arrays of numbers, so columns that are kept are read beside the rows, in types of Arrow.
The task that writes a region reads columns of Parquet, Zarr and Dask again. Columns of a data frame
or of arrays in memory are sent to the task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import zarr

from dkmeans.data.arrays import column_chunks
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.data.sources.dask_array import is_dask_array
from dkmeans.data.sources.frames import (
    arrays_of,
    arrow_table,
    is_dask_frame,
    is_frame,
    names_of,
)
from dkmeans.data.sources.labeled import is_data_array, selected
from dkmeans.data.sources.named_rows import NamedRows
from dkmeans.data.views import Joined, RowView
from dkmeans.errors import Invalid, InvalidData, InvalidType, counted
from dkmeans.feature_columns.layout import FeatureRows
from dkmeans.prediction.regions import Region

# Columns of a table in memory, or columns that are read again, by name.
KeptColumns: TypeAlias = "pa.Table | dict[str, Batch]"

# Number of rows whose digest is computed at a time.
_DIGEST_ROWS = 2**16


def kept_of(batch: Batch, table: Any, names: Sequence[str]) -> KeptColumns | None:
    """Return columns of an input.

    Args:
        batch: The rows.
        table: The data frame, dict or group that the rows are of; None for another input.
        names: Names of the columns.

    Returns:
        The columns; None if the sources of the rows have them.

    Raises:
        InvalidType: the input has no names, or its rows are not in order.
        Invalid: a column is missing.
        InvalidData: a column has another number of values than there are rows.
    """
    if table is None:
        kept_columns(batch[0].cut(0, 0), names)
        return None
    given = _names_in(table)
    if missing := [name for name in names if name not in given]:
        known = ", ".join(map(str, given))
        raise Invalid(f"keep must be among the columns of the input ({known}), got {missing}")
    kept = _columns(table, names)
    for name in names:
        rows = kept.num_rows if isinstance(kept, pa.Table) else kept[name].rows
        if rows != batch.rows:
            must = counted(batch.rows, "value")
            raise InvalidData(f"column {name!r} to keep must have {must}, got {rows}")
    return kept


def _names_in(table: Any) -> Sequence[Any]:
    if isinstance(table, zarr.Group):
        return [name for name, _ in table.arrays()]
    return list(table) if isinstance(table, Mapping) else list(names_of(table) or ())


def _columns(table: Any, names: Sequence[str]) -> KeptColumns:
    if is_data_array(table):
        table = {name: selected(table, (name,))[:, 0] for name in names}
    if is_frame(table) and not is_dask_frame(table):
        return arrow_table(table, tuple(names), "the input")
    lazy = arrays_of(table, names, "the input") if is_dask_frame(table) else table
    columns: dict[str, Any] = {name: lazy[name] for name in names}
    if any(isinstance(each, zarr.Array) or is_dask_array(each) for each in columns.values()):
        return {name: column_chunks(each, name) for name, each in columns.items()}
    return pa.table({name: _as_column(np.asarray(each)) for name, each in columns.items()})


def _as_column(values: Any) -> pa.Array:
    """Return an array, (n,) or (n, w), as a column of Arrow."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(_as_column(values.ravel()), values.shape[1])
    if values.dtype.kind in "biufMm":  # Arrow has no other order of bytes than the machine's
        return pa.array(values.astype(values.dtype.newbyteorder("="), copy=False))
    try:
        # What pandas calls missing is null.
        return pa.array(values.tolist(), from_pandas=True)
    except pa.ArrowException as error:
        must = "of columns of numbers, words, dates or lists of them"
        raise InvalidType(f"keep must be {must}, got {values.dtype}") from error


def digest_of(kept: pa.Table) -> str:
    """Return a digest of columns in memory: of their types and their values."""
    digest = sha256(str(kept.schema).encode())
    for piece in kept.combine_chunks().to_batches(max_chunksize=_DIGEST_ROWS):
        # Not the batch alone, which has no categories.
        digest.update(_as_stream(pa.Table.from_batches([piece])))
    return digest.hexdigest()


def with_columns(regions: Sequence[Chunk], kept: KeptColumns | None) -> Iterator[Chunk]:
    """Yield the regions, each with the part of the kept columns that its task needs."""
    for region in regions:
        assert isinstance(region.source, Region)  # for the type checker
        if kept is None:
            yield region
        elif isinstance(kept, pa.Table):
            part = _as_stream(kept.slice(region.start, region.rows))
            yield replace(region, source=replace(region.source, kept=part))
        else:
            cut = tuple(
                (name, column.rows_between(region.start, region.stop))
                for name, column in kept.items()
            )
            yield replace(region, source=replace(region.source, kept=cut))


def _as_stream(table: pa.Table) -> bytes:
    """Return a table as bytes; a part of a larger table would be pickled with all of it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def kept_columns(chunk: Chunk, names: Sequence[str]) -> pa.Table:
    """Return columns of the input of a chunk, as a table of the same rows. Runs on a worker.

    Raises:
        InvalidType: the rows have no such columns: they are of an array, or not in order.
        InvalidData: a file cannot be read, or has changed.
        Invalid: a column is missing.
    """
    source = chunk.source
    if isinstance(source, Region) and source.kept:
        if isinstance(source.kept, bytes):
            return pa.ipc.open_stream(source.kept).read_all().select(list(names))
        columns = dict(source.kept)
        return pa.table({name: _read(columns[name]) for name in names})
    if isinstance(source, NamedRows):
        return source.table(names, chunk.start, chunk.stop)
    if isinstance(source, Joined):  # a region is a whole one
        tables = [kept_columns(part, names) for part in source.parts]
        return pa.concat_tables(tables, promote_options="permissive")
    if isinstance(source, RowView):
        return kept_columns(replace(chunk, source=source.source), names)
    if isinstance(source, FeatureRows):
        low, high = chunk.start - source.first, chunk.stop - source.first
        return kept_columns(source.parts[0].cut(low, high), names)
    raise InvalidType(
        f"keep must come with rows whose columns have names, not shuffled, got {source.name}: "
        "return a data frame, a dict of columns, a group of Zarr or a Dataset of Parquet"
    )


def _read(column: Batch) -> pa.Array:
    return _as_column(np.concatenate([np.asarray(chunk.values()) for chunk in column]))
