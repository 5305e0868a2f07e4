"""Arrays as chunks: the rows, a column or the weights that a user gives as an array of any kind.

`Dataset.from_array` and `input_fn` cut NumPy, Dask, Zarr and CuPy arrays here; a column may also be
a column of a data frame. The module of each kind in `sources/` reads the rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import zarr

from dkmeans.data.batches import Batch, Cut
from dkmeans.data.points import as_array
from dkmeans.data.sources.dask_array import from_dask, is_dask_array
from dkmeans.data.sources.frames import is_dask_series, is_frame, rows_of
from dkmeans.data.sources.memory import from_array
from dkmeans.data.sources.zarr_array import from_zarr_array
from dkmeans.errors import InvalidData, InvalidType, expected


def array_chunks(
    array: Any, name: str, *, allow_1d_zarr: bool = False, chunk_bytes: int | None = None
) -> Batch:
    """Return the chunks of a 2-D array of any kind that the library knows.

    With `allow_1d_zarr` a 1-D Zarr array is accepted, as a table of one column.

    Raises:
        InvalidData: the array is not 2-D.
        InvalidType: it is not an array.
    """
    return cut_of(array, name, allow_1d_zarr=allow_1d_zarr)(chunk_bytes)


def column_chunks(values: Any, name: str, chunk_bytes: int | None = None) -> Batch:
    """Return the chunks of a column of any kind of array, (n,), or of several, (n, w).

    Raises:
        InvalidData: the values are not 1-D or 2-D.
        InvalidType: they are no array.
    """
    if is_dask_series(values):
        values = values.to_frame()
    if is_frame(values):
        values, _ = rows_of(values, name)
    if not (isinstance(values, zarr.Array) or is_dask_array(values)):
        values = as_array(values, name)
    if values.ndim == 1 and not isinstance(values, zarr.Array):
        values = values[:, None]
    return array_chunks(values, name, allow_1d_zarr=True, chunk_bytes=chunk_bytes)


def weight_chunks(weights: Any, name: str, chunk_bytes: int | None = None) -> Batch:
    """Return the chunks of weights, (n,) or (n, 1), of any kind of array.

    Raises:
        InvalidData: they are a single number, or of another shape.
        InvalidType: they are no array.
    """
    if np.ndim(weights) == 0:
        raise InvalidData(expected(name, "one number for each row", weights))
    return column_chunks(weights, name, chunk_bytes)


def cut_of(array: Any, name: str, *, allow_1d_zarr: bool = False) -> Cut:
    """Return a function that cuts an array into chunks, with the errors of `array_chunks`."""
    if is_dask_array(array):
        check_table(name, array.shape)
        blocks = from_dask(array, name)
        return lambda _: blocks
    if isinstance(array, zarr.Array):
        if not (allow_1d_zarr and array.ndim == 1):
            check_table(name, array.shape)
        return from_zarr_array(array, name)
    if hasattr(array, "__cuda_array_interface__"):
        array = array.get()  # CuPy's copy to the host
    if hasattr(array, "toarray"):
        must = "dense, as its toarray() is"
        raise InvalidType(f"{name} must be {must}, got the sparse {type(array).__name__}")
    if not hasattr(array, "__array__"):
        raise InvalidType(expected(name, "a NumPy, Dask, Zarr or CuPy array", type(array).__name__))
    array = as_array(array, name)
    check_table(name, array.shape)
    return partial(from_array, array, name)


def check_table(name: str, shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape than (n, d) with d > 0."""
    if len(shape) != 2 or shape[1] == 0:
        raise InvalidData(
            f"{name} must be 2-D (rows, columns) with at least one column, got shape {shape}"
        )


def check_column(name: str, shape: tuple[int, ...]) -> None:
    """Refuse weights of another shape than (n,) or (n, 1)."""
    if len(shape) != 1 and shape[1:] != (1,):
        raise InvalidData(
            f"{name} must be one column of weights, (n,) or (n, 1), got shape {shape}"
        )
