"""Rows of Parquet files: columns of numbers, of lists and of words, in one file or many."""

import io
from decimal import Decimal
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dkmeans import Dataset, Invalid, InvalidData
from dkmeans.storage import write
from tests.data.sources.rows import ROWS, chunks_of, everywhere, loaded


def table_of(rows=ROWS, names="abcd"):
    return pa.table({name: rows[:, i] for i, name in enumerate(names)})


def parquet(table, **more):
    data = io.BytesIO()
    pq.write_table(table, data, **more)
    return data.getvalue()


def file_of(folder, table, **more):
    path = folder / "rows.parquet"
    pq.write_table(table, path, **more)
    return str(path)


@everywhere
def test_parquet_files_are_read_everywhere(address):
    write(f"{address}.parquet", parquet(table_of(), row_group_size=7))
    assert np.array_equal(loaded(Dataset.from_parquet(f"{address}.parquet")), ROWS)
    assert np.array_equal(
        loaded(Dataset.from_parquet(f"{address}.parquet", ["d", "a"]).batch(8)), ROWS[:, [3, 0]]
    )


@everywhere
def test_the_files_of_a_folder_are_read_in_the_order_of_their_names(address):
    parts = {"b.parquet": 2, "a.parquet": 0, "b/z.parq": 3, "aa/part-0.parquet": 1}
    for name, number in parts.items():
        write(f"{address}/{name}", parquet(table_of(ROWS[number * 10 : number * 10 + 10])))
    for hidden in ("_SUCCESS", "_metadata.parquet", ".part.parquet", "_temporary/x.parquet"):
        write(f"{address}/{hidden}", b"no rows")
    write(f"{address}/notes.txt", b"no rows")
    for slash in ("", "/"):
        dataset = Dataset.from_parquet(address + slash)
        assert len(chunks_of(dataset)) == 4
        assert np.array_equal(loaded(dataset), ROWS[:40])


def test_a_folder_without_parquet_files_is_refused(tmp_path):
    (tmp_path / "_SUCCESS").touch()
    with pytest.raises(InvalidData, match="a Parquet file or a folder that holds some"):
        Dataset.from_parquet(str(tmp_path))


def test_a_folder_below_a_hidden_one_is_read(tmp_path):
    folder = tmp_path / ".cache" / "_rows"
    folder.mkdir(parents=True)
    file_of(folder, table_of())
    assert np.array_equal(loaded(Dataset.from_parquet(str(folder))), ROWS)


NUMBERS = ["float32", "float64", "float16", "int8", "uint16", "int32", "int64", "uint64", "bool"]


@pytest.mark.parametrize("kind", NUMBERS)
def test_columns_of_every_kind_of_number_are_read(kind, tmp_path):
    values = np.array([0, 1, 1, 0, 1]).astype(kind)
    path = file_of(tmp_path, pa.table({"a": values, "b": np.arange(5, dtype=np.float32)}))
    dataset = Dataset.from_parquet(path)
    assert np.array_equal(loaded(dataset), np.column_stack([values, np.arange(5)]))


@pytest.mark.parametrize("precision", [5, 10, 38, 50])
def test_decimals_are_rounded_to_the_nearest_float64(precision, tmp_path):
    texts = ["0.1", "-12.34", "99.99", "0", "7.77"]
    kind = pa.decimal256(precision, 2) if precision > 38 else pa.decimal128(precision, 2)
    values = pa.array([Decimal(text) for text in texts], kind)
    dataset = Dataset.from_parquet(file_of(tmp_path, pa.table({"a": values, "b": values})))
    assert loaded(dataset)[:, 1].tolist() == [float(text) for text in texts]


def test_decimals_of_whole_numbers_are_read_exactly_or_refused(tmp_path):
    kind, numbers = pa.decimal128(38, 0), [2**53, 2**60, -(10**20)]
    dataset = Dataset.from_parquet(file_of(tmp_path, pa.table({"a": pa.array(numbers, kind)})))
    assert loaded(dataset).ravel().tolist() == numbers
    halves = pa.array([Decimal(2**53 + 1) + Decimal("0.5")], pa.decimal128(38, 1))
    dataset = Dataset.from_parquet(file_of(tmp_path, pa.table({"a": halves})))
    assert loaded(dataset).ravel().tolist() == [2.0**53 + 2]
    dataset = Dataset.from_parquet(file_of(tmp_path, pa.table({"a": pa.array([2**53 + 1], kind)})))
    must = r"column 'a' of .* must hold integers that float64 holds exactly; got 9007199254740993\."
    with pytest.raises(InvalidData, match=must):
        loaded(dataset)


