"""Data frames of pandas and Dask: their columns as arrays, and the rows of all columns as one.

`input_fn` calls this module; `arrays_of` is for an input with feature columns. Neither library is
imported: a data frame is recognised by its attributes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from dkmeans.data.columns import Names
from dkmeans.errors import InvalidData, InvalidType

# Kinds of NumPy's dtypes that are numbers. The nullable dtypes of pandas have the same kinds.
_NUMBERS = "fiub"


def is_frame(given: Any) -> bool:
    """Return whether an object is a data frame of pandas or Dask."""
    return all(hasattr(given, name) for name in ("columns", "dtypes", "iloc"))


def names_of(table: Any) -> Names:
    """Return the names of a table's columns; None if it has none, or not all are words.

    The columns of a data frame that is made of an array are numbered: those are no names.
    """
    found = getattr(table, "column_names", None)  # of a table of Arrow
    found = getattr(table, "columns", None) if found is None else found
    if found is None or callable(found):
        return None
    names = tuple(found)
    return names if names and all(isinstance(name, str) for name in names) else None


def rows_of(frame: Any, name: str, columns: Names = None) -> tuple[Any, Names]:
    """Return columns of a data frame side by side, and their names.

    Args:
        frame: The data frame.
        name: Name of the data frame, for messages.
        columns: Names of the columns, in order; None for all.

    Raises:
        InvalidType: a column does not hold numbers.
        InvalidData: a value of a column is missing, or two columns have one name.
    """
    names = names_of(frame)
    if names and (twice := [each for each in dict.fromkeys(names) if names.count(each) > 1]):
        raise InvalidData(
            f"the columns of {name} must have different names, got {', '.join(map(repr, twice))} "
            "several times"
        )
    chosen = frame if columns is None else frame[list(columns)]
    return table_of(chosen, name), columns or names


def table_of(frame: Any, name: str) -> Any:
    """Return all columns of a data frame side by side, as a 2-D array of numbers.

    The result for a Dask data frame is a Dask array of unknown numbers of rows.

    Args:
        frame: The data frame.
        name: Name of the data frame, for messages.

    Raises:
        InvalidType: a column does not hold numbers.
        InvalidData: a value of a column is missing.
    """
    columns = list(zip(frame.columns, frame.dtypes, strict=True))
    refused = [f"{label!r} ({kind})" for label, kind in columns if kind.kind not in _NUMBERS]
    if refused:
        raise InvalidType(
            f"the columns of {name} must hold numbers, got {', '.join(refused)}; leave them out, "
            "or convert them to numbers"
        )
    if not hasattr(frame, "to_dask_array"):
        return _stacked(frame, name)
    dtype = np.result_type(*(_numpy_dtype(kind) for _, kind in columns)) if columns else None
    meta = np.empty((0, len(columns)), dtype)
    return frame.map_partitions(_stacked, f"a partition of {name}", meta=meta)


def _stacked(frame: Any, name: str) -> Any:
    """Return the columns of a pandas data frame of numbers side by side."""
    kinds = set(frame.dtypes)
    if len(kinds) == 1 and isinstance(next(iter(kinds)), np.dtype):
        return frame.to_numpy()  # without a copy, where pandas has the values side by side
    columns = []
    for place, (label, kind) in enumerate(zip(frame.columns, frame.dtypes, strict=True)):
        column = frame.iloc[:, place]
        if not isinstance(kind, np.dtype) and column.isna().any():
            row = int(np.flatnonzero(column.isna())[0])
            raise InvalidData(f"rows must be whole; row {row} of {name} has no {label!r} ({kind})")
        columns.append(column.to_numpy(dtype=_numpy_dtype(kind)))
    return np.column_stack(columns) if columns else frame.to_numpy()


def _numpy_dtype(kind: Any) -> np.dtype[Any]:
    """Return the dtype of NumPy for a dtype of pandas that holds numbers."""
    dtype: np.dtype[Any] = np.dtype(
        getattr(kind, "numpy_dtype", None) or getattr(kind, "subtype", None) or kind
    )
    return dtype


def arrays_of(frame: Any, keys: Sequence[str]) -> dict[str, Any]:
    """Return some columns of a data frame as arrays by name.

    The columns of a Dask data frame are Dask arrays. A Dask data frame does not know how many rows
    its partitions have, so this call computes them to count the rows.
    """
    if not hasattr(frame, "to_dask_array"):
        return {key: _array(frame[key]) for key in keys}
    frame = frame[list(keys)]
    lengths = tuple(frame.map_partitions(len, meta=(None, "int64")).compute())
    with warnings.catch_warnings():  # Dask warns that text becomes an array of objects
        warnings.filterwarnings("ignore", "Dask currently has limited support", UserWarning)
        return {key: frame[key].to_dask_array(lengths=lengths) for key in keys}


def _array(column: Any) -> Any:
    """Return a column of pandas as a NumPy array, with integers exact."""
    values = column.to_numpy()
    # pandas makes floats of integers with missing values, and floats round large integers.
    if column.dtype.kind in "iu" and values.dtype.kind == "f":
        values = column.to_numpy(dtype=object)
    return values
