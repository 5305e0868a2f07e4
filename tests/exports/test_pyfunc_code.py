"""The code of a model in MLflow gives the clusters that `predict` gives, with NumPy alone."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from dkmeans import KMeans
from dkmeans.mlflow import write_centers
from tests.exports.example_models import KINDS, WIDTH, predicted, rows_of


@pytest.fixture(scope="session")
def code():
    """The module, which imports MLflow: that takes seconds, which only one process spends."""
    return pytest.importorskip("dkmeans.exports.pyfunc_code")


@pytest.fixture
def loaded(code, tmp_path):
    """Function that loads a model as MLflow does, and returns its `predict`."""

    def load(model):
        write_centers(model.checkpoint(), tmp_path / "centers.npz")
        found = code.NearestCenter()
        found.load_context(SimpleNamespace(artifacts={"centers": tmp_path / "centers.npz"}))
        return lambda rows: found.predict(None, rows)

    return load


@pytest.mark.parametrize(("metric", "dtype"), KINDS)
def test_every_row_gets_the_cluster_of_predict(models, loaded, metric, dtype):
    model, rows = models[metric, dtype], rows_of(dtype)
    predict = loaded(model)
    assert_array_equal(predict(rows), predicted(model, rows)["cluster_index"])
    assert predict(rows[:0]).shape == (0,)


def test_rows_between_centers_and_rows_that_share_an_offset_are_resolved(
    offset_model, offset_rows, loaded, code, monkeypatch
):
    monkeypatch.setattr(code, "_BLOCK_ELEMENTS", 1000)
    expected = predicted(offset_model, offset_rows)["cluster_index"]
    assert_array_equal(loaded(offset_model)(offset_rows), expected)
    # Rows as far from two centers get the lower index.
    centers = np.array([[6.0], [0.0], [3.0]])
    equal = KMeans(3, None, centers, use_mini_batch=False).train(lambda: centers, steps=1)
    assert_array_equal(loaded(equal)([[1.5], [4.5], [3.0], [9.0]]), [1, 0, 2, 0])


def test_rows_that_do_not_fit_are_refused(model, loaded):
    predict, rows = loaded(model), rows_of("float64")[:5]
    with pytest.raises(ValueError, match=rf"the shape \(n, {WIDTH}\), got \(5, {WIDTH - 1}\)"):
        predict(rows[:, 1:])
    rows[3, 1] = np.nan
    with pytest.raises(ValueError, match="rows must be finite; row 3 is not"):
        predict(rows)
