"""Where rows come from: Zarr, .npy, Parquet and Dask arrays, on a disk, in memory and on S3."""

import io
import pickle
from pathlib import Path
from uuid import uuid4

import dask.array as da
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from dkmeans import Dataset, Invalid, InvalidData, KMeans, RunConfig
from dkmeans.data.sources.dask_array import DaskRows, FutureRows
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.storage import write, zarr_store

ROWS = np.random.default_rng(7).normal(size=(50, 4)).astype(np.float32)
PLACES = ["disk", "file URL", "memory", "S3"]
everywhere = pytest.mark.parametrize("address", PLACES, indirect=True)


@pytest.fixture
def address(request, tmp_path):
    """An address where nothing stands yet."""
    name = f"rows-{uuid4().hex}"
    if request.param == "S3":
        return f"{request.getfixturevalue('s3')}/{name}"
    places = {"disk": tmp_path, "file URL": f"file://{tmp_path}", "memory": "memory://tests"}
    return f"{places[request.param]}/{name}"


def chunks_of(dataset):
    return [chunk for batch in dataset.batches() for chunk in batch]


def loaded(dataset):
    return np.vstack([chunk.load(dataset.width) for chunk in chunks_of(dataset)])


# Zarr.

LAYOUTS = {
    "whole": {"chunks": (50, 4)},
    "by rows": {"chunks": (7, 4)},
    "by columns": {"chunks": (9, 3)},
    "cell by cell": {"chunks": (1, 1)},
    "raw": {"chunks": (10, 4), "compressors": None},
    "sharded": {"chunks": (5, 2), "shards": (20, 4)},
    "sharded by columns": {"chunks": (5, 1), "shards": (20, 2)},
    "version 2": {"chunks": (7, 3), "zarr_format": 2},
    "version 2, raw": {"chunks": (7, 3), "zarr_format": 2, "compressors": None},
    "version 2, Fortran": {"chunks": (7, 4), "zarr_format": 2, "order": "F"},
    "gzip": {"chunks": (7, 4), "compressors": [zarr.codecs.GzipCodec()]},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("size", [1, 8, 50])
def test_zarr_arrays_of_every_layout_give_their_rows(layout, size, tmp_path):
    path = str(tmp_path / "rows.zarr")
    array = zarr.create_array(path, data=ROWS, **layout)
    for dataset in (Dataset.from_zarr(path), Dataset.from_array(array)):
        assert (dataset.rows, dataset.width) == ROWS.shape
        assert np.array_equal(loaded(dataset.batch(size)), ROWS)


@everywhere
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_stores_are_read_everywhere(address, zarr_format):
    zarr.create_array(zarr_store(address), data=ROWS, chunks=(8, 4), zarr_format=zarr_format)
    assert np.array_equal(loaded(Dataset.from_zarr(address)), ROWS)


@everywhere
def test_an_array_of_a_group_is_named_after_two_colons(address):
    group = zarr.create_group(zarr_store(address))
    group.create_array("train", data=ROWS, chunks=(8, 4))
    group.create_array("deep/er", data=ROWS[:9], chunks=(8, 4))
    assert np.array_equal(loaded(Dataset.from_zarr(f"{address}::train")), ROWS)
    assert np.array_equal(loaded(Dataset.from_zarr(f"{address}::deep/er")), ROWS[:9])
    with pytest.raises(InvalidData, match="got a group; name one of its arrays") as caught:
        Dataset.from_zarr(address)
    assert f"{address}::train" in str(caught.value)
    with pytest.raises(InvalidData, match="nothing is there"):
        Dataset.from_zarr(f"{address}::none")


def test_a_group_without_arrays_says_so(tmp_path):
    zarr.create_group(tmp_path / "group.zarr")
    with pytest.raises(InvalidData, match="got a group that holds none"):
        Dataset.from_zarr(str(tmp_path / "group.zarr"))


@pytest.mark.parametrize("read", [Dataset.from_zarr, Dataset.from_npy, Dataset.from_parquet])
@everywhere
def test_an_address_where_nothing_stands_is_named(address, read):
    with pytest.raises(InvalidData, match=r"must be a") as caught:
        read(address)
    assert address in str(caught.value)


@pytest.mark.parametrize("read", [Dataset.from_zarr, Dataset.from_npy, Dataset.from_parquet])
def test_a_bucket_that_is_not_there_is_named(read, s3):
    with pytest.raises(InvalidData, match="s3://no-such-bucket/rows"):
        read("s3://no-such-bucket/rows")


@pytest.mark.parametrize("name", ["zarr.json", ".zarray"])
def test_a_store_with_broken_metadata_is_refused(name, tmp_path):
    (tmp_path / "rows.zarr").mkdir()
    (tmp_path / "rows.zarr" / name).write_text('{"zarr_format": 3, "node_type": "arr')
    with pytest.raises(InvalidData, match="must be a Zarr array"):
        Dataset.from_zarr(str(tmp_path / "rows.zarr"))


def test_a_file_or_an_empty_folder_is_no_zarr_array(tmp_path):
    (tmp_path / "file").write_text("rows")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder"):
        with pytest.raises(InvalidData, match=f"{name} must be a Zarr array"):
            Dataset.from_zarr(str(tmp_path / name))


def test_a_zarr_array_of_one_dimension_is_refused_by_its_address(tmp_path):
    zarr.create_array(str(tmp_path / "rows.zarr"), data=ROWS[:, 0])
    with pytest.raises(InvalidData, match=r"rows.zarr must be 2-D.*\(50,\)"):
        Dataset.from_zarr(str(tmp_path / "rows.zarr"))


@pytest.mark.parametrize("damage", [b"rubbish", b""], ids=["rubbish", "emptied"])
@pytest.mark.parametrize("shards", [None, (20, 4)], ids=["chunk", "shard"])
def test_a_corrupt_chunk_is_refused_by_its_rows_and_address(damage, shards, tmp_path):
    path = tmp_path / "rows.zarr"
    zarr.create_array(str(path), data=ROWS, chunks=(10, 4), shards=shards)
    (path / "c" / "1" / "0").write_bytes(damage)
    dataset = Dataset.from_zarr(str(path)).batch(10)
    with pytest.raises(InvalidData, match=r"rows.zarr cannot be read") as caught:
        loaded(dataset)
    assert "rows " in str(caught.value)


def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path):
    path = str(tmp_path / "rows.zarr")
    array = zarr.create_array(path, shape=(20, 2), chunks=(5, 2), dtype="f4", fill_value=3)
    array[5:10] = 1
    expected = np.full((20, 2), 3.0)
    expected[5:10] = 1
    assert np.array_equal(loaded(Dataset.from_zarr(path)), expected)


