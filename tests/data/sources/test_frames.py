"""Data frames of pandas and Dask: how they are recognised, and their columns as arrays."""

import warnings

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dkmeans.data.sources.frames import arrays_of, is_frame

LARGE = 2**60 + 1
TABLE = pd.DataFrame({"x": np.arange(7.0), "town": list("abcabca"), "i": np.arange(7)})


def test_data_frames_are_told_from_arrays_dicts_and_other_tables():
    for frame in (TABLE, TABLE[:0], dd.from_pandas(TABLE, npartitions=2)):
        assert is_frame(frame)
    for other in (TABLE.to_numpy(), {"x": [1]}, TABLE["x"], pa.table({"x": [1]}), "x", None):
        assert not is_frame(other)


@pytest.mark.parametrize("keys", [["i", "x"], ["town"], []])
def test_the_columns_of_pandas_are_arrays_in_the_order_of_the_keys(keys):
    arrays = arrays_of(TABLE, keys)
    assert list(arrays) == keys
    for key, array in arrays.items():
        assert isinstance(array, np.ndarray)
        assert array.tolist() == TABLE[key].tolist()


def test_the_columns_of_dask_are_dask_arrays_that_know_their_lengths():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays = arrays_of(dd.from_pandas(TABLE, npartitions=3), ["town", "x"])
    assert list(arrays) == ["town", "x"]
    for key, array in arrays.items():
        assert isinstance(array, da.Array)
        assert array.shape == (7,)
        assert sum(array.chunks[0]) == 7
        assert array.compute().tolist() == TABLE[key].tolist()


def test_large_integers_beside_gaps_stay_exact():
    frame = pd.DataFrame({"i": pd.array([LARGE, None], dtype="Int64")})
    first, gap = arrays_of(frame, ["i"])["i"]
    assert first == LARGE
    assert pd.isna(gap)


def test_integers_without_gaps_stay_integers():
    frame = pd.DataFrame({"i": pd.array([LARGE, 2], dtype="Int64"), "j": [1, 2]})
    for array in arrays_of(frame, ["i", "j"]).values():
        assert array.dtype == np.int64
    assert arrays_of(frame, ["i"])["i"].tolist() == [LARGE, 2]
