"""Attributes of the CF conventions: which values of an array they declare to be missing."""

import base64

import numpy as np
import pytest
import zarr

from dkmeans.data.sources.cf_attributes import missing_values


def declared(dtype, **attributes):
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=(2, 2), dtype=dtype)
    array.attrs.update(attributes)
    return missing_values(array)


def encoded(number):
    return base64.b64encode(np.float64(number).tobytes()).decode()


@pytest.mark.parametrize(
    ("dtype", "attributes", "expected"),
    [
        ("f4", {}, ()),
        ("i2", {"_FillValue": -1}, (-1,)),
        ("i2", {"_FillValue": -1, "missing_value": [-1, -2]}, (-1, -2)),
        ("f4", {"_FillValue": encoded(1e20)}, (float(np.float32(1e20)),)),
        ("f8", {"_FillValue": encoded(np.nan)}, ()),
        ("f8", {"missing_value": 1e20}, (1e20,)),
        ("i2", {"missing_value": -1e30}, ()),
        ("u1", {"_FillValue": -1}, ()),
        ("f4", {"_FillValue": "none"}, ()),
        ("f4", {"_FillValue": None, "missing_value": {"a": 1}}, ()),
    ],
)
def test_declared_values_are_numbers_that_the_array_can_have(dtype, attributes, expected):
    assert declared(dtype, **attributes) == expected
