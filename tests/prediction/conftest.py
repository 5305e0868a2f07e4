"""A small trained model, places for its predictions, and what is logged meanwhile."""

import logging
from uuid import uuid4

import numpy as np
import pyarrow.parquet as pq
import pytest

from dkmeans import KMeans
from dkmeans.prediction import output
from tests.prediction.parquet_files import NAMES, TABLE, X

pytest.register_assert_rewrite("tests.prediction.outputs")


@pytest.fixture
def rows():
    return np.random.default_rng(5).normal(size=(1003, 3)).astype(np.float32)


@pytest.fixture
def model(rows, tmp_path):
    estimator = KMeans(4, str(tmp_path / "model"), initial_clusters=rows[:4])
    return estimator.train(lambda: rows, steps=3)


@pytest.fixture(params=["disk", "s3"])
def folder(request, tmp_path):
    """Folder for predictions, on disk and in an object store."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{uuid4().hex}"
    return str(tmp_path)


@pytest.fixture
def small_regions(monkeypatch):
    monkeypatch.setattr(output, "_REGION_ROWS", 100)


@pytest.fixture
def new_log(caplog):
    """Function that returns what the library has logged since its last call."""
    caplog.set_level(logging.INFO, "dkmeans")

    def new_log():
        text = caplog.text
        caplog.clear()
        return text

    return new_log


@pytest.fixture
def trained(tmp_path):
    return KMeans(3, str(tmp_path / "m"), initial_clusters=X[:3]).train(
        lambda: {"x": X[:, 0], "y": X[:, 1]}, steps=2
    )


@pytest.fixture
def stored(tmp_path):
    """Three files of 100 rows and one of 200 rows, in folders."""
    for name, number in {**NAMES, "year=2024/part-3.parquet": 3}.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = TABLE[100 * number :] if number == 3 else TABLE[100 * number : 100 * number + 100]
        pq.write_table(rows, path, row_group_size=40)
    return str(tmp_path / "in")
