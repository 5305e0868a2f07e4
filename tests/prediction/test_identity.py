"""Identity: predictions of the same rows by the same centers are the same, all others differ."""

import json
import shutil
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from dask import array as da

from dkmeans import Dataset, KMeans, checkpoints, load
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.prediction.identity import Prediction
from tests.prediction.outputs import check_whole, endings, read

RESULTS = ("cluster_index",)


@pytest.fixture
def identity_of(model):
    """Function that returns the identity of the prediction for a dataset."""
    checkpoint = checkpoints.latest(model.model_dir)

    def identity_of(dataset, region_rows=100, results=RESULTS):
        return Prediction.of(checkpoint, next(dataset.batches()), region_rows, results)

    return identity_of


def test_an_identity_has_the_sizes_of_rows_and_centers(identity_of, rows, model):
    found = identity_of(Dataset.from_array(rows))
    assert (found.rows, found.columns, found.num_clusters) == (1003, 3, 4)
    assert found.region_rows == 100
    assert found.checkpoint == model.latest_checkpoint()


def test_the_same_rows_in_memory_have_the_same_identity(identity_of, rows):
    one, other = (identity_of(Dataset.from_array(rows.copy())) for _ in range(2))
    assert one == other
    assert one.differences(other.as_json()) == []


def test_other_values_or_another_order_are_another_input(identity_of, rows):
    found = identity_of(Dataset.from_array(rows))
    changed = rows.copy()
    changed[700, 1] += 1
    for other in (Dataset.from_array(changed), Dataset.from_array(rows).shuffle(1)):
        assert found.differences(identity_of(other).as_json()) == ["input_sha256"]


def test_stored_rows_are_known_by_their_place_and_are_not_read(identity_of, rows, tmp_path):
    path, other = str(tmp_path / "rows.zarr"), str(tmp_path / "other.zarr")
    for place in (path, other):
        zarr.create_array(place, data=rows, chunks=(90, 3))
    shutil.rmtree(tmp_path / "rows.zarr" / "c")
    found = identity_of(Dataset.from_zarr(path))
    assert found == identity_of(Dataset.from_zarr(path))
    differences = found.differences(identity_of(Dataset.from_zarr(other)).as_json())
    assert differences == ["input", "input_sha256"]


def test_words_are_known_by_their_letters_and_not_by_their_addresses(identity_of):
    def words(*letters):
        # Each word is a new object, made at run time.
        return MemoryRows(np.array([["".join([letter] * 9)] for letter in letters], object), "w")

    def identity(source):
        batch = Batch((Chunk(source, 0, source.rows),))
        return identity_of(Dataset.of_table(lambda _: batch)).input_sha256

    assert identity(words("a", "b")) == identity(words("a", "b"))
    assert identity(words("a", "b")) != identity(words("a", "c"))


def test_archives_with_files_of_the_same_name_are_other_inputs(identity_of, rows, tmp_path):
    store = tmp_path / "rows.zarr"
    zarr.create_array(str(store), data=rows)
    pq.write_table(pa.table({name: rows[:, i] for i, name in enumerate("abc")}), tmp_path / "p")
    found = []
    for name in ("one.zip", "two.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.write(tmp_path / "p", "p.parquet")
            for file in ("zarr.json", "c/0/0"):
                archive.write(store / file, file)
        place = zarr.storage.FsspecStore.from_url(f"zip:///::{tmp_path / name}", read_only=True)
        found += [
            identity_of(Dataset.from_parquet(f"zip://p.parquet::{tmp_path / name}")).input_sha256,
            identity_of(Dataset.from_array(zarr.open_array(place, mode="r"))).input_sha256,
        ]
    assert len(set(found)) == 4


def test_differences_are_named(identity_of, rows):
    dataset = Dataset.from_array(rows)
    found = identity_of(dataset)
    other = identity_of(dataset, 90, ("cluster_index", "all_distances")).as_json()
    assert found.differences(other) == ["region_rows", "results"]
    assert found.differences({}) == list(found.as_json())


def test_an_identity_is_the_same_after_json(identity_of, rows):
    content = identity_of(Dataset.from_array(rows)).as_json()
    assert json.loads(json.dumps(content)) == content


# In a second run.


@endings
def test_a_checkpoint_made_again_at_its_address_is_noticed(
    model, rows, tmp_path, small_regions, new_log, ending
):
    address = f"{tmp_path}/clusters{ending}"
    model.write_predictions(lambda: rows, address)
    other = KMeans(4, str(tmp_path / "other"), initial_clusters=rows[10:14])
    other.train(lambda: rows, steps=1)
    shutil.rmtree(model.latest_checkpoint())
    shutil.copytree(other.latest_checkpoint(), model.latest_checkpoint())
    new_log()
    # Another process has no checkpoint in memory.
    load(model.model_dir).write_predictions(lambda: rows, address)
    assert "predictions that differ in centers_sha256\n" in new_log()
    check_whole(read(address), other, rows, transform=False)


def test_other_columns_of_the_same_files_are_another_input(model, rows, tmp_path, new_log):
    columns = {name: rows[:, i] for i, name in enumerate("abc")} | {"d": -rows[:, 0]}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    address = f"{tmp_path}/clusters.zarr"

    def table(names):
        return lambda: Dataset.from_parquet(str(tmp_path / "rows.parquet"), names)

    model.write_predictions(table(["a", "b", "c"]), address)
    model.write_predictions(table(["d", "b", "c"]), address)
    assert "differ in input_sha256" in new_log()
    check_whole(read(address), model, rows * np.float32([-1, 1, 1]), transform=False)


def test_a_dask_array_is_known_by_how_it_is_made(model, rows, tmp_path, client, new_log):
    address = f"{tmp_path}/clusters.zarr"
    lazy = da.from_array(rows, chunks=(250, 3))
    model.write_predictions(lambda: lazy, address)
    for same in (da.from_array(rows, chunks=(250, 3)), lazy.persist()):
        new_log()
        model.write_predictions(lambda same=same: same, address)
        assert "nothing to do" in new_log()
    model.write_predictions(lambda: (lazy + 1).persist(), address)
    assert "differ in input_sha256" in new_log()
    check_whole(read(address), model, rows + 1, transform=False)
