"""Data frames of pandas and Dask: how they are recognised, and their columns as arrays."""

import warnings

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dkmeans import InvalidData
from dkmeans.data.sources.frames import arrays_of, is_frame, names_of, table_of
from dkmeans.errors import InvalidType

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


MIXED = pd.DataFrame(
    {
        "n": pd.array([1, 2, 3], "Int64"),
        "b": [True, False, True],
        "m": pd.array([True, True, False], "boolean"),
        "f": pd.array([0.5, 1.5, 2.5], "Float32"),
        "a": pd.array([7, 8, 9], pd.ArrowDtype(pa.int16())),
        "s": pd.arrays.SparseArray([0.0, 0.0, 4.0]),
    }
)
of_both = pytest.mark.parametrize(
    "made", [lambda f: f, lambda f: dd.from_pandas(f, npartitions=2)], ids=["pandas", "dask"]
)


@of_both
def test_columns_of_any_numbers_are_rows(made):
    rows = np.asarray(table_of(made(MIXED), "frame"))
    assert rows.dtype == np.float64
    expected = [[1, 1, 1, 0.5, 7, 0], [2, 0, 1, 1.5, 8, 0], [3, 1, 0, 2.5, 9, 4]]
    assert rows.tolist() == expected


@of_both
def test_a_missing_value_of_a_nullable_column_is_refused_by_its_row_and_column(made):
    frame = pd.DataFrame({"x": [1.0, 2.0], "n": pd.array([1, None], "Int64")})
    with pytest.raises(InvalidData, match=r"row [01] of .*frame has no 'n' \(Int64\)"):
        np.asarray(table_of(made(frame), "frame"))


WORDS = {
    "t": pd.to_datetime(["2020", "2021"]),
    "o": np.array([1, 2], object),
    "c": pd.Categorical([1, 2]),
    "w": ["a", "b"],
}


@of_both
@pytest.mark.parametrize("name", WORDS)
def test_columns_that_hold_no_numbers_are_named_with_their_types(made, name):
    frame = pd.DataFrame({"x": [1.0, 2.0], name: WORDS[name]})
    with pytest.raises(InvalidType, match=rf"columns of frame .* got '{name}' \(\w+"):
        table_of(made(frame), "frame")


def test_a_plain_data_frame_is_not_copied():
    frame = pd.DataFrame(np.zeros((4, 2)))
    assert np.shares_memory(table_of(frame, "frame"), frame.to_numpy())


def test_the_names_of_a_table_are_words():
    assert names_of(TABLE) == ("x", "town", "i")
    assert names_of(dd.from_pandas(TABLE, npartitions=2)) == ("x", "town", "i")
    assert names_of(pa.table({"x": [1], "y": [2]})) == ("x", "y")
    for unnamed in (pd.DataFrame(np.zeros((2, 2))), np.zeros((2, 2)), {"x": [1]}, [1], None):
        assert names_of(unnamed) is None
