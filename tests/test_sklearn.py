"""scikit-learn's estimators: their contract, and the same results as scikit-learn's own."""

import pickle
import sys
import tempfile
from itertools import product
from pathlib import Path

import dask.array as da
import dask.dataframe as dd
import fsspec
import numpy as np
import pandas as pd
import polars
import pytest
import sklearn.cluster
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import dkmeans
from dkmeans.hooks import SessionRunHook
from dkmeans.sklearn import KMeans, MiniBatchKMeans
from dkmeans.state import StopReason

BOTH = pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])

# Checks of scikit-learn that fail, with the reason.
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": (
        "repeated rows have other numbers, so other first centers are drawn; scikit-learn's own "
        "KMeans fails in this check too"
    ),
}


def rows_of(n=600, d=3, seed=0, dtype=np.float64):
    """Return rows around five points, which overlap."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(5, d))[rng.integers(5, size=n)] * 3 + rng.normal(size=(n, d))).astype(
        dtype
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of this process's temporary files, empty at first."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


# The contract.


@parametrize_with_checks(
    [KMeans(n_clusters=3), MiniBatchKMeans(n_clusters=3)],
    expected_failed_checks=lambda _: EXPECTED_FAILURES,
    xfail_strict=True,
)
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "dkmeans.sklearn")
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ValueError, match=r"pip install 'dkmeans\[sklearn\]'"):
        __import__("dkmeans.sklearn")


# The same results as scikit-learn.


@pytest.mark.parametrize("tol", [0, 1e-4, 1e-2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fit_takes_the_iterations_of_scikit_learn_to_the_same_centers(tol, dtype):
    rows = rows_of(dtype=dtype)
    ours = KMeans(6, init=rows[:6], tol=tol).fit(rows)
    theirs = sklearn.cluster.KMeans(6, init=rows[:6], n_init=1, tol=tol).fit(rows)
    assert ours.n_iter_ == theirs.n_iter_
    close = {"rtol": 1e-4} if dtype == np.float32 else {"rtol": 1e-12}
    assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, **close)
    assert_allclose(ours.inertia_, theirs.inertia_, **close)
    assert_array_equal(ours.labels_, theirs.labels_)
    more = rows_of(seed=1, dtype=dtype)
    assert_array_equal(ours.predict(more), theirs.predict(more))
    assert_allclose(ours.transform(more), theirs.transform(more), rtol=1e-3)
    assert_allclose(ours.score(more), theirs.score(more), **close)


def test_labels_and_inertia_are_those_of_the_final_centers():
    rows = rows_of()
    stopped = KMeans(6, init=rows[:6], max_iter=1).fit(rows)
    assert_array_equal(stopped.labels_, stopped.predict(rows))
    assert stopped.inertia_ == -stopped.score(rows)


def test_an_empty_cluster_is_relocated_as_scikit_learn_does():
    rows = rows_of()
    init = np.vstack([rows[:3], [[1e3, 1e3, 1e3]]])
    assert len(np.unique(KMeans(4, init=init).fit_predict(rows))) == 4
    assert len(np.unique(KMeans(4, init=init, empty_clusters="keep").fit_predict(rows))) == 3


def test_a_function_finds_the_first_centers_as_scikit_learn_calls_it():
    rows = rows_of()

    def first(given, n_clusters, random_state):
        assert random_state.randint(2) in (0, 1)
        return given[:n_clusters]

    ours, theirs = KMeans(4, init=first).fit(rows), KMeans(4, init=rows[:4]).fit(rows)
    assert_array_equal(ours.cluster_centers_, theirs.cluster_centers_)


@pytest.mark.parametrize("init", ["k-means||", "k-means++", "random"])
def test_the_same_seed_finds_the_same_centers(init):
    rows = rows_of()
    first, second = (
        KMeans(4, init=init, random_state=state).fit(rows)
        for state in (3, np.random.RandomState(3))
    )
    assert_array_equal(
        first.cluster_centers_, KMeans(4, init=init, random_state=3).fit(rows).cluster_centers_
    )
    assert_array_equal(first.cluster_centers_, second.cluster_centers_)


def test_each_start_converges_by_itself(tmp_path):
    model_dir = tmp_path / "m"
    KMeans(6, init="random", n_init=4, random_state=1, model_dir=model_dir).fit(rows_of())
    starts = dkmeans.load(model_dir).checkpoint().fit.starts
    assert {start.reason for start in starts} <= {StopReason.STILL, StopReason.UNCHANGED}
    assert len({start.steps for start in starts}) > 1


def test_cosine_clusters_are_directions():
    rows = rows_of()
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    scaled = rows * np.random.default_rng(1).uniform(0.1, 9, size=(len(rows), 1))
    given = {"init": rows[:4], "metric": "cosine"}
    model = KMeans(4, **given).fit(rows)
    assert_array_equal(model.labels_, KMeans(4, **given).fit(scaled).labels_)
    assert_allclose(np.linalg.norm(model.cluster_centers_, axis=1), 1)
    expected = 1 - directions @ model.cluster_centers_.T
    assert_allclose(model.transform(rows), expected, atol=1e-6)
    assert_allclose(-model.score(rows), expected.min(axis=1).sum())


# Weights.


@pytest.mark.parametrize("tol", [0, 1e-2])
def test_a_weighted_fit_is_that_of_scikit_learn(tol):
    rows, weights = rows_of(), np.random.default_rng(1).uniform(0, 3, 600)
    ours = KMeans(6, init=rows[:6], tol=tol).fit(rows, sample_weight=weights)
    theirs = sklearn.cluster.KMeans(6, init=rows[:6], n_init=1, tol=tol)
    theirs.fit(rows, sample_weight=weights)
    assert ours.n_iter_ == theirs.n_iter_
    assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=1e-12)
    assert_allclose(ours.inertia_, theirs.inertia_, rtol=1e-12)
    assert_array_equal(ours.labels_, theirs.labels_)
    score = theirs.score(rows, sample_weight=weights)
    assert_allclose(ours.score(rows, sample_weight=weights), score, rtol=1e-12)


def test_weights_may_be_of_any_kind_whatever_kind_the_rows_are():
    rows, weights = rows_of(), np.random.default_rng(1).uniform(0, 1e-3, 600)
    frame = pd.DataFrame(rows, columns=["a", "b", "c"])
    kinds = [
        rows,
        frame,
        da.from_array(rows, chunks=(200, 2)),
        dd.from_pandas(frame, npartitions=3),
    ]
    lists = [weights.tolist(), pd.Series(weights), da.from_array(weights, chunks=150)]
    theirs = sklearn.cluster.KMeans(4, init=rows[:4], n_init=1).fit(rows, sample_weight=weights)
    score = theirs.score(rows, sample_weight=weights)
    once = sklearn.cluster.KMeans(4, init=rows[:4], n_init=1, max_iter=1)
    once.fit(rows, sample_weight=weights)
    for given, beside in product(kinds, lists):
        ours = KMeans(4, init=rows[:4]).fit(given, sample_weight=beside)
        assert_allclose(ours.cluster_centers_, theirs.cluster_centers_)
        assert_allclose(ours.score(given, sample_weight=beside), score)
        first = MiniBatchKMeans(4, init=rows[:4]).partial_fit(given, sample_weight=beside)
        assert_allclose(first.cluster_centers_, once.cluster_centers_)


def test_whole_weights_are_repeated_rows_also_for_dask_and_in_partial_fit():
    rows, weights = rows_of(), np.random.default_rng(1).integers(0, 4, 600)
    repeated = np.repeat(rows, weights, axis=0)
    lazy = da.from_array(rows, chunks=(200, 3))
    fits = [
        (KMeans(4, init=rows[:4]).fit(given, sample_weight=weights), KMeans(4, init=rows[:4]))
        for given in (rows, lazy)
    ]
    for weighted, plain in fits:
        assert_array_equal(weighted.cluster_centers_, plain.fit(repeated).cluster_centers_)
        assert weighted.inertia_ == plain.inertia_
        assert len(weighted.labels_) == 600
    weighted, plain = (MiniBatchKMeans(4, init=rows[:4]) for _ in range(2))
    for _ in range(2):
        weighted.partial_fit(rows, sample_weight=weights)
        plain.partial_fit(repeated)
    assert_array_equal(weighted.cluster_centers_, plain.cluster_centers_)


# Mini-batches.


def test_mini_batches_come_close_to_the_loss_of_full_batches():
    rows = rows_of(n=4000)
    full = KMeans(5, random_state=0).fit(rows).inertia_
    batches = MiniBatchKMeans(5, batch_size=100, random_state=0).fit(rows)
    assert batches.inertia_ < 1.05 * full
    assert batches.n_iter_ <= 10


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_partial_fit_takes_the_steps_of_scikit_learn_also_with_weights(dtype):
    rows, weights = rows_of(dtype=dtype), np.random.default_rng(1).uniform(0, 1e-3, 600)
    ours, theirs = (
        MiniBatchKMeans(4, init=rows[:4]),
        sklearn.cluster.MiniBatchKMeans(4, init=rows[:4], n_init=1, reassignment_ratio=0),
    )
    for start in range(0, 600, 100):
        batch = slice(start, start + 100)
        given = weights[batch] if start > 200 else None
        for model in (ours, theirs):
            model.partial_fit(rows[batch], sample_weight=given)
    close = {"rtol": 1e-4} if dtype == np.float32 else {"rtol": 1e-12}
    assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, **close)
    assert_array_equal(ours.labels_, ours.predict(rows[500:]))


def test_partial_fit_goes_on_after_fit_and_in_another_process():
    rows = rows_of()
    model = MiniBatchKMeans(4, random_state=0).fit(rows)
    before = model.cluster_centers_
    copied = pickle.loads(pickle.dumps(model)).partial_fit(rows[:50].astype(np.float32))
    assert_array_equal(
        copied.cluster_centers_, model.partial_fit(rows[:50].astype(np.float32)).cluster_centers_
    )
    assert 0 < np.abs(model.cluster_centers_ - before).max() < 0.5


# Kinds of rows.


@pytest.mark.parametrize(
    ("frame", "output"), [(pd.DataFrame, "pandas"), (polars.DataFrame, "polars")]
)
def test_a_data_frame_gives_names_and_comes_back_as_its_kind(frame, output):
    rows = rows_of()
    given = frame(dict(zip("abc", rows.T, strict=True)))
    model = KMeans(4, random_state=0).set_output(transform=output).fit(given)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert_array_equal(model.labels_, KMeans(4, random_state=0).fit_predict(rows))
    distances = model.transform(given)
    assert isinstance(distances, frame)
    assert list(distances.columns) == model.get_feature_names_out().tolist()
    assert distances.columns[0] == "kmeans0"
    with pytest.raises(ValueError, match="feature names"):
        model.predict(given[["b", "a", "c"]])


@BOTH
@pytest.mark.parametrize("columns", [3, 2])
def test_results_about_dask_arrays_are_lazy_and_the_same(kind, columns):
    rows = rows_of(dtype=np.float32)
    lazy = da.from_array(rows, chunks=(150, columns))
    model, plain = (kind(4, random_state=0).fit(each) for each in (lazy, rows))
    if kind is KMeans:  # shuffled batches depend on the chunks
        assert_array_equal(model.cluster_centers_, plain.cluster_centers_)
        assert model.inertia_ == plain.inertia_
    for found, method in ((model.labels_, "predict"), (model.transform(lazy), "transform")):
        assert isinstance(found, da.Array)
        expected = getattr(model, method)(rows)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert_array_equal(found, expected)
    assert model.score(lazy) == -model.inertia_


def test_a_dask_data_frame_of_unknown_rows_is_clustered_by_its_columns():
    rows = rows_of()
    frame = pd.DataFrame(dict(zip("abc", rows.T, strict=True)))
    lazy = dd.from_pandas(frame, npartitions=3)
    model = KMeans(4, random_state=0).fit(lazy)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert_array_equal(model.labels_.compute(), KMeans(4, random_state=0).fit_predict(frame))
    assert model.transform(lazy).compute().shape == (600, 4)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(lazy[["b", "a", "c"]])


def test_a_cluster_finds_the_same_centers_and_computes_the_lazy_results(client):
    rows = rows_of()
    lazy = da.from_array(rows, chunks=(200, 3)).persist()
    model = KMeans(4, init=rows[:4], client=client).fit(lazy)
    theirs = sklearn.cluster.KMeans(4, init=rows[:4], n_init=1).fit(rows)
    assert_allclose(model.cluster_centers_, theirs.cluster_centers_)
    assert_array_equal(model.labels_.compute(), theirs.labels_)


# Life of an estimator.


def test_clones_share_the_client_and_pickles_leave_it_out(client):
    model = KMeans(4, client=client, random_state=0).set_output(transform="pandas").fit(rows_of())
    twin = clone(model)
    assert twin.client is client
    assert not hasattr(twin, "labels_")
    assert isinstance(twin.fit(rows_of()).transform(rows_of()), pd.DataFrame)
    copied = pickle.loads(pickle.dumps(model))
    assert copied.client is None
    assert_array_equal(copied.predict(rows_of()), model.labels_)


def test_a_grid_search_over_a_pipeline_finds_the_clusters(folder):
    pipeline = make_pipeline(StandardScaler(), KMeans(random_state=0))
    search = GridSearchCV(pipeline, {"kmeans__n_clusters": [2, 5]}, cv=2).fit(rows_of())
    assert search.best_params_ == {"kmeans__n_clusters": 5}
    assert search.best_estimator_.transform(rows_of()).shape == (600, 5)


def test_a_model_that_the_estimator_continues_counts_its_rows_as_before(tmp_path, caplog):
    model_dir, rows = str(tmp_path / "m"), np.array([[0.0, 0], [1, 0], [2, 0], [10, 10]])
    first = np.array([[0.0, 0], [10, 10]])
    MiniBatchKMeans(2, init=first, batch_size=4, max_iter=1, tol=0, model_dir=model_dir).fit(rows)
    report = tmp_path / "report.html"
    dkmeans.write_report(dkmeans.load(model_dir), str(report))
    assert "The rows of all iterations, or the sums of their weights." in report.read_text()
    # The second cluster has had one row: it is not empty.
    model = dkmeans.KMeans(2, model_dir, empty_clusters="error")
    model.train(lambda: rows[:3], steps=1)
    assert model.get_variable_value(model.CLUSTER_CENTERS_VAR_NAME).tolist() == [[1, 0], [10, 10]]
    assert model.checkpoint().state.counts.tolist() == [6, 1]
    assert "got no rows" not in caplog.text


@BOTH
def test_a_fit_without_model_dir_leaves_nothing_behind(kind, folder):
    with pytest.raises(ValueError, match="NaN"):
        kind(4).fit(np.full((10, 2), np.nan))
    model = kind(4).fit(rows_of())
    model.predict(rows_of())
    assert list(folder.iterdir()) == []
    assert not [name for name in fsspec.filesystem("memory").ls("/", False) if "dkmeans-" in name]


@pytest.mark.parametrize("n_init", [1, 2])
def test_a_fit_that_is_interrupted_within_an_epoch_ends_where_it_would_have(
    n_init, tmp_path, monkeypatch
):
    rows = rows_of()
    init = "random" if n_init > 1 else "k-means||"
    given = {"random_state": 3, "batch_size": len(rows) // 5, "init": init, "n_init": n_init}
    given |= {"tol": 3e-3, "max_iter": 40}
    whole = MiniBatchKMeans(6, **given).fit(rows)
    assert 1 < whole.n_iter_ < 40
    train = dkmeans.KMeans.train
    for step in range(5 * whole.n_iter_ - 5, 5 * whole.n_iter_):
        with monkeypatch.context() as patch:
            patch.setattr(
                dkmeans.KMeans,
                "train",
                lambda self, f, hooks, max_steps, step=step: train(self, f, max_steps=step),
            )
            MiniBatchKMeans(6, model_dir=tmp_path / str(step), **given).fit(rows)
        found = MiniBatchKMeans(6, model_dir=tmp_path / str(step), **given).fit(rows)
        assert found.n_iter_ == whole.n_iter_
        assert np.array_equal(found.cluster_centers_, whole.cluster_centers_)


@BOTH
def test_a_fit_with_model_dir_is_continued_after_an_interruption(
    kind, tmp_path, monkeypatch, caplog
):
    rows, model_dir = rows_of(), str(tmp_path / "m")
    given = {"random_state": 3, "tol": 0, "max_iter": 8}
    given |= {"batch_size": 100} if kind is MiniBatchKMeans else {}
    whole = kind(6, **given).fit(rows)

    class Interrupt(SessionRunHook):
        def after_run(self, run_context, run_values):
            if len(calls := [*calls_so_far, 1]) == 3:
                raise KeyboardInterrupt
            calls_so_far[:] = calls

    calls_so_far = []
    train = dkmeans.KMeans.train
    monkeypatch.setattr(
        dkmeans.KMeans,
        "train",
        lambda self, f, hooks, **more: train(self, f, [Interrupt()], **more),
    )
    with pytest.raises(KeyboardInterrupt):
        kind(6, model_dir=model_dir, **given).fit(rows)
    monkeypatch.undo()
    assert dkmeans.load(model_dir).get_variable_value("global_step") == 3
    assert "fit continues" not in caplog.text
    continued = kind(6, model_dir=model_dir, **given).fit(rows)
    assert f"fit continues the model of step 3 in {model_dir}" in caplog.text
    assert_array_equal(continued.cluster_centers_, whole.cluster_centers_)
    assert continued.n_iter_ == whole.n_iter_
    assert_array_equal(dkmeans.load(model_dir).cluster_centers(), whole.cluster_centers_)


def test_a_verbose_fit_shows_its_progress(capsys):
    KMeans(4, verbose=1).fit(rows_of())
    assert "step 1 of 300, loss" in capsys.readouterr().err
    KMeans(4).fit(rows_of())
    assert capsys.readouterr() == ("", "")


# What is refused.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_clusters": 0}, "n_clusters must be an integer >= 1, got 0"),
        ({"n_clusters": 2.5}, "n_clusters must be an integer >= 1, got 2.5"),
        ({"n_init": "all"}, "n_init must be 'auto' or an integer >= 1, got 'all'"),
        ({"n_init": 2, "init": np.eye(3)}, "n_init must be 1 where init is an array"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1, got 0"),
        ({"tol": -1}, "tol must be a number >= 0, got -1"),
        ({"tol": None}, "tol must be a number >= 0, got None"),
        ({"tol": np.complex128(1)}, "tol must be a number >= 0, got "),
        ({"metric": "l1"}, "metric must be 'squared_euclidean' or 'cosine', got 'l1'"),
        ({"init": "best"}, "init must be 'k-means||', 'k-means++', 'random', an array"),
        ({"init": np.eye(2)}, "init must be an array (n_clusters = 3, d), a name or a function, "),
        (
            {"init": None},
            "init must be an array (n_clusters = 3, d), a name or a function, got None",
        ),
        ({"init": np.eye(3)[:, :2]}, "init must have the columns of X, 3, got 2"),
        (
            {"init": lambda rows, k, random_state: rows[:2]},
            "init must return an array (3, 3), got shape (2, 3)",
        ),
        ({"init": np.full((3, 3), np.nan)}, "init must hold finite numbers, got NaN or infinity"),
        ({"init": [["a", "b", "c"]] * 3}, "init must hold real numbers, got dtype <U1"),
        (
            {"init": lambda rows, k, random_state: np.full((3, 3), np.inf)},
            "init must return finite numbers, got NaN or infinity",
        ),
        (
            {"random_state": -1},
            "random_state must be an integer from 0 to 2**32 - 1, a numpy.random.RandomState or "
            "None, got -1",
        ),
        ({"verbose": "yes"}, "verbose must be an integer >= 0, got 'yes'"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"empty_clusters": "drop"}, "empty_clusters must be"),
        ({"backend": "fpga"}, "backend must be one of"),
        ({"client": "tcp://scheduler"}, "client must be a distributed.Client or None"),
        ({"n_clusters": 601}, "X must have at least n_clusters = 601 rows, got n_samples = 600"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(given, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the message is compared below
        KMeans(**{"n_clusters": 3, **given}).fit(rows_of())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(600), "must contain at least one non-zero number"),
        (np.full(600, -1.0), "Negative values in data passed to `sample_weight`"),
        (da.full(600, -1.0), "weights must be finite and >= 0; row 0 of the weights has -1.0"),
        (np.ones(9), r"sample_weight.shape == \(9,\), expected \(600,\)"),
        (da.ones(9), "weights must be one for each row of the array, 600, got 9"),
        (da.ones((600, 2)), "weights must be one column, got 2"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(weights, message):
    rows = da.from_array(rows_of()) if isinstance(weights, da.Array) else rows_of()
    with pytest.raises(ValueError, match=message):
        KMeans(3, random_state=0).fit(rows, sample_weight=weights)


def test_a_model_that_other_parameters_have_made_is_not_continued(tmp_path, caplog):
    KMeans(3, n_init=2, random_state=0, model_dir=tmp_path).fit(rows_of())
    before = dkmeans.load(tmp_path).latest_checkpoint()
    for other, message in (
        (KMeans(4, n_init=2), "n_clusters must be that of the model in model_dir, 3, to continue"),
        (KMeans(3, n_init=2, metric="cosine"), "metric must be that of .* 'squared_euclidean', "),
        (KMeans(3, n_init=1), "n_init must be that of the model in model_dir, 2, to continue it"),
        (MiniBatchKMeans(3, n_init=2), "must be continued with full batches, as it began; give"),
    ):
        with pytest.raises(ValueError, match=message):
            other.set_params(model_dir=tmp_path).fit(rows_of())
    assert not caplog.messages
    assert dkmeans.load(tmp_path).latest_checkpoint() == before


@BOTH
def test_a_model_in_model_dir_has_the_names_of_the_columns(kind, tmp_path):
    frame = pd.DataFrame(rows_of(), columns=["a", "b", "c"])
    reordered, given = frame[["c", "b", "a"]], {"random_state": 0, "model_dir": tmp_path}
    labels = kind(3, max_iter=2, **given).fit(frame).labels_
    model = dkmeans.load(tmp_path)
    assert list(model.predict_cluster_index(lambda: reordered)) == labels.tolist()
    message = r"columns of X must be .* \['a', 'b', 'c'\], .* got \['c', 'b', 'a'\]"
    with pytest.raises(ValueError, match=message):
        kind(3, max_iter=4, **given).fit(reordered)
    again = kind(3, max_iter=4, **given).fit(frame).labels_
    assert list(model.predict_cluster_index(lambda: frame)) == again.tolist()


def test_dask_rows_of_an_unknown_number_of_columns_are_refused():
    lazy = da.from_array(rows_of())
    given = lazy[:, da.from_array(np.array([True, False, True]))]
    with pytest.raises(ValueError, match=r"X must have a known number of columns; X.compute_chunk"):
        KMeans(3).fit(given)
    assert KMeans(3).fit(given.compute_chunk_sizes()).cluster_centers_.shape == (3, 2)


def test_a_data_frame_of_the_distances_of_dask_rows_is_refused():
    frame = pd.DataFrame(rows_of(), columns=["a", "b", "c"])
    model = KMeans(3, random_state=0).set_output(transform="pandas").fit(frame)
    assert list(model.transform(frame)) == ["kmeans0", "kmeans1", "kmeans2"]
    for given in (da.from_array(rows_of()), dd.from_pandas(frame, npartitions=2)):
        with pytest.raises(ValueError, match=r"'default' for Dask rows, .*, got 'pandas'"):
            model.transform(given)


def test_complex_dask_rows_are_refused():
    given = da.from_array(rows_of() * 1j)
    with pytest.raises(ValueError, match="X must hold real numbers, got dtype complex128"):
        KMeans(3).fit(given)


@pytest.mark.parametrize("kind", [np.asarray, da.from_array])
def test_weights_that_are_all_zero_are_refused(kind):
    rows = rows_of()
    given, weights, init = kind(rows), np.zeros(len(rows)), rows[:3]
    for call in (
        lambda: KMeans(3, init=init).fit(given, sample_weight=weights),
        lambda: KMeans(3, init=init, tol=0).fit(given, sample_weight=weights),
        lambda: MiniBatchKMeans(3, init=init).partial_fit(given, sample_weight=weights),
        lambda: KMeans(3, init=init).fit(rows).score(given, sample_weight=weights),
    ):
        with pytest.raises(
            ValueError, match=r"at least one non-zero|must not be zero for all rows"
        ):
            call()


def test_masked_rows_and_centers_are_refused():
    rows = np.ma.masked_greater(rows_of(), 2)
    with pytest.raises(ValueError, match="X must have no masked values"):
        KMeans(3).fit(rows)
    with pytest.raises(ValueError, match="init must have no masked values"):
        KMeans(3, init=np.ma.masked_less(rows_of()[:3], 1)).fit(rows_of())
    with pytest.raises(ValueError, match="sample_weight must have no masked values"):
        KMeans(3).fit(rows_of(), sample_weight=np.ma.masked_less(rows_of()[:, 0], 1))


def test_large_integers_are_first_centers_of_float64_rows():
    rows = (rows_of() * 1e8).astype(np.int64)
    found = KMeans(4, init=rows[:4], max_iter=1).fit(rows).cluster_centers_
    expected = KMeans(4, init=rows[:4].astype(float), max_iter=1).fit(rows).cluster_centers_
    assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_partial_fit_goes_on_from_centers_that_were_assigned_or_written(dtype):
    rows, start = rows_of(dtype=dtype), rows_of(seed=1, dtype=dtype)[:3]
    for how in ("assigned", "written"):
        model = MiniBatchKMeans(3, init=rows[:3])
        other = sklearn.cluster.MiniBatchKMeans(3, init=rows[:3], n_init=1, reassignment_ratio=0)
        for each in (model, other):
            each.partial_fit(rows[:100])
            if how == "assigned":
                each.cluster_centers_ = start.copy()
            else:
                each.cluster_centers_[:] = start
            each.partial_fit(rows[100:200])
        rtol = 1e-12 if dtype == np.float64 else 1e-5
        assert_allclose(model.cluster_centers_, other.cluster_centers_, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    "assigned", [np.zeros((2, 3)), np.zeros((3, 2)), np.zeros(3), np.full((3, 3), np.nan), "abc"]
)
def test_partial_fit_refuses_assigned_centers_of_another_shape_or_kind(assigned):
    model = MiniBatchKMeans(3, init=rows_of()[:3]).partial_fit(rows_of())
    model.cluster_centers_ = assigned
    with pytest.raises(ValueError, match="cluster_centers_ must be"):
        model.partial_fit(rows_of())


def test_assigned_centers_get_the_dtype_of_those_before():
    rows, assigned = rows_of(dtype=np.float32), [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    model = MiniBatchKMeans(3, init=rows[:3]).partial_fit(rows)
    model.cluster_centers_ = assigned
    assert model.partial_fit(rows).cluster_centers_.dtype == np.float32


def test_a_column_may_be_named_mask():
    frame = pd.DataFrame(rows_of(), columns=["a", "_mask", "b"])
    assert KMeans(3, random_state=0).fit(frame).inertia_ > 0


def test_partial_fit_refuses_a_model_dir_and_full_batches(tmp_path):
    with pytest.raises(ValueError, match="model_dir must be None for partial_fit"):
        MiniBatchKMeans(3, model_dir=tmp_path).partial_fit(rows_of())
    with pytest.raises(TypeError, match="batch_size must be an integer >= 1, got None"):
        MiniBatchKMeans(3, batch_size=None).partial_fit(rows_of())
    assert list(Path(tmp_path).iterdir()) == []


def test_an_estimator_that_is_not_fitted_and_other_columns_are_refused():
    with pytest.raises(NotFittedError):
        KMeans().predict(da.ones((3, 2)))
    model = KMeans(3).fit(da.from_array(rows_of()))
    for other in (rows_of(d=2), da.from_array(rows_of(d=2))):
        with pytest.raises(ValueError, match="X has 2 features, but KMeans is expecting 3"):
            model.predict(other)


def test_each_start_draws_others_from_a_function():
    rows, drawn = np.random.default_rng(0).normal(size=(200, 3)), []

    def init(rows, clusters, random_state):
        drawn.append(tuple(random_state.permutation(len(rows))[:clusters]))
        return rows[list(drawn[-1])]

    models = [KMeans(4, init=init, n_init=5, random_state=0).fit(rows) for _ in range(2)]
    assert len(set(drawn)) == 5
    assert drawn[:5] == drawn[5:]
    assert np.array_equal(models[0].cluster_centers_, models[1].cluster_centers_)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float16, np.bool_])
def test_numbers_of_dask_are_converted_as_those_in_memory(dtype):
    rows = np.random.default_rng(0).integers(0, 2, (200, 3)).astype(dtype)
    given = [rows, da.from_array(rows, chunks=(70, 3)), dd.from_pandas(pd.DataFrame(rows), 3)]
    found = [KMeans(3, random_state=0, n_init=1).fit(each).cluster_centers_ for each in given]
    assert {each.dtype for each in found} == {np.dtype(np.float64)}
    assert all(np.array_equal(found[0], each) for each in found[1:])


def test_partial_fit_names_what_does_not_fit_the_first_call():
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    model = MiniBatchKMeans(3, random_state=0).partial_fit(rows)
    with pytest.raises(ValueError, match=r"X must hold numbers that float32 holds.*1e\+300"):
        model.partial_fit(np.full((6, 2), 1e300))
    with pytest.raises(ValueError, match=r"n_clusters must be 3, as at the first call.*, got 5"):
        model.set_params(n_clusters=5).partial_fit(rows)
    with pytest.raises(ValueError, match=r"metric must be 'squared_euclidean', as at the first"):
        model.set_params(n_clusters=3, metric="cosine").partial_fit(rows)
