"""Prediction for one chunk, against plain float64 loops."""

import numpy as np
import pytest

from dkmeans import Dataset, InvalidData
from dkmeans.data.chunks import Chunk
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.distance import Centers, Distance
from dkmeans.prediction.per_chunk import Task, all_distances, form_of, predict, score
from dkmeans.state import Score
from tests import reference
from tests.reference import EUCLIDEAN, METRICS

ROWS = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)


def loaded(rows):
    return Chunk(MemoryRows(rows, "rows"), 0, len(rows)).loaded()


def cluster_index(loaded, centers):
    return predict(loaded, Task(centers, ("cluster_index",)))["cluster_index"]


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
    assert float(total.weight) == 40
    assert total.inertia == pytest.approx(nearest.sum(), rel=1e-10)


@pytest.mark.parametrize("names", [("cluster_index",), ("all_distances", "cluster_index")])
def test_a_task_has_the_results_that_it_names_in_their_order(names):
    found = predict(loaded(ROWS), Task(centers(), names))
    assert tuple(found) == names
    assert found["cluster_index"].tolist() == cluster_index(loaded(ROWS), centers()).tolist()
    assert {len(values) for values in found.values()} == {40}


EVERY = (
    "cluster_index",
    "distance",
    "second_index",
    "second_distance",
    "top_indices",
    "top_distances",
    "all_distances",
)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_nearest_centers_are_ranked_as_by_plain_loops(metric, dtype):
    rows = ROWS.astype(dtype)
    # Two equal centers, of which the lower index comes first, and some that are nearly equal.
    near = rows[:4] + dtype(1e-6) * rows[4:8]
    places = Centers(np.concatenate([rows[:4], near, rows[:2]]), Distance(metric))
    expected = reference.distances(rows, places.values, metric)
    order = np.lexsort((np.broadcast_to(np.arange(10), expected.shape), expected))
    found = predict(loaded(rows), Task(places, EVERY, 3))
    assert found["top_indices"].tolist() == order[:, :3].tolist()
    assert found["cluster_index"].tolist() == cluster_index(loaded(rows), places).tolist()
    assert found["second_index"].tolist() == order[:, 1].tolist()
    ranked = np.take_along_axis(expected, order, 1)
    for name, distances in (("top_distances", ranked[:, :3]), ("second_distance", ranked[:, 1])):
        np.testing.assert_allclose(found[name], distances, rtol=1e-9, atol=1e-15)
    total = score(loaded(rows), places).inertia
    assert found["distance"].sum() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("block", [1, 100])
def test_the_nearest_centers_are_the_same_in_blocks_of_any_size(block, monkeypatch):
    task = Task(centers(), ("top_indices", "top_distances"), 5)
    expected = predict(loaded(ROWS), task)
    monkeypatch.setattr("dkmeans.backends.numpy._RANKED_ELEMENTS", block)
    for name, values in predict(loaded(ROWS), task).items():
        assert values.tolist() == expected[name].tolist()


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_nearest_centers_are_ranked_where_float32_holds_no_squares(scale):
    rows = ROWS.astype(np.float64) * scale
    places = Centers(rows[:5].copy(), Distance(EUCLIDEAN))
    order = reference.distances(rows, places.values, EUCLIDEAN).argsort(axis=1)
    found = predict(loaded(rows), Task(places, ("top_indices",), 2))
    assert found["top_indices"].tolist() == order[:, :2].tolist()


def test_rows_too_far_away_to_be_ranked_are_refused():
    rows = ROWS.astype(np.float64) * 1e200
    with pytest.raises(InvalidData, match="too large for squared distances to be finite"):
        predict(loaded(rows), Task(Centers(rows[:5].copy(), Distance(EUCLIDEAN)), EVERY[:3]))


def test_every_result_has_the_form_that_is_stated_for_it():
    for name, values in predict(loaded(ROWS), Task(centers(), EVERY, 3)).items():
        shape, dtype = form_of(name, 5, 3)
        assert (values.shape, values.dtype) == ((40, *shape), dtype)


def ranked(loaded, centers):
    return predict(loaded, Task(centers, ("second_index",)))


