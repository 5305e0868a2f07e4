"""Greedy k-means++ against plain float64 distances: only the rows and the seed decide."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import Dataset, KMeans, checkpoints
from dkmeans.initialization import kmeans_plus_plus as greedy
from dkmeans.initialization.kmeans_plus_plus import plus_plus
from tests import reference
from tests.initialization.first_centers import PLUS_PLUS, first_centers, rows_in
from tests.reference import COSINE, EUCLIDEAN


def plain(points, k, candidates, rng, weights=None):
    """Return the same picks from all distances of all rows, in float64."""
    points = points.astype(np.float64)
    chances = None if weights is None else weights / weights.sum()
    weights = np.ones(len(points)) if weights is None else weights
    nearest, picked = None, []
    for _ in range(k):
        if nearest is None:
            drawn = np.unique(rng.choice(len(points), candidates, p=chances))
        elif not (weights * nearest).any():
            drawn = rng.integers(len(points), size=candidates)
        else:
            stops = np.cumsum(weights * nearest)
            drawn = np.searchsorted(stops, rng.random(candidates) * stops[-1], "right")
        distances = ((points[drawn][:, None] - points) ** 2).sum(axis=2)
        closer = distances if nearest is None else np.minimum(distances, nearest)
        sums = (closer * weights).sum(axis=1)
        best = int(np.flatnonzero(sums <= sums.min() * (1 + 1e-12))[0])
        nearest = closer[best]
        picked.append(int(drawn[best]))
    return picked


def rows_of(n, d=2, offset=0.0, dtype=np.float32, seed=0):
    return (np.random.default_rng(seed).normal(size=(n, d)) + offset).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows,
        lambda rows: rows + 1e6,
        lambda rows: rows * 1e-25,
        lambda rows: rows * 1e25,
        lambda rows: rows * np.logspace(-9, 9, len(rows))[:, None],
    ],
    ids=["plain", "offset", "tiny", "huge", "scales"],
)
def test_picks_are_those_of_plain_distances(change, dtype):
    rows = change(rows_of(300, 5, dtype=np.float64)).astype(dtype)
    for candidates in (1, 4):
        found = plus_plus(rows, 12, candidates, np.random.default_rng(1))
        assert found.tolist() == plain(rows, 12, candidates, np.random.default_rng(1))
        weights = np.random.default_rng(2).random(300) * np.arange(300)
        found = plus_plus(rows, 12, candidates, np.random.default_rng(1), weights)
        assert found.tolist() == plain(rows, 12, candidates, np.random.default_rng(1), weights)


def test_rows_that_float32_cannot_tell_apart_are_all_picked():
    rows = np.array([[0.0], [1e9], [1e9 + 1], [1e9 + 2]])
    for seed in range(10):
        assert len(set(plus_plus(rows, 4, 2, np.random.default_rng(seed)).tolist())) == 4


@given(st.lists(st.integers(0, 4), min_size=2, max_size=12).filter(any), st.integers(0, 9))
def test_all_rows_of_any_weight_are_picked_before_one_of_none(weights, seed):
    weights = np.array(weights, float)
    rows, rng = rows_of(len(weights), 2, seed=seed), np.random.default_rng(seed)
    picked = plus_plus(rows, np.count_nonzero(weights), 3, rng, weights)
    assert sorted(picked.tolist()) == np.flatnonzero(weights).tolist()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_picks_are_the_same_for_any_number_of_threads(monkeypatch, threads):
    rows = rows_of(500, 7)
    monkeypatch.setattr(greedy, "_BLOCK_ROWS", 64)
    expected = plus_plus(rows, 20, 3, np.random.default_rng(2))
    monkeypatch.setattr(greedy, "usable_cores", lambda: threads)
    assert plus_plus(rows, 20, 3, np.random.default_rng(2)).tolist() == expected.tolist()


@given(st.integers(1, 8), st.integers(1, 5), st.integers(0, 2**32), st.integers(1, 4))
def test_plus_plus_centers_differ_while_rows_do(k, d, seed, candidates):
    rng = np.random.default_rng(seed)
    distinct = np.unique(rng.integers(-3, 4, (k, d)), axis=0).astype(np.float32)
    rows = np.repeat(distinct, rng.integers(1, 5, len(distinct)), axis=0)
    picked = plus_plus(rows, len(distinct), candidates, rng)
    assert picked.dtype == np.int64
    assert len(np.unique(rows[picked], axis=0)) == len(distinct)


def test_plus_plus_draws_in_proportion_to_the_squared_distance():
    rows = np.array([[0.0], [1.0], [3.0]], np.float32)
    rng, seconds = np.random.default_rng(0), []
    for _ in range(2000):
        first, second = plus_plus(rows, 2, 1, rng)
        if first == 0:
            seconds.append(second)
    # 9 to 1, over some 667 draws.
    assert 0.86 < np.mean(np.array(seconds) == 2) < 0.94


# As first centers of a fit.


def test_plus_plus_centers_are_rows_of_the_first_batch():
    batches = [rows_of(30, seed=1), rows_of(30, seed=2)]
    for retries in (-1, 0, 2):
        centers = first_centers(5, PLUS_PLUS, batches, kmeans_plus_plus_num_retries=retries)
        assert len(set(rows_in(centers, batches[0]))) == 5


def test_plus_plus_refuses_a_first_batch_smaller_than_k_with_both_numbers():
    with pytest.raises(ValueError, match=r"num_clusters = 5 rows, got 4"):
        first_centers(5, PLUS_PLUS, [rows_of(4), rows_of(40)])
    with pytest.raises(ValueError, match=r"num_clusters = 5 rows, got 4"):
        first_centers(5, PLUS_PLUS, rows_of(4))


def test_plus_plus_picks_every_row_when_there_are_just_enough():
    rows = rows_of(6)
    assert sorted(rows_in(first_centers(6, PLUS_PLUS, rows), rows)) == list(range(6))


def test_plus_plus_centers_differ_at_an_offset():
    rows = (np.arange(8)[:, None] + np.array([1e6, -1e6])).astype(np.float32)
    centers = first_centers(8, PLUS_PLUS, np.repeat(rows, 50, axis=0))
    assert sorted(rows_in(centers, rows)) == list(range(8))


def test_plus_plus_centers_differ_where_rows_are_huge():
    rows = (rows_of(6) * 1e30).astype(np.float32)
    centers = first_centers(6, PLUS_PLUS, np.repeat(rows, 20, axis=0))
    assert sorted(rows_in(centers, rows)) == list(range(6))


def test_plus_plus_of_equal_rows_falls_back_to_any_of_them():
    rows = np.tile(np.array([[3.0, 4.0]], np.float32), (9, 1))
    assert first_centers(4, PLUS_PLUS, rows).tolist() == [[3.0, 4.0]] * 4
    np.testing.assert_allclose(
        first_centers(4, PLUS_PLUS, rows, COSINE), [[0.6, 0.8]] * 4, rtol=1e-6
    )
    assert first_centers(4, PLUS_PLUS, np.zeros_like(rows), COSINE).tolist() == [[0.0, 0.0]] * 4


def blobs(seed=0, k=8):
    rng = np.random.default_rng(seed)
    middles = rng.uniform(-100, 100, (k, 2))
    return (np.repeat(middles, 40, axis=0) + rng.normal(size=(k * 40, 2))).astype(np.float32)


def mean_inertia(source, rows, **more):
    found = [first_centers(8, source, rows, seed=seed, **more) for seed in range(8)]
    return np.mean([reference.loss(rows[::8], centers, EUCLIDEAN) for centers in found])


def test_plus_plus_finds_separated_groups_far_better_than_random_rows_do():
    rows = blobs()
    assert mean_inertia(PLUS_PLUS, rows) < 0.2 * mean_inertia("random", rows)


def test_more_candidates_find_better_centers():
    rows = blobs(1)
    alone = mean_inertia(PLUS_PLUS, rows, kmeans_plus_plus_num_retries=0)
    assert mean_inertia(PLUS_PLUS, rows, kmeans_plus_plus_num_retries=8) < alone


@pytest.mark.parametrize("k", [1, 4, 9])
def test_negative_retries_mean_two_and_the_logarithm_of_k(k):
    rows = rows_of(50)
    some = first_centers(k, PLUS_PLUS, rows, kmeans_plus_plus_num_retries=-1)
    same = first_centers(
        k, PLUS_PLUS, rows, kmeans_plus_plus_num_retries=2 + math.floor(math.log(k))
    )
    np.testing.assert_array_equal(some, same)


def test_with_many_candidates_even_the_first_pick_is_the_best_one():
    rows = rows_of(15)
    (center,) = first_centers(1, PLUS_PLUS, rows, kmeans_plus_plus_num_retries=500)
    totals = reference.distances(rows, rows, EUCLIDEAN).sum(axis=0)
    np.testing.assert_array_equal(center, rows[np.argmin(totals)])


def test_plus_plus_for_cosine_uses_directions_only():
    rng = np.random.default_rng(0)
    angles = np.repeat([0.5, 2.5, 4.5], 20) + rng.normal(size=60) * 0.01
    lengths = rng.uniform(0.1, 1000, (60, 1))
    rows = (np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths).astype(np.float32)
    for seed in range(5):
        centers = first_centers(3, PLUS_PLUS, rows, COSINE, seed=seed)
        np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 1.0, rtol=1e-6)
        found = np.sort(np.arctan2(centers[:, 1], centers[:, 0]) % (2 * np.pi))
        np.testing.assert_allclose(found, [0.5, 2.5, 4.5], atol=0.1)


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


@pytest.mark.parametrize("metric", [EUCLIDEAN, COSINE])
def test_wide_rows_take_a_copy_and_their_preparation_and_little_else(metric):
    wide = np.random.default_rng(4).normal(size=(100, 40_000)).astype(np.float32)
    copies = 2 if metric == COSINE else 0  # directions are float64
    first_centers(2, PLUS_PLUS, wide, metric)  # imports and compiles
    tracemalloc.start()
    try:
        first_centers(2, PLUS_PLUS, wide, metric)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The first step of training adds up wide rows, which takes another copy.
    assert peak < (4 + copies) * wide.nbytes, peak / wide.nbytes


# Rows of extreme size.


@pytest.mark.parametrize("scale", [2.0**-500, 2.0**-200, 2.0**200, 2.0**500])
def test_plus_plus_picks_the_same_rows_at_any_scale_that_can_be_squared(scale):
    rows = rows_of(300, 4, dtype=np.float64)
    weights = np.arange(300.0)
    for given_weights in (None, weights):
        expected = plus_plus(rows, 20, 3, np.random.default_rng(5), given_weights)
        found = plus_plus(rows * scale, 20, 3, np.random.default_rng(5), given_weights)
        assert found.tolist() == expected.tolist()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-320, 1e-310, 1e-200, 1e-160, 1e155, 1e200, 1e300])
def test_plus_plus_refuses_rows_whose_differences_float64_cannot_square(scale):
    rows = rows_of(20, dtype=np.float64) * scale
    with pytest.raises(ValueError, match=r"largest difference from their mean .* Scale"):
        first_centers(3, PLUS_PLUS, rows)


@pytest.mark.filterwarnings("error")
def test_plus_plus_refuses_rows_with_the_largest_float64_among_them():
    largest = np.finfo(np.float64).max
    for sentinels in ([[largest, 0]], [[largest, 0], [-largest, 0]], [[largest, 0]] * 3):
        rows = np.vstack([rows_of(20, dtype=np.float64), sentinels])
        with pytest.raises(ValueError, match=r"values up to 1\.79769e\+308"):
            first_centers(2, PLUS_PLUS, rows)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [1e-320, 1e-200, 1e200, 1.7e308])
def test_plus_plus_takes_any_of_equal_rows_of_extreme_size(value):
    rows = np.full((9, 2), value)
    assert len(plus_plus(rows, 4, 3, np.random.default_rng(0))) == 4


def test_weights_of_any_size_give_the_same_draws():
    rows = np.random.default_rng(8).normal(size=(50, 2))
    weights = np.random.default_rng(9).random(50)
    picks = [
        plus_plus(rows, 5, 3, np.random.default_rng(1), weights * scale).tolist()
        for scale in (1.0, 2.0**1023, 2.0**-900)
    ]
    assert picks[0] == picks[1] == picks[2]
