"""Prediction: the cluster index of each row, written once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from dkmeans import KMeans, load
from tests.jobs.commands import train


def test_each_row_gets_the_index_of_its_nearest_center_and_a_second_run_writes_nothing(
    run_json, store, rows, tmp_path
):
    run_json(*train(store, tmp_path / "m", "--max-steps", 3))
    output = tmp_path / "clusters.parquet"
    predict = ["predict", store, "--model-dir", tmp_path / "m", "--output", output]
    first = run_json(*predict)
    centers = KMeans(4, str(tmp_path / "m")).cluster_centers()
    nearest = ((rows[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
    assert np.array_equal(pq.read_table(output)["cluster_index"], nearest)
    written = {path: path.stat().st_mtime_ns for path in Path(output).rglob("*.parquet")}
    second = run_json(*predict)
    assert second["rows"] == first["rows"] == len(rows)
    assert {path: path.stat().st_mtime_ns for path in Path(output).rglob("*.parquet")} == written


@pytest.mark.parametrize("ending", ["zarr", "parquet"])
def test_predictions_that_are_written_need_no_cluster(run, run_json, store, tmp_path, ending):
    run_json(*train(store, tmp_path / "m", "--max-steps", 3))
    predict = ["predict", store, "--model-dir", tmp_path / "m"]
    predict += ["--output", tmp_path / f"clusters.{ending}"]
    assert run_json(*predict)["status"] == "predicted"
    nowhere = ["--cluster", "tcp://127.0.0.1:1"]
    code, out, err = run(*predict, *nowhere)
    assert code == 0
    assert "already done" in out
    assert "is complete" in err
    for output, message in (("clusters.csv", "must end in .zarr"), ("m", "must end in .zarr")):
        code, _, err = run(*predict[:-1], tmp_path / output, *nowhere)
        assert code == 2
        assert message in err


def test_predictions_log_where_they_are_made_and_how_far_they_are(run, run_json, store, tmp_path):
    run_json(*train(store, tmp_path / "m", "--max-steps", 3))
    predict = ["predict", store, "--model-dir", tmp_path / "m", "--output", tmp_path / "o.zarr"]
    _, _, err = run(*predict)
    first, last = (line[20:] for line in err.splitlines()[-2:])
    assert first.startswith("predicting with step 3, 4 clusters, on ")
    assert last.startswith("predicted 900 of 900 rows (100%), ")


def test_ids_and_distances_are_written_beside_the_clusters(run, run_json, rows, tmp_path):
    columns = dict(zip("abc", rows.T, strict=True)) | {"id": [f"n{n}" for n in range(900)]}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    model = ["--model-dir", tmp_path / "m"]
    run_json(*train(tmp_path / "rows.parquet", *model[1:], "--max-steps", 3, "--columns", "b,a,c"))
    predict = ["predict", tmp_path / "rows.parquet", *model, "--output", tmp_path / "o.parquet"]
    predict += ["--distance", "--second", "--top", 2]
    assert run_json(*predict, "--keep", "id,a")["status"] == "predicted"
    found = pq.read_table(tmp_path / "o.parquet")
    assert found["id"].to_pylist() == columns["id"]
    assert found["top_indices"].to_pylist() == [
        list(pair)
        for pair in zip(
            *map(list, (found["cluster_index"].to_pylist(), found["second_index"].to_pylist())),
            strict=True,
        )
    ]
    loss = run_json("evaluate", tmp_path / "rows.parquet", *model)["loss"]
    assert np.sum(found["distance"]) == pytest.approx(loss)
    assert run_json(*predict, "--keep", "id,a")["status"] == "already done"
    for flags, message in (
        (["--top", 5], "top must be at most the number of clusters, 4, got 5"),
        (["--top", 0], "--top must be an integer >= 1, got 0"),
        (["--keep", "id,"], "--keep must be names with a comma between two, got 'id,'"),
        (["--keep", "name"], "(a, b, c, id), got ['name']"),
    ):
        kept = [] if flags[0] == "--keep" else ["--keep", "id,a"]
        code, _, err = run(*predict, *kept, *flags)
        assert code == 2
        assert message in err


@pytest.mark.parametrize("given", ["rows", "rows/*.parquet"])
def test_an_output_that_a_second_run_would_read_as_rows_is_refused(
    run, rows, store, tmp_path, given, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    pq.write_table(pa.table({"a": rows[:, 0]}), "rows/0.parquet")
    job = "predict", given, "--model-dir", "m", "--output", "rows/o.parquet"
    code, _, err = run(*job)
    assert (code, err.count("\n")) == (2, 1)
    assert f"--output must be outside of INPUT {given}" in err


def test_columns_are_found_by_name_and_others_are_ignored(run, run_json, rows, tmp_path):
    columns = dict(zip("abc", rows.T, strict=True))
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    run_json(*train(tmp_path / "rows.parquet", tmp_path / "m", "--max-steps", 3))
    others = {"id": [str(n) for n in range(900)], "when": pa.array(range(900), pa.date32())}
    new = pa.table(columns | others).select(["c", "id", "a", "when", "b"])
    pq.write_table(new, tmp_path / "new.parquet")
    predict = ["predict", "--model-dir", tmp_path / "m", "--output"]
    for name in ("rows", "new"):
        _, _, err = run(*predict, tmp_path / f"{name}.zarr", tmp_path / f"{name}.parquet")
    assert "columns of the dataset that the model does not use: ['id', 'when']" in err
    found, expected = (zarr.open(tmp_path / f"{n}.zarr/cluster_index")[:] for n in ("new", "rows"))
    assert np.array_equal(found, expected)
    pq.write_table(new.drop_columns(["b"]), tmp_path / "less.parquet")
    code, _, err = run(*predict, tmp_path / "less.zarr", tmp_path / "less.parquet")
    assert code == 2
    assert "must be those that the model was trained with, ['a', 'b', 'c'], got" in err
    assert "(['b'] is missing)" in err


def test_arrays_of_a_group_are_clustered_and_kept(run_json, rows, tmp_path):
    group = zarr.open_group(tmp_path / "rows.zarr", mode="w")
    for name, values in {"x": rows[:, 0], "yz": rows[:, 1:], "id": np.arange(900)}.items():
        group.create_array(name, data=values, chunks=(70, *values.shape[1:]))
    model = "--model-dir", tmp_path / "model"
    run_json("train", f"{tmp_path}/rows.zarr::x,yz", *model, "--num-clusters", 3, "--seed", 1)
    output = "--output", tmp_path / "o.parquet", "--keep", "id"
    run_json("predict", f"{tmp_path}/rows.zarr", "--columns", "yz,x", *model, *output)
    found = pq.read_table(tmp_path / "o.parquet")
    assert found["id"].to_pylist() == [*range(900)]
    expected = load(tmp_path / "model").predict_cluster_index(lambda: rows)
    assert found["cluster_index"].to_pylist() == [*expected]
