"""Where rows come from: each kind of thing gives its rows, in order, or says by name why not."""

import pickle

import dask.array as da
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore, MemoryStore

from dkmeans import Dataset, Invalid, InvalidData, InvalidType, KMeans, storage
from dkmeans.chunks import finite_points

ROWS = np.random.default_rng(3).normal(size=(103, 5)).astype(np.float32)
LAYOUTS = {
    "plain": {"chunks": (10, 5), "compressors": None},
    "compressed": {"chunks": (10, 5), "compressors": BloscCodec(cname="lz4")},
    "by columns": {"chunks": (20, 2)},
    "sharded": {"chunks": (5, 5), "shards": (20, 5)},
    "sharded by columns": {"chunks": (5, 2), "shards": (20, 4)},
    "one chunk": {"chunks": (103, 5)},
    "version 2": {"chunks": (10, 5), "zarr_format": 2},
    "version 2 by columns": {"chunks": (20, 2), "zarr_format": 2},
    "version 2 in Fortran order": {"chunks": (10, 5), "zarr_format": 2, "order": "F"},
}
in_every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr("dkmeans.chunks.TARGET_BYTES", 400)


@pytest.fixture(params=["disk", "memory", "s3"])
def address(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path / "rows")
    root = "memory:/" if request.param == "memory" else request.getfixturevalue("s3")
    return f"{root}/{tmp_path.parent.name}/{tmp_path.name}/rows"


def chunks_of(dataset):
    (chunks,) = dataset.batches()
    return chunks


def rows_of(dataset):
    return np.concatenate([chunk.load(dataset.width) for chunk in chunks_of(dataset)])


def check(dataset, rows=ROWS, dtype=np.float32):
    assert (dataset.rows, dataset.width) == rows.shape
    found = rows_of(dataset)
    assert found.dtype == dtype
    assert np.array_equal(found, rows)


def complaint_of(dataset):
    """What is said of the rows that are not finite."""
    with pytest.raises(InvalidData) as error:
        for chunk in chunks_of(dataset):
            finite_points(chunk, dataset.width)
    return str(error.value)


def spoilt(value, row=57, column=3):
    rows = ROWS.copy()
    rows[row, column] = value
    return rows


def write_npy(address, rows):
    with pa.BufferOutputStream() as sink:
        np.save(sink, rows)
        storage.write(address, sink.getvalue().to_pybytes())


def write_parquet(address, columns, **options):
    sink = pa.BufferOutputStream()
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, sink, **options)
    storage.write(address, sink.getvalue().to_pybytes())


def columns_of(rows):
    return {f"c{i}": rows[:, i] for i in range(rows.shape[1])}


# Zarr.


@in_every_layout
def test_a_zarr_array_of_any_layout_gives_its_rows(address, layout, small_chunks):
    zarr.create_array(storage.zarr_store(address), data=ROWS, **layout)
    check(Dataset.from_zarr(address))
    check(Dataset.from_array(zarr.open_array(storage.zarr_store(address), mode="r")))


