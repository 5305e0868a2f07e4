"""Predictions in storage, read back and compared with those that the model returns."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from dkmeans import Dataset, checkpoints, storage
from dkmeans.prediction import output as outputs
from dkmeans.prediction.request import Request

CHANGED = 7777  # no cluster's number: a region that holds it was not written again

endings = pytest.mark.parametrize("ending", [".zarr", ".parquet"])


def read(address):
    """Return clusters, distances or None, and whether the output is marked as complete."""
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


def check_whole(found, model, rows, *, transform):
    clusters, distances, complete = found
    wanted = expected(model, rows)
    assert complete is True
    assert clusters.dtype == np.int64
    assert np.array_equal(clusters, wanted[0])
    assert (distances is not None) == transform
    if transform:
        assert distances.dtype == np.float32
        assert np.array_equal(distances, wanted[1])


def region_rows(address):
    if address.endswith(".zarr"):
        attributes = zarr.open_group(storage.zarr_store(address), mode="r").attrs
        return attributes["dkmeans_predictions"]["region_rows"]
    prediction = storage.read(storage.join(address, "_dkmeans_predictions"))
    return json.loads(prediction.data)["region_rows"]


def done(address):
    """Return the numbers of the regions that are marked as done."""
    if address.endswith(".zarr"):
        names = storage.children(f"{address}/cluster_index/_done")
        return [int(name) for name in names if name.isdigit()]
    return [int(name[5:13]) for name in storage.children(address) if name.startswith("part-")]


def change_region(address, number):
    """Change what a region holds, which the library cannot notice."""
    if address.endswith(".zarr"):
        group = zarr.open_group(storage.zarr_store(address), mode="r+")
        rows = region_rows(address)
        group["cluster_index"][number * rows : (number + 1) * rows] = CHANGED
        return
    place = f"{address}/part-{number:08d}.parquet"
    table = pq.read_table(pa.BufferReader(storage.read(place).data))
    table = table.set_column(0, "cluster_index", pa.array(np.full(len(table), CHANGED)))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.write(place, sink.getvalue().to_pybytes())


def check_continued(address, model, rows, folder, *, changed, transform):
    """Check that an output is that of an undisturbed run, except for its changed regions."""
    undisturbed = f"{folder}/undisturbed.zarr"
    model.write_predictions(lambda: rows, undisturbed, transform=transform)
    wanted = read(undisturbed)
    clusters, distances, complete = read(address)
    is_changed = np.isin(np.arange(len(rows)) // region_rows(address), changed)
    assert complete is True
    assert (clusters[is_changed] == CHANGED).all()
    assert np.array_equal(clusters[~is_changed], wanted[0][~is_changed])
    assert not transform or np.array_equal(distances, wanted[1])


def output_at(address, model, rows):
    """Return the output of a prediction, which is not yet prepared."""
    (whole,) = Dataset.from_array(rows).batches()
    request = Request(transform=True)
    return outputs.plan_output(address, whole, checkpoints.latest(model.model_dir), request)
