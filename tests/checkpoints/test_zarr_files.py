"""The files of a group: the same that Zarr writes, and read by Zarr."""

import json

import numpy as np
import pytest
import zarr

from dkmeans import storage
from dkmeans.checkpoints.zarr_files import files_of

ARRAYS = {
    "centers": np.arange(12, dtype=np.float32).reshape(4, 3) + 0.5,
    "means": np.arange(6, dtype=np.float64).reshape(3, 2).T,
    "counts": np.array([1, -2, 2**62]),
    "copies": np.zeros((0, 2), np.int32),
    "flags": np.array([True, False]),
    "swapped": np.arange(3, dtype=">i8"),
}


@pytest.mark.parametrize("piece_bytes", [2**28, 24])
def test_zarr_reads_the_arrays_and_attributes(tmp_path, monkeypatch, piece_bytes):
    monkeypatch.setattr("dkmeans.checkpoints.zarr_files._LARGEST_PIECE_BYTES", piece_bytes)
    storage.write_files(str(tmp_path / "g"), files_of(ARRAYS, {"step": 3, "name": "ü"}))
    group = zarr.open_group(tmp_path / "g", mode="r")
    assert dict(group.attrs) == {"step": 3, "name": "ü"}
    assert sorted(group.array_keys()) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        assert group[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(group[name][...], array)


def test_the_metadata_are_those_that_zarr_writes(tmp_path):
    group = zarr.create_group(tmp_path / "g", attributes={"step": 3}, zarr_format=3)
    for name, array in ARRAYS.items():
        chunks = (max(1, len(array)), *array.shape[1:])
        native = array.astype(array.dtype.newbyteorder("="))
        keys = {"name": "default", "separator": "."}
        group.create_array(
            name, data=native, chunks=chunks, compressors=None, chunk_key_encoding=keys
        )
    for name, data in files_of(ARRAYS, {"step": 3}):
        if name.endswith("zarr.json"):
            written = json.loads((tmp_path / "g" / name).read_text())
            assert {key: value for key, value in written.items() if value} == {
                key: value for key, value in json.loads(data).items() if value
            }


def test_the_metadata_of_the_group_come_last():
    names = [name for name, _ in files_of(ARRAYS, {})]
    assert names[-1] == "zarr.json"
    assert names.index("centers/zarr.json") < names.index("centers/c.0.0")