def test_lists_of_decimals_and_of_dictionaries_are_read(tmp_path):
    decimals = pa.array([[Decimal("0.1"), Decimal("2.5")]] * 2, pa.list_(pa.decimal128(5, 2)))
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1, 1, 0], pa.int8()), pa.array([1.5, 2.5]))
    coded = pa.FixedSizeListArray.from_arrays(words, 2)
    path = file_of(tmp_path, pa.table({"a": decimals, "b": coded}))
    assert loaded(Dataset.from_parquet(path)).tolist() == [
        [0.1, 2.5, 1.5, 2.5],
        [0.1, 2.5, 2.5, 1.5],
    ]


def test_vectors_of_arrow_are_read_and_tensors_of_more_dimensions_are_named(tmp_path):
    vectors = pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS)
    path = file_of(tmp_path, pa.table({"v": vectors, "a": ROWS[:, 0]}), row_group_size=7)
    dataset = Dataset.from_parquet(path)
    assert dataset.columns == ("v[4]", "a")
    assert np.array_equal(loaded(dataset), np.column_stack([ROWS, ROWS[:, 0]]))
    images = pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS.reshape(50, 2, 2))
    with pytest.raises(Invalid, match=r"'i' \(extension<arrow.fixed_shape_tensor"):
        Dataset.from_parquet(file_of(tmp_path, pa.table({"i": images})))


@pytest.mark.parametrize(
    "column",
    [pa.array([[[1.0], [2.0]]]), pa.array([[{"x": 1.0}]]), pa.array([{"x": 1.0}]), pa.nulls(1)],
    ids=["lists of lists", "lists of structs", "structs", "nulls"],
)
def test_a_column_of_neither_numbers_nor_lists_of_them_is_named_with_its_type(column, tmp_path):
    path = file_of(tmp_path, pa.table({"a": [1.0], "c": column}))
    with pytest.raises(Invalid, match=r"columns 'c' \(.*\) of .* hold no numbers") as caught:
        Dataset.from_parquet(path).batches()
    assert loaded(Dataset.from_parquet(path).select(["a"])).tolist() == [[1.0]]
    with pytest.raises(Invalid, match="columns 'c'"):
        Dataset.from_parquet(path, ["a", "c"])
    # Parquet gives the values in lists another name.
    assert str(column.type).replace("item", "element") in str(caught.value)


def test_a_column_of_float64_makes_rows_of_float64(tmp_path):
    table = pa.table({"a": np.float32([1, 2]), "b": [0.1, 0.2]})
    assert loaded(Dataset.from_parquet(file_of(tmp_path, table))).dtype == np.float64
    assert loaded(Dataset.from_parquet(file_of(tmp_path, table), ["a"])).dtype == np.float32


def test_an_integer_that_float32_cannot_represent_is_refused_by_its_file(tmp_path):
    path = file_of(tmp_path, pa.table({"a": [1, 2**24 + 1]}))
    with pytest.raises(InvalidData, match=rf"rows.parquet .*got {2**24 + 1}.*float64"):
        loaded(Dataset.from_parquet(path))


LISTS = {
    "list": lambda n: pa.list_(pa.float32()),
    "large_list": lambda n: pa.large_list(pa.float32()),
    "fixed_size_list": lambda n: pa.list_(pa.float32(), n),
}
of_every_list = pytest.mark.parametrize("kind", LISTS.values(), ids=LISTS)


def lists(rows, kind, more=None):
    column = pa.array([None if row is None else list(row) for row in rows], kind(4))
    return pa.table({"embedding": column, **(more or {})})


@of_every_list
@pytest.mark.parametrize("group", [3, 1000])
def test_lists_of_equal_length_give_several_columns(kind, group, tmp_path):
    more = {"age": np.arange(50, dtype=np.float32)}
    path = file_of(tmp_path, lists(ROWS, kind, more), row_group_size=group)
    dataset = Dataset.from_parquet(path)
    assert dataset.width == 5
    assert np.array_equal(loaded(dataset.batch(7)), np.column_stack([ROWS, more["age"]]))
    swapped = Dataset.from_parquet(path, ["age", "embedding"])
    assert np.array_equal(loaded(swapped.skip(11)), np.column_stack([more["age"], ROWS])[11:])


