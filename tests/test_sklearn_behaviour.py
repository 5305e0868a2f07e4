"""scikit-learn's own tests of its k-means estimators, run against `dkmeans.sklearn`.

The installed `sklearn/cluster/tests/test_k_means.py` is loaded a second time, with `Adapted` and
`AdaptedMiniBatch` in place of its estimators. Every test of that file runs here, except for those
that `DO_NOT_APPLY` names with a reason; a new one runs too, and must be named there if it does not
apply. Cases that differ only in what dkmeans does not have are left out: sparse rows, which are
refused, and scikit-learn's other algorithm, which has the same results.
"""

import importlib.util
import inspect

import numpy as np
import pytest
import scipy.sparse
import sklearn.cluster
from sklearn.utils.fixes import CSR_CONTAINERS

import dkmeans.sklearn

FUNCTION = "tests a function of scikit-learn other than the estimators"
PARAMETER = "tests a parameter or an attribute that dkmeans does not have"
WORDS = "tests the words of messages; dkmeans has its own"
SPARSE = "tests sparse rows, which dkmeans refuses"

DO_NOT_APPLY = {
    "test_relocate_empty_clusters": FUNCTION,
    "test_minibatch_update_consistency": FUNCTION,
    "test_minibatch_reassign": FUNCTION,
    "test_k_means_function": FUNCTION,
    "test_euclidean_distance": FUNCTION,
    "test_inertia": FUNCTION,
    "test_is_same_clustering": FUNCTION,
    "test_kmeans_plusplus_wrong_params": FUNCTION,
    "test_kmeans_plusplus_output": FUNCTION,
    "test_kmeans_plusplus_norms": FUNCTION,
    "test_kmeans_plusplus_dataorder": FUNCTION,
    "test_sample_weight_init": FUNCTION,
    "test_sample_weight_zero": FUNCTION,
    "test_kmeans_elkan_results": "compares two algorithms; dkmeans has one",
    "test_warning_elkan_1_cluster": "tests a warning about the other algorithm",
    "test_minibatch_kmeans_warning_init_size": PARAMETER,
    "test_minibatch_kmeans_init_size": PARAMETER,
    "test_minibatch_iter_steps": PARAMETER,
    "test_dense_sparse": SPARSE,
    "test_predict_dense_sparse": SPARSE,
    "test_kmeans_verbose": WORDS,
    "test_minibatch_declared_convergence": WORDS,
    "test_wrong_params": WORDS,
    "test_warning_n_init_precomputed_centers": (
        "expects a warning; dkmeans refuses several starts from the same centers"
    ),
    "test_kmeans_warns_less_centers_than_unique_points": (
        "expects a warning; dkmeans refuses fewer distinct rows than clusters"
    ),
    "test_relocating_with_duplicates": "expects a warning; dkmeans logs one about empty clusters",
}


class Adapted(dkmeans.sklearn.KMeans):
    """`KMeans` with parameters of scikit-learn that choose how to compute: they are ignored."""

    def __init__(
        self,
        n_clusters=8,
        *,
        init="k-means||",
        n_init="auto",
        max_iter=300,
        tol=1e-4,
        verbose=0,
        random_state=None,
        copy_x=True,
        algorithm="lloyd",
    ):
        given = {"max_iter": max_iter, "tol": tol, "verbose": verbose, "random_state": random_state}
        super().__init__(n_clusters, init=init, n_init=n_init, **given)
        self.copy_x, self.algorithm = copy_x, algorithm

    @property
    def _n_init(self):
        return self._starts()


class AdaptedMiniBatch(dkmeans.sklearn.MiniBatchKMeans):
    """`MiniBatchKMeans` with a parameter of scikit-learn that is ignored."""

    def __init__(
        self,
        n_clusters=8,
        *,
        init="k-means||",
        n_init="auto",
        max_iter=10,
        batch_size=1024,
        tol=1e-4,
        verbose=0,
        random_state=None,
        init_size=None,
    ):
        given = {"max_iter": max_iter, "tol": tol, "verbose": verbose, "random_state": random_state}
        super().__init__(n_clusters, init=init, n_init=n_init, batch_size=batch_size, **given)
        self.init_size = init_size

    @property
    def _n_init(self):
        return self._starts()


# Names in results, as in `get_feature_names_out`, are those of the class.
Adapted.__name__, AdaptedMiniBatch.__name__ = "KMeans", "MiniBatchKMeans"


def loaded_tests():
    """Return scikit-learn's module of tests, with the adapted estimators."""
    spec = importlib.util.find_spec("sklearn.cluster.tests.test_k_means")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sklearn.cluster, "KMeans", Adapted)
        patch.setattr(sklearn.cluster, "MiniBatchKMeans", AdaptedMiniBatch)
        spec.loader.exec_module(module)
    return module


def applies(value):
    """Return whether a case with this value is one of dkmeans."""
    values = value if isinstance(value, tuple) else (value,)
    return not any(
        scipy.sparse.issparse(each)
        or any(each is container for container in CSR_CONTAINERS)
        or (isinstance(each, str) and each == "elkan")
        for each in values
    )


def of_dkmeans(mark):
    """Return a parametrization with the cases of dkmeans only."""
    names, values = mark.args
    return pytest.mark.parametrize(names, [value for value in values if applies(value)]).mark


def with_cases_of_dkmeans(test):
    """Return a test with the cases of dkmeans only."""
    marks = getattr(test, "pytestmark", [])
    test.pytestmark = [of_dkmeans(m) if m.name == "parametrize" else m for m in marks]
    return test


THEIRS = {
    name: test
    for name, test in inspect.getmembers(loaded_tests(), inspect.isfunction)
    if name.startswith("test_")
}
# pytest collects them as tests of this module, in the same order in all processes.
globals().update(
    {name: with_cases_of_dkmeans(test) for name, test in THEIRS.items() if name not in DO_NOT_APPLY}
)


@pytest.fixture
def global_random_seed():
    return 42


@pytest.fixture(params=[np.float32, np.float64])
def global_dtype(request):
    return request.param


def test_every_test_that_does_not_apply_is_one_of_scikit_learn():
    assert DO_NOT_APPLY.keys() <= THEIRS.keys()
