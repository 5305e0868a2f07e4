"""Data frames: how they are recognised, and their columns as rows or as arrays."""

import warnings

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

from dkmeans import InvalidData
from dkmeans.data.sources.frames import arrays_of, is_dask_series, is_frame, names_of, rows_of
from dkmeans.errors import InvalidType

LARGE = 2**60 + 1
TABLE = pd.DataFrame({"x": np.arange(7.0), "town": list("abcabca"), "i": np.arange(7)})


def test_data_frames_are_told_from_arrays_dicts_and_columns():
    frames = [TABLE, TABLE[:0], dd.from_pandas(TABLE, npartitions=2), pl.DataFrame({"x": [1]})]
    frames += [pa.table({"x": [1]}), pa.record_batch({"x": [1]}), xr.DataArray(np.ones((2, 2)))]
    for frame in frames:
        assert is_frame(frame)
    columns = [TABLE["x"], pl.Series([1]), pa.array([1]), dd.from_pandas(TABLE, npartitions=1)["x"]]
    reader = pa.table({"x": [1]}).to_reader()
    for other in (TABLE.to_numpy(), {"x": [1]}, "x", None, reader, *columns):
        assert not is_frame(other)
        assert is_dask_series(other) == (other is columns[-1])


@pytest.mark.parametrize("keys", [["i", "x"], ["town"]])
@pytest.mark.parametrize("made", [pd.DataFrame, pl.DataFrame, pa.table])
def test_the_columns_of_a_frame_are_arrays_in_the_order_of_the_keys(made, keys):
    arrays = arrays_of(made({name: TABLE[name].to_numpy() for name in TABLE}), keys, "frame")
    assert list(arrays) == keys
    for key, array in arrays.items():
        assert isinstance(array, np.ndarray)
        assert array.tolist() == TABLE[key].tolist()


def test_the_columns_of_dask_are_dask_arrays():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays = arrays_of(dd.from_pandas(TABLE, npartitions=3), ["town", "x"], "frame")
    assert list(arrays) == ["town", "x"]
    for key, array in arrays.items():
        assert isinstance(array, da.Array)
        assert array.compute().tolist() == TABLE[key].tolist()


def test_a_missing_value_of_dask_is_named_with_its_partition():
    frame = dd.from_pandas(pd.DataFrame({"x": [1.0, 2.0, 3.0, None]}), npartitions=2)
    with pytest.raises(InvalidData, match="row 1 of partition 1 of frame has no 'x'"):
        rows_of(frame, "frame")[0].compute(scheduler="sync")


def test_dask_may_merge_the_partitions_of_small_files(tmp_path):
    for number in range(5):  # of the columns that are read depends how many it merges
        columns = {name: np.arange(3.0) + number for name in "abcdefgh"}
        pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet")
    frame = dd.read_parquet(tmp_path)
    expected = np.concatenate([np.arange(3.0) + number for number in range(5)]).tolist()
    for array in arrays_of(frame, ["a", "b"], "frame").values():
        assert array.compute().tolist() == expected
    rows, _ = rows_of(frame, "frame", ("c", "a"))
    assert rows.compute().tolist() == [[each, each] for each in expected]


def test_large_integers_beside_gaps_stay_exact():
    frame = pd.DataFrame({"i": pd.array([LARGE, None], dtype="Int64"), "j": [1, 2]})
    arrays = arrays_of(frame, ["i", "j"], "frame")
    assert arrays["i"].tolist() == [LARGE, None]
    assert arrays["j"].dtype == np.int64


def test_lists_of_a_column_are_several_values_of_a_row():
    frame = pl.DataFrame({"v": [[1.0, 2.0], [3.0, 4.0]], "x": [5, 6]})
    rows, names = rows_of(frame, "frame")
    assert rows.tolist() == [[1, 2, 5], [3, 4, 6]]
    assert names == ("v[2]", "x")
    assert arrays_of(frame, ["v"], "frame")["v"].tolist() == [[1, 2], [3, 4]]


MIXED = pd.DataFrame(
    {
        "n": pd.array([1, 2, 3], "Int64"),
        "b": [True, False, True],
        "m": pd.array([True, True, False], "boolean"),
        "f": pd.array([0.5, 1.5, 2.5], "Float32"),
        "a": pd.array([7, 8, 9], pd.ArrowDtype(pa.int16())),
        "c": pd.Categorical([0, 0, 4]),
    }
)
MADE = {
    "pandas": lambda f: f,
    "dask": lambda f: dd.from_pandas(f, npartitions=2),
    "arrow": lambda f: pa.Table.from_pandas(f, preserve_index=False),
}
of_each = pytest.mark.parametrize("made", MADE.values(), ids=MADE)


@of_each
def test_columns_of_any_numbers_are_rows(made):
    rows, names = rows_of(made(MIXED), "frame")
    rows = np.asarray(rows)
    assert rows.dtype == np.float64
    assert rows.tolist() == [[1, 1, 1, 0.5, 7, 0], [2, 0, 1, 1.5, 8, 0], [3, 1, 0, 2.5, 9, 4]]
    assert names == tuple("nbmfac")


@of_each
def test_columns_are_chosen_by_name_whatever_the_others_hold(made):
    frame = TABLE.assign(when=pd.Timestamp(2020, 1, 1))
    rows, names = rows_of(made(frame), "frame", ("i", "x"))
    assert np.asarray(rows).tolist() == [[n, n] for n in range(7)]
    assert names == ("i", "x")


