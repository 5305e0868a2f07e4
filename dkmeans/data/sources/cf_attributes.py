"""Attributes by which xarray and other tools of the CF conventions say what stored numbers mean.

`zarr_array` calls this module on the driver. Packed numbers are refused: which dtype they unpack to
depends on the tool. Values that stand for missing ones are refused when a worker reads them.
"""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkmeans.errors import InvalidData

# Attributes of packed numbers, with the value that changes nothing.
_PACKING = {"scale_factor": 1, "add_offset": 0, "_Unsigned": None}
_MISSING = ("_FillValue", "missing_value")
# The attribute that xarray gives to each array of Zarr's version 2.
_OF_XARRAY = "_ARRAY_DIMENSIONS"


def refuse_packed(array: Any, name: str) -> None:
    """Refuse a Zarr array whose attributes say that its numbers are packed.

    Raises:
        InvalidData: they do.
    """
    found = {key: array.attrs[key] for key in _PACKING if key in array.attrs}
    packing = [f"{key} {value}" for key, value in found.items() if value != _PACKING[key]]
    if packing:
        raise InvalidData(
            f"{name} must hold unpacked numbers, got the attributes {', '.join(packing)}, which "
            "are not applied; unpack it with xarray, and store it again without this encoding or "
            "return it from input_fn"
        )


def missing_values(array: Any) -> tuple[Any, ...]:
    """Return the values that stand for missing ones in a Zarr array, except NaN.

    NaN needs no care: rows that are not finite are refused in any case.
    """
    given = [value for key in _MISSING for value in np.ravel(array.attrs.get(key, [])).tolist()]
    # In version 2 xarray has no attribute for the fill value: Zarr's own has this meaning.
    if array.metadata.zarr_format == 2 and _OF_XARRAY in array.attrs:
        given.append(array.fill_value)
    numbers = [number for value in given for number in _numbers(value, array.dtype)]
    return tuple(dict.fromkeys(number for number in numbers if number == number))


def refuse_missing(rows: NDArray[Any], missing: tuple[Any, ...], first: int, name: str) -> None:
    """Refuse stored rows, (n, d), in which a value stands for a missing one (`missing_values`).

    Raises:
        InvalidData: a value is missing.
    """
    for value in missing:
        found = np.argwhere(rows == value)
        if len(found):
            row, column = found[0].tolist()
            raise InvalidData(
                f"rows must be whole; row {first + row} of {name} has {value} in column {column}, "
                "which its attributes declare to be a missing value"
            )


def _numbers(value: Any, dtype: np.dtype[Any]) -> list[Any]:
    """Return a declared value as a number of the array's dtype, in a list; empty if it is none."""
    if isinstance(value, str):  # xarray writes floats of version 3 as base64 of a float64
        try:
            (value,) = struct.unpack("<d", base64.b64decode(value, validate=True))
        except (binascii.Error, struct.error):
            return []
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            number = np.asarray(value).astype(dtype)
    except (TypeError, ValueError, OverflowError):
        return []
    # No row can have a value that integers of this dtype cannot have.
    return [number.item()] if dtype.kind == "f" or number == value else []
