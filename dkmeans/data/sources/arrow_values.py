"""Columns of Arrow as rows: which types hold numbers or words, and their values without gaps.

`named_rows` makes rows of files, and `frames` of data frames, with the functions here. A column of
lists of one length gives several values to each row. Missing values are refused by row and column,
except where feature columns read a column by itself: they decide what a missing value becomes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dkmeans.data.points import as_points
from dkmeans.errors import InvalidData, InvalidType, counted
from dkmeans.retry import first_line

# Number of rows that are decoded or converted at a time.
ROWS_AT_ONCE = 2**16
# Below this integer float64 represents every integer exactly.
LARGEST_EXACT = 2**53
# Names that pandas and Dask give to an index without a name.
_INDEX_NAME = re.compile(r"__index_level_[0-9]+__|__null_dask_index__")


def index_columns(schema: pa.Schema) -> list[str]:
    """Return the names of the columns that hold an index of pandas or Dask.

    The metadata `pandas` of the schema names them; an index that is a range is no column but a
    dict there. Other programs that rewrite a file keep the column and lose the metadata, so names
    that only pandas and Dask give count too.
    """
    try:
        named = json.loads((schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
        named = [name for name in named if isinstance(name, str)]
    except (ValueError, AttributeError, TypeError):  # not what pandas writes
        named = []
    return [name for name in schema.names if name in named or _INDEX_NAME.fullmatch(name)]


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is one of lists."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def without_extension(kind: pa.DataType) -> pa.DataType:
    """Return the list type in which a column of vectors (1-D tensors) is stored, or another type.

    Tensors of more dimensions stay as they are: they may be stored in any order.
    """
    is_vector = isinstance(kind, pa.FixedShapeTensorType) and len(kind.shape) == 1
    return kind.storage_type if is_vector else kind


def list_width(kind: pa.DataType, pieces: Iterator[pa.RecordBatch]) -> int:
    """Return the number of values in a row of a column: for lists, the length of the first list.

    Rows of the column are read only if its type does not say the length.
    """
    if not is_list(kind):
        return 1
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    lengths = next(piece.column(0).value_lengths() for piece in pieces if len(piece))
    return int(lengths[0].as_py() or 0)


def holds_numbers(kind: pa.DataType) -> bool:
    """Return whether a type is one of numbers or booleans, or of lists or a dictionary of them."""
    value = _single_type(kind)
    tests = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal, pa.types.is_boolean)
    return any(test(value) for test in tests)


def holds_words(kind: pa.DataType) -> bool:
    """Return whether a type is one of strings or bytes, or of lists or a dictionary of them."""
    return _is_words(_single_type(kind))


def _single_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a column, one level of lists and of a dictionary down."""
    if is_list(kind):  # one level only: lists of lists are neither numbers nor words
        kind = kind.value_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_words(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    bytes_tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(test(kind) for test in (*tests, *bytes_tests))


def without_views(table: pa.Table) -> pa.Table:
    """Return a table whose dictionaries hold plain strings: Arrow cannot take views from them."""
    for number, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type) and pa.types.is_string_view(field.type.value_type):
            chunks = [
                pa.DictionaryArray.from_arrays(
                    chunk.indices, chunk.dictionary.cast(pa.large_string())
                )
                for chunk in table.column(number).chunks
            ]
            kind = pa.dictionary(field.type.index_type, pa.large_string())
            table = table.set_column(number, field.name, pa.chunked_array(chunks, kind))
    return table


def dtype_of(kind: pa.DataType) -> np.dtype[Any]:
    """Return the dtype that a column is read as. `as_points` converts integers later."""
    value = _single_type(kind)
    if _is_words(value):
        return np.dtype(object)
    if pa.types.is_decimal(value):
        return np.dtype(np.float64)
    if pa.types.is_boolean(value):
        return np.dtype(np.bool_)
    # Not `to_pandas_dtype`: some versions of Arrow need pandas for it.
    letter = "f" if pa.types.is_floating(value) else "i"
    letter = "u" if pa.types.is_unsigned_integer(value) else letter
    return np.dtype(f"{letter}{value.bit_width // 8}")


def hold_no_numbers(
    columns: Iterable[tuple[str, Any]],
    name: str,
    remedy: str = "name the columns to use, or give feature_columns",
) -> InvalidType:
    """Return the error for columns, as names and types, that cannot be parts of rows."""
    shown = ", ".join(f"{column!r} ({kind})" for column, kind in columns)
    return InvalidType(f"columns {shown} of {name} hold no numbers; {remedy}")


def type_name(kind: pa.DataType) -> str:
    """Return the name of a type, for messages."""
    return str(kind).removeprefix("large_").removesuffix("_view")


