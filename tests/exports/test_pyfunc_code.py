"""The code of a model in MLflow gives the clusters that `predict` gives, with NumPy alone."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.exports.example_models import KINDS, WIDTH, predicted, rows_of
from tests.reference import COSINE


@pytest.fixture(scope="session")
def code():
    """The module, which imports MLflow: that takes seconds, which only one process spends."""
    return pytest.importorskip("dkmeans.exports.pyfunc_code")


@pytest.fixture
def loaded(code, tmp_path):
    """Function that loads centers as MLflow does."""

    def load(centers, metric):
        np.savez(tmp_path / "centers.npz", centers=centers, cosine=metric == COSINE)
        model = code.NearestCenter()
        model.load_context(SimpleNamespace(artifacts={"centers": tmp_path / "centers.npz"}))
        return lambda rows: model.predict(None, rows)

    return load


@pytest.mark.parametrize(("metric", "dtype"), KINDS)
def test_every_row_gets_the_cluster_of_predict(models, loaded, metric, dtype):
    model, rows = models[metric, dtype], rows_of(dtype)
    predict = loaded(model.cluster_centers(), metric)
    assert_array_equal(predict(rows), predicted(model, rows)["cluster_index"])
    assert predict(rows[:0]).shape == (0,)


def test_rows_between_centers_and_rows_that_share_an_offset_are_resolved(
    offset_model, offset_rows, loaded, code, monkeypatch
):
    monkeypatch.setattr(code, "_BLOCK_ELEMENTS", 1000)
    predict = loaded(offset_model.cluster_centers(), "squared_euclidean")
    assert_array_equal(predict(offset_rows), predicted(offset_model, offset_rows)["cluster_index"])
    equal = loaded(np.array([[4.0], [1.0], [3.0], [1.0]]), "squared_euclidean")
    assert_array_equal(equal([[2.0], [1.0], [3.5]]), [1, 1, 0])


def test_rows_that_do_not_fit_are_refused(model, loaded):
    predict, rows = loaded(model.cluster_centers(), "squared_euclidean"), rows_of("float64")[:5]
    with pytest.raises(ValueError, match=rf"the shape \(n, {WIDTH}\), got \(5, {WIDTH - 1}\)"):
        predict(rows[:, 1:])
    rows[3, 1] = np.nan
    with pytest.raises(ValueError, match="rows must be finite; row 3 is not"):
        predict(rows)
