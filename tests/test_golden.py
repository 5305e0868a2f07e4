"""TensorFlow's own numbers: each file of `golden` is a run of the original, step by step."""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import numpy as np
import pytest

from dkmeans import KMeans
from dkmeans.checkpoints import Settings
from dkmeans.data.dataset import Dataset
from dkmeans.distance import Computation, Distance
from dkmeans.executors import Threads
from dkmeans.hooks import HistoryHook
from dkmeans.lloyd import Rules, iterate
from dkmeans.state import TrainState

FILES = sorted((Path(__file__).parent / "golden").glob("*.npz"))
NAMES = [path.stem for path in FILES]
# The original moves this one's empty center to the origin, which is not copied.
EMPTY = "fb_euclid_empty_cluster"
# The original calls a zero row's distance 0.5 in its loss, and 1.0 in its predictions.
ZERO = "fb_cosine_zero_points"
TRAINED = [name for name in NAMES if not name.startswith("init_")]
# Synced a step late, the original ends this one with older centers than it should.
LATE = "mb5_euclid_epochs_vs_lloyd__sync_first"
SYNCED = [name for name in NAMES if name.startswith(("mb3", "mb5"))]
close = {"rtol": 1e-4, "atol": 1e-5}


def read(name):
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as data:
        arrays = {key: data[key] for key in data.files}
    case = SimpleNamespace(**json.loads(str(arrays.pop("params"))))
    case.arrays = arrays
    case.batches = np.split(arrays["batches"], np.cumsum(arrays["batch_sizes"])[:-1])
    case.queries = np.split(arrays["query"], np.cumsum(arrays["query_sizes"])[:-1])
    case.n = case.mini_batch_steps_per_iteration
    case.centers = arrays["centers_if_synced_at_end" if case.n > 1 else "centers_after"]
    case.ever_assigned = slice(0, 2) if name == EMPTY else slice(None)
    return case


def features(case, rows):
    return dict(zip(case.feature_keys, rows.T, strict=True)) if case.feature_keys else rows


def model(case, model_dir):
    return KMeans(
        case.num_clusters,
        model_dir,
        case.arrays["initial_clusters"],
        case.distance_metric,
        use_mini_batch=case.use_mini_batch,
        mini_batch_steps_per_iteration=case.n,
        relative_tolerance=case.relative_tolerance,
    )


def train(case, hooks=()):
    """Train as recorded, and yield the model and its call after each call."""
    model_dir, done = f"memory://{uuid4().hex}", 0
    estimator = model(case, model_dir)
    for call in case.train_calls:
        if case.new_object_per_call:
            estimator = model(case, model_dir)
        part = case.batches[done : done + call["n_batches"]]
        done += call["steps_run"]
        estimator.train(
            lambda part=part: iter([features(case, rows) for rows in part]),
            hooks,
            steps=call.get("steps"),
            max_steps=call.get("max_steps"),
        )
        yield estimator, call


def trained(name):
    case = read(name)
    *_, (estimator, _) = train(case)
    return case, estimator


def test_there_are_cases():
    assert len(NAMES) >= 24
    assert {name.split("_")[0] for name in NAMES} == {"fb", "mb1", "mb3", "mb5", "inf", "init"}


@pytest.mark.parametrize("name", TRAINED)
def test_training_as_recorded_ends_where_the_original_did(name):
    case = read(name)
    for estimator, call in train(case):
        assert estimator.get_variable_value("global_step") == call["global_step_after"]
    assert case.steps_run == call["global_step_after"]
    own, its = estimator.cluster_centers(), case.centers[-1]
    assert own.dtype == np.float32
    np.testing.assert_allclose(own[case.ever_assigned], its[case.ever_assigned], **close)
    assert estimator.get_variable_names() == case.variable_names


@pytest.mark.parametrize("name", sorted({*TRAINED} - {*SYNCED}))
def test_every_step_with_a_fresh_object_ends_where_the_original_did(name):
    case = read(name)
    case.relative_tolerance = None
    model_dir = f"memory://{uuid4().hex}"
    for step, rows in enumerate(case.batches[: case.steps_run]):
        estimator = model(case, model_dir)
        estimator.train(lambda rows=rows: iter([features(case, rows)]), steps=1)
        own, its = estimator.cluster_centers(), case.centers[step]
        np.testing.assert_allclose(own[case.ever_assigned], its[case.ever_assigned], **close)
        assert estimator.get_variable_value("global_step") == step + 1
        if case.use_mini_batch and case.n == 1:
            counts = estimator.get_variable_value("Variable")
            assert counts.dtype == np.int64
            assert counts.tolist() == case.arrays["counts_after"][step].tolist()


