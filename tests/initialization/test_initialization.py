"""Initialization: the first centers from any source, and the batches that it leaves to training."""

import dask.array as da
import numpy as np
import pytest

from dkmeans import Dataset, RunConfig
from dkmeans.distance import Computation, Distance
from dkmeans.executors import Serial
from dkmeans.initialization import Initialization, Rounds
from tests import reference
from tests.initialization.first_centers import (
    NAMES,
    PLUS_PLUS,
    first_centers,
    model,
    rows_in,
    rows_of,
)
from tests.reference import COSINE, EUCLIDEAN, METRICS

# An array.


def test_an_array_is_taken_as_it_is():
    given_centers = rows_of(3, seed=5)
    centers = first_centers(3, given_centers, rows_of(10))
    np.testing.assert_array_equal(centers, given_centers)


def test_the_array_decides_how_many_clusters_there_are():
    assert first_centers(7, rows_of(3), rows_of(10)).shape == (3, 2)


def test_an_array_can_have_more_centers_than_there_are_rows():
    assert first_centers(9, rows_of(9), rows_of(2)).shape == (9, 2)


def test_an_array_is_normalised_for_cosine():
    given_centers = rows_of(3, seed=5) * 7
    centers = first_centers(3, given_centers, rows_of(10), COSINE)
    np.testing.assert_allclose(centers, reference.units(given_centers), rtol=1e-6)


def test_an_array_may_be_nested_lists_or_integers():
    for source in ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]])):
        centers = first_centers(2, source, rows_of(5))
        assert centers.dtype == np.float32
        assert centers.tolist() == [[1, 2], [3, 4]]


def test_an_array_of_another_width_than_the_rows_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"initial_clusters.* 2 columns, got 3"):
        first_centers(3, rows_of(3, 3), rows_of(10))


def test_a_later_change_of_the_array_changes_nothing():
    given_centers = rows_of(3)
    estimator = model(3, given_centers, use_mini_batch=False)
    given_centers[:] = 99
    estimator.train(lambda: iter([rows_of(10)]))
    assert (estimator.cluster_centers() < 9).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("source", [*NAMES, rows_of(3)])
def test_first_centers_have_the_dtype_of_the_rows(source, dtype):
    assert first_centers(3, source, rows_of(10, dtype=dtype)).dtype == dtype


