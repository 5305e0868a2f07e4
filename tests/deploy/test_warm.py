"""The script that compiles the kernels in the image leaves none of them to the jobs."""

import runpy

import numpy as np
import pytest

from dkmeans import KMeans
from dkmeans.backends.native import bounds
from dkmeans.backends.native.runner import run
from dkmeans.distance import Distance
from tests.deploy.manifests import DEPLOY


@pytest.mark.parametrize(("k", "width", "weights"), [(64, 20, True), (512, 130, False)])
def test_a_fit_finds_all_kernels_compiled(k, width, weights, monkeypatch):
    script = runpy.run_path(str(DEPLOY / "warm.py"), run_name="warm")
    for distance in Distance:  # float64 rows would need as many kernels once more
        for shape in script["SHAPES"][:2]:
            script["compile_kernels"](np.dtype(np.float32), shape, distance)
    compiled = set(run._ready)
    monkeypatch.setattr(bounds, "_FEWEST_CHUNK_PRODUCTS", 0)
    rows = np.random.default_rng(0).normal(size=(2000, width)).astype("f")
    given = (rows, {"weights": np.arange(2000) % 5}) if weights else rows
    model = KMeans(k, initial_clusters=rows[:k], use_mini_batch=False)
    model.train(lambda: given, steps=7)
    model.transform(lambda: rows[:9])
    model.evaluate(lambda: rows, indices=["davies_bouldin"])
    model.evaluate(lambda: rows, indices=["silhouette"])
    assert [str(each) for each in run._ready - compiled] == []
