"""Prediction for one chunk, against plain float64 loops."""

import numpy as np
import pytest

from dkmeans import InvalidData
from dkmeans.data.chunks import Chunk
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.distance import Centers, Distance
from dkmeans.prediction.per_chunk import Task, all_distances, cluster_index, predict, score
from tests import reference
from tests.reference import EUCLIDEAN, METRICS

ROWS = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)


def loaded(rows):
    return Chunk(MemoryRows(rows, "rows"), 0, len(rows)).loaded()


def centers(metric=EUCLIDEAN):
    return Centers(ROWS[:5] + np.float32(0.5), Distance(metric))


@pytest.mark.parametrize("metric", METRICS)
def test_indices_distances_and_scores_are_those_of_plain_loops(metric):
    places = centers(metric)
    index, nearest = reference.nearest(ROWS, places.values, metric)
    found = cluster_index(loaded(ROWS), places)
    assert found.dtype == np.int64
    assert found.tolist() == index.tolist()
    distances = all_distances(loaded(ROWS), places)
    assert distances.dtype == np.float32
    expected = reference.distances(ROWS, places.values, metric)
    np.testing.assert_allclose(distances, expected, rtol=1e-6, atol=1e-7)
    total = score(loaded(ROWS), places)
    assert total.rows == 40
    assert total.inertia == pytest.approx(nearest.sum(), rel=1e-10)


@pytest.mark.parametrize("names", [("cluster_index",), ("all_distances", "cluster_index")])
def test_a_task_has_the_results_that_it_names_in_their_order(names):
    found = predict(loaded(ROWS), Task(centers(), names))
    assert tuple(found) == names
    assert found["cluster_index"].tolist() == cluster_index(loaded(ROWS), centers()).tolist()
    assert {len(values) for values in found.values()} == {40}


@pytest.mark.parametrize("function", [cluster_index, all_distances, score])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_row_that_is_not_finite_is_named(function, bad):
    rows = ROWS.copy()
    rows[17, 1] = bad
    with pytest.raises(InvalidData, match=r"row 17 of rows has .* in column 1"):
        function(loaded(rows), centers())


@pytest.mark.parametrize("function", [cluster_index, all_distances, score])
def test_rows_of_another_width_than_the_centers_are_refused(function):
    with pytest.raises(InvalidData, match="must give rows of 3 columns"):
        function(loaded(ROWS[:, :2]), centers())
