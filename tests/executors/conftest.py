"""Fixtures of the executors' tests: stored rows in many small chunks, and clusters of any size."""

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

from dkmeans import Dataset

pytest.register_assert_rewrite("tests.executors.laws")

CHUNK_ROWS = 150


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Path of a Zarr array of 41 chunks, the last one shorter."""
    path = str(tmp_path_factory.mktemp("rows") / "rows.zarr")
    rows = np.random.default_rng(5).normal(size=(41 * CHUNK_ROWS - 70, 6)).astype(np.float32)
    zarr.create_array(path, data=rows, chunks=(CHUNK_ROWS, 6), shards=None)
    return path


@pytest.fixture
def dataset(store):
    return Dataset.from_zarr(store)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Make a chunk of each chunk of storage, however small."""
    monkeypatch.setattr("dkmeans.data.chunks.TARGET_BYTES", 1)
    monkeypatch.setattr("dkmeans.data.chunks.SMALLEST_BYTES", 1)


@pytest.fixture(scope="module", params=[3, 1])
def workers(request):
    """Client of a cluster of 3 worker processes, or of 1, of one thread each."""
    with (
        LocalCluster(
            n_workers=request.param, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def submitted(client):
    """Functions of the tasks that the client has submitted in this test."""
    functions, submit = [], client.submit
    client.submit = lambda function, *a, **k: (
        functions.append(function),
        submit(function, *a, **k),
    )[1]
    yield functions
    client.submit = submit