@pytest.mark.parametrize("dtype", [">f8", ">f4", "i8", "u1", "?", "f2"])
def test_zarr_arrays_of_other_numbers_give_rows(dtype, tmp_path):
    rows = np.arange(20).reshape(5, 4).astype(dtype)
    zarr.create_array(str(tmp_path / "rows.zarr"), data=rows)
    assert np.array_equal(loaded(Dataset.from_zarr(str(tmp_path / "rows.zarr"))), rows)


def test_a_zarr_array_in_memory_is_held_as_rows():
    store = zarr.storage.MemoryStore()
    array = zarr.create_array(store, data=ROWS, chunks=(7, 3))
    dataset = Dataset.from_array(array)
    assert np.array_equal(loaded(dataset), ROWS)
    assert all(isinstance(chunk.source, MemoryRows) for chunk in chunks_of(dataset))


def test_a_large_zarr_array_is_cut_at_whole_chunks_or_shards(tmp_path):
    for layout in ({"chunks": (7_000, 8)}, {"chunks": (1_000, 8), "shards": (7_000, 8)}):
        path = str(tmp_path / f"{len(layout)}.zarr")
        zarr.create_array(path, shape=(1_000_000, 8), dtype="f4", **layout)
        chunks = chunks_of(Dataset.from_zarr(path))
        assert len(chunks) > 3
        assert all(chunk.start % 7_000 == 0 for chunk in chunks)
        assert sum(chunk.rows for chunk in chunks) == 1_000_000


# .npy files.


def npy(array, **more):
    data = io.BytesIO()
    np.lib.format.write_array(data, array, **more)
    return data.getvalue()


