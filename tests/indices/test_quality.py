"""Indices of a clustering: those of scikit-learn, and of plain formulas, over any chunks."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import (
    calinski_harabasz_score,
    davies_bouldin_score,
    silhouette_score,
)

from dkmeans import Dataset, Invalid, InvalidType, KMeans
from dkmeans.indices import quality
from dkmeans.indices.quality import NAMES, OF_TWO, SAMPLED, check_indices
from tests.reference import COSINE, EUCLIDEAN, METRICS, distances, units

OFFSET = 1e4


@pytest.fixture(scope="module", params=METRICS)
def trained(request, tmp_path_factory):
    """A model of four clusters that has converged, its metric, and its rows."""
    rng = np.random.default_rng(5)
    middles = rng.normal(size=(4, 3)) * 4
    # An offset of all rows, as of times or places.
    rows = middles[rng.integers(4, size=1200)] + rng.normal(size=(1200, 3))
    rows += OFFSET if request.param == EUCLIDEAN else 0
    model = KMeans(
        4, tmp_path_factory.mktemp("m"), "kmeans_plus_plus", request.param, 3, use_mini_batch=False
    )
    model.train(lambda: rows, max_steps=200)
    return model, request.param, rows


def judged(model, dataset, **options):
    return model.evaluate(lambda: dataset, indices="all", **options)


def test_indices_are_those_of_scikit_learn_and_of_plain_formulas(trained):
    model, metric, rows = trained
    found = judged(model, Dataset.from_array(rows))
    centers = model.cluster_centers()
    if metric == COSINE:
        rows, centers = units(rows), units(centers)
    # scikit-learn loses digits by an offset.
    shift = OFFSET if metric == EUCLIDEAN else 0.0
    lengths = np.sqrt(distances(rows, centers, EUCLIDEAN))
    index = lengths.argmin(axis=1)
    nearest, second = np.sort(lengths, axis=1)[:, :2].T
    groups = [index == j for j in range(4)]
    expected = calinski_harabasz_score(rows - shift, index)
    assert found["calinski_harabasz"] == pytest.approx(expected, rel=1e-9)
    if metric == EUCLIDEAN:  # the centers of a model that has converged are means
        expected = davies_bouldin_score(rows - shift, index)
        assert found["davies_bouldin"] == pytest.approx(expected, rel=1e-9)
    simplified = 1 - nearest / second
    expected = {
        "silhouette": simplified.mean(),
        "ambiguous": (second <= 1.05 * nearest).mean(),
        "cluster_sizes": [each.sum() for each in groups],
        "cluster_inertia": [
            (nearest[each] ** 2).sum() / (2 if metric == COSINE else 1) for each in groups
        ],
        "cluster_radius": [nearest[each].max() for each in groups],
        "cluster_silhouette": [simplified[each].mean() for each in groups],
        "cluster_mean": [rows[each].mean(axis=0) for each in groups],
        "cluster_deviation": [rows[each].std(axis=0) for each in groups],
        "sampled_silhouette": silhouette_score(rows, index),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)
    assert {*expected, "calinski_harabasz", "davies_bouldin"} == set(NAMES)
    assert sum(found["cluster_inertia"]) == pytest.approx(found["loss"], rel=1e-12)


def _integers(rng):
    return rng.integers(-2, 3, (150, 3))


def _close_pairs(rng):
    return np.repeat(rng.normal(size=(75, 3)), 2, axis=0) + 1e-6 * rng.normal(size=(150, 3))


def _tiny_between_two(rng):
    return np.concatenate([[[-1, 0, 0], [1, 0, 0]], 1e-22 * rng.normal(size=(148, 3))])


# Centers whose distances float32 tells apart, or hardly, or not at all; some are equal.
MANY_CENTERS = {
    "apart": lambda rng: rng.normal(size=(150, 3)),
    "integers": _integers,
    "pairs close to each other": _close_pairs,
    "at an offset": lambda rng: 1e6 + rng.normal(size=(150, 3)),
    "one far away": lambda rng: np.concatenate([[[1e9, 0, 0]], rng.normal(size=(149, 3))]),
    "two far groups": lambda rng: rng.normal(size=(150, 3)) + 1e5 * (np.arange(150) % 2)[:, None],
    "tiny between two": _tiny_between_two,
    "huge": lambda rng: 1e100 * rng.normal(size=(150, 3)),
    "six, one of them far away": lambda rng: np.concatenate([[[1e60, 0, 0]], rng.random((5, 3))]),
}
SPREADS = {
    "alike": lambda rng, k: rng.uniform(0.9, 1.1, k),
    "some zero": lambda rng, k: rng.uniform(0, 1, k) * (rng.random(k) < 0.5),
    "one huge": lambda rng, k: rng.uniform(0.9, 1.1, k) * np.where(np.arange(k) == 0, 1e60, 1),
    "none": lambda rng, k: np.zeros(k),
}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("kind", MANY_CENTERS)
def test_the_index_of_davies_and_bouldin_finds_the_most_similar_of_many_clusters(kind, spread):
    rng = np.random.default_rng(0)
    centers = MANY_CENTERS[kind](rng).astype(float)
    spreads = SPREADS[spread](rng, len(centers))
    apart = np.sqrt(np.square(centers[:, None] - centers).sum(axis=2))
    apart[apart == 0] = np.inf
    expected = ((spreads[:, None] + spreads) / apart).max(axis=1).mean()
    clusters = SimpleNamespace(
        centers=centers, filled=np.ones(len(centers), bool), mean_of=lambda measure: spreads
    )
    assert quality._davies_bouldin(clusters) == pytest.approx(expected, rel=1e-12)


def test_any_chunks_and_workers_give_the_same_bits(trained, request, monkeypatch):
    model, _, rows = trained
    weights = (np.arange(1200) % 3) * 0.7
    datasets = Dataset.from_array(rows), Dataset.from_array(rows, weights)
    expected = [judged(model, each) for each in datasets]
    request.getfixturevalue("client")
    monkeypatch.setattr("dkmeans.data.chunks.TARGET_BYTES", 900)
    monkeypatch.setattr("dkmeans.data.chunks.SMALLEST_BYTES", 1)
    datasets = Dataset.from_array(rows), Dataset.from_array(rows, weights)
    assert [judged(model, each) for each in datasets] == expected


def test_an_index_is_the_same_whether_others_need_second_nearest_centers(trained):
    model, _, rows = trained
    found, alone = judged(model, Dataset.from_array(rows)), sorted({*NAMES} - OF_TWO - {SAMPLED})
    few = model.evaluate(lambda: rows, indices=alone)
    assert {name: few[name] for name in alone} == {name: found[name] for name in alone}


def test_rows_of_weight_two_count_as_two_rows(trained):
    model, _, rows = trained
    doubled = judged(model, Dataset.from_array(rows, np.full(1200, 2.0)))
    twice = judged(model, Dataset.from_array(np.concatenate([rows, rows])))
    for name in set(NAMES) - {"sampled_silhouette"}:
        np.testing.assert_allclose(doubled[name], twice[name], rtol=1e-12, err_msg=name)


def test_indices_that_are_not_defined_are_none(tmp_path):
    rows = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    one = KMeans(1, tmp_path / "one", rows[:1], use_mini_batch=False)
    one.train(lambda: rows, max_steps=3)
    found = judged(one, Dataset.from_array(rows))
    undefined = {name for name in NAMES if found[name] is None}
    assert undefined == {*("silhouette", "davies_bouldin", "calinski_harabasz", "ambiguous")} | {
        "sampled_silhouette"
    }
    assert found["cluster_silhouette"] == [None]
    assert found["cluster_deviation"] == [[0.0, pytest.approx(np.std([1, 2, 3]))]]
    far = KMeans(2, tmp_path / "far", np.array([[0.0, 2.0], [9e9, 0.0]]), use_mini_batch=False)
    far.train(lambda: rows, max_steps=1)
    found = judged(far, Dataset.from_array(rows))
    assert found["cluster_sizes"] == [3, 0]
    assert found["cluster_mean"][1] == [None, None]
    assert found["silhouette"] == pytest.approx(1.0)


@pytest.mark.parametrize(("far", "digits"), [(10.0, 9), (1e4, 6), (1e8, 0)])
def test_centers_so_far_from_their_rows_that_digits_are_lost_are_said(
    tmp_path, caplog, far, digits
):
    rng = np.random.default_rng(1)
    rows = np.vstack([rng.normal(size=(50, 3)), rng.normal(size=(50, 3)) + np.array([10, 0, 0])])
    centers = np.array([[0.0, far, 0.0], [10.0, far, 0.0]])
    model = KMeans(2, tmp_path, centers, use_mini_batch=False).train(lambda: centers, steps=1)
    found = model.evaluate(lambda: rows, indices=["calinski_harabasz", "cluster_deviation"])
    labels = np.array(list(model.predict_cluster_index(lambda: rows)))
    expected = calinski_harabasz_score(rows, labels)
    assert found["calinski_harabasz"] == pytest.approx(expected, rel=10.0**-digits)
    warned = "few digits in calinski_harabasz, cluster_deviation" in caplog.text
    assert warned == (digits < 9)
    caplog.clear()
    model.evaluate(lambda: rows, indices=["silhouette"])
    assert "digits" not in caplog.text


@pytest.mark.parametrize(("spread", "warned"), [(1e-2, False), (1e-6, True)])
def test_directions_whose_distances_are_rounding_errors_are_said(tmp_path, caplog, spread, warned):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=16) + spread * rng.normal(size=(200, 16))
    model = KMeans(3, tmp_path, "kmeans_plus_plus", "cosine", 1, use_mini_batch=False)
    model.train(lambda: rows, steps=3).evaluate(lambda: rows, indices="all")
    assert ("rounding errors of the cosine distance" in caplog.text) == warned


def test_means_of_standardized_rows_of_length_one_are_in_no_other_unit(tmp_path):
    rows = np.random.default_rng(3).normal(size=(300, 3)) * [1, 10, 100] + 1000
    model = KMeans(2, tmp_path, rows[:2], "cosine", use_mini_batch=False)
    model.train(lambda: Dataset.from_array(rows).standardize(), max_steps=3)
    found = model.evaluate(lambda: rows, indices=["cluster_mean", "cluster_deviation"])
    directions = units(model.checkpoint().settings.scaling.standardized(rows))
    index = np.array(list(model.predict_cluster_index(lambda: rows)))
    for j in range(2):
        own = directions[index == j]
        assert found["cluster_mean"][j] == pytest.approx(own.mean(axis=0), abs=1e-12)
        assert found["cluster_deviation"][j] == pytest.approx(own.std(axis=0))


@pytest.mark.parametrize("given", ["all", ["all"], ["silhouette", "all"]])
def test_all_stands_for_every_index(given):
    assert check_indices(given) == NAMES


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ("silhouette", InvalidType, "indices must be a list of names or 'all', got 'silhouette'"),
        (["dunn"], Invalid, "indices must be 'all' or among silhouette, .*, got 'dunn'"),
        (3, InvalidType, "indices must be a list of names or 'all', got 3"),
    ],
)
def test_unknown_indices_are_refused(given, error, match):
    with pytest.raises(error, match=match):
        check_indices(given)
