"""Prediction: the cluster index of each row, written once."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from dkmeans import KMeans
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
