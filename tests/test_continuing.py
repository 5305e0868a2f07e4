"""Models that are continued: other settings are refused, ignored arguments are warned of."""

import numpy as np
import pytest

from dkmeans import InvalidCheckpoint, KMeans
from tests.train_calls import model, rows_of, step_of, warnings_of


def named_function(rows, missing):
    return rows[:missing]


ORIGINS = {
    "seed": ({"seed": 7}, {"seed": 8}, ["seed 8 (was 7)"]),
    "a seed after none": ({}, {"seed": 8}, ["seed 8 (was None)"]),
    "source": (
        {"seed": 7},
        {"seed": 7, "initial_clusters": "kmeans_plus_plus"},
        ["initial_clusters kmeans_plus_plus (was random)"],
    ),
    "array": (
        {"initial_clusters": rows_of(4)},
        {"initial_clusters": rows_of(4, seed=1)},
        ["initial_clusters array (4, 3), sha256 "],
    ),
    "function": (
        {"initial_clusters": "k-means||"},
        {"initial_clusters": named_function},
        ["initial_clusters function named_function (was k-means||)"],
    ),
    "retries": (
        {"initial_clusters": "kmeans_plus_plus"},
        {"initial_clusters": "kmeans_plus_plus", "kmeans_plus_plus_num_retries": 5},
        ["kmeans_plus_plus_num_retries 5 (was 2)"],
    ),
    "rounds": (
        {"initial_clusters": "k-means||"},
        {"initial_clusters": "k-means||", "oversampling": 2, "initialization_rounds": 4},
        ["oversampling 2.0 (was 1.0)", "initialization_rounds 4 (was 3)"],
    ),
}


@pytest.mark.parametrize(("began", "now", "ignored"), ORIGINS.values(), ids=ORIGINS)
def test_arguments_that_a_continued_model_ignores_are_warned_of(
    began, now, ignored, tmp_path, caplog
):
    KMeans(4, str(tmp_path), **began).train(lambda: rows_of(), steps=3)
    KMeans(4, str(tmp_path), **began).train(lambda: rows_of(), steps=1)
    KMeans(4, str(tmp_path)).train(lambda: rows_of(), steps=1)
    assert not warnings_of(caplog)
    for limits in ({"steps": 1}, {"max_steps": 2}):
        caplog.clear()
        KMeans(4, str(tmp_path), **now).train(lambda: rows_of(), **limits)
        (warning,) = warnings_of(caplog)
        assert f"{tmp_path} holds a model that is continued from step" in warning
        assert "to begin anew, give overwrite=True (--overwrite) or another model_dir" in warning
        for words in ignored:
            assert words in warning


@pytest.mark.parametrize("content", [None, b"{", b"[1]"])
def test_a_model_that_does_not_say_how_it_began_is_continued_without_a_warning(
    content, tmp_path, caplog
):
    KMeans(4, str(tmp_path), seed=1).train(lambda: rows_of(), steps=1)
    (tmp_path / "initialization.json").unlink()
    if content is not None:
        (tmp_path / "initialization.json").write_bytes(content)
    assert step_of(KMeans(4, str(tmp_path), seed=2).train(lambda: rows_of(), steps=1)) == 2
    assert not warnings_of(caplog)


@pytest.mark.parametrize(
    ("name", "changes", "given", "saved"),
    [
        ("num_clusters", {"k": 5}, "5", "4"),
        ("distance_metric", {"distance_metric": "cosine"}, "cosine", "squared_euclidean"),
        ("use_mini_batch", {"use_mini_batch": False}, "False", "True"),
        ("mini_batch_steps_per_iteration", {"mini_batch_steps_per_iteration": 3}, "3", "1"),
        ("initial_clusters", {"initial_clusters": np.ones((4, 2))}, "2", "3"),
    ],
)
def test_another_models_checkpoint_is_refused_by_both_values(name, changes, given, saved):
    estimator = model().train(lambda: rows_of(), steps=1)
    other, calls = model(estimator.model_dir, **changes), []
    with pytest.raises(ValueError, match=name) as caught:
        other.train(lambda: calls.append(1), steps=1)
    assert given in str(caught.value)
    assert saved in str(caught.value)
    assert not calls
    assert step_of(estimator) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"num_clusters": 5},
            r"num_clusters must be that of the checkpoint, 4, got 5; dkmeans",
        ),
        (
            {"distance_metric": "cosine"},
            "distance_metric must be that of the checkpoint, 'squared_euclidean', got 'cosine'",
        ),
    ],
)
def test_an_estimator_with_other_centers_than_the_model_does_not_compute(given, message, tmp_path):
    KMeans(4, str(tmp_path)).train(lambda: rows_of(), steps=1)
    other = KMeans(**{"num_clusters": 4, "model_dir": str(tmp_path), **given})
    for compute in (
        lambda: list(other.predict_cluster_index(lambda: rows_of())),
        lambda: other.evaluate(lambda: rows_of(), steps=1),
        lambda: other.score(lambda: rows_of()),
        lambda: other.write_predictions(lambda: rows_of(), tmp_path / "out.parquet"),
    ):
        with pytest.raises(InvalidCheckpoint, match=message):
            compute()
    assert not (tmp_path / "out.parquet").exists()
    assert other.cluster_centers().shape == (4, 3)
