"""Clusters of a job: the result does not depend on where the job computes."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from dkmeans import checkpoints
from tests.jobs.commands import train


@pytest.mark.parametrize("where", ["threads", "local"])
def test_either_backend_finds_the_same_clusters(run_json, store, tmp_path, where):
    results = []
    for backend in ("native", "numpy"):
        model, output = tmp_path / backend, tmp_path / f"{backend}.zarr"
        more = ["--backend", backend, "--cluster", where]
        more += ["--workers", 1] if where == "local" else []
        trained = run_json(*train(store, model, *more))
        run_json("predict", store, "--model-dir", model, "--output", output, *more)
        results.append((trained["step"], zarr.open_group(output)["cluster_index"][:].tolist()))
    assert results[0] == results[1]


def test_a_local_cluster_gives_the_same_bits_as_threads(run_json, store, tmp_path):
    cluster = ["--cluster", "local", "--workers", 2, "--threads-per-worker", 1]
    for name, where in (("threads", []), ("local", [*cluster, "--memory-limit", "1GB"])):
        run_json(*train(store, tmp_path / name, "--max-steps", 6, *where))
        output = tmp_path / f"{name}.parquet"
        run_json("predict", store, "--model-dir", tmp_path / name, "--output", output, *where)
    threads, local = (checkpoints.latest(str(tmp_path / n)).state for n in ("threads", "local"))
    assert np.array_equal(threads.centers, local.centers)
    assert threads.inertia == local.inertia
    assert pq.read_table(tmp_path / "threads.parquet").equals(
        pq.read_table(tmp_path / "local.parquet")
    )