@pytest.mark.parametrize("kind", ["list", "large_list"])
@pytest.mark.parametrize("wrong", [[1.0], [1.0] * 5, []], ids=["short", "long", "empty"])
@pytest.mark.parametrize("group", [3, 1000])
def test_a_ragged_list_is_refused_by_its_row(kind, wrong, group, tmp_path):
    rows = [*ROWS[:20], wrong, *ROWS[21:]]
    path = file_of(tmp_path, lists(rows, LISTS[kind]), row_group_size=group)
    dataset = Dataset.from_parquet(path)
    with pytest.raises(
        InvalidData, match=f"'embedding' must all have 4 .*row 20 of .*has {len(wrong)}$"
    ):
        loaded(dataset.skip(2).batch(6))


def test_a_short_list_is_refused_even_if_the_next_one_is_longer(tmp_path):
    rows = [*ROWS[:20], [1.0] * 3, [1.0] * 5, *ROWS[22:]]
    path = file_of(tmp_path, lists(rows, LISTS["list"]))
    with pytest.raises(InvalidData, match=r"row 20 of .* has 3"):
        loaded(Dataset.from_parquet(path))


@pytest.mark.parametrize("first", [[], None], ids=["empty", "null"])
def test_a_first_list_without_values_is_refused_by_its_row(first, tmp_path):
    path = file_of(tmp_path, lists([first, *ROWS[1:]], LISTS["list"]))
    with pytest.raises(InvalidData, match=r"row [01] of"):
        loaded(Dataset.from_parquet(path))


def test_lists_without_any_value_are_refused_by_their_column(tmp_path):
    path = file_of(tmp_path, pa.table({"e": pa.array([[]] * 3, pa.list_(pa.float32()))}))
    with pytest.raises(InvalidData, match=r"lists of column 'e' must have values, those of .*rows"):
        loaded(Dataset.from_parquet(path))


@pytest.mark.parametrize("group", [3, 1000])
@pytest.mark.parametrize("kind", ["float32", "int64", "bool"])
def test_a_null_is_refused_by_its_row_and_column(kind, group, tmp_path):
    values = [1] * 13 + [None] + [1] * 6
    table = pa.table({"a": range(20), "b": pa.array(values).cast(kind)})
    dataset = Dataset.from_parquet(file_of(tmp_path, table, row_group_size=group))
    with pytest.raises(InvalidData, match=r"row 13 of .*rows.parquet has no 'b'"):
        loaded(dataset.skip(1).batch(4))


@of_every_list
def test_a_null_list_or_a_null_in_one_is_refused_by_its_row(kind, tmp_path):
    path = file_of(tmp_path, lists([*ROWS[:13], None, *ROWS[14:]], kind), row_group_size=6)
    with pytest.raises(InvalidData, match=r"row 13 of .* has no 'embedding'"):
        loaded(Dataset.from_parquet(path).batch(4))
    path = file_of(tmp_path, lists([*ROWS[:13], [1, 2, 3, None]], kind), row_group_size=6)
    with pytest.raises(InvalidData, match=r"row 13 of .* has a gap in 'embedding'"):
        loaded(Dataset.from_parquet(path).batch(4))


def test_columns_without_numbers_are_refused_by_name_with_advice(tmp_path):
    table = pa.table(
        {"a": [1.0], "city": ["Bonn"], "when": pa.array([0], pa.date32()), "tags": [["x"]]}
    )
    path = file_of(tmp_path, table)
    expected = (
        r"columns 'city' \(words\), 'tags' \(words\), 'when' \(date32\[day\]\) of .* name the"
    )
    with pytest.raises(Invalid, match=expected):
        Dataset.from_parquet(path).batches()
    with pytest.raises(Invalid, match=r"'city' \(words\), 'tags' \(words\) of .* hold no numbers"):
        Dataset.from_parquet(path, ["a", "city", "tags"]).batches()
    with pytest.raises(Invalid, match=r"columns 'when' \(date32\[day\]\) of .* hold no numbers"):
        Dataset.from_parquet(path, ["a", "when"])
    assert np.array_equal(loaded(Dataset.from_parquet(path, ["a"])), [[1.0]])


