"""Predictions in storage: what `predict` gives, whole and marked so, or named as what it is not."""

from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from dask import array as da

from dkmeans import Dataset, Invalid, InvalidData, KMeans, outputs, storage


@pytest.fixture
def rows():
    return np.random.default_rng(5).normal(size=(1003, 3)).astype(np.float32)


@pytest.fixture
def model(rows, tmp_path):
    estimator = KMeans(4, str(tmp_path / "model"), initial_clusters=rows[:4])
    return estimator.train(lambda: rows, steps=3)


@pytest.fixture(params=["disk", "s3"])
def folder(request, tmp_path):
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{uuid4().hex}"
    return str(tmp_path)


@pytest.fixture(params=["threads", "cluster"])
def executor(request):
    return request.param == "cluster" and request.getfixturevalue("client")


def read(address):
    """Clusters, distances (or None) and whether the output is marked as complete."""
    if address.endswith(".zarr"):
        group = zarr.open_group(storage.zarr_store(address, read_only=True), mode="r")
        names = {name: array[...] for name, array in group.arrays()}
        return names["cluster_index"], names.get("all_distances"), group.attrs["complete"]
    names = [name for name in storage.children(address) if name.startswith("part-")]
    files = [storage.read(storage.join(address, name)).data for name in names]
    table = pa.concat_tables([pq.read_table(pa.BufferReader(file)) for file in files])
    distances = None
    if "all_distances" in table.column_names:
        flat = table["all_distances"].combine_chunks().flatten().to_numpy()
        distances = flat.reshape(len(table), -1)
    complete = storage.read(storage.join(address, "_SUCCESS")) is not None
    return table["cluster_index"].to_numpy(), distances, complete


def expected(model, rows):
    clusters = np.array([*model.predict_cluster_index(lambda: rows)])
    return clusters, np.stack([*model.transform(lambda: rows)])


def is_whole(found, model, rows, *, transform):
    clusters, distances, complete = found
    wanted = expected(model, rows)
    assert complete is True
    assert clusters.dtype == np.int64
    assert np.array_equal(clusters, wanted[0])
    assert (distances is not None) == transform
    if transform:
        assert distances.dtype == np.float32
        assert np.array_equal(distances, wanted[1])
    return True


@pytest.mark.parametrize("ending", [".zarr", ".parquet"])
@pytest.mark.parametrize("transform", [False, True])
def test_what_is_written_is_what_is_predicted(model, rows, folder, executor, ending, transform):
    address = f"{folder}/clusters{ending}"
    assert model.write_predictions(lambda: rows, address, transform=transform) == len(rows)
    assert is_whole(read(address), model, rows, transform=transform)
    assert executor is False or executor.status == "running"


