"""Arrays of xarray: the arrays below them, by the names of their columns."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from dkmeans import InvalidData
from dkmeans.data.sources.labeled import (
    is_data_array,
    is_labeled_dataset,
    labels_of,
    selected,
    variables_of,
)

ROWS = np.arange(6.0).reshape(3, 2)
ARRAY = xr.DataArray(ROWS, dims=("time", "band"), coords={"band": ["red", "nir"]})
DATASET = xr.Dataset(
    {"a": ("time", ROWS[:, 0]), "b": ("time", ROWS[:, 1]), "image": (("time", "x"), ROWS)}
)


def test_arrays_and_datasets_are_told_apart():
    assert is_data_array(ARRAY)
    assert is_labeled_dataset(DATASET)
    for other in (ROWS, {"a": ROWS}, None):
        assert not is_data_array(other)
        assert not is_labeled_dataset(other)


def test_the_labels_of_columns_are_names_if_they_are_words():
    assert labels_of(ARRAY) == ("red", "nir")
    for unnamed in (xr.DataArray(ROWS), ARRAY.assign_coords(band=[4, 8]), ARRAY[:, 0]):
        assert labels_of(unnamed) is None


def test_columns_are_selected_by_label_and_dask_arrays_stay_lazy():
    assert np.shares_memory(selected(ARRAY, None), ROWS)
    assert selected(ARRAY, ("nir",)).tolist() == ROWS[:, 1:].tolist()
    lazy = selected(ARRAY.chunk({"time": 2}), ("nir", "red"))
    assert isinstance(lazy, da.Array)
    assert lazy.compute().tolist() == ROWS[:, ::-1].tolist()


def test_the_variables_of_a_dataset_must_have_one_dimension_for_all():
    columns = variables_of(DATASET, ["b", "a"], "features")
    assert [list(each) for each in columns.values()] == [[1, 3, 5], [0, 2, 4]]
    with pytest.raises(InvalidData, match=r"that of 'a' \(time\), got 'image' \(time, x\); name"):
        variables_of(DATASET, ["a", "image"], "features")
    other = DATASET.assign(b=("place", ROWS[:, 1]))
    with pytest.raises(InvalidData, match=r"that of 'a' \(time\), got 'b' \(place\)"):
        variables_of(other, ["a", "b"], "features")