@pytest.mark.parametrize("name", sorted({*TRAINED} - {ZERO}))
def test_the_loss_of_every_step_is_the_originals(name):
    case = read(name)
    settings = Settings(Distance(case.distance_metric), case.use_mini_batch, case.n)
    schedule = settings.schedule
    columns = np.argsort(case.feature_keys or list("abcdefgh")[: case.batches[0].shape[1]])
    steps = case.batches[: case.steps_run]
    batches = [next(Dataset.from_array(rows[:, columns]).batches()) for rows in steps]
    centers = case.arrays["centers_before"]
    counts = np.full(len(centers), int(schedule.keeps_counts), np.int64)
    iterations = schedule.iterations(iter(batches), 0, None)
    states, losses = [TrainState(centers, counts)], []
    with Threads(1) as threads:
        for taken in iterations:
            rules = Rules(Computation(settings.distance_metric), schedule)
            *_, (states, _) = iterate(states, taken, rules, threads)
            losses += states[0].losses
    # In this one the original's distances carry an error of 0.1 each.
    rtol = 2e-2 if name == "fb_euclid_offset_1e3" else 1e-4
    np.testing.assert_allclose(losses, case.arrays["f64_loss"], rtol=1e-4)
    np.testing.assert_allclose(losses, case.arrays["loss"], rtol=rtol)


@pytest.mark.parametrize("name", sorted({*TRAINED} - {ZERO}))
def test_a_hook_sees_the_loss_and_the_centers_of_every_step_of_the_original(name):
    case, history = read(name), HistoryHook(["loss", "clusters"])
    for _ in train(case, [history]):
        pass
    assert history.history["global_step"] == list(range(1, case.steps_run + 1))
    np.testing.assert_allclose(history.history["loss"], case.arrays["f64_loss"], rtol=1e-4)
    for own, its in zip(history.history["clusters"], case.centers, strict=True):
        np.testing.assert_allclose(own[case.ever_assigned], its[case.ever_assigned], **close)


def test_the_losses_of_zero_rows_are_one_each_where_the_originals_are_a_half():
    case = read(ZERO)
    estimator = model(case, f"memory://{uuid4().hex}")
    estimator.train(lambda: iter(case.batches[:1]), steps=1)
    zeros = int((case.batches[1] == 0).all(axis=1).sum())
    assert zeros > 0
    own = estimator.score(lambda: case.batches[1])
    assert own == pytest.approx(case.arrays["loss"][1] + 0.5 * zeros, rel=1e-4)


@pytest.mark.parametrize("name", SYNCED)
def test_what_is_pending_after_every_step_with_a_fresh_object_shows_in_the_documented_variables(
    name,
):
    """The original syncs a step late: its working copy at the end of step N has these values."""
    case = read(name)
    case.relative_tolerance = None
    model_dir = f"memory://{uuid4().hex}"
    before, since = case.arrays["centers_before"], []
    for step, rows in enumerate(case.batches[: case.steps_run], 1):
        estimator = model(case, model_dir)
        estimator.train(lambda rows=rows: iter([rows]), steps=1)
        since.append(rows)
        np.testing.assert_allclose(estimator.cluster_centers(), case.centers[step - 1], **close)
        assert estimator.get_variable_value("global_step") == step
        values = estimator.get_variable_value(
            ["clusters", "clusters_updated", "Variable", "update_in_steps"]
        )
        assert values["update_in_steps"] == step % case.n
        assert values["Variable"].dtype == np.int64
        if step % case.n == 0:
            assert not values["Variable"].any()
            np.testing.assert_array_equal(values["clusters_updated"], values["clusters"])
            before, since = values["clusters"], []
            continue
        np.testing.assert_allclose(values["clusters"], before, rtol=1e-6)
        assert values["Variable"].sum() == sum(len(part) for part in since)
        assert values["Variable"].tolist() == case.arrays["counts_after"][step - 1].tolist()
        assigned = values["Variable"] > 0
        working = np.where(assigned[:, None], case.arrays["updated_after"][step - 1], before)
        np.testing.assert_allclose(values["clusters_updated"], working, **close)