@of_each
def test_a_missing_value_is_refused_by_its_row_and_column(made):
    frame = pd.DataFrame({"x": [1.0, 2.0], "n": pd.array([1, None], "Int64")})
    with pytest.raises(InvalidData, match=r"row [01] of .*frame has no 'n'"):
        np.asarray(rows_of(made(frame), "frame")[0])


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_its_row_and_column(bad):
    frame = pl.DataFrame({"v": [[1.0, 2.0]] * 4, "x": [1.0, 2.0, bad, bad], "y": [1, 2, 3, 4]})
    with pytest.raises(InvalidData, match=rf"row 2 of frame has {bad} in 'x'"):
        rows_of(frame, "frame")


@of_each
def test_columns_that_hold_no_numbers_are_named_with_their_types(made):
    frame = pd.DataFrame({"x": [1.0, 2.0], "city": ["a", "b"], "when": pd.Timestamp(2020, 1, 1)})
    expected = (
        r"columns 'city' \(string\), 'when' \(timestamp\[us\]\) of frame hold no numbers; leave "
    )
    with pytest.raises(InvalidType, match=expected):
        rows_of(made(frame), "frame")


def test_what_arrow_cannot_read_is_named():
    for values, reason in (([1j], "column x with type complex128"), ([object()], "column x")):
        with pytest.raises(InvalidType, match=rf"frame must be a table that Arrow can .*{reason}"):
            rows_of(pd.DataFrame({"x": values}), "frame")


def test_an_index_is_no_column():
    frame = pd.DataFrame({"x": [1.0, 2.0]}, index=pd.Index([7, 9], name="id"))
    for table in (frame, pa.Table.from_pandas(frame)):
        rows, names = rows_of(table, "frame")
        assert (rows.tolist(), names) == ([[1.0], [2.0]], ("x",))


def test_empty_partitions_of_dask_are_no_rows():
    parts = [dd.from_pandas(TABLE[["x", "i"]][:n], npartitions=1) for n in (2, 0, 3)]
    rows, _ = rows_of(dd.concat(parts), "frame")
    assert np.asarray(rows).tolist() == [[0, 0], [1, 1], [0, 0], [1, 1], [2, 2]]


def test_the_names_of_a_table_are_words():
    assert names_of(TABLE) == ("x", "town", "i")
    assert names_of(dd.from_pandas(TABLE, npartitions=2)) == ("x", "town", "i")
    assert names_of(pa.table({"x": [1], "y": [2]})) == ("x", "y")
    for unnamed in (pd.DataFrame(np.zeros((2, 2))), np.zeros((2, 2)), [1], None):
        assert names_of(unnamed) is None
    rows, names = rows_of(pd.DataFrame(np.ones((2, 2))), "frame")
    assert (rows.tolist(), names) == ([[1, 1], [1, 1]], None)


LABELS = [
    (["a", 1], ("a", "1")),
    (pd.to_datetime(["2024-01-01", "2024-02-01"]), ("2024-01-01 00:00:00", "2024-02-01 00:00:00")),
    ([2023, 2024.5], None),
    (pd.MultiIndex.from_tuples([("a", "x"), ("a", 2)]), ("('a', 'x')", "('a', '2')")),
]
LAZY_LABELS = LABELS[:-1]  # Dask's data frames have one level


def check_labels(given, names):
    """Check that a frame of two rows is read with these names, in both orders."""
    labels = list(given.columns)
    rows, found = rows_of(given, "frame")
    assert found == names
    assert np.asarray(rows).tolist() == [[1, 2], [3, 4]]
    assert list(given.columns) == labels
    if names is not None:
        rows, found = rows_of(given, "frame", names[::-1])
        assert (np.asarray(rows).tolist(), found) == ([[2, 1], [4, 3]], names[::-1])
        first = arrays_of(given, names[:1], "frame")[names[0]]
        assert np.asarray(first).tolist() == [1, 3]


@pytest.mark.parametrize(("labels", "names"), LABELS)
def test_labels_that_are_not_all_numbers_are_names_as_in_parquet(labels, names):
    check_labels(pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], columns=labels), names)


@pytest.mark.parametrize(("labels", "names"), LAZY_LABELS)
def test_labels_of_dask_are_names_too(labels, names):
    frame = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], columns=labels)
    check_labels(dd.from_pandas(frame, npartitions=2), names)


def test_columns_of_one_name_are_refused():
    frame = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    with pytest.raises(InvalidData, match="must have different names, got 'a' several times"):
        rows_of(frame, "frame")


@pytest.mark.parametrize("declared", ["int64", "float32"])
def test_a_partition_with_numbers_that_the_declared_dtype_would_round_is_refused(declared):
    meta = pd.DataFrame({"x": np.zeros(1, declared)})

    def part(number):
        return pd.DataFrame({"x": [1e6 + number / 1000] * 3})

    frame = dd.from_map(part, [1, 2], meta=meta)
    rows, _ = rows_of(frame, "frame")
    must = rf"partition . of frame must have columns .* declares \(meta\), {declared}, got float64"
    with pytest.raises(InvalidType, match=must):
        rows.compute()


def test_integers_of_fewer_bits_than_declared_are_rows():
    parts = [pd.DataFrame({"x": np.array([1, 2], dtype)}) for dtype in ("int64", "int8")]
    frame = dd.from_map(lambda number: parts[number], [0, 1], meta=parts[0])
    assert rows_of(frame, "frame")[0].compute().ravel().tolist() == [1, 2, 1, 2]


def test_integers_beyond_64_bits_are_refused_in_one_line():
    frame = pd.DataFrame({"x": pd.Series([2**70, 1], dtype=object)})
    with pytest.raises(InvalidType, match=r"frame must be a table that Arrow can read: .*large"):
        rows_of(frame, "frame")
