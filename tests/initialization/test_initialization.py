"""Where the first centers come from, and that finding them uses nothing up.

The centers are read from the opening checkpoint: the runs here stop within their first iteration.
"""

import math
from uuid import uuid4

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmeans import Dataset, KMeans, RunConfig, checkpoints
from dkmeans.initialization.kmeans_plus_plus import plus_plus
from tests import reference
from tests.reference import COSINE, EUCLIDEAN, METRICS

PLUS = "kmeans_plus_plus"
NAMES = ("random", PLUS)


def rows_of(n, d=2, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


def model(k, source, metric=EUCLIDEAN, seed=0, **more):
    return KMeans(k, f"memory://{uuid4().hex}", source, metric, seed, **more)


def first_centers(k, source, data, metric=EUCLIDEAN, seed=0, **more):
    """The centers after initialization, before anything has moved them."""
    estimator = model(k, source, metric, seed, mini_batch_steps_per_iteration=10**6, **more)
    estimator.train(lambda: iter(data) if isinstance(data, list) else data, steps=1)
    return estimator.cluster_centers()


def rows_in(centers, rows):
    """The row numbers of centers that are rows."""
    table = {tuple(row): number for number, row in reversed(list(enumerate(rows.tolist())))}
    return [table[tuple(center)] for center in centers.tolist()]


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


# Random rows.


def test_random_centers_are_different_rows():
    rows = rows_of(12)
    for seed in range(20):
        numbers = rows_in(first_centers(6, "random", rows, seed=seed), rows)
        assert len(set(numbers)) == 6


def test_every_row_is_as_likely_to_be_a_random_center():
    rows = np.arange(6, dtype=np.float32)[:, None]
    hits = np.zeros(6)
    for seed in range(60):
        for number in rows_in(first_centers(3, "random", rows, seed=seed), rows):
            hits[number] += 1
    # 30 expected each, with a standard deviation of 3.9.
    assert (np.abs(hits - 30) < 16).all()


def test_as_many_random_centers_as_rows_are_the_rows_in_order():
    rows = rows_of(5)
    np.testing.assert_array_equal(first_centers(5, "random", rows), rows)


def test_small_batches_are_taken_whole_and_the_next_ones_drawn_from():
    batches = [rows_of(3, seed=1), rows_of(2, seed=2), rows_of(40, seed=3)]
    centers = first_centers(9, "random", batches)
    np.testing.assert_array_equal(centers[:5], np.concatenate(batches[:2]))
    assert len(set(rows_in(centers[5:], batches[2]))) == 4


def test_random_centers_are_normalised_for_cosine():
    rows = rows_of(20)
    centers = first_centers(4, "random", rows, COSINE)
    np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 1.0, rtol=1e-6)
    plain = first_centers(4, "random", rows)
    np.testing.assert_allclose(centers, reference.units(plain), rtol=1e-6)


def test_too_few_rows_for_random_centers_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"num_clusters = 9 .*\b5 rows"):
        first_centers(9, "random", [rows_of(3), rows_of(2)])


def test_a_bare_array_of_too_few_rows_is_refused_though_it_repeats():
    with pytest.raises(ValueError, match=r"num_clusters = 9 .*\b5 rows"):
        first_centers(9, "random", rows_of(5))


# k-means++.


def test_plus_plus_centers_are_rows_of_the_first_batch():
    batches = [rows_of(30, seed=1), rows_of(30, seed=2)]
    for retries in (-1, 0, 2):
        centers = first_centers(5, PLUS, batches, kmeans_plus_plus_num_retries=retries)
        assert len(set(rows_in(centers, batches[0]))) == 5


def test_plus_plus_refuses_a_first_batch_smaller_than_k_with_both_numbers():
    with pytest.raises(ValueError, match=r"num_clusters = 5 rows, got 4"):
        first_centers(5, PLUS, [rows_of(4), rows_of(40)])
    with pytest.raises(ValueError, match=r"num_clusters = 5 rows, got 4"):
        first_centers(5, PLUS, rows_of(4))


def test_plus_plus_picks_every_row_when_there_are_just_enough():
    rows = rows_of(6)
    assert sorted(rows_in(first_centers(6, PLUS, rows), rows)) == list(range(6))


