"""Data frames and other tables with names: their columns side by side, as rows.

A data frame of this process is read as Arrow, by the interface that pandas, polars, pyarrow and
others share (`__arrow_c_stream__`); none of these libraries is imported. A Dask data frame stays a
collection: each partition is read in the same way, on the worker that computes it. `input_fn` and
`dataset` call this module; `arrays_of` is for an input with feature columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dkmeans.data.columns import Names, described
from dkmeans.data.points import as_points, point_dtype
from dkmeans.data.sources.arrow_values import (
    ROWS_AT_ONCE,
    dtype_of,
    fill,
    hold_no_numbers,
    holds_numbers,
    index_columns,
    is_list,
    type_name,
    values_of,
    with_gaps,
    with_nan,
    without_extension,
    without_views,
)
from dkmeans.data.sources.labeled import is_data_array, labels_of, selected
from dkmeans.errors import InvalidData, InvalidType
from dkmeans.extras import is_of


class RowSchema(NamedTuple):
    """How the columns of a table make a row.

    Attributes:
        columns: Names of the columns, in order.
        widths: Number of values of each column in a row.
        dtype: Dtype of a row.
    """

    columns: tuple[str, ...]
    widths: tuple[int, ...]
    dtype: np.dtype[Any]


def is_frame(given: Any) -> bool:
    """Return whether an object is a table with columns: a data frame, or an array of xarray."""
    # Series have the interface of Arrow too, and readers of batches are iterators.
    is_table = hasattr(given, "__arrow_c_stream__") and hasattr(given, "columns")
    return is_table or is_data_array(given) or is_dask_frame(given)


def is_dask_frame(given: Any) -> bool:
    """Return whether an object is a Dask data frame."""
    return is_of(given, "dask.dataframe", "DataFrame")


def is_dask_series(given: Any) -> bool:
    """Return whether an object is a column of a Dask data frame."""
    return is_of(given, "dask.dataframe", "Series")


def names_of(table: Any) -> Names:
    """Return the names of a table's columns; None if it has none.

    The columns of a data frame that is made of an array are numbered: those are no names. Other
    labels, such as dates or the tuples of several levels, become text as in Parquet.
    """
    if is_data_array(table):
        return labels_of(table)
    if isinstance(table, pa.Table | pa.RecordBatch):
        index = index_columns(table.schema)
        found = [name for name in table.schema.names if name not in index]
    else:
        found = list(table.columns) if is_frame(table) else []
    # `all` is true of no names too: such a table gives None.
    return None if all(isinstance(each, Number) for each in found) else tuple(map(_text, found))


def _text(label: Any) -> str:
    """Return the label of a column as pyarrow writes it."""
    return str(tuple(map(str, label))) if isinstance(label, tuple) else str(label)


def labeled_by_text(frame: Any) -> Any:
    """Return a data frame of pandas or Dask with the labels that `names_of` returns, if any."""
    names = names_of(frame)
    if names is None or names == tuple(frame.columns):
        return frame
    renamed = frame.copy(deep=False)
    renamed.columns = list(names)
    return renamed


def rows_of(
    frame: Any, name: str, columns: Names = None, *, has_weights: bool = False
) -> tuple[Any, Names]:
    """Return columns of a table side by side, and their names.

    Args:
        frame: The table, of any kind for which `is_frame` is true.
        name: Name of the table, for messages.
        columns: Names of the columns, in order; None for all.
        has_weights: True if the rows have weights: those of weight zero may lack values or have
            some that are not finite, so such values are refused only where rows are computed.

    Returns:
        A 2-D array of numbers, and the names; None if the columns have none. The array of a Dask
        data frame is a Dask array of unknown numbers of rows.

    Raises:
        InvalidType: a column does not hold numbers.
        InvalidData: a value of a column is missing, or two columns have one name.
    """
    names = names_of(frame)
    if names and (twice := [each for each in dict.fromkeys(names) if names.count(each) > 1]):
        several = ", ".join(map(repr, twice))
        raise InvalidData(
            f"the columns of {name} must have different names, got {several} several times"
        )
    if is_data_array(frame):
        return selected(frame, columns), columns or names
    if is_dask_frame(frame):
        named = labeled_by_text(frame)
        chosen = named if columns is None else named[list(columns)]
        schema = schema_of_dask(chosen, name)
        rows = _stacked_lazily(chosen, schema, name, has_weights)
    else:
        table = arrow_table(frame, columns, name)
        if not len(table):  # libraries give columns without values any type
            return np.empty((0, max(1, table.num_columns))), columns or names
        schema = _schema_of(table, name)
        rows = _stacked(table, schema, name, has_weights)
    return rows, described(schema.columns, schema.widths) if names else None


def arrow_table(frame: Any, columns: Names, name: str) -> pa.Table:
    """Return columns of a data frame of this process as a table of Arrow.

    Raises:
        InvalidType: Arrow cannot read the data frame.
    """
    if hasattr(frame, "iloc"):  # of pandas
        frame = labeled_by_text(frame)
        # pandas makes arrays of Arrow below. That may be impossible for the other columns.
        frame = frame if columns is None else frame[list(columns)]
    try:
        table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        reason = ": ".join(map(str, reversed(error.args)))
        raise InvalidType(f"{name} must be a table that Arrow can read: {reason}") from error
    if columns is not None:
        return without_views(table.select(list(columns)))
    return without_views(table.drop_columns(index_columns(table.schema)))


def _schema_of(table: pa.Table, name: str) -> RowSchema:
    """Return how the columns of a table make a row.

    Raises:
        InvalidType: a column does not hold numbers.
    """
    kinds = [without_extension(kind) for kind in table.schema.types]
    widths = tuple(map(_width, kinds, table.columns))
    fields = zip(table.schema, kinds, widths, strict=True)
    others = [f for f, kind, width in fields if not (holds_numbers(kind) and width)]
    if others:
        columns = [(field.name, type_name(field.type)) for field in others]
        remedy = "leave them out, or give feature_columns, which read what input_fn returns"
        raise hold_no_numbers(columns, name, remedy)
    dtype = np.result_type(*map(dtype_of, kinds)) if kinds else np.dtype(np.float32)
    return RowSchema(tuple(table.schema.names), widths, dtype)


def _width(kind: pa.DataType, column: pa.ChunkedArray) -> int:
    """Return the number of values of a column in a row; 0 for lists of an unknown length."""
    if not is_list(kind):
        return 1
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    first = next((each for each in column if each.is_valid), None)
    return 0 if first is None else len(first)


def _stacked(
    table: pa.Table, schema: RowSchema, name: str, has_weights: bool = False
) -> NDArray[Any]:
    """Return the columns of a table side by side, row after row in memory.

    Raises:
        InvalidData: the rows have no weights, and a value is missing or not finite.
    """
    rows = np.empty((table.num_rows, sum(schema.widths)), schema.dtype)
    missing = np.zeros(rows.shape, bool) if has_weights else None
    first = 0
    for piece in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        some = slice(first, first + len(piece))
        if missing is None:
            fill(rows[some], piece, schema.columns, schema.widths, first, name)
            _check_finite(rows[some], schema, first, name)
        else:
            fill(rows[some], piece, schema.columns, schema.widths, first, name, missing[some])
        first += len(piece)
    return rows if missing is None else with_nan(rows, missing, name)


def _check_finite(rows: NDArray[Any], schema: RowSchema, first: int, name: str) -> None:
    """Refuse rows with a value that is not finite, by the name of its column.

    Raises:
        InvalidData: a value is not finite.
    """
    wrong = np.argwhere(~np.isfinite(rows))
    if len(wrong):
        row, place = wrong[0].tolist()
        column = schema.columns[int(np.searchsorted(np.cumsum(schema.widths), place, "right"))]
        raise InvalidData(
            f"rows must be finite; row {first + row} of {name} has {rows[row, place]} in {column!r}"
        )


def schema_of_dask(frame: Any, name: str) -> RowSchema:
    """Return how the columns of a Dask data frame make a row.

    Raises:
        InvalidType: a column does not hold numbers.
    """
    return _schema_of(arrow_table(frame._meta, None, name), name)


def _stacked_lazily(frame: Any, schema: RowSchema, name: str, has_weights: bool) -> Any:
    """Return the rows of a Dask data frame, as a Dask array of unknown numbers of rows."""
    # With NaN for missing values, integers are floats.
    dtype = point_dtype(schema.dtype) if has_weights else schema.dtype
    meta = np.empty((0, sum(schema.widths)), dtype)
    return frame.map_partitions(_stacked_partition, schema, name, has_weights, meta=meta)


def _stacked_partition(
    partition: Any,
    schema: RowSchema,
    name: str,
    has_weights: bool,
    partition_info: dict[str, Any] | None = None,
) -> NDArray[Any]:
    """Return the rows of a partition of the data frame `name`. Runs on a worker.

    Dask passes `partition_info`, which has the number of the partition.
    """
    name = partition_name(name, partition_info)
    rows = stacked(partition, schema, name, has_weights)
    return as_points(rows, name) if has_weights else rows


def partition_name(name: str, partition_info: dict[str, Any] | None) -> str:
    """Return the name of a partition of the data frame `name`, with its number if Dask gives it."""
    which = "a partition" if partition_info is None else f"partition {partition_info['number']}"
    return f"{which} of {name}"


def stacked(
    partition: Any, schema: RowSchema, name: str, has_weights: bool = False
) -> NDArray[Any]:
    """Return the columns of a partition of a Dask data frame side by side. Runs on a worker.

    Raises:
        InvalidType: a column does not hold numbers, or holds other ones than the data frame
            declares, which would be rounded or overflow.
        InvalidData: the rows have no weights, and a value is missing or not finite.
    """
    table = arrow_table(partition, None, name)
    if len(table):
        _check_declared(_schema_of(table, name).dtype, schema.dtype, name)
    return _stacked(table, schema, name, has_weights)


def _check_declared(found: np.dtype[Any], declared: np.dtype[Any], name: str) -> None:
    """Refuse a partition whose numbers the declared dtype does not hold.

    Integers become floats exactly, or are refused one by one (`arrow_values.fill`).

    Raises:
        InvalidType: the dtype does not hold them.
    """
    if np.can_cast(found, declared) or (found.kind in "iub" and declared.kind == "f"):
        return
    raise InvalidType(
        f"{name} must have columns of the dtype that the data frame declares (meta), {declared}, "
        f"got {found}; convert the columns by astype"
    )


def arrays_of(frame: Any, keys: Sequence[str], name: str) -> dict[str, Any]:
    """Return some columns of a data frame as arrays by name, of numbers or words, with gaps.

    The columns of a Dask data frame are Dask arrays of unknown numbers of rows.

    Raises:
        InvalidType: Arrow cannot read the columns.
        InvalidData: a list of a column has another length than the first one.
    """
    if is_dask_frame(frame):
        with warnings.catch_warnings():  # Dask warns that text becomes an array of objects
            warnings.filterwarnings("ignore", "Dask currently has limited support", UserWarning)
            named = labeled_by_text(frame)
            return {key: _with_zone(named[key]).to_dask_array() for key in keys}
    table = arrow_table(frame, tuple(keys), name)
    return {key: _array(table.column(key), key, name) for key in keys}


def _with_zone(column: Any) -> Any:
    """Return a column of a Dask data frame, with times that keep their zone as objects."""
    has_zone = getattr(column.dtype, "tz", None) is not None
    return column.astype(object) if has_zone else column


def _array(column: pa.ChunkedArray, key: str, name: str) -> NDArray[Any]:
    """Return a column of numbers or words, (n,) or (n, w), in which values may be missing."""
    width = _width(without_extension(column.type), column)
    whole = column.combine_chunks()
    whole = pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
    values = with_gaps(values_of(whole, key, width, 0, name, has_gaps=True))
    return values if width == 1 else values.reshape(-1, width)