@in_every_layout
def test_chunks_of_a_zarr_array_are_whole_chunks_or_shards_of_storage(
    tmp_path, layout, small_chunks
):
    array = zarr.create_array(LocalStore(tmp_path), data=ROWS, **layout)
    unit = (array.shards or array.chunks)[0]
    chunks = chunks_of(Dataset.from_array(array))
    assert [chunk.start % unit for chunk in chunks] == [0] * len(chunks)
    assert len(chunks) == -(-103 // max(20 // unit * unit, unit))


@in_every_layout
def test_a_zarr_array_in_memory_gives_its_rows(layout, small_chunks):
    check(Dataset.from_array(zarr.create_array(MemoryStore(), data=ROWS, **layout)))


def test_a_zarr_array_in_memory_reaches_the_workers(client):
    array = zarr.create_array(MemoryStore(), data=ROWS, chunks=(10, 5))
    model = KMeans(2, None, ROWS[:2], use_mini_batch=False).train(lambda: array, steps=1)
    nearest = ((ROWS[:, None] - ROWS[:2]) ** 2).sum(2).argmin(1)
    means = [ROWS[nearest == j].mean(0) for j in range(2)]
    assert np.allclose(model.cluster_centers(), means, atol=1e-6)


def test_an_array_of_a_group_is_named_after_two_colons(address):
    group = zarr.create_group(storage.zarr_store(address))
    group.create_array("x", data=ROWS)
    group.create_array("deep/er/y", data=ROWS[:7])
    check(Dataset.from_zarr(f"{address}::x"))
    check(Dataset.from_zarr(f"{address}::deep/er/y"), ROWS[:7])


def test_a_group_is_refused_with_the_names_of_its_arrays(address):
    group = zarr.create_group(storage.zarr_store(address))
    group.create_array("b", data=ROWS)
    group.create_array("a", data=ROWS)
    with pytest.raises(InvalidData) as error:
        Dataset.from_zarr(address)
    assert f"name one of its arrays: {address}::a, {address}::b" in str(error.value)


def test_a_group_without_arrays_is_refused(address):
    zarr.create_group(storage.zarr_store(address))
    with pytest.raises(InvalidData, match="a group that holds none"):
        Dataset.from_zarr(address)


def test_a_zarr_array_that_is_not_there_is_refused_by_its_address(address):
    zarr.create_group(storage.zarr_store(address))
    for missing in (f"{address}-not", f"{address}::x"):
        with pytest.raises(InvalidData) as error:
            Dataset.from_zarr(missing)
        assert missing in str(error.value)


def test_a_store_that_is_no_zarr_is_refused_by_its_address(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "zarr.json").write_bytes(b"{")
    for name in ("folder", "file", "broken"):
        with pytest.raises(InvalidData, match=f"{name} must be a Zarr array"):
            Dataset.from_zarr(str(tmp_path / name))


@pytest.mark.parametrize("shape", [(), (6,), (2, 3, 4), (3, 0)])
def test_a_zarr_array_that_is_no_table_is_refused_by_its_shape(tmp_path, shape):
    zarr.create_array(str(tmp_path / "a"), shape=shape, dtype="f4", chunks="auto")
    with pytest.raises(InvalidData, match="must be 2-D") as error:
        Dataset.from_zarr(str(tmp_path / "a"))
    assert str(shape) in str(error.value)


# .npy files.


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i2", "|b1"])
def test_an_npy_file_gives_its_rows(address, dtype, small_chunks):
    rows = (ROWS * 3).astype(dtype)
    write_npy(f"{address}.npy", rows)
    dataset = Dataset.from_npy(f"{address}.npy")
    assert len(chunks_of(dataset)) > 1
    check(dataset, rows, np.float64 if dtype == "<f8" else np.float32)


def test_a_local_npy_file_is_mapped_and_not_read(tmp_path):
    write_npy(str(tmp_path / "r.npy"), ROWS)
    (chunk,) = chunks_of(Dataset.from_npy(str(tmp_path / "r.npy")))
    assert isinstance(chunk.source.read(0, 9), np.memmap)


def test_npy_files_of_every_version_are_read(tmp_path):
    for version in [(1, 0), (2, 0), (3, 0)]:
        path = tmp_path / f"{version[0]}.npy"
        with path.open("wb") as file:
            np.lib.format.write_array(file, ROWS, version)
        check(Dataset.from_npy(str(path)))


def test_an_npy_file_in_fortran_order_is_refused(address):
    write_npy(address, np.asfortranarray(ROWS))
    with pytest.raises(InvalidData, match=r"in C order, got shape \(103, 5\) .* Fortran order"):
        Dataset.from_npy(address)


@pytest.mark.parametrize("shape", [(103, 1), (1, 5)])
def test_a_single_row_or_column_is_in_both_orders(tmp_path, shape):
    rows = np.asfortranarray(ROWS[: shape[0], : shape[1]])
    write_npy(str(tmp_path / "r.npy"), rows)
    check(Dataset.from_npy(str(tmp_path / "r.npy")), rows)


def test_an_npy_file_that_is_cut_short_is_refused_with_both_sizes(address):
    write_npy(address, ROWS)
    data = storage.read(address).data
    storage.write(address, data[:-1])
    with pytest.raises(InvalidData, match=f"{len(data)} bytes long, got {len(data) - 1}"):
        Dataset.from_npy(address)


@pytest.mark.parametrize("data", [b"", b"x", b"not an npy file at all", b"\x93NUMPY\x01\x00"])
def test_what_is_no_npy_file_is_refused_by_its_address(address, data):
    storage.write(address, data)
    with pytest.raises(InvalidData, match=r"must be an \.npy file") as error:
        Dataset.from_npy(address)
    assert address in str(error.value)


def test_an_npy_file_that_is_not_there_is_refused_by_its_address(address):
    with pytest.raises(InvalidData, match=r"must be an \.npy file, and cannot be read") as error:
        Dataset.from_npy(address)
    assert address in str(error.value)


@pytest.mark.parametrize(
    "array", [np.ones(5), np.ones((2, 3, 4)), np.array([[object()]])], ids=["1-D", "3-D", "object"]
)
def test_an_npy_file_of_something_else_is_refused(tmp_path, array):
    np.save(tmp_path / "r.npy", array)
    with pytest.raises(InvalidData, match="must hold a 2-D array of numbers"):
        Dataset.from_npy(str(tmp_path / "r.npy"))


# Parquet.


@pytest.mark.parametrize("group", [1, 7, 103, 1000])
def test_a_parquet_file_gives_its_rows_whatever_its_row_groups(address, group, small_chunks):
    write_parquet(address, columns_of(ROWS), row_group_size=group)
    dataset = Dataset.from_parquet(address)
    check(dataset)
    assert len(chunks_of(dataset)) == {1: 6, 7: 8, 103: 1, 1000: 1}[group]


def test_a_folder_of_parquet_files_is_read_in_the_order_of_their_names(address):
    for name, part in (("b/2", ROWS[40:70]), ("a", ROWS[:40]), ("b/3", ROWS[70:])):
        write_parquet(f"{address}/{name}.parquet", columns_of(part))
    for hidden in ("_metadata.parquet", ".x.parquet", "_temporary/y.parquet", ".z/y.parquet"):
        storage.write(f"{address}/{hidden}", b"not Parquet")
    storage.write(f"{address}/_SUCCESS", b"")
    storage.write(f"{address}/README.txt", b"not Parquet")
    check(Dataset.from_parquet(address))
    check(Dataset.from_parquet(f"{address}/"))


def test_columns_are_read_in_the_order_asked_for(tmp_path):
    path = str(tmp_path / "r.parquet")
    write_parquet(path, columns_of(ROWS))
    check(Dataset.from_parquet(path, ["c4", "c0"]), ROWS[:, [4, 0]])
    check(Dataset.from_parquet(path, columns=("c2",)), ROWS[:, [2]])


@pytest.mark.parametrize(
    ("kinds", "dtype"),
    [
        (["float32", "bool"], np.float32),
        (["float16", "int8"], np.float32),
        (["uint8", "int16", "bool"], np.float32),
        (["float64", "float32", "int64"], np.float64),
    ],
)
def test_columns_of_all_kinds_of_numbers_are_read(tmp_path, kinds, dtype):
    columns = [np.arange(9).astype(kind) for kind in kinds]
    path = str(tmp_path / "r.parquet")
    write_parquet(path, dict(zip("abcd", columns, strict=False)))
    check(Dataset.from_parquet(path), np.stack(columns, 1).astype(dtype), dtype)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float32()), None])
