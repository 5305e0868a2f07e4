"""Points: rows in the form that all computing needs, contiguous float32 or float64.

`Chunk.load` converts the rows of every source by `as_points`. `point_dtype` gives the dtype of the
result before anything is read. Integers are converted exactly or refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans.errors import Invalid, InvalidData, InvalidType
from dkmeans.retry import first_line
from dkmeans.state import FloatArray

# float32 holds every integer up to this one, but not all larger ones.
_LARGEST_EXACT_INTEGER = 2**24
_POINT_DTYPES = np.dtype(np.float32), np.dtype(np.float64)


def as_array(values: Any, name: str) -> NDArray[Any]:
    """Return values as a NumPy array.

    Small floats and integers of other libraries, such as bfloat16 of `ml_dtypes`, become float32:
    that is exact, and no process needs the library to read the rows.

    Raises:
        InvalidData: the values are rows of different lengths, or some are masked.
        InvalidType: the values cannot be converted, as tensors on a GPU cannot.
    """
    if has_masked(values):
        raise InvalidData(f"{name} must have no masked values; fill them first")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidData(f"{name} must be a table of numbers: {error}") from error
    except (MemoryError, Invalid):
        raise
    except Exception as error:  # each library of tensors has exceptions of its own
        raise InvalidType(
            f"{name} must be an array that NumPy can read, got {type(values).__name__}: "
            f"{first_line(error)}"
        ) from error
    is_foreign = array.dtype.kind == "V" and array.dtype.fields is None
    if is_foreign and np.can_cast(array.dtype, np.float32):
        return array.astype(np.float32)
    return array


def has_masked(values: Any) -> bool:
    """Return whether some values are masked. A data frame may have a column named `_mask`."""
    return isinstance(values, np.ma.MaskedArray) and bool(np.ma.is_masked(values))


def as_points(values: Any, name: str) -> FloatArray:
    """Return values as rows to compute with, (n, d), contiguous.

    float32 and float64 stay as they are, longdouble becomes float64; other real dtypes become
    float32.

    Raises:
        InvalidType: the values are not real numbers.
        InvalidData: they are not 2-D, or include an integer that float32 cannot represent, or a
            longdouble that float64 cannot represent.
    """
    # Most rows are what they should be, and small chunks cost little more than this function.
    if type(values) is np.ndarray and values.dtype in _POINT_DTYPES and values.ndim == 2:
        return np.ascontiguousarray(values)
    values = as_array(values, name)
    if values.dtype.kind not in "fiub":
        raise InvalidType(f"{name} must hold real numbers, got dtype {values.dtype}")
    if values.ndim != 2:
        raise InvalidData(f"{name} must be 2-D (rows, columns), got shape {values.shape}")
    # Integers of one or two bytes are always exact in float32.
    if values.dtype.kind in "iu" and values.dtype.itemsize > 2 and values.size:
        # Python integers: -low overflows in int64.
        low, high = int(values.min()), int(values.max())
        largest = low if -low > high else high
        if abs(largest) > _LARGEST_EXACT_INTEGER:
            raise InvalidData(
                f"{name} must hold integers that float32 holds exactly, up to "
                f"{_LARGEST_EXACT_INTEGER}; got {largest}. Convert the rows to float64, or scale "
                "the columns"
            )
    dtype = point_dtype(values.dtype)
    if values.dtype.kind == "f" and values.dtype.itemsize > dtype.itemsize:
        return as_dtype(values, dtype, name)
    return np.ascontiguousarray(values, dtype=dtype)


def as_dtype(values: NDArray[Any], dtype: np.dtype[Any], name: str) -> FloatArray:
    """Return real numbers in a dtype, contiguous, after checking that it can hold them.

    Values that are not finite stay as they are: the caller looks for them.

    Raises:
        InvalidData: a finite value is too large for the dtype.
    """
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(values, dtype=dtype)
    lost = np.isinf(converted) & np.isfinite(values)
    if lost.any():
        raise InvalidData(
            f"{name} must hold numbers that {dtype} holds, up to {np.finfo(dtype).max:.4g}; got "
            f"{values[lost][0]!s}"
        )
    return converted


def as_float64(values: Any, name: str) -> FloatArray:
    """Return values as float64, contiguous; integers exactly.

    Raises:
        InvalidData: an integer is one that float64 cannot represent.
    """
    values = as_array(values, name)
    converted = np.ascontiguousarray(values, dtype=np.float64)
    if values.dtype.kind in "iu" and values.dtype.itemsize > 4:
        # Back in integers: a comparison of integers with floats would round the integers again.
        with np.errstate(invalid="ignore"):
            inexact = np.flatnonzero(converted.astype(values.dtype) != values)
        if len(inexact):
            must = "hold integers that float64 holds exactly"
            raise InvalidData(f"{name} must {must}; got {values.flat[inexact[0]]}")
    return converted


def point_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype in which rows are computed.

    It is float64 for float64 and longdouble, and float32 for all others.
    """
    dtype = np.dtype(dtype)
    is_wide = dtype.kind == "f" and dtype.itemsize >= np.dtype(np.float64).itemsize
    return np.dtype(np.float64 if is_wide else np.float32)
