"""Predictions as a Zarr group: what is one, and what is left of one that was cut off."""

import signal
from uuid import uuid4

import numpy as np
import pytest
import xarray as xr
import zarr

from dkmeans import Invalid, storage
from dkmeans.prediction.destinations.parquet_folder import ParquetFolder
from dkmeans.prediction.destinations.zarr_group import ZarrGroup
from tests.prediction.outputs import check_whole, endings, output_at, read


def test_a_zarr_group_of_another_kind_is_refused_and_left(model, rows, folder):
    address = f"{folder}/other.zarr"
    group = zarr.create_group(storage.zarr_store(address), attributes={"complete": True})
    group.create_array("cluster_index", data=np.arange(3))
    with pytest.raises(Invalid, match="holds something else"):
        model.write_predictions(lambda: rows, address)
    again = zarr.open_group(storage.zarr_store(address), mode="r")
    assert again["cluster_index"][...].tolist() == [0, 1, 2]


def test_xarray_opens_all_results(model, rows, folder):
    address = f"{folder}/all.zarr"
    model.write_predictions(lambda: rows, address, transform=True, top=2)
    store = storage.zarr_store(address, read_only=True)
    found = xr.open_zarr(store, consolidated=False).load()
    assert found.sizes == {"row": len(rows), "cluster": len(model.cluster_centers()), "nearest": 2}
    assert found["all_distances"].dims == ("row", "cluster")
    nearest = found["all_distances"].argmin("cluster")
    assert nearest.values.tolist() == found["cluster_index"].values.tolist()


@endings
@pytest.mark.parametrize("kept", [0, 1, 40, 90])
@pytest.mark.parametrize("where", ["disk", "memory"])
def test_an_identity_of_which_the_end_is_missing_is_written_anew(
    model, rows, tmp_path, ending, kept, where
):
    base = str(tmp_path) if where == "disk" else f"memory://{uuid4().hex}"
    place = output_at(f"{base}/clusters{ending}", model, rows).destination
    identity = f"{place.address}/{place.identity_file}"
    place.write_identity({})
    data = storage.read(identity).data
    storage.write(identity, data[:kept])
    model.write_predictions(lambda: rows, place.address, transform=True)
    check_whole(read(place.address), model, rows, transform=True)


def test_an_empty_group_file_beside_something_else_is_refused_and_left(model, rows, folder):
    address = f"{folder}/clusters.zarr"
    storage.write(f"{address}/zarr.json", b"")
    storage.write(f"{address}/notes.txt", b"other")
    with pytest.raises(Invalid, match="holds something else"):
        model.write_predictions(lambda: rows, address)
    assert storage.read(f"{address}/notes.txt").data == b"other"


@endings
def test_a_creation_that_is_cut_off_is_recognised_by_a_store_that_ignores_conditions(
    model, rows, s3_without_conditional_writes, monkeypatch, new_log, ending
):
    address = f"{s3_without_conditional_writes}/clusters{ending}"
    kind = ZarrGroup if ending == ".zarr" else ParquetFolder
    write = kind.write_identity

    def killed_at_the_end(destination, identity):
        if identity:
            signal.raise_signal(signal.SIGINT)
        write(destination, identity)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "write_identity", killed_at_the_end)
        with pytest.raises(KeyboardInterrupt):
            model.write_predictions(lambda: rows, address, transform=True)
    model.write_predictions(lambda: rows, address, transform=True)
    assert f"replacing the predictions at {address}: its identity is empty or damaged" in new_log()
    check_whole(read(address), model, rows, transform=True)
