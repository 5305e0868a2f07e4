"""SavedModels: TensorFlow loads them, and their signatures return what `predict` returns."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dkmeans import ModeKeys
from dkmeans.exports import ServingInputReceiver
from dkmeans.exports.savedmodel.files import files
from tests.exports.example_models import KINDS, WIDTH, predicted, rows_of


@pytest.mark.parametrize(("metric", "dtype"), KINDS)
def test_each_signature_gives_in_tensorflow_what_predict_gives(
    models, in_tensorflow, metric, dtype
):
    found = in_tensorflow[metric, dtype]
    expected = predicted(models[metric, dtype], rows_of(dtype))
    for name in ("serving_default", "cluster_index"):
        assert found[f"{name} output"].dtype == np.int64
        assert_array_equal(found[f"{name} output"], expected["cluster_index"])
    assert found["all_distances output"].dtype == np.float32
    assert_allclose(found["all_distances output"], expected["all_distances"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_graphs_to_train_and_to_evaluate_give_the_loss_and_the_predictions(
    model, in_tensorflow, mode
):
    found, rows = in_tensorflow[mode], rows_of("float32")
    expected = predicted(model, rows)
    assert_allclose(found[f"{mode} loss"], model.score(lambda: rows), rtol=1e-6)
    assert_array_equal(found[f"{mode} predictions.cluster_index"], expected["cluster_index"])
    assert_allclose(
        found[f"{mode} predictions.all_distances"], expected["all_distances"], rtol=1e-6, atol=1e-6
    )
    assert ("eval metrics.score.value" in found) == (mode == "eval")


def test_a_saved_model_may_be_text(model, tmp_path):
    given = rows_of("float32")[:0]
    path = Path(model.export_saved_model(tmp_path, lambda: given, as_text=True).decode())
    text = (path / "saved_model.pbtxt").read_text()
    assert 'method_name: "tensorflow/serving/predict"' in text
    assert not (path / "saved_model.pb").exists()


@pytest.mark.parametrize("as_text", [False, True])
def test_the_graphs_are_the_last_file(model, as_text):
    receivers = {ModeKeys.PREDICT: ServingInputReceiver(np.empty((0, WIDTH)))}
    *variables, last = files(model.checkpoint(), receivers, as_text=as_text)
    assert last == ("saved_model.pbtxt" if as_text else "saved_model.pb")
    assert all(name.startswith("variables/") for name in variables)
