"""Rows of Zarr arrays: every layout, on a disk, in memory and on S3; damaged arrays are refused."""

import base64
import pickle

import numpy as np
import obstore.store
import pytest
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.local import LocalFileSystem
from zarr.storage import FsspecStore, LocalStore, LoggingStore, ObjectStore, ZipStore

from dkmeans import Dataset, InvalidData
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.input_fn import read_input
from dkmeans.storage import remove, zarr_store
from tests.data.sources.rows import ROWS, chunks_of, everywhere, loaded

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
    with pytest.raises(
        InvalidData, match="got a group; give columns, or name one of its"
    ) as caught:
        Dataset.from_zarr(address)
    assert f"{address}::train" in str(caught.value)
    with pytest.raises(InvalidData, match="nothing is there"):
        Dataset.from_zarr(f"{address}::none")


def test_a_group_without_arrays_is_refused(tmp_path):
    zarr.create_group(tmp_path / "group.zarr")
    with pytest.raises(InvalidData, match="got a group that holds none"):
        Dataset.from_zarr(str(tmp_path / "group.zarr"))


def test_a_group_of_groups_names_the_arrays_below_them(tmp_path):
    group = zarr.create_group(tmp_path / "group.zarr")
    for number in range(25):
        group.create_array(f"deep/er/a{number:02}", shape=(2, 2), dtype="f4")
    path = str(tmp_path / "group.zarr")
    with pytest.raises(InvalidData, match=r"name one of its arrays: .*::deep/er/a00.* and 5 more$"):
        Dataset.from_zarr(path)
    with pytest.raises(InvalidData, match=rf"{path}::deep/er/a19 and 5 more$"):
        Dataset.from_zarr(f"{path}::deep")


@pytest.mark.parametrize("name", ["zarr.json", ".zarray"])
def test_a_store_with_broken_metadata_is_refused(name, tmp_path):
    (tmp_path / "rows.zarr").mkdir()
    (tmp_path / "rows.zarr" / name).write_text('{"zarr_format": 3, "node_type": "arr')
    with pytest.raises(InvalidData, match="must be a Zarr array"):
        Dataset.from_zarr(str(tmp_path / "rows.zarr"))


def test_a_file_or_an_empty_folder_is_refused(tmp_path):
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


@everywhere
def test_an_array_that_was_replaced_by_another_one_is_refused(address):
    replacements = {
        "shape (30, 4)": (ROWS[:30], {}),
        "of int32": (ROWS.view(np.int32), {}),
        "in chunks (20, 2)": (ROWS, {"chunks": (20, 2)}),
        "of float64": (ROWS.astype(np.float64), {"compressors": None}),
        "no metadata": (None, {}),
    }
    store = zarr_store(address)
    for found, (rows, layout) in replacements.items():
        zarr.create_array(store, data=ROWS, chunks=(10, 4), overwrite=True)
        dataset = Dataset.from_zarr(address)
        if rows is None:
            zarr.create_group(store, overwrite=True)
        else:
            zarr.create_array(store, data=rows, overwrite=True, **{"chunks": (10, 4), **layout})
        with pytest.raises(InvalidData, match=r"must be an array of shape \(50, 4\)") as caught:
            loaded(dataset)
        assert found in str(caught.value)


def test_an_array_that_was_extended_gives_the_rows_that_it_had(tmp_path):
    array = zarr.create_array(tmp_path / "rows.zarr", data=ROWS, chunks=(10, 4))
    dataset = Dataset.from_zarr(str(tmp_path / "rows.zarr"))
    array.append(ROWS)
    array.attrs["unit"] = "m"
    assert np.array_equal(loaded(dataset), ROWS)


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


def test_a_zarr_array_in_memory_becomes_rows_in_memory():
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


def test_a_shard_is_read_whole_unless_it_is_too_large(tmp_path, monkeypatch):
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