def test_a_missing_column_is_named_with_the_columns_of_the_file(tmp_path):
    path = file_of(tmp_path, table_of())
    with pytest.raises(Invalid, match=r"\(a, b, c, d\), got x, y$"):
        Dataset.from_parquet(path, ["a", "x", "y"])
    with pytest.raises(Invalid, match="got none"):
        Dataset.from_parquet(path, [])


def test_a_string_is_refused_as_a_list_of_columns(tmp_path):
    path = file_of(tmp_path, pa.table({"ab": [1.0], "a": [2.0], "b": [3.0]}))
    with pytest.raises(Invalid, match="columns"):
        Dataset.from_parquet(path, "ab")


def test_a_name_that_several_columns_have_is_refused_if_it_is_chosen(tmp_path):
    path = file_of(tmp_path, pa.table([*ROWS.T], names=list("abca")))
    for columns in (None, ["a"], ["b", "a"]):
        with pytest.raises(Invalid, match=r"must have different names, got a several times"):
            Dataset.from_parquet(path, columns)
    assert np.array_equal(loaded(Dataset.from_parquet(path, ["c", "b"])), ROWS[:, [2, 1]])


def test_a_column_that_is_chosen_twice_is_refused(tmp_path):
    path = file_of(tmp_path, table_of())
    with pytest.raises(Invalid, match="columns must be different names, got 'a' several times"):
        Dataset.from_parquet(path, ["a", "b", "a"])
    with pytest.raises(Invalid, match="columns must be different names, got 'a' several times"):
        Dataset.from_parquet(path).select(["a", "a"])


@pytest.mark.parametrize("group", [1, 13, 1000])
def test_row_groups_of_any_size_are_read(group, tmp_path):
    dataset = Dataset.from_parquet(file_of(tmp_path, table_of(), row_group_size=group))
    assert len(chunks_of(dataset)) == 1
    assert np.array_equal(loaded(dataset.batch(9)), ROWS)


def test_a_large_file_is_cut_between_row_groups(tmp_path):
    values = np.arange(5_000_000, dtype=np.float32)
    path = file_of(
        tmp_path,
        pa.table({"a": values}),
        row_group_size=300_000,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )
    dataset = Dataset.from_parquet(path)
    assert len(chunks_of(dataset)) > 1
    assert all(chunk.start % 300_000 == 0 for chunk in chunks_of(dataset))
    assert np.array_equal(loaded(dataset)[:, 0], values)


def test_a_large_row_group_is_one_chunk(tmp_path):
    values = np.arange(3_000_000, dtype=np.float32)
    path = file_of(tmp_path, pa.table({"a": values}), row_group_size=3_000_000)
    (chunk,) = chunks_of(Dataset.from_parquet(path))
    assert np.array_equal(chunk.cut(1_000_000, 1_000_010).load(1)[:, 0], values[10**6 : 10**6 + 10])


@pytest.mark.parametrize(
    "other", [table_of(names="abce"), table_of(ROWS[:, :3], "abc"), table_of(names="bacd")]
)
def test_files_with_different_columns_are_refused_by_their_columns(other, tmp_path):
    pq.write_table(table_of(), tmp_path / "1.parquet")
    pq.write_table(other, tmp_path / "2.parquet")
    with pytest.raises(InvalidData, match="same columns") as caught:
        Dataset.from_parquet(str(tmp_path))
    assert "a, b, c, d" in str(caught.value)
    assert ", ".join(other.column_names) in str(caught.value)


def test_files_whose_lists_differ_in_length_are_refused(tmp_path):
    pq.write_table(lists(ROWS, LISTS["list"]), tmp_path / "1.parquet")
    pq.write_table(lists(ROWS[:, :3], LISTS["list"]), tmp_path / "2.parquet")
    with pytest.raises(InvalidData, match=r"embedding\[4\], .*2.parquet embedding\[3\]"):
        Dataset.from_parquet(str(tmp_path))


def test_files_may_have_their_columns_in_different_orders_if_columns_are_given(tmp_path):
    pq.write_table(table_of(), tmp_path / "1.parquet")
    pq.write_table(table_of(ROWS[:, ::-1], "dcba"), tmp_path / "2.parquet")
    dataset = Dataset.from_parquet(str(tmp_path), ["a", "c"])
    assert np.array_equal(loaded(dataset), np.vstack([ROWS[:, [0, 2]]] * 2))