@given(st.integers(1, 8), st.integers(1, 5), st.integers(0, 2**32), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_plus_plus_centers_differ_while_rows_do(k, d, seed, candidates):
    rng = np.random.default_rng(seed)
    distinct = np.unique(rng.integers(-3, 4, (k, d)), axis=0).astype(np.float32)
    rows = np.repeat(distinct, rng.integers(1, 5, len(distinct)), axis=0)
    picked = plus_plus(rows, len(distinct), candidates, rng)
    assert picked.dtype == np.int64
    assert len(np.unique(rows[picked], axis=0)) == len(distinct)


def test_plus_plus_centers_differ_at_an_offset():
    rows = (np.arange(8)[:, None] + np.array([1e6, -1e6])).astype(np.float32)
    centers = first_centers(8, PLUS, np.repeat(rows, 50, axis=0))
    assert sorted(rows_in(centers, rows)) == list(range(8))


def test_plus_plus_centers_differ_where_rows_are_huge():
    rows = (rows_of(6) * 1e30).astype(np.float32)
    centers = first_centers(6, PLUS, np.repeat(rows, 20, axis=0))
    assert sorted(rows_in(centers, rows)) == list(range(6))


def test_plus_plus_of_equal_rows_falls_back_to_any_of_them():
    rows = np.tile(np.array([[3.0, 4.0]], np.float32), (9, 1))
    assert first_centers(4, PLUS, rows).tolist() == [[3.0, 4.0]] * 4
    np.testing.assert_allclose(first_centers(4, PLUS, rows, COSINE), [[0.6, 0.8]] * 4, rtol=1e-6)
    assert first_centers(4, PLUS, np.zeros_like(rows), COSINE).tolist() == [[0.0, 0.0]] * 4


def blobs(seed=0, k=8):
    rng = np.random.default_rng(seed)
    middles = rng.uniform(-100, 100, (k, 2))
    return (np.repeat(middles, 40, axis=0) + rng.normal(size=(k * 40, 2))).astype(np.float32)


def mean_inertia(source, rows, **more):
    found = [first_centers(8, source, rows, seed=seed, **more) for seed in range(20)]
    return np.mean([reference.loss(rows[::8], centers, EUCLIDEAN) for centers in found])


def test_plus_plus_finds_separated_groups_far_better_than_random_rows_do():
    rows = blobs()
    assert mean_inertia(PLUS, rows) < 0.2 * mean_inertia("random", rows)


def test_more_candidates_find_better_centers():
    rows = blobs(1)
    alone = mean_inertia(PLUS, rows, kmeans_plus_plus_num_retries=0)
    assert mean_inertia(PLUS, rows, kmeans_plus_plus_num_retries=8) < alone


@pytest.mark.parametrize("k", [1, 4, 9])
def test_negative_retries_mean_two_and_the_logarithm_of_k(k):
    rows = rows_of(50)
    some = first_centers(k, PLUS, rows, kmeans_plus_plus_num_retries=-1)
    same = first_centers(k, PLUS, rows, kmeans_plus_plus_num_retries=2 + math.floor(math.log(k)))
    np.testing.assert_array_equal(some, same)


def test_with_many_candidates_even_the_first_pick_is_the_best_one():
    rows = rows_of(15)
    (center,) = first_centers(1, PLUS, rows, kmeans_plus_plus_num_retries=500)
    totals = reference.distances(rows, rows, EUCLIDEAN).sum(axis=0)
    np.testing.assert_array_equal(center, rows[np.argmin(totals)])


def test_plus_plus_draws_in_proportion_to_the_squared_distance():
    rows = np.array([[0.0], [1.0], [3.0]], np.float32)
    rng, seconds = np.random.default_rng(0), []
    for _ in range(4000):
        first, second = plus_plus(rows, 2, 1, rng)
        if first == 0:
            seconds.append(second)
    # 9 to 1, over some 1333 draws.
    assert 0.86 < np.mean(np.array(seconds) == 2) < 0.94


def test_plus_plus_for_cosine_looks_at_directions_only():
    rng = np.random.default_rng(0)
    angles = np.repeat([0.5, 2.5, 4.5], 20) + rng.normal(size=60) * 0.01
    lengths = rng.uniform(0.1, 1000, (60, 1))
    rows = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths).astype(np.float32)
    for seed in range(5):
        centers = first_centers(3, PLUS, rows, COSINE, seed=seed)
        np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 1.0, rtol=1e-6)
        found = np.sort(np.arctan2(centers[:, 1], centers[:, 0]) % (2 * np.pi))
        np.testing.assert_allclose(found, [0.5, 2.5, 4.5], atol=0.1)


# A function.


def test_a_function_is_asked_batch_after_batch_for_as_many_as_are_missing():
    batches = [rows_of(4, seed=seed) for seed in range(4)]
    asked = []

    def some(inputs, missing):
        asked.append((np.array(inputs), missing))
        return inputs[: (2, 0, 3)[len(asked) - 1]]

    centers = first_centers(5, some, batches)
    assert [missing for _, missing in asked] == [5, 3, 3]
    assert all(type(missing) is int for _, missing in asked)
    for (inputs, _), rows in zip(asked, batches, strict=False):
        np.testing.assert_array_equal(inputs, rows)
    np.testing.assert_array_equal(centers, np.concatenate([batches[0][:2], batches[2][:3]]))