@everywhere
def test_chunks_that_are_not_stored_are_counted_in_one_warning(address, caplog):
    array = zarr.create_array(zarr_store(address), data=ROWS, chunks=(5, 4), fill_value=7)
    Dataset.from_zarr(address)
    assert not caplog.records
    remove(f"{address}/c/3/0")
    Dataset.from_zarr(address)
    (warning,) = caplog.messages
    stored = f"{address}: 9 of 10 chunks are stored"
    assert warning == f"{stored}; the rows of the others are read as the fill value 7.0"
    Dataset.from_zarr(address)
    Dataset.from_array(array)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("version", [2, 3])
def test_the_chunks_of_an_array_within_a_group_are_counted(version, tmp_path, caplog):
    group = zarr.create_group(str(tmp_path / "g.zarr"), zarr_format=version)
    # An array whose name begins with the other's name has chunks of its own.
    group.create_array("rows", data=ROWS, chunks=(5, 2))
    group.create_array("rows2", shape=(50, 4), chunks=(5, 2), dtype="f4")
    Dataset.from_zarr(f"{tmp_path}/g.zarr::rows")
    assert not caplog.records
    Dataset.from_zarr(f"{tmp_path}/g.zarr::rows2")
    assert "0 of 20 chunks are stored" in caplog.text


def test_shards_that_are_not_stored_are_counted(tmp_path, caplog):
    path = tmp_path / "rows.zarr"
    zarr.create_array(str(path), data=ROWS, chunks=(5, 4), shards=(10, 4))
    (path / "c" / "1" / "0").unlink()
    Dataset.from_zarr(str(path))
    assert "4 of 5 shards are stored" in caplog.text


def test_storage_that_cannot_be_listed_gives_no_warning(tmp_path, caplog):
    class Unlisted(LocalFileSystem):
        def find(self, path, **more):
            return []

    zarr.create_array(str(tmp_path / "rows.zarr"), data=ROWS, chunks=(5, 4))
    store = FsspecStore(fsspec_async(Unlisted()), path=f"{tmp_path}/rows.zarr", read_only=True)
    assert Dataset.from_array(zarr.open_array(store, mode="r")).rows == 50
    assert not caplog.records


def fsspec_async(fs):
    return AsyncFileSystemWrapper(fs, asynchronous=True)


def test_an_array_of_very_many_chunks_is_not_listed(tmp_path, caplog):
    path = str(tmp_path / "rows.zarr")
    zarr.create_array(path, shape=(200_000, 1), chunks=(1, 1), dtype="f4")
    Dataset.from_zarr(path)
    assert not caplog.records


PACKED = {"scale_factor": 0.01, "add_offset": 280.0, "_Unsigned": "true"}


@pytest.mark.parametrize("name", PACKED)
def test_packed_numbers_are_refused_by_their_attributes(name, tmp_path):
    array = zarr.create_array(str(tmp_path / "rows.zarr"), data=ROWS.astype("i2"))
    array.attrs[name] = PACKED[name]
    for make in (lambda: Dataset.from_zarr(str(tmp_path / "rows.zarr")), lambda: from_dict(array)):
        with pytest.raises(InvalidData, match=f"unpacked numbers, got the attributes {name} ") as e:
            make()
        assert "xarray" in str(e.value)


def from_dict(array):
    return read_input(lambda: {"a": array}, "train", {}, None)


def test_attributes_that_change_nothing_are_accepted(tmp_path):
    array = zarr.create_array(str(tmp_path / "rows.zarr"), data=ROWS)
    nan = base64.b64encode(np.float64(np.nan).tobytes()).decode()
    array.attrs.update({"scale_factor": 1.0, "add_offset": 0, "_FillValue": nan, "units": "m"})
    assert np.array_equal(loaded(Dataset.from_zarr(str(tmp_path / "rows.zarr"))), ROWS)