def test_files_and_row_groups_without_rows_are_skipped(tmp_path):
    pq.write_table(table_of()[:0], tmp_path / "1.parquet")
    pq.write_table(table_of(), tmp_path / "2.parquet")
    assert np.array_equal(loaded(Dataset.from_parquet(str(tmp_path))), ROWS)
    (tmp_path / "2.parquet").unlink()
    with pytest.raises(InvalidData, match="at least one row"):
        Dataset.from_parquet(str(tmp_path))


@everywhere
def test_files_of_other_formats_are_refused(address):
    for data in (b"", b"rows", parquet(table_of())[:-9]):
        write(f"{address}.parquet", data)
        with pytest.raises(InvalidData, match="must be Parquet, and cannot be read"):
            Dataset.from_parquet(f"{address}.parquet")


def test_a_corrupt_page_is_refused_by_its_file(tmp_path):
    path = file_of(tmp_path, table_of(), use_dictionary=False, compression="zstd")
    data = bytearray(Path(path).read_bytes())
    data[4:200] = bytes(196)
    Path(path).write_bytes(data)
    with pytest.raises(InvalidData, match=r"rows.parquet cannot be read"):
        loaded(Dataset.from_parquet(path))


def frame(index=None):
    return pd.DataFrame(ROWS, columns=list("abcd"), index=index)


INDEXES = {
    "range": None,
    "step": pd.RangeIndex(10, 110, 2),
    "numbers": range(50)[::-1],
    "named": pd.Index(np.arange(50) * 1000, name="customer_id"),
    "words": pd.Index([f"row {i}" for i in range(50)], name="name"),
    "times": pd.date_range("2026-01-01", periods=50, name="time"),
    "levels": pd.MultiIndex.from_product([range(5), range(10)], names=["x", None]),
}


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
def test_the_index_of_a_data_frame_is_not_read(index, tmp_path):
    frame(index).to_parquet(tmp_path / "rows.parquet")
    assert np.array_equal(loaded(Dataset.from_parquet(str(tmp_path / "rows.parquet"))), ROWS)


@pytest.mark.parametrize("name", [None, "customer_id"])
def test_the_index_of_a_dask_data_frame_is_not_read(name, tmp_path):
    index = pd.Index(np.arange(50) * 1000, name=name)
    dd.from_pandas(frame(index), npartitions=12).to_parquet(str(tmp_path / "rows"))
    assert np.array_equal(loaded(Dataset.from_parquet(str(tmp_path / "rows"))), ROWS)


@pytest.mark.parametrize("name", ["__null_dask_index__", "__index_level_0__", "__index_level_12__"])
@pytest.mark.parametrize("metadata", [None, b"", b"no JSON", b"[1]", b'{"index_columns": 3}'])
def test_an_index_is_known_by_its_name_where_the_metadata_of_pandas_is_lost(
    name, metadata, tmp_path
):
    table = table_of().add_column(0, name, [np.arange(50)])
    table = table.replace_schema_metadata(None if metadata is None else {"pandas": metadata})
    assert np.array_equal(loaded(Dataset.from_parquet(file_of(tmp_path, table))), ROWS)


def test_an_index_column_that_the_caller_names_is_read(tmp_path):
    frame(INDEXES["named"]).to_parquet(tmp_path / "rows.parquet")
    dataset = Dataset.from_parquet(str(tmp_path / "rows.parquet"), ["customer_id", "b"])
    assert np.array_equal(loaded(dataset)[:, 0], np.arange(50) * 1000)


def test_one_message_names_the_index_columns_that_are_not_read(tmp_path, caplog):
    caplog.set_level("INFO", "dkmeans")
    for number, name in enumerate(("x", "y", "x")):
        frame(pd.Index(np.arange(50), name=name)).to_parquet(tmp_path / f"{number}.parquet")
    Dataset.from_parquet(str(tmp_path))
    assert [record.getMessage() for record in caplog.records] == [
        f"not reading the index of {tmp_path} (x, y); name it with columns to read it"
    ]
    Dataset.from_parquet(str(tmp_path), ["a", "b"])
    assert len(caplog.records) == 1


def test_a_range_as_index_is_no_message(tmp_path, caplog):
    caplog.set_level("INFO", "dkmeans")
    frame().to_parquet(tmp_path / "rows.parquet")
    Dataset.from_parquet(str(tmp_path / "rows.parquet"))
    assert not caplog.records


def test_a_file_with_nothing_but_an_index_is_refused_by_its_columns(tmp_path):
    frame(INDEXES["named"])[[]].to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(
        Invalid, match=r"not an index, got only customer_id; name them with columns"
    ):
        Dataset.from_parquet(str(tmp_path / "rows.parquet"))