@everywhere
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f8", "i2"])
def test_npy_files_are_read_everywhere(address, dtype):
    rows = (ROWS * 100).astype(dtype)
    write(address, npy(rows))
    dataset = Dataset.from_npy(address)
    assert (dataset.rows, dataset.width) == ROWS.shape
    assert np.array_equal(loaded(dataset), rows)
    assert np.array_equal(loaded(dataset.batch(7)), rows)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_files_of_every_version_are_read(version, tmp_path):
    path = tmp_path / "rows.npy"
    path.write_bytes(npy(ROWS, version=version))
    assert np.array_equal(loaded(Dataset.from_npy(str(path))), ROWS)


@everywhere
def test_an_npy_file_in_fortran_order_is_refused(address):
    write(address, npy(np.asfortranarray(ROWS)))
    with pytest.raises(InvalidData, match=r"C order, got shape \(50, 4\) of float32 in Fortran"):
        Dataset.from_npy(address)


@pytest.mark.parametrize("shape", [(50, 1), (1, 50)])
def test_one_row_or_column_is_in_both_orders(shape, tmp_path):
    rows = np.asfortranarray(np.arange(50.0).reshape(shape))
    np.save(tmp_path / "rows.npy", rows)
    assert np.array_equal(loaded(Dataset.from_npy(str(tmp_path / "rows.npy"))), rows)


@everywhere
def test_an_npy_file_that_is_cut_short_is_refused_by_its_length(address):
    data = npy(ROWS)
    write(address, data[:-1])
    with pytest.raises(
        InvalidData, match=f"{len(data)} bytes long, got {len(data) - 1}: it is cut short"
    ):
        Dataset.from_npy(address)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"rows",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\x76\x00{'descr'",
        npy(ROWS)[:60],
        b"PK\3\4" * 9,
    ],
    ids=["empty", "text", "magic", "half a header", "most of a header", "npz"],
)
def test_what_is_no_npy_file_is_refused(data, tmp_path):
    path = tmp_path / "rows.npy"
    path.write_bytes(data)
    with pytest.raises(InvalidData, match=r"rows.npy must be an .npy file"):
        Dataset.from_npy(str(path))


def test_a_folder_is_no_npy_file(tmp_path):
    with pytest.raises(InvalidData, match=r"must be an .npy file"):
        Dataset.from_npy(str(tmp_path))


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), ()])
def test_npy_files_of_other_shapes_are_refused_by_their_shape(shape, tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros(shape))
    with pytest.raises(InvalidData, match="must hold a 2-D array of numbers") as caught:
        Dataset.from_npy(str(tmp_path / "rows.npy"))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_npy_files_without_a_number_are_refused(shape, tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros(shape))
    with pytest.raises(InvalidData, match="at least one"):
        Dataset.from_npy(str(tmp_path / "rows.npy"))


def test_an_npy_file_of_objects_is_refused_unread(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([[1, None]], object), allow_pickle=True)
    with pytest.raises(InvalidData, match="2-D array of numbers"):
        Dataset.from_npy(str(tmp_path / "rows.npy"))