@pytest.mark.parametrize("group", [10, 1000])
def test_lists_are_several_columns(address, kind, group, small_chunks):
    lists = pa.array(list(ROWS[:, 1:4]), kind or pa.list_(pa.float32(), 3))
    columns = {"a": ROWS[:, 0], "v": lists, "z": ROWS[:, 4]}
    write_parquet(address, columns, row_group_size=group)
    dataset = Dataset.from_parquet(address)
    check(dataset)
    (batch, *_) = dataset.skip(33).batch(40).batches()
    found = np.concatenate([chunk.load(5) for chunk in batch])
    assert np.array_equal(found, ROWS[33:73])


def test_ragged_lists_are_refused_by_the_row(tmp_path):
    lists = [[1.0, 2.0]] * 57 + [[1.0]] + [[1.0, 2.0]] * 9
    write_parquet(str(tmp_path / "r.parquet"), {"v": lists}, row_group_size=10)
    said = complaint_of(Dataset.from_parquet(str(tmp_path / "r.parquet")))
    assert "'v' must all have 2 values" in said
    assert "row 57 of" in said
    assert "has 1" in said


@pytest.mark.parametrize("kind", [pa.float32(), pa.int64(), pa.bool_()])
def test_a_null_is_refused_by_the_row_and_the_column(tmp_path, kind):
    values = pa.array([1] * 57 + [None] + [0] * 9, pa.int64()).cast(kind)
    table = pa.table({"a": np.ones(67), "gappy": values})
    write_parquet(str(tmp_path / "r.parquet"), table, row_group_size=10)
    said = complaint_of(Dataset.from_parquet(str(tmp_path / "r.parquet")))
    assert "row 57 of" in said
    assert "r.parquet has no 'gappy'" in said


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 2)])
@pytest.mark.parametrize("gap", [None, [1.0, None]])
def test_a_null_list_or_one_with_a_gap_is_refused_by_the_row(tmp_path, kind, gap):
    values = pa.array([[1.0, 2.0]] * 57 + [gap] + [[1.0, 2.0]] * 9, kind)
    write_parquet(str(tmp_path / "r.parquet"), {"gappy": values}, row_group_size=10)
    said = complaint_of(Dataset.from_parquet(str(tmp_path / "r.parquet")))
    assert "row 57 of" in said
    assert "'gappy'" in said


