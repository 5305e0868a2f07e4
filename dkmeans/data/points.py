"""Points: rows made ready to compute with, in float32 or float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans.errors import InvalidData, InvalidType
from dkmeans.state import FloatArray

# float32 holds every integer up to here, and not every one above.
_LARGEST_EXACT_INTEGER = 2**24


def as_array(values: Any, name: str) -> NDArray[Any]:
    """Values as a NumPy array.

    Raises:
        InvalidData: they are rows of different lengths, or some are masked.
    """
    if np.ma.is_masked(values):
        raise InvalidData(f"{name} must have no masked values; fill them first")
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InvalidData(f"{name} must be a table of numbers: {error}") from error


def as_points(values: Any, name: str) -> FloatArray:
    """Values as (n, d) rows to compute with, contiguous.

    float32 and float64 stay as they are; other real dtypes become float32.

    Raises:
        InvalidType: the values are not real numbers.
        InvalidData: they are not 2-D, or hold an integer that float32 does not.
    """
    values = as_array(values, name)
    if values.dtype.kind not in "fiub":
        raise InvalidType(f"{name} must hold real numbers, got dtype {values.dtype}")
    if values.ndim != 2:
        raise InvalidData(f"{name} must be 2-D (rows, columns), got shape {values.shape}")
    if values.dtype.kind in "iu" and values.dtype.itemsize > 2 and values.size:
        low, high = int(values.min()), int(values.max())
        largest = low if -low > high else high
        if abs(largest) > _LARGEST_EXACT_INTEGER:
            raise InvalidData(
                f"{name} must hold integers that float32 holds exactly, up to "
                f"{_LARGEST_EXACT_INTEGER}; got {largest}. Convert the rows to float64, or scale "
                "the columns"
            )
    return np.ascontiguousarray(values, dtype=point_dtype(values.dtype))


def point_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """The dtype in which rows of this dtype are computed: float64 stays, the rest is float32."""
    dtype = np.dtype(dtype)
    is_wide = dtype.kind == "f" and dtype.itemsize == np.dtype(np.float64).itemsize
    return np.dtype(np.float64 if is_wide else np.float32)
