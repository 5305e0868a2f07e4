"""Tables with names at every entry point: found by name, or refused in one line that names them."""

import json
import logging
import os
import threading

import dask.array as da
import dask.dataframe as dd
import numpy as np
import onnx
import pandas as pd
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr
from distributed import Client, get_worker
from dkmeans_jobs.__main__ import main

from dkmeans import Dataset, InvalidData, KMeans, RunConfig

RNG = np.random.default_rng(0)
# Columns of very different scales: exchanged ones would give other clusters.
TABLE = pd.DataFrame(
    {"b": RNG.normal(size=60), "a": RNG.normal(size=60) * 100, "c": RNG.normal(size=60) + 50}
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that was trained on the columns b, a and c."""
    model = KMeans(4, str(tmp_path_factory.mktemp("model")), seed=1, use_mini_batch=False)
    return model.train(lambda: TABLE, steps=2)


@pytest.fixture(scope="module")
def standardized(tmp_path_factory):
    """A model that was trained on the same columns, standardized."""
    model = KMeans(4, str(tmp_path_factory.mktemp("standardized")), seed=1, use_mini_batch=False)
    return model.train(lambda: Dataset.from_array(TABLE).standardize(), steps=2)


def as_parquet(frame, folder):
    pq.write_table(pa.Table.from_pandas(frame), folder / "rows.parquet")
    return Dataset.from_parquet(str(folder / "rows.parquet"))


def as_arrow_dataset(frame, folder):
    pq.write_table(pa.Table.from_pandas(frame), folder / "rows.parquet")
    return ds.dataset(folder / "rows.parquet")


def as_dict(frame, folder):
    return {name: frame[name].to_numpy() for name in frame.columns}


def as_xarray(frame, folder):
    return xr.Dataset({name: ("row", frame[name].to_numpy()) for name in frame.columns})


def as_labeled_array(frame, folder):
    return xr.DataArray(frame.to_numpy(), dims=("row", "name"), coords={"name": [*frame.columns]})


def as_group(frame, folder):
    group = zarr.open_group(folder / "columns.zarr", mode="w")
    for name in frame.columns:
        group.create_array(name, data=frame[name].to_numpy())
    return group


MADE = {
    "frame": lambda frame, folder: frame,
    "polars": lambda frame, folder: pl.DataFrame(as_dict(frame, folder)),
    "arrow": lambda frame, folder: pa.Table.from_pandas(frame),
    "dask": lambda frame, folder: dd.from_pandas(frame, npartitions=3),
    "dict": as_dict,
    "dict of dask": lambda frame, folder: dict(dd.from_pandas(frame, npartitions=3).items()),
    "xarray": as_xarray,
    "zarr": as_group,
    "labeled": as_labeled_array,
    "parquet": as_parquet,
    "arrow dataset": as_arrow_dataset,
    "dataset": lambda frame, folder: Dataset.from_array(frame),
    "batches": lambda frame, folder: iter([frame[:20], frame[20:]]),
    "dicts": lambda frame, folder: iter([as_dict(frame[:20], folder), as_dict(frame[20:], folder)]),
}
in_every_form = pytest.mark.parametrize("made", MADE.values(), ids=MADE)


def predicted(model, rows):
    return [int(each) for each in model.predict_cluster_index(lambda: rows)]


def written(model, rows, folder):
    model.write_predictions(lambda: rows, folder / "out.zarr")
    return zarr.open(folder / "out.zarr/cluster_index")[:].tolist()


ENTRIES = {
    "predict": lambda model, rows, folder: predicted(model, rows()),
    "transform": lambda model, rows, folder: np.array(list(model.transform(rows))).tolist(),
    "evaluate": lambda model, rows, folder: model.evaluate(rows)["average_loss"],
    "score": lambda model, rows, folder: model.score(rows),
    "write_predictions": lambda model, rows, folder: written(model, rows(), folder),
}
at_every_entry = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)


@at_every_entry
@in_every_form
def test_columns_are_found_by_name_at_every_entry(standardized, made, entry, tmp_path):
    model = standardized
    other = TABLE.assign(id=np.arange(60.0))[["id", "c", "a", "b"]]
    batches = made in (MADE["batches"], MADE["dicts"])
    expected = iter([TABLE[:20], TABLE[20:]]) if batches else TABLE
    (tmp_path / "expected").mkdir()
    known = entry(model, lambda: expected, tmp_path / "expected")
    assert entry(model, lambda: made(other, tmp_path), tmp_path) == known


@at_every_entry
@in_every_form
def test_a_missing_column_is_named_at_every_entry(model, made, entry, tmp_path):
    other = TABLE.rename(columns={"a": "A"})
    with pytest.raises(InvalidData, match=r"\['b', 'a', 'c'\], got .*\(\['a'\] is missing\)") as e:
        entry(model, lambda: made(other, tmp_path), tmp_path)
    assert "\n" not in str(e.value)


@at_every_entry
def test_a_model_standardizes_the_rows_of_every_entry(standardized, entry, tmp_path):
    values = TABLE.to_numpy()
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    model = KMeans(4, str(tmp_path / "m"), seed=1, use_mini_batch=False)
    model.train(lambda: scaled, steps=2)
    (tmp_path / "known").mkdir()
    known = entry(model, lambda: scaled, tmp_path / "known")
    assert np.allclose(entry(standardized, lambda: TABLE, tmp_path), known, rtol=1e-6)


@pytest.mark.parametrize("name", ["model", "standardized"])
def test_collections_of_dask_and_files_of_the_command_are_found_by_name(
    name, request, tmp_path, capsys
):
    model, other = request.getfixturevalue(name), TABLE.assign(id=[*map(str, range(60))])
    other, missing = other[["id", "c", "a", "b"]], TABLE.rename(columns={"a": "A"})
    known, of_model = predicted(model, TABLE), ["--model-dir", model.model_dir]
    lazy = model.predict_dask(dd.from_pandas(other, npartitions=3))
    assert lazy.compute().tolist() == known
    blocks = da.from_array(TABLE.to_numpy(), chunks=(25, 2))
    assert model.predict_dask(blocks).compute().tolist() == known
    with pytest.raises(InvalidData, match=r"\(\['a'\] is missing\)"):
        model.predict_dask(dd.from_pandas(missing, npartitions=3))
    as_parquet(other, tmp_path)
    as_group(other.drop(columns="id"), tmp_path)
    stored = tmp_path / "rows.parquet", f"{tmp_path}/columns.zarr::c,a,b"
    for number, rows in enumerate(stored):
        out = tmp_path / f"{number}.zarr"
        assert main(["predict", str(rows), "--output", str(out), *of_model]) == 0
        assert zarr.open(out)["cluster_index"][:].tolist() == known
    as_parquet(missing, tmp_path)
    capsys.readouterr()
    for job in (["predict", "--output", str(tmp_path / "x.zarr")], ["evaluate"]):
        assert main([*job, str(stored[0]), *of_model]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "(['a'] is missing)" in line


@in_every_form
def test_training_continues_by_name_and_refuses_surplus_columns(made, tmp_path):
    def trained(folder, rows):
        model = KMeans(4, str(tmp_path / folder), seed=1, use_mini_batch=True)
        model.train(lambda: TABLE, steps=1)
        return model.train(rows, steps=1)

    batches = made in (MADE["batches"], MADE["dicts"])
    same = trained("same", lambda: iter([TABLE[:20]]) if batches else TABLE)
    model = trained("other", lambda: made(TABLE[["c", "b", "a"]], tmp_path))
    assert np.array_equal(model.cluster_centers(), same.cluster_centers())
    assert model.checkpoint().settings.columns == ("b", "a", "c")
    with pytest.raises(InvalidData, match=r"\(\['id'\] is not among them\)"):
        model.train(lambda: made(TABLE.assign(id=1.0), tmp_path), steps=1)
    with pytest.raises(InvalidData, match=r"\(\['a'\] is missing\)"):
        model.train(lambda: made(TABLE[["b", "c"]], tmp_path), steps=1)


PERSISTED = {"persisted": lambda frame: frame.persist(), "lazy": lambda frame: frame}


@pytest.mark.parametrize("given", PERSISTED.values(), ids=PERSISTED)
def test_partitions_are_computed_on_the_workers_alone(model, given, cluster):

    def on_a_worker(part):
        get_worker()  # fails in a process that is no worker
        return part

    frame = dd.from_pandas(TABLE.assign(id="x"), npartitions=4)
    # Lengths that Dask does not know, and a partition without rows.
    least = TABLE["c"][:15].max()
    frame = frame[frame["c"] > least].map_partitions(on_a_worker, meta=frame._meta)
    kept = TABLE[TABLE["c"] > least]
    with Client(cluster, set_as_default=False) as client:
        with client.as_current():
            frame = given(frame)
        on_cluster = KMeans(4, model.model_dir, config=RunConfig(client=client))
        assert predicted(on_cluster, frame) == predicted(model, kept)
        dataset = Dataset.from_array(TABLE[["c", "b", "a"]])
        assert predicted(on_cluster, dataset) == predicted(model, TABLE)
        trained = KMeans(3, seed=1, use_mini_batch=False, config=RunConfig(client=client))
        columns = trained.train(lambda: frame[["a", "b"]], steps=2).checkpoint().settings.columns
        assert columns == ("a", "b")


def partition(number):
    """Return a partition of 6.4 MB."""
    values = np.random.default_rng(number).random((32, 50_000), dtype=np.float32)
    return pd.DataFrame(values.T, columns=[f"c{i}" for i in range(32)])


def test_a_large_frame_is_never_held_by_the_driver_nor_as_a_whole_by_a_worker(client):
    frame = dd.from_map(partition, range(40), meta=partition(0).iloc[:0])
    config = RunConfig(client=client, cache="none")
    model = KMeans(2, seed=1, use_mini_batch=False, config=config)
    model.train(lambda: frame.partitions[:4], steps=1)  # imports and compiles
    processes = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
    processes.append(psutil.Process())

    def sizes():
        return np.array([process.memory_info().rss for process in processes]) / 1e6

    before, samples, is_done = sizes(), [], threading.Event()

    def watch():
        while not is_done.wait(0.02):
            samples.append(sizes())

    watching = threading.Thread(target=watch)
    watching.start()
    model.train(lambda: frame, steps=1)
    is_done.set()
    watching.join()
    *workers, driver = np.max(samples, axis=0) - before
    # The rows have 256 MB. A worker holds some partitions, the driver none.
    assert max(workers) < 100
    assert driver < 50


def test_rows_without_names_are_taken_by_position(model):
    assert predicted(model, TABLE.to_numpy()) == predicted(model, TABLE)
    assert predicted(model, pd.DataFrame(TABLE.to_numpy())) == predicted(model, TABLE)


def test_a_model_without_names_takes_columns_by_position_and_keeps_their_names(tmp_path):
    model = KMeans(4, str(tmp_path / "m"), seed=1, use_mini_batch=False)
    model.train(lambda: TABLE.to_numpy(), steps=1)
    assert model.checkpoint().settings.columns is None
    assert predicted(model, TABLE) == predicted(model, TABLE.to_numpy())
    model.train(lambda: TABLE, steps=1)
    assert model.checkpoint().settings.columns == ("b", "a", "c")


def test_a_frame_and_a_dict_of_the_same_columns_give_the_same_model(tmp_path):
    frame = TABLE[["a", "b", "c"]].astype({"a": "float32", "b": "float32"}).assign(c=range(60))
    both = [frame, {name: frame[name] for name in "cab"}]
    first, second = (
        KMeans(4, str(tmp_path / str(n)), seed=1, use_mini_batch=False).train(
            lambda r=r: r, steps=3
        )
        for n, r in enumerate(both)
    )
    assert first.cluster_centers().tobytes() == second.cluster_centers().tobytes()
    assert first.checkpoint().settings == second.checkpoint().settings


def test_surplus_columns_are_logged_in_one_line(model, caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    predicted(model, iter([TABLE.assign(id=1.0)] * 3))
    (line,) = [each for each in caplog.messages if "does not use" in each]
    assert line == "columns of batch 0 that the model does not use: ['id']"


def test_columns_of_one_name_are_refused(model):
    twice = pd.concat([TABLE, TABLE["a"]], axis=1)
    with pytest.raises(InvalidData, match="must have different names, got 'a' several times"):
        predicted(model, twice)


def test_exports_know_the_names(model, tmp_path):
    assert model.to_sklearn().feature_names_in_.tolist() == ["b", "a", "c"]
    assert model.to_sklearn().predict(TABLE).tolist() == predicted(model, TABLE)
    model.export_onnx(tmp_path / "model.onnx")
    about = {each.key: each.value for each in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(about["columns"]) == ["b", "a", "c"]
