"""The functions that run on workers: they return the same bits wherever they run."""

import numpy as np
import pytest

from dkmeans import Dataset
from dkmeans.data import cache
from dkmeans.exact import ExactSums
from dkmeans.executors import Dask
from dkmeans.executors.chunk_runs import Run, RunTotal
from dkmeans.executors.dask import packets, remote
from dkmeans.executors.reduction import Cost
from dkmeans.partial_sums import accumulate
from dkmeans.prediction.per_chunk import score
from tests.executors.laws import batches_of, centers


def test_a_task_of_one_chunk_returns_the_result_of_the_function(client, dataset):
    (batch,) = batches_of(dataset)
    reading = remote.ReadContext("fit", "none")
    task = client.submit(remote.apply, score, batch.chunks_between(3, 4), centers(), reading)
    assert task.result() == score(batch[3].loaded(), centers())


def test_shipped_rows_take_the_place_of_their_placeholders(client):
    rows = np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32)
    (batch,) = batches_of(Dataset.from_array(rows))
    with Dask(client) as executor:
        chunks, futures = executor._shipping.rows(batch.chunks_between(0, 1), {})
        reading = remote.ReadContext("fit", "none")
        task = client.submit(remote.apply, score, chunks, centers(), reading, *futures)
        assert task.result() == score(batch[0].loaded(), centers())


def test_arrays_are_aligned_after_the_journey():
    unaligned = np.frombuffer(bytes(1 + 8 * 6), np.uint8)[1:].view(np.float64).reshape(3, 2)
    assert not unaligned.flags.aligned
    assert remote.unpack(unaligned).flags.aligned
    aligned = np.ones((3, 2))
    assert remote.unpack(aligned) is aligned


def test_totals_of_several_tasks_are_merged_into_those_of_the_fewest_runs():
    parts = [[RunTotal(Run(0, start, start + 2, 0), start, Cost())] for start in (0, 2, 6)]
    merged = remote.merge(*parts)
    assert [(total.run.start, total.run.stop) for total in merged] == [(0, 4), (6, 8)]
    assert [total.total for total in merged] == [2, 6]


def test_large_totals_are_merged_in_the_memory_of_the_first_and_only_once():
    ones = [ExactSums.zero((3, 2)) for _ in range(2)]
    runs = [RunTotal(Run(0, place, place + 1, 0), one, Cost()) for place, one in enumerate(ones)]
    parts = [remote.SingleUse([run]) for run in runs]
    (total,) = remote.merge_once(*parts).taken()
    assert (total.run.start, total.run.stop) == (0, 2)
    assert total.total.planes[0] is ones[0].planes[0]
    with pytest.raises(remote.ValueLost, match="lost with the worker that added them up"):
        remote.merge_once(*parts)


def test_rows_that_workers_have_cached_are_evicted_when_the_fit_ends(client, dataset):
    with Dask(client, "auto") as executor:
        for _ in range(3):
            executor.map_reduce(accumulate, batches_of(dataset), centers())
        cached = client.run(lambda: cache.row_cache.bytes)
        assert sum(cached.values()) == dataset.rows * 6 * 4
        assert min(cached.values()) > 0.3 * sum(cached.values())  # each its own share
    assert set(client.run(lambda: cache.row_cache.bytes).values()) == {0}


def test_a_value_that_was_dropped_between_two_packets_is_lost(monkeypatch):
    monkeypatch.setattr(packets, "PACKET_BYTES", 800)
    sent = {name: list(packets.packets(np.arange(150.0))) for name in range(remote._MOST_HELD + 1)}
    for number in range(2):
        for name, parts in sent.items():
            assert remote.hold(str(name), parts[number])
    for name in sent:
        with pytest.raises(remote.ValueLost):
            remote.take(str(name))
    for part in sent[0]:
        remote.hold("0", part)
    assert remote.take("0").tolist() == list(range(150))
