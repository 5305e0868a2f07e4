"""The serial executor, against plain sums with NumPy; it defines what the others return."""

import numpy as np
import pytest
import zarr

from dkmeans.distance import Distance, directions
from dkmeans.executors import Cost, Serial
from dkmeans.loss import inertia
from dkmeans.partial_sums import accumulate
from dkmeans.prediction.per_chunk import score
from dkmeans.state import sum_up
from tests.exactly import floats, same_partial_sums
from tests.executors.laws import ExecutorLaws, batches_of, centers


@pytest.fixture
def executor():
    with Serial() as serial:
        yield serial


class TestSerial(ExecutorLaws):
    """The laws hold for the executor that they are defined by."""


@pytest.mark.parametrize("distance", Distance)
def test_totals_are_plain_sums_over_all_rows(executor, store, dataset, distance):
    rows, value = zarr.open_array(store)[:].astype(np.float64), centers(distance)
    points, places = rows, value.values.astype(np.float64)
    distances = ((points[:, None] - places) ** 2).sum(axis=2)
    if distance is Distance.COSINE:
        points, places = directions(rows), directions(places)
        distances = 1 - points @ places.T
    (total,) = executor.map_reduce(accumulate, batches_of(dataset), value).totals
    index = distances.argmin(axis=1)
    sums = np.zeros((9, 6))
    np.add.at(sums, index, points)
    np.testing.assert_allclose(floats(total.sums), sums, rtol=1e-9, atol=1e-9)
    assert total.counts.tolist() == np.bincount(index, minlength=9).tolist()
    assert inertia(total, value) == pytest.approx(distances.min(axis=1).sum(), rel=1e-9)


def test_a_total_is_the_sum_of_the_chunks(executor, dataset):
    batches = batches_of(dataset, 1000)
    reduction = executor.map_reduce(accumulate, batches, centers())
    for batch, total in zip(batches, reduction.totals, strict=True):
        assert same_partial_sums(
            total, sum_up(accumulate(chunk.loaded(), centers()) for chunk in batch)
        )
    assert reduction.cost == Cost()


def test_results_are_computed_one_at_a_time(executor, dataset):
    (batch,) = batches_of(dataset)
    drawn = []
    results = executor.map(score, (drawn.append(c) or c for c in batch), centers())
    for number in (1, 2, 3):
        next(results)
        assert len(drawn) == number


def test_it_is_one_worker_with_one_thread(executor):
    assert (executor.memory().workers, executor.memory().threads) == (1, 1)
    assert str(executor) == "1 thread of this process"