@pytest.mark.parametrize(
    "values",
    [["x"], [b"x"], [[["nested"]]], [[["x"]]], [{"a": 1.0}], pa.array([1], pa.timestamp("s"))],
)
def test_columns_without_numbers_are_refused_by_name_with_advice(tmp_path, values):
    write_parquet(str(tmp_path / "r.parquet"), {"a": [1.0], "other": values})
    with pytest.raises(Invalid, match=r"must hold numbers .* got other \(.*; choose others with"):
        Dataset.from_parquet(str(tmp_path / "r.parquet"))
    assert Dataset.from_parquet(str(tmp_path / "r.parquet"), ["a"]).width == 1


@pytest.mark.parametrize("columns", [["a", "no"], []])
def test_columns_that_are_not_there_are_refused_with_those_that_are(tmp_path, columns):
    write_parquet(str(tmp_path / "r.parquet"), {"a": [1.0], "b": [1.0]})
    got = "no" if columns else "none"
    with pytest.raises(Invalid, match=rf"r\.parquet \(a, b\), got {got}$"):
        Dataset.from_parquet(str(tmp_path / "r.parquet"), columns)


def test_files_that_disagree_about_the_columns_are_refused_with_both(tmp_path):
    write_parquet(str(tmp_path / "1.parquet"), {"a": [1.0], "b": [1.0]})
    write_parquet(str(tmp_path / "2.parquet"), {"a": [1.0], "c": [1.0]})
    with pytest.raises(
        InvalidData, match=r"same columns; .*1\.parquet has a, b, .*2\.parquet a, c"
    ):
        Dataset.from_parquet(str(tmp_path))
    check(Dataset.from_parquet(str(tmp_path), ["a"]), np.ones((2, 1)), np.float64)


def test_parquet_files_without_rows_are_passed_over(tmp_path):
    write_parquet(str(tmp_path / "1.parquet"), columns_of(ROWS[:0]))
    with pytest.raises(InvalidData, match="at least one row"):
        Dataset.from_parquet(str(tmp_path))
    write_parquet(str(tmp_path / "2.parquet"), columns_of(ROWS))
    check(Dataset.from_parquet(str(tmp_path)))


