"""Named values: words and integers of every dtype, missing values, refused values."""

import dask.array as da
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from dkmeans import Dataset, Invalid
from dkmeans.feature_columns import numeric_column
from tests.feature_columns.example_columns import hashed, identity, rows, vocabulary

LARGE = 2**60 + 1


@pytest.mark.parametrize(
    "words",
    [
        ["b", "", "a", "b"],
        np.array(["b", "", "a", "b"]),
        np.array([b"b", b"", b"a", b"b"]),
        np.array(["b", None, "a", "b"], object),
        np.array(["b", np.nan, b"a", "b"], object),
        np.array(["b", "", "a", "b"], np.dtypes.StringDType()),
        pd.Series(["b", None, "a", "b"], dtype="string"),
        pd.Categorical(["b", None, "a", "b"]),
    ],
    ids=["list", "U", "S", "None", "NaN", "StringDType", "pandas", "categorical"],
)
def test_words_may_be_of_any_kind_and_missing(words):
    found = rows({"w": words}, vocabulary("w", ["a", b"b"]))
    assert found.tolist() == [[0, 1], [0, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize("kind", ["NumPy", "Dask", "Zarr"])
def test_words_of_numpys_own_dtype_may_be_anywhere(kind):
    words = np.array(["b", "c", "a"], np.dtypes.StringDType())
    if kind == "Dask":
        words = da.from_array(words, chunks=2)
    elif kind == "Zarr":
        words = zarr.create_array({}, data=words)
    found = rows({"w": words}, vocabulary("w", ["a", "b"]))
    assert found.tolist() == [[0, 1], [0, 0], [1, 0]]


def test_integers_with_gaps_are_floats_and_the_gaps_are_missing():
    assert rows({"i": [1.0, np.nan, 0.0]}, identity("i", 2)).tolist() == [[0, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize("kind", ["parquet", "pandas", "objects"])
def test_large_integers_are_exact_also_beside_gaps(kind, tmp_path):
    column = vocabulary("i", [LARGE, LARGE - 1])
    whole, gaps = [LARGE, LARGE], [LARGE, None]
    if kind == "parquet":
        given = {}
        for name, values in (("whole", whole), ("gaps", gaps)):
            pq.write_table(pa.table({"i": values}), tmp_path / name)
            given[name] = Dataset.from_parquet(str(tmp_path / name))
    elif kind == "pandas":
        given = {
            name: pd.DataFrame({"i": pd.array(values, dtype="Int64")})
            for name, values in (("whole", whole), ("gaps", gaps))
        }
    else:
        given = {"whole": {"i": whole}, "gaps": {"i": np.array(gaps, object)}}
    assert rows(given["whole"], column).tolist() == [[1, 0], [1, 0]]
    assert rows(given["gaps"], column).tolist() == [[1, 0], [0, 0]]


def test_numbers_of_parquet_that_are_true_or_missing_take_the_default(tmp_path):
    pq.write_table(pa.table({"f": [True, None, False]}), tmp_path / "f")
    dataset = Dataset.from_parquet(str(tmp_path / "f"))
    assert rows(dataset, numeric_column("f", default_value=7)).tolist() == [[1], [7], [0]]


def test_a_parquet_number_may_be_missing_where_it_has_a_default(tmp_path):
    table = pa.table({"x": pa.array([1.5, None]), "i": pa.array([3, None], pa.int64())})
    pq.write_table(table, tmp_path / "rows.parquet")
    stored = Dataset.from_parquet(str(tmp_path))
    columns = numeric_column("x", default_value=9), identity("i", 4)
    assert rows(stored, *columns).tolist() == [[0, 0, 0, 1, 1.5], [0, 0, 0, 0, 9]]


@pytest.mark.parametrize(
    ("features", "column", "text"),
    [
        ({"x": ["a"]}, numeric_column("x"), r"'x' of the features\['x'\] must hold numbers, got"),
        ({"x": [3, 7]}, identity("x", 5), "'x' must be below num_buckets, 5; row 1 of .* has 7"),
        (
            {"x": [2.0**60, np.nan]},
            identity("x", 5),
            "'x' must hold integers below 9007199254740992, as floats hold no others; row 0",
        ),
        (
            {"x": np.array([2**64 - 1], np.uint64)},
            identity("x", 5),
            r"'x' must hold integers below 2\*\*63; row 0 of .* has 18446744073709551615",
        ),
        ({"x": [0.5]}, identity("x", 5), "'x' must hold integers; row 0 of .* has 0.5"),
        ({"x": [1]}, vocabulary("x", ["a"]), "'x' of .* must hold words, got dtype int64"),
        ({"x": ["1"]}, vocabulary("x", [1]), "'x' of .* must hold numbers, got dtype <U1"),
        ({"x": np.array([1, {}], object)}, hashed("x", 3), "'x' of .* must hold words, got"),
    ],
)
def test_values_that_cannot_be_used_are_refused_by_key_and_row(features, column, text):
    with pytest.raises(Invalid, match=text):
        rows(features, column)
