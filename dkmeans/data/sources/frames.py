"""Data frames, of pandas and of Dask: named columns as arrays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any


def is_frame(given: Any) -> bool:
    """Whether it is a data frame; nothing is imported to tell."""
    return all(hasattr(given, name) for name in ("columns", "dtypes", "iloc"))


def arrays_of(frame: Any, keys: Sequence[str]) -> dict[str, Any]:
    """Some columns of a data frame, each an array: of a Dask data frame, a Dask array."""
    if not hasattr(frame, "to_dask_array"):
        return {key: _array(frame[key]) for key in keys}
    frame = frame[list(keys)]
    lengths = tuple(frame.map_partitions(len, meta=(None, "int64")).compute())
    with warnings.catch_warnings():  # that words become objects
        warnings.filterwarnings("ignore", "Dask currently has limited support", UserWarning)
        return {key: frame[key].to_dask_array(lengths=lengths) for key in keys}


def _array(column: Any) -> Any:
    """A column of pandas: integers with gaps stay integers, and exact."""
    values = column.to_numpy()
    if column.dtype.kind in "iu" and values.dtype.kind == "f":
        values = column.to_numpy(dtype=object)
    return values
