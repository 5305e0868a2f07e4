"""Data frames of pandas and Dask: their columns as arrays.

`input_fn` calls this module for an input with feature columns. Neither library is imported: a data
frame is recognised by its attributes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any


def is_frame(given: Any) -> bool:
    """Return whether an object is a data frame of pandas or Dask."""
    return all(hasattr(given, name) for name in ("columns", "dtypes", "iloc"))


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
