"""scikit-learn's estimators with a model's centers: they predict what `predict` returns."""

import pickle

import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.pipeline import Pipeline

from dkmeans import KMeans
from tests.exports.example_models import KINDS, WIDTH, K, predicted, rows_of
from tests.reference import COSINE, EUCLIDEAN


@pytest.mark.parametrize(("metric", "dtype"), KINDS)
def test_scikit_learn_gives_what_predict_gives(models, metric, dtype):
    model, rows = models[metric, dtype], rows_of(dtype)
    rows[17] = rows[16]  # a row of zeros has no direction there
    found = model.to_sklearn()
    assert_array_equal(found.predict(rows), predicted(model, rows)["cluster_index"])
    assert_array_equal(
        pickle.loads(pickle.dumps(found)).predict(rows), predicted(model, rows)["cluster_index"]
    )


@pytest.mark.parametrize("metric", [EUCLIDEAN, COSINE])
def test_inertia_is_the_sum_for_the_centers_or_absent(metric):
    rows = rows_of("float32")[:200]
    model = KMeans(3, None, rows[:3], metric, use_mini_batch=False).train(lambda: rows, steps=1)
    assert not hasattr(_last(model.to_sklearn()), "inertia_")
    found = _last(model.train(lambda: rows).to_sklearn())
    assert hasattr(found, "inertia_") == (metric == EUCLIDEAN)
    if metric == EUCLIDEAN:
        assert_allclose(found.inertia_, -found.score(rows), rtol=1e-5)


def _last(estimator):
    """Return the last step of a pipeline, or the estimator itself."""
    return estimator[-1] if isinstance(estimator, Pipeline) else estimator


def test_scikit_learns_estimator_is_fitted_as_its_own_are(model):
    found, rows = model.to_sklearn(), rows_of("float32")
    assert found.n_clusters == K
    assert found.n_features_in_ == WIDTH
    assert_array_equal(found.cluster_centers_, model.cluster_centers())
    distances = predicted(model, rows)["all_distances"]
    assert_allclose(found.transform(rows) ** 2, distances, rtol=1e-3, atol=1e-3)
    assert_allclose(-found.score(rows), model.score(lambda: rows), rtol=1e-5)
    assert len(found.get_feature_names_out()) == K
    assert found.fit(rows[:100]).cluster_centers_.shape == (K, WIDTH)
