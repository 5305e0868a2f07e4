"""The sample of the rows of an evaluation: the same for any chunks, and drawn by weight."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from dkmeans import Dataset
from dkmeans.distance import Distance
from dkmeans.indices import row_sample
from dkmeans.indices.row_sample import RowSample, sample_of, silhouette

ROWS = np.arange(600.0).reshape(300, 2)


def drawn(weights=None, batch=0):
    """Return the sample of the rows, cut into chunks as they are."""
    (rows,) = Dataset.from_array(ROWS, weights).batches()
    chunks = [chunk.loaded() for chunk in rows.numbered()]
    parts = [sample_of(each, np.zeros(len(each.points), int), batch) for each in chunks]
    return sum(parts, RowSample.zero(2)).rows[:, 0].tolist()


def test_the_same_rows_are_drawn_from_any_chunks(monkeypatch):
    monkeypatch.setattr(row_sample, "SAMPLE_ROWS", 20)
    for weights in (None, np.arange(300) % 4 * 0.5):
        expected = drawn(weights)
        assert len(set(expected)) == 20
        with monkeypatch.context() as patch:
            patch.setattr("dkmeans.data.chunks.TARGET_BYTES", 200)
            patch.setattr("dkmeans.data.chunks.SMALLEST_BYTES", 1)
            assert drawn(weights) == expected
    assert drawn(batch=1) != drawn()


def test_rows_are_drawn_in_proportion_to_their_weights(monkeypatch):
    monkeypatch.setattr(row_sample, "SAMPLE_ROWS", 30)
    heavy = np.where(np.arange(300) < 30, 1e6, 1e-6)
    assert sorted(drawn(heavy)) == ROWS[:30, 0].tolist()


def sample_with(rows, index, weights=None):
    """Return the sample of an array, in chunks of 200 bytes and more."""
    (batch,) = Dataset.from_array(rows, weights).batches()
    total = RowSample.zero(rows.shape[1])
    for chunk in batch.numbered():
        loaded = chunk.loaded()
        found = index[chunk.start : chunk.stop]
        total += sample_of(loaded, found if loaded.kept is None else found[loaded.kept], 0)
    return total


def clustered(generator, n, k=5):
    """Return rows in overlapping clusters, the last of which has one row, and their clusters."""
    index = np.append(generator.integers(0, k - 1, n - 1), k - 1)
    return generator.normal(size=(n, 3)) + index[:, None], index


def test_an_offset_of_all_rows_costs_the_silhouette_no_digits():
    rows, index = clustered(np.random.default_rng(2), 500)
    found = silhouette(sample_with(rows + 2.0**24, index), Distance.SQUARED_EUCLIDEAN)
    assert found == pytest.approx(silhouette_score(rows, index), rel=1e-8)


@pytest.mark.parametrize("distance", Distance)
def test_the_silhouette_of_all_rows_is_that_of_scikit_learn(distance):
    rows, index = clustered(np.random.default_rng(1), 500)
    name = "cosine" if distance is Distance.COSINE else "euclidean"
    points = rows / np.linalg.norm(rows, axis=1, keepdims=True) if name == "cosine" else rows
    expected = silhouette_score(points, index)
    assert silhouette(sample_with(rows, index), distance) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("share", "far"), [(0.01, 1e10), (0.1, 1e10), (0.5, 1e6)])
def test_rows_far_from_all_others_cost_the_silhouette_no_digits(share, far):
    rng = np.random.default_rng(1)
    index = rng.integers(3, size=600)
    rows = rng.normal(size=(600, 4)) + 6 * index[:, None]
    rows[rng.random(600) < share] += far
    sample = RowSample(np.arange(600.0), rows, index, np.ones(600))
    apart = np.sqrt(np.square(rows[:, None] - rows).sum(axis=2))
    expected = silhouette_score(apart, index, metric="precomputed")
    assert silhouette(sample, Distance.SQUARED_EUCLIDEAN) == pytest.approx(expected, rel=1e-9)


def test_a_row_counts_as_often_as_its_weight_says():
    generator = np.random.default_rng(2)
    rows, index = clustered(generator, 400)
    weights = generator.integers(0, 4, 400)
    repeated = silhouette_score(np.repeat(rows, weights, axis=0), np.repeat(index, weights))
    sample = sample_with(rows, index, weights)
    assert silhouette(sample, Distance.SQUARED_EUCLIDEAN) == pytest.approx(repeated, rel=1e-6)
    assert sorted(sample.represented) == sorted(weights[weights > 0])


def test_a_row_of_the_weight_two_is_not_alone_in_its_cluster():
    rows, index = np.array([[0.0], [1.0], [3.0]]), np.array([0, 1, 2])
    weights = np.array([2, 2, 1])
    found = silhouette(sample_with(rows, index, weights), Distance.SQUARED_EUCLIDEAN)
    assert found == pytest.approx((2 + 2 + 0) / 5)


def test_rows_that_weigh_one_together_are_as_one_row():
    rows, index = np.array([[0.0], [1e-6], [2e-6], [9.0], [9.5]]), np.array([0, 0, 0, 1, 1])
    weights = np.array([0.1, 0.34, 0.56, 1, 1])  # in float64 the sum of three is above 1
    found = silhouette(RowSample(np.arange(5.0), rows, index, weights), Distance.SQUARED_EUCLIDEAN)
    assert found == pytest.approx((1 - 0.5 / 9 + 1 - 0.5 / 9.5) / 3, rel=1e-5)


def test_a_sample_estimates_the_silhouette_of_all_rows_whatever_their_weights(monkeypatch):
    generator = np.random.default_rng(3)
    rows, index = clustered(generator, 4000)
    weights = np.where(index == 2, generator.integers(5, 30, 4000), generator.integers(0, 3, 4000))
    repeated = silhouette_score(np.repeat(rows, weights, axis=0), np.repeat(index, weights))
    monkeypatch.setattr(row_sample, "SAMPLE_ROWS", 1500)
    sample = sample_with(rows, index, weights)
    assert len(sample.keys) == 1500
    assert sample.represented.sum() == pytest.approx(weights.sum(), rel=0.02)
    found = silhouette(sample, Distance.SQUARED_EUCLIDEAN)
    assert found == pytest.approx(repeated, abs=0.02)


@pytest.mark.parametrize("index", [np.zeros(5, int), np.arange(5)])
def test_the_silhouette_of_one_cluster_or_of_single_rows_is_not_defined(index):
    sample = sample_with(ROWS[:5], index)
    assert np.isnan(silhouette(sample, Distance.SQUARED_EUCLIDEAN))