def test_a_function_may_return_lists_and_what_are_no_rows():
    centers = first_centers(2, lambda inputs, missing: [[1, 2], [3, 4]], rows_of(5))
    assert centers.tolist() == [[1, 2], [3, 4]]


def test_a_function_sees_raw_rows_and_its_centers_are_normalised_for_cosine():
    rows, seen = rows_of(9) * 5, []

    def first_rows(inputs, missing):
        seen.append(np.array(inputs))
        return inputs[:missing]

    centers = first_centers(3, first_rows, rows, COSINE)
    np.testing.assert_array_equal(seen[0], rows)
    np.testing.assert_allclose(centers, reference.units(rows[:3]), rtol=1e-6)


def test_a_function_that_returns_too_many_rows_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"initial_clusters.*0 to 3 .*got 4 rows"):
        first_centers(3, lambda inputs, missing: inputs[:4], rows_of(9))


def test_a_function_that_returns_another_width_is_refused():
    with pytest.raises(ValueError, match=r"initial_clusters.*2 columns.*\(3, 1\)"):
        first_centers(3, lambda inputs, missing: inputs[:3, :1], rows_of(9))


def test_a_function_that_returns_values_that_are_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"initial_clusters.*finite"):
        first_centers(3, lambda inputs, missing: inputs[:3] * np.nan, rows_of(9))


def test_a_function_that_finds_too_few_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"num_clusters = 3 .*8 rows gave 2"):
        first_centers(3, lambda inputs, missing: inputs[:1], [rows_of(4), rows_of(4)])


@pytest.mark.timeout(20)
def test_a_function_that_never_finds_enough_in_a_bare_array_is_refused():
    with pytest.raises(ValueError, match="num_clusters = 3"):
        first_centers(3, lambda inputs, missing: inputs[:0], rows_of(4))


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
def test_the_configurations_seed_stands_in_where_there_is_none(name):
    rows = rows_of(200)
    config = RunConfig(tf_random_seed=11)
    fallback = first_centers(7, name, rows, seed=None, config=config)
    np.testing.assert_array_equal(fallback, first_centers(7, name, rows, seed=11))
    own = first_centers(7, name, rows, seed=0, config=config)
    np.testing.assert_array_equal(own, first_centers(7, name, rows, seed=0))


# What it leaves for training.


@pytest.mark.parametrize("source", [*NAMES, lambda inputs, missing: inputs[:1], rows_of(4)])
def test_batches_looked_at_are_trained_on_too(source):
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
def test_rows_that_are_not_finite_are_named_when_they_are_looked_at(source):
    rows = rows_of(5)
    rows[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"row 3 .* column 1"):
        first_centers(5, source, rows)


def test_nothing_is_saved_where_initialization_fails():
    estimator = model(9, "random")
    with pytest.raises(ValueError, match="num_clusters"):
        estimator.train(lambda: iter([rows_of(3)]))
    assert estimator.latest_checkpoint() is None


def test_of_a_large_first_batch_plus_plus_takes_a_sample_that_no_chunking_changes(monkeypatch):
    rows = np.random.default_rng(4).normal(size=(600, 3)).astype(np.float32)
    whole = KMeans(5, None, "kmeans_plus_plus", seed=7, use_mini_batch=False)
    whole.train(lambda: Dataset.from_array(rows), steps=1)
    monkeypatch.setattr("dkmeans.initialization._SAMPLE_ROWS", 40)
    monkeypatch.setattr("dkmeans.initialization._SAMPLE_ROWS_PER_CENTER", 1)
    found = []
    for bytes_of_a_chunk in (12 * 7, 12 * 100, 12 * 600):
        monkeypatch.setattr("dkmeans.data.chunks.TARGET_BYTES", bytes_of_a_chunk)
        model = KMeans(5, None, "kmeans_plus_plus", seed=7, use_mini_batch=False)
        model.train(lambda: Dataset.from_array(rows), steps=1)
        first = checkpoints.Manifest.read(model.model_dir).names[0]
        found.append(checkpoints.load(f"{model.model_dir}/{first}").state.centers)
    assert all(np.array_equal(centers, found[0]) for centers in found)
    assert len(np.unique(found[0], axis=0)) == 5
    assert all((rows == center).all(axis=1).any() for center in found[0])
    first = checkpoints.Manifest.read(whole.model_dir).names[0]
    assert not np.array_equal(
        checkpoints.load(f"{whole.model_dir}/{first}").state.centers, found[0]
    )
