"""ONNX files: onnxruntime computes from them what `predict` returns."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dkmeans import KMeans
from dkmeans.exports import onnx_model
from dkmeans.fit import Fit, Start
from dkmeans.state import TrainState
from tests.exports.example_models import KINDS, WIDTH, predicted, rows_of


@pytest.mark.parametrize(("metric", "dtype"), KINDS)
def test_onnxruntime_gives_what_predict_gives(models, tmp_path, metric, dtype):
    model, rows = models[metric, dtype], rows_of(dtype)
    model.export_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    index, distances = session.run(["cluster_index", "all_distances"], {"rows": rows})
    expected = predicted(model, rows)
    assert_array_equal(index, expected["cluster_index"])
    assert distances.dtype == np.float32
    assert_allclose(distances, expected["all_distances"], rtol=1e-6, atol=1e-6)
    about = onnx.load(tmp_path / "model.onnx").metadata_props
    assert {each.key: each.value for each in about} == {
        "distance_metric": metric, "global_step": "3",
    }  # fmt: skip


def test_short_rows_have_directions_too(models, tmp_path):
    model = models["cosine", "float32"]
    # Below the length at which rows are scaled to one. At 1e-20 distances 1 - u.v would be ties.
    rows = (np.random.default_rng(1).normal(size=(400, WIDTH)) * 1e-10).astype(np.float32)
    model.export_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    expected = predicted(model, rows)["cluster_index"]
    assert len(set(expected)) > 5
    assert_array_equal(session.run(["cluster_index"], {"rows": rows})[0], expected)


@pytest.mark.parametrize("spread", [1e3, 1e6, 1e9])
def test_distances_of_exports_lose_no_more_than_is_documented(tmp_path, spread):
    rng = np.random.default_rng(9)
    centers = rng.normal(size=(6, 4))
    centers[5] += spread
    rows = centers[rng.integers(6, size=500)] + 0.1 * rng.normal(size=(500, 4))
    model = KMeans(6, str(tmp_path / "m"), initial_clusters=centers, use_mini_batch=False)
    model.train(lambda: rows, steps=1)
    centers = model.cluster_centers()
    model.export_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    index, distances = session.run(["cluster_index", "all_distances"], {"rows": rows})
    exact = ((rows[:, None] - centers) ** 2).sum(axis=2)
    bound = 1e-15 * ((rows - centers.mean(axis=0)) ** 2).sum(axis=1)
    assert (np.abs(distances - exact) <= bound[:, None] + 1e-6 * exact).all()
    gaps = np.sort(exact, axis=1)
    sure = gaps[:, 1] - gaps[:, 0] > 2 * bound
    assert_array_equal(index[sure], exact.argmin(axis=1)[sure])
    assert sure.all() == (spread < 1e8)


def test_a_model_too_large_for_onnx_is_refused_with_the_arithmetic(model):
    centers = np.broadcast_to(np.float32(0), (2**14, 2**14))  # takes no memory
    state = TrainState(centers, np.zeros(2**14, np.int64))
    large = replace(model.checkpoint(), fit=Fit((Start(state),)))
    with pytest.raises(ValueError, match=r"16,384 centers x 16,384 columns x 8 bytes = 2.0 GiB"):
        onnx_model.model(large)


def test_an_offset_that_all_rows_share_costs_onnx_no_precision(offset_model, offset_rows):
    session = onnxruntime.InferenceSession(onnx_model.model(offset_model.checkpoint()))
    expected = predicted(offset_model, offset_rows)["cluster_index"]
    assert_array_equal(session.run(["cluster_index"], {"rows": offset_rows})[0], expected)
