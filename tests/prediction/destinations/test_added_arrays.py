"""Predictions that are added as arrays to a group of somebody else."""

import json

import numpy as np
import pytest
import xarray as xr
import zarr

from dkmeans import Dataset, Invalid, KMeans, storage
from dkmeans.prediction.destinations.added_arrays import split

ROWS = np.random.default_rng(8).normal(size=(350, 2))


@pytest.fixture
def trained(tmp_path):
    model = KMeans(3, str(tmp_path / "m"), initial_clusters=ROWS[:3])
    return model.train(lambda: ROWS, steps=2)


@pytest.fixture(params=["disk", "s3"])
def store(request, tmp_path):
    """A store whose group `part` has the rows, with consolidated metadata of xarray."""
    # A place of its own: the server lists folders whose files have been removed.
    on_s3 = request.param == "s3"
    place = f"{request.getfixturevalue('s3')}/{tmp_path.name}" if on_s3 else tmp_path
    address = f"{place}/rows.zarr"
    table = xr.Dataset({"rows": (("sample", "axis"), ROWS), "id": ("sample", np.arange(350))})
    table.attrs["of"] = "somebody else"
    table.to_zarr(storage.zarr_store(address), group="part", zarr_format=3, consolidated=True)
    return address


def opened(store):
    return xr.open_zarr(storage.zarr_store(store, read_only=True), group="part").load()


def test_predictions_are_arrays_of_the_group_and_are_resumed(
    trained, store, small_regions, new_log, monkeypatch
):
    def write(**more):
        rows = Dataset.from_zarr(f"{store}::part/rows")
        trained.write_predictions(lambda: rows, f"{store}::part", **more)
        return new_log()

    with monkeypatch.context() as patch:
        patch.setattr("dkmeans.estimator.outputs.finish", lambda output: None)  # a kill
        write(transform=True)
    storage.remove(f"{store}/part/cluster_index/_done/00000001")
    assert "holds 3 of 4 regions" in write(transform=True)
    assert "nothing to do" in write(transform=True)
    found = opened(store)
    assert found.attrs == {"of": "somebody else"}
    assert found["cluster_index"].dims == ("sample",)
    assert found["all_distances"].dims == ("sample", "cluster")
    assert found["cluster_index"].values.tolist() == [*trained.predict_cluster_index(lambda: ROWS)]
    assert np.array_equal(found["rows"], ROWS)
    # Other results replace those before, and nothing else.
    assert "predictions that differ in results" in write(distance=True)
    assert set(opened(store)) == {"rows", "id", "cluster_index", "distance"}
    with pytest.raises(KeyError):
        opened(store)["all_distances"]


def test_dimensions_of_other_sizes_keep_their_names_to_themselves(trained, tmp_path):
    store = str(tmp_path / "grid.zarr")
    table = xr.Dataset({"t": (("row", "cluster"), np.ones((10, 6))), "z": ("cluster", np.ones(6))})
    table.to_zarr(store, zarr_format=3)
    for _ in range(2):
        trained.write_predictions(lambda: ROWS, f"{store}::", transform=True)
        found = xr.open_zarr(store)
        assert found["t"].dims == ("row", "cluster")
        assert found["all_distances"].dims == ("row_1", "cluster_1")
        trained = KMeans(2, str(tmp_path / "m2"), initial_clusters=ROWS[:2])
        trained.train(lambda: ROWS, steps=1)


def test_a_driver_that_is_stopped_before_the_metadata_is_renewed_is_not_done(
    trained, store, monkeypatch
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(zarr, "consolidate_metadata", stop)
        with pytest.raises(KeyboardInterrupt):
            trained.write_predictions(lambda: ROWS, f"{store}::part")
    trained.write_predictions(lambda: ROWS, f"{store}::part")
    assert "cluster_index" in opened(store)


@pytest.mark.parametrize(
    "listed", [["../victim"], ["x"], [""], ["."], "x", {"x": 1}, [["x"]], None]
)
def test_nothing_but_results_is_removed_whatever_a_file_lists(trained, tmp_path, listed):
    store, victim = tmp_path / "st.zarr", tmp_path / "victim" / "file"
    zarr.create_group(store).create_array("x", data=np.ones((4, 2)))
    victim.parent.mkdir()
    victim.write_text("precious")
    (store / "cluster_index").mkdir()
    about = {"dkmeans_predictions": {"rows": 1}, "complete": True, "arrays": listed}
    (store / "cluster_index" / "_dkmeans_predictions").write_text(json.dumps(about))
    trained.write_predictions(lambda: ROWS, f"{store}::")
    assert victim.read_text() == "precious"
    assert zarr.open_group(store, mode="r")["x"][:].sum() == 8


def test_what_is_no_group_or_has_such_arrays_is_refused_and_left(trained, tmp_path):
    group = zarr.open_group(tmp_path / "rows.zarr", mode="w")
    group.create_array("distance", data=np.zeros(3))
    with pytest.raises(
        Invalid, match=r"in a group of Zarr version 3, got .*/other, where there is none"
    ):
        trained.write_predictions(lambda: ROWS, f"{tmp_path}/rows.zarr::other")
    with pytest.raises(
        Invalid, match="must be a group without distance, unless predictions added it"
    ):
        trained.write_predictions(lambda: ROWS, f"{tmp_path}/rows.zarr::/", distance=True)
    trained.write_predictions(lambda: ROWS, f"{tmp_path}/rows.zarr::/")
    with pytest.raises(
        Invalid, match="must be a group without distance, unless predictions added it"
    ):
        trained.write_predictions(lambda: ROWS, f"{tmp_path}/rows.zarr::/", distance=True)
    assert group["distance"].shape == (3,)
    assert group["cluster_index"].shape == (350,)
    assert group["cluster_index"].metadata.dimension_names is None
    assert split("a/b.zarr/::/c/d/") == ("a/b.zarr", "c/d")