@pytest.mark.parametrize("ending", [".zarr", ".parquet"])
@pytest.mark.parametrize("region", [1, 64, 100, 334, 2000])
def test_regions_are_cut_at_the_outputs_borders_though_the_inputs_are_irregular(
    model, rows, tmp_path, monkeypatch, ending, region
):
    if region == 1:
        rows = rows[:40]
    monkeypatch.setattr(outputs, "_REGION_ROWS", region)
    cuts = [0, 7, 7 + 300 * len(rows) // 1003, len(rows) - 5, len(rows)]
    irregular = da.from_array(rows, chunks=(tuple(np.diff(cuts).tolist()), 3))
    address = f"{tmp_path}/clusters{ending}"
    assert model.write_predictions(lambda: irregular, address, transform=True) == len(rows)
    assert is_whole(read(address), model, rows, transform=True)
    if ending == ".zarr":
        group = zarr.open_group(address, mode="r")
        assert group["cluster_index"].chunks[0] == group["all_distances"].chunks[0]
        assert group["cluster_index"].chunks[0] <= max(region, 7)
    else:
        assert len(list((tmp_path / "clusters.parquet").glob("part-*"))) >= len(rows) // 2000 + 1


def test_workers_that_share_irregular_inputs_lose_no_rows(model, rows, folder, client):
    irregular = da.from_array(np.tile(rows, (40, 1)), chunks=((7, 13000, 1, 20013, 7099), 3))
    address = f"{folder}/clusters.zarr"
    written = model.write_predictions(lambda: irregular, address)
    assert written == 40 * len(rows)
    clusters, _, complete = read(address)
    assert complete is True
    assert np.array_equal(clusters, np.tile(expected(model, rows)[0], 40))


@pytest.mark.parametrize("ending", [".zarr", ".parquet"])
def test_a_rerun_replaces_what_an_earlier_one_wrote(model, rows, folder, ending, monkeypatch):
    address = f"{folder}/clusters{ending}"
    monkeypatch.setattr(outputs, "_REGION_ROWS", 100)
    model.write_predictions(lambda: rows, address, transform=True)
    model.train(lambda: rows + 1, steps=1)
    assert model.write_predictions(lambda: rows[:350], address) == 350
    assert is_whole(read(address), model, rows[:350], transform=False)


@pytest.mark.parametrize("ending", [".zarr", ".parquet"])
@pytest.mark.parametrize("name", ["notes.txt", "part-00000000.parquet", "zarr.json"])
def test_something_else_at_the_address_is_refused_and_left(model, rows, folder, ending, name):
    address = f"{folder}/mine{ending}"
    storage.write(f"{address}/{name}", b"mine")
    with pytest.raises(Invalid, match="holds something else") as caught:
        model.write_predictions(lambda: rows, address)
    assert address in str(caught.value)
    assert storage.read(f"{address}/{name}").data == b"mine"


def test_a_zarr_group_of_another_kind_is_refused_and_left(model, rows, folder):
    address = f"{folder}/mine.zarr"
    group = zarr.create_group(storage.zarr_store(address), attributes={"complete": True})
    group.create_array("cluster_index", data=np.arange(3))
    with pytest.raises(Invalid, match="holds something else"):
        model.write_predictions(lambda: rows, address)
    again = zarr.open_group(storage.zarr_store(address), mode="r")
    assert again["cluster_index"][...].tolist() == [0, 1, 2]


@pytest.mark.parametrize("ending", [".zarr", ".parquet"])
def test_a_regular_file_at_the_address_is_refused_and_left(model, rows, tmp_path, ending):
    address = tmp_path / f"mine{ending}"
    address.write_bytes(b"mine")
    with pytest.raises(Invalid, match="output must be"):
        model.write_predictions(lambda: rows, str(address))
    assert address.read_bytes() == b"mine"


@pytest.mark.parametrize("ending", [".zarr", ".parquet"])
def test_an_address_below_a_regular_file_is_refused_by_name(model, rows, tmp_path, ending):
    (tmp_path / "file").write_bytes(b"")
    address = f"{tmp_path}/file/clusters{ending}"
    with pytest.raises(Invalid, match="output must be writable") as caught:
        model.write_predictions(lambda: rows, address)
    assert address in str(caught.value)


@pytest.mark.parametrize("name", ["clusters", "clusters.csv", "clusters.zarr.zip", "zarr"])
def test_other_endings_are_refused_before_anything_is_written(model, rows, tmp_path, name):
    with pytest.raises(Invalid, match=r"output must end in \.zarr or \.parquet, got"):
        model.write_predictions(lambda: rows, str(tmp_path / name))
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("ending", [".zarr", ".parquet"])
def test_a_row_that_is_not_finite_is_named_and_leaves_the_output_incomplete(
    model, rows, tmp_path, executor, ending
):
    rows[777, 1] = np.nan
    address = f"{tmp_path}/clusters{ending}"
    with pytest.raises(InvalidData, match="row 777"):
        model.write_predictions(lambda: rows, address)
    if ending == ".zarr":
        assert zarr.open_group(address, mode="r").attrs["complete"] is False
    else:
        assert not (tmp_path / "clusters.parquet" / "_SUCCESS").exists()
    rows[777, 1] = 0
    model.write_predictions(lambda: rows, address)
    assert is_whole(read(address), model, rows, transform=False)


def test_a_rerun_that_fails_does_not_pass_for_the_earlier(model, rows, tmp_path):
    for ending in (".zarr", ".parquet"):
        address = f"{tmp_path}/clusters{ending}"
        model.write_predictions(lambda: rows, address)
        broken = rows.copy()
        broken[0, 0] = np.inf
        with pytest.raises(InvalidData, match="row 0"):
            model.write_predictions(lambda: broken, address)  # noqa: B023
    assert zarr.open_group(f"{tmp_path}/clusters.zarr", mode="r").attrs["complete"] is False
    assert not (tmp_path / "clusters.parquet" / "_SUCCESS").exists()


def test_an_output_names_the_checkpoint_that_it_is_of(model, rows, tmp_path):
    first = model.latest_checkpoint()
    model.train(lambda: rows + 1, steps=1)
    address = f"{tmp_path}/clusters.zarr"
    model.write_predictions(lambda: rows, address, checkpoint_path=first)
    about = zarr.open_group(address, mode="r").attrs["dkmeans_predictions"]
    assert about == {"checkpoint": first}


def test_a_zarr_input_is_predicted_chunk_by_chunk(model, rows, tmp_path):
    zarr.create_array(str(tmp_path / "rows.zarr"), data=rows, chunks=(90, 3))
    address = f"{tmp_path}/clusters.zarr"
    model.write_predictions(lambda: Dataset.from_zarr(str(tmp_path / "rows.zarr")), address)
    assert is_whole(read(address), model, rows, transform=False)


def test_rows_of_another_width_are_refused_before_anything_is_written(model, rows, tmp_path):
    with pytest.raises(InvalidData, match="3 columns"):
        model.write_predictions(lambda: rows[:, :2], f"{tmp_path}/clusters.zarr")
    assert not (tmp_path / "clusters.zarr").exists()


def test_a_model_without_a_checkpoint_writes_nothing(rows, tmp_path):
    with pytest.raises(ValueError, match="Could not find trained model"):
        KMeans(4, str(tmp_path / "m")).write_predictions(lambda: rows, f"{tmp_path}/c.zarr")
    assert not (tmp_path / "c.zarr").exists()