def test_what_is_not_parquet_is_refused_by_its_address(address):
    for name, data in (("empty", b""), ("text", b"not Parquet at all")):
        storage.write(f"{address}/{name}.parquet", data)
        with pytest.raises(InvalidData, match="must be Parquet, and cannot be read") as error:
            Dataset.from_parquet(f"{address}/{name}.parquet")
        assert f"{address}/{name}.parquet" in str(error.value)


def test_parquet_that_is_not_there_is_refused_by_its_address(address):
    storage.write(f"{address}/note.txt", b"x")
    for missing in (f"{address}-not", f"{address}/not.parquet", address):
        with pytest.raises(InvalidData, match="must be a Parquet file or") as error:
            Dataset.from_parquet(missing)
        assert missing in str(error.value)


# Dask arrays.


@pytest.mark.parametrize("chunks", [(10, 5), (10, 2), (103, 1), ((1, 100, 2), (3, 2))])
def test_a_dask_array_of_any_chunks_gives_its_rows(chunks):
    check(Dataset.from_array(da.from_array(ROWS, chunks=chunks)))
    check(Dataset.from_array(da.from_array(ROWS, chunks=chunks) * 2 - 1), ROWS * 2 - 1)


def test_a_block_is_computed_when_it_is_loaded_and_only_that_one(tmp_path):
    def noted(block, block_info=None):
        (tmp_path / str(block_info[0]["chunk-location"][0])).touch()
        return block

    array = da.from_array(ROWS, chunks=(10, 5))
    array = array.map_blocks(noted, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    chunks = chunks_of(Dataset.from_array(array))
    assert list(tmp_path.iterdir()) == []
    chunks[4].load(5)
    assert [path.name for path in tmp_path.iterdir()] == ["4"]


def test_unknown_sizes_are_found_and_empty_blocks_passed_over():
    array = da.from_array(ROWS, chunks=(10, 5))
    keep = np.ones(103, bool)
    keep[20:40] = keep[61:64] = keep[:10] = False
    dataset = Dataset.from_array(array[da.from_array(keep, chunks=10)])
    check(dataset, ROWS[keep])
    assert [chunk.rows for chunk in chunks_of(dataset)] == [10, 10, 7, 10, 10, 10, 10, 3][-8:]


@pytest.mark.parametrize("chunks", [(10, 5), (10, 2)])
def test_blocks_that_a_cluster_holds_are_taken_from_there(client, chunks):
    held = da.from_array(ROWS, chunks=chunks).persist()
    check(Dataset.from_array(held))
    check(Dataset.from_array(held * 2), ROWS * 2)
    model = KMeans(3, None, ROWS[:3], use_mini_batch=False).train(lambda: held, steps=2)
    plain = KMeans(3, None, ROWS[:3], use_mini_batch=False)
    plain.train(lambda: da.from_array(ROWS, chunks=(10, 5)), steps=2)
    assert model.cluster_centers().tobytes() == plain.cluster_centers().tobytes()


@pytest.mark.parametrize("array", [da.ones(5), da.ones((2, 2, 2)), da.ones((3, 0))])
def test_a_dask_array_that_is_no_table_is_refused_by_its_shape(array):
    with pytest.raises(InvalidData, match="must be 2-D"):
        Dataset.from_array(array)


# What the numbers may be, wherever they come from.


def from_numpy(rows, path):
    return Dataset.from_array(rows)


def from_zarr(rows, path):
    zarr.create_array(path, data=rows, chunks=(20, 2))
    return Dataset.from_zarr(path)


def from_npy(rows, path):
    write_npy(path, rows)
    return Dataset.from_npy(path)


def from_parquet(rows, path):
    write_parquet(path, columns_of(rows), row_group_size=10)
    return Dataset.from_parquet(path)


def from_dask(rows, path):
    return Dataset.from_array(da.from_array(rows, chunks=(10, 2)))


from_everywhere = pytest.mark.parametrize(
    "source", [from_numpy, from_zarr, from_npy, from_parquet, from_dask]
)


@from_everywhere
@pytest.mark.parametrize("dtype", ["i1", "u2", "i8", "u8", "f2", "?"])
def test_other_real_numbers_are_cast_to_float32(tmp_path, source, dtype):
    rows = np.abs(ROWS * 9).astype(dtype)
    check(source(rows, str(tmp_path / "rows")), rows)


@from_everywhere
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_floats_are_computed_as_they_are(tmp_path, source, dtype):
    rows = ROWS.astype(dtype) / 3
    check(source(rows, str(tmp_path / "rows")), rows, dtype)


@from_everywhere
@pytest.mark.parametrize(
    ("value", "dtype"), [(2**24 + 1, "i8"), (-(2**24) - 1, "i4"), (2**64 - 1, "u8")]
)
def test_integers_that_float32_lacks_are_refused_by_value(tmp_path, source, value, dtype):
    rows = np.zeros((103, 5), dtype)
    rows[57, 3] = value
    assert f"got {value}" in complaint_of(source(rows, str(tmp_path / "rows")))


@from_everywhere
def test_the_largest_integers_that_float32_has_are_taken(tmp_path, source):
    rows = np.full((103, 5), -(2**24), "i8")
    rows[57, 3] = 2**24
    check(source(rows, str(tmp_path / "rows")), rows)


@pytest.mark.parametrize("source", [from_numpy, from_zarr, from_npy, from_dask])
def test_complex_numbers_are_refused_by_their_dtype(tmp_path, source):
    with pytest.raises(InvalidType, match="real numbers, got dtype complex128"):
        rows_of(source(np.ones((3, 2), complex), str(tmp_path / "rows")))


@pytest.mark.parametrize("values", [[["a", "b"]], [[object(), 1]], [[b"a", b"b"]]])
def test_what_is_no_number_is_refused_by_its_dtype(values):
    with pytest.raises(InvalidType, match="real numbers, got dtype"):
        rows_of(Dataset.from_array(np.array(values)))


@from_everywhere
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named_by_its_number(tmp_path, source, value, small_chunks):
    said = complaint_of(source(spoilt(value), str(tmp_path / "rows")))
    assert "row 57 of" in said
    assert f"has {value} in column 3" in said


def test_a_row_that_is_not_finite_is_named_by_its_number_in_its_own_file(tmp_path):
    write_parquet(str(tmp_path / "1.parquet"), columns_of(ROWS))
    write_parquet(str(tmp_path / "2.parquet"), columns_of(spoilt(np.nan)), row_group_size=10)
    assert "row 57 of " in (said := complaint_of(Dataset.from_parquet(str(tmp_path))))
    assert "2.parquet" in said


# What travels.


@pytest.mark.parametrize("source", [from_zarr, from_npy, from_parquet])
def test_what_travels_of_stored_rows_says_where_they_are_and_holds_none(
    tmp_path, source, small_chunks
):
    for chunk in chunks_of(source(ROWS, str(tmp_path / "rows"))):
        data = pickle.dumps(chunk)
        assert len(data) < 5000
        assert np.array_equal(pickle.loads(data).load(5), ROWS[chunk.start : chunk.stop])


def test_what_travels_of_rows_on_s3_says_where_they_are_and_holds_none(s3, tmp_path, small_chunks):
    root = f"{s3}/{tmp_path.parent.name}-{tmp_path.name}"
    zarr.create_array(storage.zarr_store(f"{root}.zarr"), data=ROWS, chunks=(10, 5))
    write_npy(f"{root}.npy", ROWS)
    write_parquet(f"{root}.parquet", columns_of(ROWS))
    for dataset in (
        Dataset.from_zarr(f"{root}.zarr"),
        Dataset.from_npy(f"{root}.npy"),
        Dataset.from_parquet(f"{root}.parquet"),
    ):
        for chunk in chunks_of(dataset):
            data = pickle.dumps(chunk)
            assert len(data) < 5000
            assert np.array_equal(pickle.loads(data).load(5), ROWS[chunk.start : chunk.stop])
