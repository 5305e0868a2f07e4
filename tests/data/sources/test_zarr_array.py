"""Rows of Zarr arrays: every layout, on a disk, in memory and on S3; damaged arrays are refused."""

import numpy as np
import pytest
import zarr

from dkmeans import Dataset, InvalidData
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.storage import zarr_store
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
    with pytest.raises(InvalidData, match="got a group; name one of its arrays") as caught:
        Dataset.from_zarr(address)
    assert f"{address}::train" in str(caught.value)
    with pytest.raises(InvalidData, match="nothing is there"):
        Dataset.from_zarr(f"{address}::none")


def test_a_group_without_arrays_is_refused(tmp_path):
    zarr.create_group(tmp_path / "group.zarr")
    with pytest.raises(InvalidData, match="got a group that holds none"):
        Dataset.from_zarr(str(tmp_path / "group.zarr"))


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
