"""The script that compiles the kernels in the image leaves none of them to the jobs."""

import runpy

import numpy as np
import pytest

from dkmeans import KMeans
from dkmeans.backends.native import bounds
from dkmeans.backends.native.runner import run
from dkmeans.distance import Distance
from tests.deploy.manifests import DEPLOY


@pytest.mark.parametrize("weights", [False, True])
def test_a_fit_finds_all_kernels_compiled(weights, monkeypatch):
    script = runpy.run_path(str(DEPLOY / "warm.py"), run_name="warm")
    for distance in Distance:  # float64 rows would need as many kernels once more
        script["compile_kernels"](np.dtype(np.float32), (64, 16), distance)
    compiled = set(run._ready)
    monkeypatch.setattr(bounds, "_FEWEST_CHUNK_PRODUCTS", 0)
    rows = np.random.default_rng(0).normal(size=(2000, 20)).astype("f")
    given = (rows, {"weights": np.arange(2000) % 5}) if weights else rows
    model = KMeans(64, initial_clusters=rows[:64], use_mini_batch=False)
    model.train(lambda: given, steps=7)
    model.transform(lambda: rows[:9])
    model.evaluate(lambda: rows, indices=["davies_bouldin"])
    assert [str(each) for each in run._ready - compiled] == []
