"""The sample of the rows of an evaluation: the same for any chunks, and drawn by weight."""

import numpy as np

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


def test_the_silhouette_of_one_cluster_is_not_defined():
    sample = RowSample(np.zeros(5), ROWS[:5], np.zeros(5, int))
    assert np.isnan(silhouette(sample, Distance.SQUARED_EUCLIDEAN))