def test_a_broken_file_of_a_folder_is_refused_by_its_own_name(tmp_path):
    pq.write_table(table_of(), tmp_path / "1.parquet")
    (tmp_path / "2.parquet").write_bytes(b"rows")
    with pytest.raises(InvalidData, match=r"2.parquet must be Parquet, and cannot be read"):
        Dataset.from_parquet(str(tmp_path))
    (tmp_path / "2.parquet").unlink()
    (tmp_path / "2.parquet").symlink_to(tmp_path / "gone.parquet")
    with pytest.raises(InvalidData, match=r"2.parquet must be a Parquet file .*nothing is there"):
        Dataset.from_parquet(str(tmp_path))


CHANGED = {
    "shorter": (
        table_of(ROWS[:30]),
        "must have rows 49 to 49 in row groups 7 to 7, .* got no rows:",
    ),
    "shorter before": (table_of(ROWS[:45]), r"got no rows:"),
    "longer": (
        table_of(np.vstack([ROWS, ROWS])),
        "must have rows 49 to 49 in row groups 7 to 7, .* got rows 49 to 55:",
    ),
    "without a column": (table_of(ROWS[:, :3], "abc"), "in one column 'd', .* got 0 such columns"),
    "another name": (table_of(names="abce"), "in one column 'd', .* got 0 such columns"),
    "another dtype": (table_of(ROWS.astype(int)), "dtype float32 in one column 'a', .* got int64"),
    "finer": (table_of(ROWS.astype(float)), "dtype float32 in one column 'a', .* got double"),
    "a name twice": (
        pa.table([*ROWS.T, ROWS[:, 0]], names=list("abcda")),
        "in one column 'a', .* got 2 such columns",
    ),
    "dates": (
        pa.table({name: pa.array(range(50), pa.date32()) for name in "abcd"}),
        r"dtype float32 in one column 'a', .* got date32",
    ),
}


@pytest.mark.parametrize(("table", "got"), CHANGED.values(), ids=CHANGED)
def test_a_file_that_was_replaced_by_another_shape_is_refused(table, got, tmp_path):
    path = file_of(tmp_path, table_of(), row_group_size=7)
    dataset = Dataset.from_parquet(path)
    chunks = [chunk for chunk in dataset.in_chunks_of(64).batches() for chunk in chunk]
    file_of(tmp_path, table, row_group_size=7)
    with pytest.raises(InvalidData, match="changed; run again") as error:
        chunks[-1].load(4)
    assert error.match(got)


def test_a_file_that_was_replaced_by_fewer_rows_is_refused_whatever_is_read_of_it(tmp_path):
    path = file_of(tmp_path, table_of())
    for dataset in (Dataset.from_parquet(path), Dataset.from_parquet(path).take(5)):
        file_of(tmp_path, table_of(ROWS[:10]))
        with pytest.raises(
            InvalidData, match=r"must have rows 0 to 49 in row .* got rows 0 to 9: .*changed"
        ):
            loaded(dataset)
        file_of(tmp_path, table_of())


@of_every_list
def test_lists_that_were_replaced_by_numbers_are_refused(kind, tmp_path):
    dataset = Dataset.from_parquet(file_of(tmp_path, lists(ROWS[:4], kind)))
    file_of(tmp_path, pa.table({"embedding": ROWS[:4, 0]}))
    with pytest.raises(InvalidData, match=r"lists of 4 values of dtype float32 .* got float: "):
        loaded(dataset)


def test_a_file_whose_columns_changed_their_order_is_read_by_name(tmp_path):
    dataset = Dataset.from_parquet(file_of(tmp_path, table_of()))
    file_of(tmp_path, table_of(ROWS[:, ::-1], "dcba"))
    assert np.array_equal(loaded(dataset), ROWS)


def test_rows_that_are_read_in_another_way_have_another_key_in_the_cache(tmp_path):
    path = file_of(tmp_path, pa.table({"a": ROWS[:, 0]}))
    (strict,) = (chunk.source for chunk in chunks_of(Dataset.from_parquet(path)))
    file_of(tmp_path, pa.table({"a": ROWS[:, 0].astype(float)}))
    (finer,) = (chunk.source for chunk in chunks_of(Dataset.from_parquet(path)))
    assert len({strict.key, strict.column("a").key, finer.key}) == 3
