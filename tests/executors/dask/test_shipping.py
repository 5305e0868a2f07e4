"""Shipping: rows travel once in a fit, and large values once in an iteration."""

from collections import Counter

import dask.array as da
import numpy as np
import pytest

from dkmeans import Dataset
from dkmeans.data.sources.memory import ShippedRows
from dkmeans.distance import Centers, Distance
from dkmeans.executors import Dask
from dkmeans.executors.dask import internals, remote
from dkmeans.executors.dask.cluster import Cluster
from dkmeans.executors.dask.shipping import Shipping, size_of
from dkmeans.partial_sums import accumulate
from dkmeans.prediction import per_chunk
from tests.executors.laws import batches_of, centers, check_iterations


class Submissions:
    """A cluster whose client records what is submitted, and returns numbers as futures."""

    is_reachable = False

    def __init__(self):
        self.arguments, self.client = [], self

    def submit(self, function, argument, **where):
        self.arguments.append(argument)
        return len(self.arguments) - 1


def batch_of(rows=20):
    (batch,) = Dataset.from_array(np.arange(rows, dtype=np.float32)[:, None]).batches()
    return batch


def test_an_array_is_shipped_once():
    client = Submissions()
    shipping, batch = Shipping(client), batch_of()
    first, futures = shipping.rows(batch, {})
    second, again = shipping.rows(batch, {})
    assert len(client.arguments) == len(batch) == len(futures)
    assert again == futures == shipping.futures
    assert list(first) == list(second)
    assert all(isinstance(source, ShippedRows) for source in first.sources())


def test_rows_are_shipped_again_after_they_are_forgotten():
    client, batch = Submissions(), batch_of()
    shipping = Shipping(client)
    shipping.rows(batch, {})
    shipping.forget()
    assert shipping.futures == []
    shipping.rows(batch, {})
    assert len(client.arguments) == 2 * len(batch)


def test_rows_of_a_batch_that_is_gone_are_released():
    shipping, batch = Shipping(Submissions()), batch_of()
    shipping.rows(batch, {})
    del batch
    assert shipping.futures == []


def test_stored_rows_are_not_shipped(dataset):
    client, (batch,) = Submissions(), batches_of(dataset)
    chunks, futures = Shipping(client).rows(batch, {})
    assert list(chunks) == list(batch)
    assert futures == []
    assert client.arguments == []


def test_a_small_value_travels_with_each_task_and_a_large_one_as_a_task():
    client = Submissions()
    shipping, small = Shipping(client), np.zeros(2**16)
    assert shipping.values(small, [None]) == [small]
    assert client.arguments == []
    assert shipping.values(small, ["a", "b"]) == [0, 0]
    assert client.arguments == [small]


@pytest.mark.parametrize("number", [16, 17, 256, 1000])
def test_no_worker_gives_a_large_value_to_many_others(number):
    client = Submissions()
    owners = [f"{worker:04}" for worker in range(number)] * 2
    found = Shipping(client).values(np.zeros(2**20), [None, *owners])
    assert found[1 : number + 1] == found[number + 1 :]
    given = Counter([*found[: number + 1], *client.arguments[1:]])  # to workers, and to copies
    assert set(given) == set(range(len(client.arguments)))
    assert max(given.values()) <= 16 + 1
    assert len(client.arguments) <= 1 + number / 8


def test_a_large_value_does_not_pass_through_the_scheduler(client, submitted):
    value, addresses = np.arange(2.0**18), sorted(client.nthreads())
    future = Shipping(Cluster(client)).future(value, addresses)
    assert submitted == [remote.take]
    np.testing.assert_array_equal(future.result(), value)
    assert client.who_has(future) == {future.key: (addresses[0],)}


def test_a_value_that_was_lost_with_its_worker_is_sent_again(client, dataset, monkeypatch, caplog):
    batches, call, lost = batches_of(dataset), internals.call_directly, [True]

    def losing(client, workers, seconds, function, *arguments):
        answers = call(client, workers, seconds, function, *arguments)
        if function is remote.hold and lost:
            client.run(lambda: remote._held.clear(), workers=lost.pop() and workers)
        return answers

    monkeypatch.setattr(internals, "call_directly", losing)
    monkeypatch.setattr("dkmeans.executors.dask.shipping._SMALL_BYTES", 1)
    with Dask(client) as executor:
        check_iterations(executor, batches, 3)
    assert not lost
    assert caplog.text.count("sent to; the iteration starts over") == 1


def test_the_size_of_a_value_is_that_of_its_arrays():
    assert size_of(np.zeros(1000)) == 8000
    assert 0 < size_of("text") < 200
    task = per_chunk.Task(Centers(np.zeros((10, 100)), Distance.COSINE), ("cluster_index",))
    assert 8000 < size_of((task, task)) - 8000 < 9000
    assert 0 < size_of(per_chunk.Task) < 2000
    assert size_of(()) == 0


def test_rows_in_memory_travel_once_and_not_in_every_iteration(client):
    rows = np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)
    sent = []
    submit = client.submit

    def watched(function, *arguments, **options):
        sent.extend(a.nbytes for a in arguments if isinstance(a, np.ndarray))
        sent.extend(a.array.nbytes for a in arguments if hasattr(a, "array"))
        return submit(function, *arguments, **options)

    client.submit = watched
    batch = batches_of(Dataset.from_array(rows))
    with Dask(client) as executor:
        for _ in range(4):
            executor.map_reduce(accumulate, batch, centers())
    assert sum(sent) == rows.nbytes


def test_dask_arrays_of_rows_in_memory_travel_as_one_graph(client):
    rows = da.from_array(np.ones((20, 6), np.float32), chunks=(10, 6))
    (batch,) = batches_of(Dataset.from_array(rows))
    with Dask(client) as executor:
        (total,) = executor.map_reduce(accumulate, [batch], centers()).totals
    assert total.counts.sum() == 20