def fill(
    rows: NDArray[Any],
    piece: pa.RecordBatch,
    columns: Sequence[str],
    widths: Sequence[int],
    first: int,
    name: str,
    missing: NDArray[np.bool_] | None = None,
) -> None:
    """Write columns side by side into an array.

    Args:
        rows: The array, (n, d).
        piece: The columns, of n rows.
        columns: Names of the columns to write, in order.
        widths: Number of values of each column in a row.
        first: Number of the first row, for messages.
        name: Name of the table, for messages.
        missing: Gets True for each missing value, (n, d), which is zero in `rows`. None refuses
            missing values.

    Raises:
        InvalidData: as `values_of` does, or an integer is too large to be held exactly.
    """
    left, has_gaps = 0, missing is not None
    for column, width in zip(columns, widths, strict=True):
        values = values_of(piece.column(column), column, width, first, name, has_gaps=has_gaps)
        if missing is not None and values.null_count:
            missing[:, left : left + width] = _numbers_of(values.is_null()).reshape(-1, width)
            values = values.fill_null(pa.scalar(0).cast(values.type))
        if pa.types.is_integer(values.type) and rows.dtype.kind == "f":
            _refuse_inexact(values, rows.dtype, column, name)
        rows[:, left : left + width] = _numbers_of(values).reshape(-1, width)
        left += width


def with_nan(rows: NDArray[Any], missing: NDArray[np.bool_], name: str) -> NDArray[Any]:
    """Return rows with NaN for missing values; integers then become floats, as all rows do later.

    Raises:
        InvalidData: an integer is too large to be held exactly.
    """
    if missing.any():
        rows = as_points(rows, name)
        rows[missing] = np.nan
    return rows


def _refuse_inexact(values: pa.Array, dtype: np.dtype[Any], column: str, name: str) -> None:
    """Refuse integers that would be rounded in a dtype of floats, the common one of all columns.

    Raises:
        InvalidData: there is one.
    """
    try:
        values.cast(pa.from_numpy_dtype(dtype))
    except pa.ArrowInvalid as error:
        raise InvalidData(
            f"column {column!r} of {name} must hold integers that {dtype} holds exactly: "
            f"{first_line(error)}. Leave the column out, or store it as {dtype}"
        ) from error


def _numbers_of(values: pa.Array) -> NDArray[Any]:
    """Return numbers without gaps as an array.

    Not by `to_numpy`, which imports pandas: each process would take half a second for that.
    """
    bits = pa.types.is_boolean(values.type)
    return np.from_dlpack(values.cast(pa.uint8()) if bits else values)


def values_of(
    values: pa.Array, column: str, width: int, first: int, name: str, *, has_gaps: bool = False
) -> pa.Array:
    """Return a column's values, row after row; refuse lists of wrong length and missing values.

    With `has_gaps` single values may be missing.

    Raises:
        InvalidData: a list has another length or no values, a value is missing, or a decimal of a
            type of whole numbers would be rounded.
    """
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    # A gap is a missing number or word. A missing list is refused even where gaps are allowed.
    if values.null_count and not (has_gaps and not is_list(values.type)):
        row = first + int(np.flatnonzero(values.is_null())[0])
        raise InvalidData(f"rows must be whole; row {row} of {name} has no {column!r}")
    if is_list(values.type):
        lengths = _numbers_of(values.value_lengths())
        if (lengths != width).any():
            row = int(np.flatnonzero(lengths != width)[0])
            raise InvalidData(
                f"the lists of column {column!r} must all have {counted(width, 'value')}, as the "
                f"first has; that of row {first + row} of {name} has {lengths[row]}"
            )
        if not width:
            raise InvalidData(
                f"the lists of column {column!r} must have values, those of {name} are empty"
            )
        values = values.flatten()
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if values.null_count and not has_gaps:
            row = first + int(np.flatnonzero(values.is_null())[0]) // width
            raise InvalidData(f"rows must be whole; row {row} of {name} has a gap in {column!r}")
    return _floats_of(values, column, name) if pa.types.is_decimal(values.type) else values


def _floats_of(decimals: pa.Array, column: str, name: str) -> pa.Array:
    """Return decimals as the nearest float64; decimals of whole numbers exactly.

    Raises:
        InvalidData: a decimal of a type of whole numbers would be rounded.
    """
    # By way of words: Arrow's direct cast is wrong in the last bit of many values.
    floats = decimals.cast(pa.string()).cast(pa.float64())
    if decimals.type.scale <= 0 and (pc.max(pc.abs(floats)).as_py() or 0) >= LARGEST_EXACT:
        for number in filter(None, decimals.to_pylist()):
            if Decimal(float(number)) != number:
                raise InvalidData(
                    f"column {column!r} of {name} must hold integers that float64 holds exactly; "
                    f"got {number}. Leave the column out, or store it as float64"
                )
    return floats


def with_gaps(values: pa.Array) -> NDArray[Any]:
    """Return values as an array in which missing ones are NaN or None.

    Integers with gaps become float64, or objects if float64 may not represent them exactly.
    """
    if values.null_count and pa.types.is_integer(values.type):
        extremes = pc.min_max(values).as_py()
        largest = max(abs(extremes["min"] or 0), abs(extremes["max"] or 0))
        if largest >= LARGEST_EXACT:
            return np.array(values.to_pylist(), object)
    array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return array