def test_a_local_npy_file_is_mapped_and_not_copied(tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    (chunk,) = chunks_of(Dataset.from_npy(str(tmp_path / "rows.npy")))
    assert isinstance(chunk.source.read(3, 9), np.memmap)
    assert not chunk.load(4).flags.writeable


# Parquet.


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
def test_a_folder_is_its_files_in_the_order_of_their_names(address):
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


def test_a_folder_without_parquet_files_says_so(tmp_path):
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


def test_a_column_of_float64_makes_rows_of_float64(tmp_path):
    table = pa.table({"a": np.float32([1, 2]), "b": [0.1, 0.2]})
    assert loaded(Dataset.from_parquet(file_of(tmp_path, table))).dtype == np.float64
    assert loaded(Dataset.from_parquet(file_of(tmp_path, table), ["a"])).dtype == np.float32


def test_an_integer_that_float32_lacks_is_refused_by_its_file(tmp_path):
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


def test_ragged_lists_that_balance_out_are_refused_too(tmp_path):
    rows = [*ROWS[:20], [1.0] * 3, [1.0] * 5, *ROWS[22:]]
    path = file_of(tmp_path, lists(rows, LISTS["list"]))
    with pytest.raises(InvalidData, match=r"row 20 of .* has 3"):
        loaded(Dataset.from_parquet(path))


@pytest.mark.parametrize("first", [[], None], ids=["empty", "null"])
def test_a_first_list_without_values_is_refused_in_words(first, tmp_path):
    path = file_of(tmp_path, lists([first, *ROWS[1:]], LISTS["list"]))
    with pytest.raises(InvalidData, match=r"row [01] of"):
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
    with pytest.raises(Invalid, match=r"when \(date32\[day\]\); choose others with columns"):
        Dataset.from_parquet(path)
    with pytest.raises(Invalid, match="got words in city, tags; choose others with columns"):
        Dataset.from_parquet(path, ["a", "city", "tags"]).batches()
    assert np.array_equal(loaded(Dataset.from_parquet(path, ["a"])), [[1.0]])


def test_a_column_that_is_missing_is_named_beside_those_there(tmp_path):
    path = file_of(tmp_path, table_of())
    with pytest.raises(Invalid, match=r"\(a, b, c, d\), got x, y$"):
        Dataset.from_parquet(path, ["a", "x", "y"])
    with pytest.raises(Invalid, match="got none"):
        Dataset.from_parquet(path, [])


def test_text_for_a_list_of_columns_is_refused_and_not_spelt(tmp_path):
    path = file_of(tmp_path, pa.table({"ab": [1.0], "a": [2.0], "b": [3.0]}))
    with pytest.raises(Invalid, match="columns"):
        Dataset.from_parquet(path, "ab")


def test_a_column_may_be_chosen_twice(tmp_path):
    dataset = Dataset.from_parquet(file_of(tmp_path, table_of()), ["a", "b", "a"])
    assert np.array_equal(loaded(dataset), ROWS[:, [0, 1, 0]])


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
def test_files_that_disagree_are_refused_by_their_columns(other, tmp_path):
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


def test_chosen_columns_may_stand_anywhere_in_their_files(tmp_path):
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
def test_what_is_no_parquet_file_is_refused(address):
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


# Dask arrays.


def doubled(block, log):
    with Path(log).open("a") as file:
        file.write(f"{len(block)}\n")
    return block * 2


def logged(log, chunks=(10, 4)):
    """A Dask array that writes down each block that it computes."""
    array = da.from_array(ROWS, chunks=chunks)
    return array.map_blocks(doubled, log=str(log), dtype=ROWS.dtype, meta=ROWS[:0])


def test_a_dask_array_is_computed_block_by_block_and_not_before_it_is_loaded(tmp_path):
    log = tmp_path / "log"
    chunks = chunks_of(Dataset.from_array(logged(log)).repeat(1))
    assert len(chunks) == 5
    assert not log.exists()
    assert np.array_equal(chunks[3].load(4), 2 * ROWS[30:40])
    assert log.read_text().split() == ["10"]
    assert np.array_equal(chunks[1].cut(2, 4).load(4), 2 * ROWS[12:14])
    assert len(log.read_text().split()) == 2


@pytest.mark.parametrize("chunks", [(50, 4), (7, 4), (50, 1), (7, 3), ((1, 40, 9), (2, 2))])
def test_dask_arrays_of_any_chunks_give_their_rows(chunks):
    dataset = Dataset.from_array(da.from_array(ROWS, chunks=chunks))
    assert np.array_equal(loaded(dataset), ROWS)
    assert np.array_equal(loaded(dataset.batch(8)), ROWS)
    for chunk in chunks_of(dataset):
        again = pickle.loads(pickle.dumps(chunk))
        assert np.array_equal(again.load(4), ROWS[chunk.start : chunk.stop])


def test_unknown_chunk_sizes_are_found_out():
    array = da.from_array(ROWS, chunks=(10, 4))
    dataset = Dataset.from_array(array[array[:, 0] > 0])
    assert dataset.rows == (ROWS[:, 0] > 0).sum()
    assert np.array_equal(loaded(dataset), ROWS[ROWS[:, 0] > 0])


def test_empty_blocks_are_skipped():
    kept = (ROWS[:, 1] > -9) & ~((np.arange(50) >= 10) & (np.arange(50) < 30))
    array = da.from_array(ROWS, chunks=(10, 4))
    dataset = Dataset.from_array(array[da.from_array(kept, chunks=10)])
    assert [chunk.rows for chunk in chunks_of(dataset)] == [10, 10, 10]
    assert np.array_equal(loaded(dataset), ROWS[kept])
    sized = da.concatenate([array[:10], array[:0], array[10:]])
    assert np.array_equal(loaded(Dataset.from_array(sized)), ROWS)


def test_a_block_that_fails_is_refused_by_its_rows():
    def fail(block, block_info=None):
        if block_info[0]["chunk-location"][0] == 1:
            raise ZeroDivisionError("no such block")
        return block

    array = da.from_array(ROWS, chunks=(10, 4)).map_blocks(fail, dtype=ROWS.dtype, meta=ROWS[:0])
    with pytest.raises(InvalidData, match=r"rows 10 to 19 .*ZeroDivisionError: no such block"):
        loaded(Dataset.from_array(array))


def test_only_a_graph_that_holds_rows_is_said_to_carry_them(tmp_path):
    rows = np.zeros((20_000, 4))
    stored = zarr.create_array(str(tmp_path / "rows.zarr"), data=rows, chunks=(5_000, 4))
    made = {
        "from_array": (da.from_array(rows, chunks=(5_000, 4)), True),
        "sum of from_array": (da.from_array(rows, chunks=(5_000, 4)) + 1, True),
        "random": (da.random.default_rng(1).normal(size=(20_000, 4), chunks=(5_000, 4)), False),
        "ones": (da.ones((20_000, 4), chunks=(5_000, 2)), False),
        "from_zarr": (da.from_zarr(stored), False),
        "half of from_zarr": (da.from_zarr(str(tmp_path / "rows.zarr"))[10_000:] / 2, False),
    }
    for name, (array, carries) in made.items():
        chunks = chunks_of(Dataset.from_array(array))
        assert all(isinstance(chunk.source, DaskRows) for chunk in chunks)
        assert {chunk.source.carries_rows for chunk in chunks} == {carries}, name
        assert np.array_equal(chunks[-1].load(4), array[-chunks[-1].rows :].compute()), name


def centers_of(rows, folder, config=None):
    model = KMeans(3, str(folder), initial_clusters=ROWS[:3], use_mini_batch=False, config=config)
    return model.train(lambda: rows, steps=5).cluster_centers()


@pytest.mark.parametrize("chunks", [(10, 4), (20, 3)])
def test_persisted_arrays_are_futures_and_train_to_the_same_centers(client, chunks, tmp_path):
    array = client.persist(da.from_array(ROWS, chunks=chunks))
    source_kinds = {type(chunk.source) for chunk in chunks_of(Dataset.from_array(array))}
    assert source_kinds == {FutureRows}
    assert np.array_equal(loaded(Dataset.from_array(array)), ROWS)
    config = RunConfig(client=client)
    trained = centers_of(array, tmp_path / "persisted", config)
    expected = centers_of(ROWS, tmp_path / "rows")
    assert np.allclose(trained, expected, rtol=1e-5, atol=1e-6)


def test_what_rests_on_persisted_data_is_futures_too(client, tmp_path):
    array = client.persist(da.from_array(ROWS, chunks=(10, 4)))
    dataset = Dataset.from_array(array[5:] * 2)
    assert {type(chunk.source) for chunk in chunks_of(dataset)} == {FutureRows}
    assert np.array_equal(loaded(dataset), ROWS[5:] * 2)


def test_arrays_that_are_not_persisted_train_on_a_cluster_to_the_same_centers(client, tmp_path):
    config = RunConfig(client=client)
    array = da.from_array(ROWS, chunks=(10, 3))
    trained = centers_of(array, tmp_path / "Dask", config)
    assert np.allclose(trained, centers_of(ROWS, tmp_path / "rows"), rtol=1e-5, atol=1e-6)


def test_a_shard_is_read_whole_unless_it_is_too_large_for_that(tmp_path, monkeypatch):
    rows = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    monkeypatch.setattr("dkmeans.data.chunks.TARGET_BYTES", 1)
    monkeypatch.setattr("dkmeans.data.chunks.SMALLEST_BYTES", 1)
    path = str(tmp_path / "rows.zarr")
    zarr.create_array(path, data=rows, chunks=(50, 4), shards=(200, 4))

    def sizes():
        return [chunk.rows for chunk in next(Dataset.from_zarr(path).batches())]

    assert sizes() == [200] * 5
    monkeypatch.setattr("dkmeans.data.sources.zarr_array._LARGEST_SHARD_BYTES", 1000)
    assert sizes() == [50] * 20