# Seeds.


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_centers_for_any_chunking(name, metric):
    rows = rows_of(200, 3)
    expected = first_centers(7, name, rows, metric)
    for chunks in (1, 13, 64, 199, 200):
        chunked = first_centers(7, name, da.from_array(rows, chunks=(chunks, 3)), metric)
        np.testing.assert_array_equal(chunked, expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_batches_the_same_centers(name):
    rows = rows_of(200, 3)
    expected = first_centers(7, name, [rows[:100], rows[100:]])
    dataset = Dataset.from_array(da.from_array(rows, chunks=(30, 2))).batch(100)
    np.testing.assert_array_equal(first_centers(7, name, dataset), expected)


@pytest.mark.parametrize("name", NAMES)
def test_other_seeds_give_other_centers(name):
    rows = rows_of(200)
    found = {first_centers(7, name, rows, seed=seed).tobytes() for seed in range(5)}
    assert len(found) == 5


@pytest.mark.parametrize("name", NAMES)
def test_without_a_seed_every_run_differs(name):
    rows = rows_of(500)
    found = {first_centers(7, name, rows, seed=None).tobytes() for _ in range(3)}
    assert len(found) == 3


@pytest.mark.parametrize("name", NAMES)
def test_the_configurations_seed_is_used_where_none_is_given(name):
    rows = rows_of(200)
    config = RunConfig(tf_random_seed=11)
    fallback = first_centers(7, name, rows, seed=None, config=config)
    np.testing.assert_array_equal(fallback, first_centers(7, name, rows, seed=11))
    own = first_centers(7, name, rows, seed=0, config=config)
    np.testing.assert_array_equal(own, first_centers(7, name, rows, seed=0))


@pytest.mark.parametrize("source", [*NAMES, "k-means||"])
def test_each_start_has_the_seed_of_a_fit_of_its_own(source):
    computation = Computation(Distance.SQUARED_EUCLIDEAN)

    def centers(seed, number):
        start = Initialization(source, 5, computation, 2, seed, Rounds(1.0, 3), None)
        dataset = Dataset.from_array(rows_of(200))
        return start.of_start(number).find(dataset.batches(), dataset.rows, Serial())[0]

    np.testing.assert_array_equal(centers(3, 2), centers(3 + 2 * 2**32, 0))
    assert not np.array_equal(centers(3, 0), centers(3, 1))


# What initialization leaves for training.


@pytest.mark.parametrize("source", [*NAMES, lambda inputs, missing: inputs[:1], rows_of(4)])
def test_batches_used_for_initialization_are_trained_on_too(source):
    batches = [rows_of(6, seed=seed) for seed in range(5)]
    estimator = model(4, source)
    estimator.train(lambda: iter(batches))
    assert estimator.get_variable_value("global_step") == 5
    assert estimator.get_variable_value("Variable").sum() == 4 + 30


def test_training_after_initialization_begins_with_the_first_batch():
    batches = [rows_of(3, seed=seed) for seed in range(5)]
    centers = first_centers(6, "random", batches)
    estimator = model(6, "random").train(lambda: iter(batches))
    counts = np.ones(6, np.int64)
    for rows in batches:
        centers, counts, _ = reference.mini_batch_step(rows, centers, counts, EUCLIDEAN)
    np.testing.assert_allclose(estimator.cluster_centers(), centers, rtol=1e-5)
    assert estimator.get_variable_value("Variable").tolist() == counts.tolist()


def test_initialization_takes_no_more_batches_than_it_needs():
    taken = []

    def batches():
        for seed in range(9):
            taken.append(seed)
            yield rows_of(3, seed=seed)

    model(6, "random").train(batches, steps=2)
    assert len(taken) <= 3


def test_initialization_happens_once():
    calls = []

    def first_rows(inputs, missing):
        calls.append(missing)
        return inputs[:missing]

    estimator = model(3, first_rows)
    estimator.train(lambda: rows_of(9), steps=1)
    estimator.train(lambda: rows_of(9), steps=1)
    assert calls == [3]


@pytest.mark.parametrize("source", [*NAMES, lambda inputs, missing: inputs[:missing]])
def test_rows_that_are_not_finite_are_named_when_they_are_used(source):
    rows = rows_of(5)
    rows[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"row 3 .* column 1"):
        first_centers(5, source, rows)


def test_nothing_is_saved_where_initialization_fails():
    estimator = model(9, "random")
    with pytest.raises(ValueError, match="num_clusters"):
        estimator.train(lambda: iter([rows_of(3)]))
    assert estimator.latest_checkpoint() is None


# What the dtype of the centers cannot hold.


@pytest.mark.parametrize(
    "source", [np.array([[1e300, 0], [0, 0]]), lambda inputs, missing: [[1e39, 0], [0, 0]]]
)
def test_given_centers_that_the_dtype_of_the_rows_cannot_hold_are_refused(source):
    estimator = model(2, source)
    with pytest.raises(ValueError, match=r"initial_clusters must hold numbers that float32 holds"):
        estimator.train(lambda: rows_of(9), steps=1)
    assert estimator.latest_checkpoint() is None
    centers = first_centers(2, source, rows_of(9, dtype=np.float64))
    assert centers.max() > 1e38


@pytest.mark.parametrize("source", [np.array([[1e300, 0], [0, 1]]), *NAMES])
def test_directions_that_float64_cannot_compute_are_refused(source):
    rows = rows_of(9, dtype=np.float64) * (1.0 if isinstance(source, np.ndarray) else 1e200)
    estimator = model(2, source, COSINE)
    with pytest.raises(ValueError, match=r"values of .* are up to .* too large for squared"):
        estimator.train(lambda: rows, steps=1)
    assert estimator.latest_checkpoint() is None


@pytest.mark.parametrize("source", [*NAMES, "k-means||", rows_of(3)])
@pytest.mark.parametrize("first", [np.float32, np.int16])
def test_a_float64_batch_after_a_first_batch_of_float32_is_refused(source, first):
    batches = [(rows_of(9) * 100).astype(first), rows_of(9), rows_of(9, dtype=np.float64)]
    estimator = model(3, source)
    with pytest.raises(ValueError, match=r"first batch's dtype, float32.* got a batch of float64"):
        estimator.train(lambda: iter(batches))
    assert estimator.get_variable_value("global_step") == 2


def test_float32_batches_after_a_first_batch_of_float64_are_computed_in_float64():
    batches = [rows_of(9, dtype=np.float64), rows_of(9)]
    estimator = model(3, "random").train(lambda: iter(batches))
    assert estimator.cluster_centers().dtype == np.float64
    assert estimator.get_variable_value("global_step") == 2


# Weights.

EVERY_NAME = (*NAMES, "k-means||")


def some_weights(n):
    """Return weights of which a third are zero."""
    rng = np.random.default_rng(9)
    return np.where(rng.random(n) < 0.3, 0.0, np.exp(rng.normal(size=n)))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("source", EVERY_NAME)
def test_neither_rows_of_weight_zero_nor_chunks_change_first_centers(source, metric):
    rows, weights = rows_of(400, 3), some_weights(400)
    rows[np.flatnonzero(weights == 0)[0]] = 1e4
    left = rows[weights > 0], weights[weights > 0]
    expected = first_centers(9, source, (left[0], {"weights": left[1]}), metric)
    found = first_centers(9, source, (rows, {"weights": weights}), metric)
    assert found.tobytes() == expected.tobytes()
    blocks = Dataset.from_array(da.from_array(rows, chunks=(37, 3)), weights).repeat()
    assert first_centers(9, source, blocks, metric).tobytes() == expected.tobytes()


@pytest.mark.parametrize("source", EVERY_NAME)
def test_first_centers_are_rows_with_a_weight(source):
    rows = rows_of(60)
    weights = np.zeros(60)
    weights[[3, 30, 50]] = 0.1, 2.0, 1e6
    centers = first_centers(3, source, (rows, {"weights": weights}))
    assert sorted(rows_in(centers, rows)) == [3, 30, 50]
    # Random rows are drawn again from further passes, as without weights.
    too_few = [(np.zeros(60), 0)] if source == "random" else [(np.zeros(60), 0), (weights, 3)]
    for given_weights, number in too_few:
        with pytest.raises(ValueError, match=rf"num_clusters = 4\D.*\D{number}( |$)"):
            first_centers(4, source, (rows, {"weights": given_weights}))


@pytest.mark.parametrize("source", EVERY_NAME)
def test_rows_of_large_weight_are_drawn_more_often(source):
    rows, weights = rows_of(50), np.ones(50)
    weights[11] = 200.0
    # Beside one center, by weight times distance, or by weight alone.
    drawn = [first_centers(1, source, (rows, {"weights": weights}), seed=s) for s in range(12)]
    near = [np.abs(center - rows[11]).max() < 0.2 for center in drawn]
    assert sum(near) >= 9


def test_a_function_gets_the_rows_that_have_a_weight():
    rows, seen = rows_of(8), []

    def function(points, missing):
        seen.append(points)
        return points[:missing]

    weights = np.array([0.0, 1, 2, 0, 3, 0, 0.5, 0])
    centers = first_centers(2, function, (rows, {"weights": weights}))
    assert centers.tolist() == rows[[1, 2]].tolist()
    assert seen[0].tolist() == rows[[1, 2, 4, 6]].tolist()


def test_a_large_first_batch_is_sampled_by_weight(monkeypatch):
    monkeypatch.setattr("dkmeans.initialization._SAMPLE_ROWS", 40)
    monkeypatch.setattr("dkmeans.initialization._SAMPLE_ROWS_PER_CENTER", 1)
    rows, weights = rows_of(400), some_weights(400)
    weights[17], rows[17] = 1e4, 3.0
    centers = first_centers(5, PLUS_PLUS, (rows, {"weights": weights}))
    assert 17 in rows_in(centers, rows)
    few = rows[weights > 0], {"weights": weights[weights > 0]}
    assert first_centers(5, PLUS_PLUS, few).tobytes() == centers.tobytes()
