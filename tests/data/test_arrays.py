"""Arrays as chunks: each kind gives its rows, and what is no table of numbers is refused."""

import dask.array as da
import numpy as np
import pytest
import zarr

from dkmeans import Dataset, InvalidData, InvalidType, limit_epochs
from tests.data.sources.rows import loaded as rows_in


@pytest.mark.parametrize(
    "convert",
    [
        np.asarray,
        lambda rows: da.from_array(rows, chunks=(6, 1)),
        lambda rows: zarr.array(rows, chunks=(6, 2)),
        np.asfortranarray,
    ],
    ids=["NumPy", "Dask", "Zarr", "Fortran"],
)
def test_arrays_of_every_kind_give_their_rows(convert):
    rows = np.arange(40.0).reshape(20, 2)
    assert np.array_equal(rows_in(Dataset.from_array(convert(rows))), rows)


@pytest.mark.parametrize("make", [Dataset.from_array, lambda array: limit_epochs(array, 2)])
def test_what_is_no_array_is_a_type_error(make):
    for given in ({"a": [1.0]}, "rows", 3, None):
        with pytest.raises(InvalidType, match="the array must be a NumPy, Dask, Zarr or CuPy"):
            make(given)


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), (3, 0), ()])
@pytest.mark.parametrize("kind", [np.zeros, da.zeros, zarr.zeros], ids=["NumPy", "Dask", "Zarr"])
def test_other_shapes_than_a_table_are_refused(kind, shape):
    with pytest.raises(InvalidData, match="the array must be 2-D") as caught:
        Dataset.from_array(kind(shape))
    assert str(shape) in str(caught.value)


def test_a_list_of_rows_is_an_array():
    for dataset in (Dataset.from_array([[1, 2], [3, 4]]), limit_epochs([[1, 2], [3, 4]], 1)):
        assert np.array_equal(rows_in(dataset), [[1, 2], [3, 4]])
    with pytest.raises(InvalidData, match="a table of numbers"):
        Dataset.from_array([[1, 2], [3]])