@pytest.mark.parametrize("dtype", ["i2", "f4"])
@pytest.mark.parametrize("name", ["_FillValue", "missing_value", "version 2"])
def test_a_value_that_attributes_declare_missing_is_refused_by_its_row(name, dtype, tmp_path):
    rows = np.arange(200).reshape(50, 4).astype(dtype)
    path = str(tmp_path / "rows.zarr")
    missing = -999
    if name == "version 2":
        # xarray has no other attribute there.
        array = zarr.create_array(path, data=rows, zarr_format=2, fill_value=missing)
        array.attrs["_ARRAY_DIMENSIONS"] = ["row", "column"]
    else:
        array = zarr.create_array(path, data=rows, chunks=(10, 4))
        encoded = base64.b64encode(np.float64(missing).tobytes()).decode()
        array.attrs[name] = encoded if dtype == "f4" and name == "_FillValue" else missing
    assert np.array_equal(loaded(Dataset.from_zarr(path)), rows)
    array[33, 2] = missing
    with pytest.raises(InvalidData, match=r"row 33 of .*rows.zarr has -999.* in column 2"):
        loaded(Dataset.from_zarr(path))


def test_a_fill_value_is_a_value_where_no_attribute_declares_it_missing(tmp_path):
    for version in (2, 3):
        path = str(tmp_path / f"{version}.zarr")
        array = zarr.create_array(path, data=ROWS, zarr_format=version, fill_value=0)
        array[3, 1] = 0
        assert loaded(Dataset.from_zarr(path))[3, 1] == 0


def keys_of(store):
    return {chunk.source.key for chunk in chunks_of(Dataset.from_array(zarr.open_array(store)))}


def test_two_arrays_have_the_same_key_only_if_they_have_the_same_place(tmp_path, monkeypatch):
    stores = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        zarr.create_array(LocalStore(folder / "rows.zarr"), data=ROWS, chunks=(10, 4))
        with ZipStore(folder / "rows.zip", mode="w") as archive:
            zarr.create_array(archive, data=ROWS, chunks=(10, 4))
        references = {
            path.relative_to(folder / "rows.zarr").as_posix(): [str(path)]
            for path in (folder / "rows.zarr").rglob("*")
            if path.is_file()
        }
        options = {"fo": references, "remote_protocol": "file"}
        monkeypatch.chdir(folder)
        stores += [
            [
                LocalStore("rows.zarr", read_only=True),
                ZipStore("rows.zip", read_only=True),
                FsspecStore.from_url(f"zip:///::{folder}/rows.zip", read_only=True),
                FsspecStore.from_url("reference://", storage_options=options, read_only=True),
                ObjectStore(obstore.store.LocalStore(folder / "rows.zarr"), read_only=True),
                LoggingStore(LocalStore(folder / "rows.zarr", read_only=True)),
            ]
        ]
        found = [keys_of(store) for store in stores[-1]]
        # A store of an unknown kind has another key each time, all others the same.
        again = [keys_of(store) for store in stores[-1]]
        assert [a == b for a, b in zip(found, again, strict=True)] == [True] * 5 + [False]
        stores[-1] = found
    one, two = stores
    assert not any(a & b for a, b in zip(one, two, strict=True))


def test_a_key_is_the_same_after_a_travel_to_a_worker(tmp_path):
    zarr.create_array(str(tmp_path / "rows.zarr"), data=ROWS)
    store = LoggingStore(LocalStore(tmp_path / "rows.zarr", read_only=True))
    (chunk,) = chunks_of(Dataset.from_array(zarr.open_array(store)))
    assert pickle.loads(pickle.dumps(chunk)).source.key == chunk.source.key


def test_an_array_in_the_memory_of_obstore_becomes_rows_in_memory():
    array = zarr.create_array(ObjectStore(obstore.store.MemoryStore()), data=ROWS, chunks=(10, 4))
    dataset = Dataset.from_array(array)
    assert np.array_equal(loaded(dataset), ROWS)
    assert all(isinstance(chunk.source, MemoryRows) for chunk in chunks_of(dataset))