def test_an_iteration_as_long_as_an_epoch_is_a_lloyd_iteration():
    case, estimator = trained(LATE)
    whole = np.concatenate(case.batches[:5])
    lloyd = KMeans(
        case.num_clusters,
        f"memory://{uuid4().hex}",
        case.arrays["initial_clusters"],
        use_mini_batch=False,
    ).train(lambda: iter([whole] * 3))
    np.testing.assert_allclose(estimator.cluster_centers(), lloyd.cluster_centers(), rtol=1e-6)


@pytest.mark.parametrize("name", sorted({*TRAINED} - {EMPTY, LATE}))
def test_inference_is_the_originals(name):
    case, estimator = trained(name)
    arrays, queries = case.arrays, [features(case, rows) for rows in case.queries]
    squares = arrays["predict_all_distances"]
    offset = name == "fb_euclid_offset_1e3"
    near = {"rtol": 1e-3, "atol": 1.0} if offset else {"rtol": 1e-4, "atol": 1e-4}
    rows = list(estimator.predict(lambda: iter(queries)))
    assert [row["cluster_index"] for row in rows] == arrays["predict_cluster_index"].tolist()
    np.testing.assert_allclose([row["all_distances"] for row in rows], squares, **near)
    index = list(estimator.predict_cluster_index(lambda: iter(queries)))
    assert index == arrays["predict_cluster_index_method"].tolist()
    found = np.array(list(estimator.transform(lambda: iter(queries))))
    assert found.dtype == np.float32
    root = case.distance_metric == "squared_euclidean"
    known = np.isfinite(arrays["transform"])
    np.testing.assert_allclose(
        found[known], (arrays["transform"] ** 2 if root else arrays["transform"])[known], **near
    )


def _halves(case):
    """Return for each query batch what the original's sums lack: a half for each zero row."""
    if case.distance_metric != "cosine":
        return np.zeros(len(case.queries))
    return np.array([0.5 * (rows == 0).all(axis=1).sum() for rows in case.queries])


@pytest.mark.parametrize("name", sorted({*TRAINED} - {EMPTY, LATE}))
def test_scores_are_the_originals(name):
    case, estimator = trained(name)
    queries = [features(case, rows) for rows in case.queries]
    near = {"rel": 5e-2 if name == "fb_euclid_offset_1e3" else 1e-4, "abs": 1e-4}
    added = _halves(case)
    score = estimator.score(lambda: iter(queries))
    assert score == pytest.approx(float(case.arrays["score"]) + added[0], **near)
    result = estimator.evaluate(lambda: iter(queries))
    assert result["loss"] == pytest.approx(
        float(case.arrays["evaluate_loss"]) + added.mean(), **near
    )
    assert result["score"] == pytest.approx(
        float(case.arrays["evaluate_score"]) + added.mean(), **near
    )
    assert result["global_step"] == case.arrays["evaluate_global_step"]


def _first_two(inputs, missing):
    return np.asarray(inputs)[: min(2, missing)]


@pytest.mark.parametrize(
    ("name", "source"),
    [("init_callable_cosine", _first_two), ("init_random_whole_batches", "random")],
)
def test_first_centers_are_the_originals(name, source):
    case = read(name)

    def batches():  # what initialization reads is trained on too: stop within the iteration
        yield from case.batches[: case.train_calls[0]["init_batches"]]
        raise InterruptedError

    estimator = KMeans(
        case.num_clusters,
        f"memory://{uuid4().hex}",
        source,
        case.distance_metric,
        mini_batch_steps_per_iteration=len(case.batches) + 1,
    )
    with pytest.raises(InterruptedError):
        estimator.train(batches)
    assert estimator.get_variable_value("global_step") == 0
    np.testing.assert_allclose(
        estimator.cluster_centers(), case.arrays["centers_before"], rtol=1e-6
    )


@pytest.mark.parametrize("name", SYNCED)
def test_the_recorded_centers_move_only_at_the_end_of_an_iteration(name):
    """This checks the recorded data, not the library."""
    case = read(name)
    for step, (before, after) in enumerate(pairwise(case.centers), 2):
        assert np.allclose(before, after, rtol=1e-5) == (step % case.n != 0)