@pytest.mark.parametrize("function", [cluster_index, all_distances, score, ranked])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_row_that_is_not_finite_is_named(function, bad):
    rows = ROWS.copy()
    rows[17, 1] = bad
    with pytest.raises(InvalidData, match=r"row 17 of rows has .* in column 1"):
        function(loaded(rows), centers())


@pytest.mark.parametrize("function", [cluster_index, all_distances, score, ranked])
def test_rows_of_another_width_than_the_centers_are_refused(function):
    with pytest.raises(InvalidData, match="must give rows of 3 columns"):
        function(loaded(ROWS[:, :2]), centers())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e20, 1e30])
@pytest.mark.parametrize("backend", ["numpy", "native"])
def test_distances_that_float32_cannot_hold_are_refused_by_row(scale, dtype, backend):
    rows = (ROWS * scale).astype(dtype)
    places = Centers(rows[:5].copy(), Distance(EUCLIDEAN), backend)
    with pytest.raises(InvalidData, match=r"^all_distances .* float32 .* row 0 of rows differs"):
        all_distances(loaded(rows), places)
    # The index and the score are computed in float64.
    index, nearest = reference.nearest(rows, places.values, EUCLIDEAN)
    assert cluster_index(loaded(rows), places).tolist() == index.tolist()
    assert score(loaded(rows), places).inertia == pytest.approx(nearest.sum(), rel=1e-10)


def test_a_single_row_whose_distances_float32_cannot_hold_is_named():
    rows = ROWS.copy()
    rows[17] *= np.float32(1e25)
    with pytest.raises(InvalidData, match=r"row 17 of rows differs from a center by .*e\+2"):
        all_distances(loaded(rows), centers())


def test_an_infinite_distance_is_refused_though_the_rows_are_nearly_equal():
    rows = np.full((3, 2), 1e35)
    places = Centers(rows[:1] * (1 + 2.0**-45), Distance(EUCLIDEAN))
    with pytest.raises(InvalidData, match=r"row 0 of rows differs from a center"):
        all_distances(loaded(rows), places)


def test_float64_rows_whose_squares_vanish_even_in_float64_are_refused():
    rows = ROWS.astype(np.float64) * 1e-200
    with pytest.raises(InvalidData, match=r"all_distances .* float32"):
        all_distances(loaded(rows), Centers(rows[:5].copy(), Distance(EUCLIDEAN)))


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_rows_whose_squares_float32_holds_have_distances(scale):
    rows = (ROWS * scale).astype(np.float32)
    places = Centers(rows[:5].copy(), Distance(EUCLIDEAN))
    expected = reference.distances(rows, places.values, EUCLIDEAN)
    np.testing.assert_allclose(
        all_distances(loaded(rows), places), expected, rtol=1e-6, atol=float(expected.max()) * 1e-6
    )


@pytest.mark.parametrize("error", [0.0, 2.0**-52])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e-4, 1.0, 1e30])
def test_a_row_that_equals_all_centers_but_for_rounding_has_distances(value, error):
    rows = np.full((3, 2), value)
    places = Centers(rows[:1] * (1 + error), Distance(EUCLIDEAN))
    found = all_distances(loaded(rows), places)
    assert (found <= value**2 * 1e-30).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_cosine_distances_fit_float32_for_rows_of_any_size(scale):
    rows = (ROWS * scale).astype(np.float32)
    places = Centers(ROWS[:5], Distance.COSINE)
    expected = reference.distances(rows, places.values, "cosine")
    np.testing.assert_allclose(all_distances(loaded(rows), places), expected, rtol=1e-6, atol=1e-6)


def test_a_weighted_score_is_that_of_repeated_rows():
    times = np.arange(40) % 3
    (batch,) = Dataset.from_array(ROWS, weights=times).batches()
    (chunk,) = batch
    repeated = np.repeat(ROWS, times, axis=0)
    assert score(chunk.loaded(), centers()) == score(loaded(repeated), centers())
    (batch,) = Dataset.from_array(ROWS, weights=np.zeros(40)).batches()
    assert score(batch[0].loaded(), centers()) == Score()
