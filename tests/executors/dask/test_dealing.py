"""Dealing: the same iteration for the same batches and workers, another one when they change."""

import gc
import math
import weakref

import pytest

from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.executors.dask.dealing import Dealing
from dkmeans.executors.reduction import Cost, Throughput
from tests.numbered import Numbers

WORKERS = ["a", "b", "b"]


def batch_of(chunks=8):
    return Batch.of(Chunk(Numbers(chunks), 0, chunks))


def function(chunk, value):
    return 1


def cost(slow, fast):
    """Cost of an iteration in which each thread computed for a second, at these speeds."""
    return Cost(throughputs={"a": Throughput(slow, 1.0), "b": Throughput(2 * fast, 2.0)})


def test_the_same_batches_and_workers_are_the_very_same_iteration():
    dealing, batches = Dealing(), [batch_of(), batch_of(3)]
    first = dealing.deal(function, batches, WORKERS)
    assert dealing.deal(function, list(batches), list(WORKERS)) is first
    assert first.addresses == ["a", "b"]
    assert first.workers == ("a", "b", "b")
    assert first.weights == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("change", ["function", "batches", "workers", "order"])
def test_another_iteration_has_another_name(change):
    dealing, batches = Dealing(), [batch_of(), batch_of()]
    first = dealing.deal(function, batches, WORKERS)
    changed = {
        "function": (len, batches, WORKERS),
        "batches": (function, [batch_of(9), batches[1]], WORKERS),
        "workers": (function, batches, ["a", "b"]),
        "order": (function, batches, ["b", "a", "b"]),
    }
    second = dealing.deal(*changed[change])
    assert second is not first
    assert second.call != first.call
    assert dealing.deal(*changed[change]) is second
    assert dealing.deal(function, batches, WORKERS) not in (first, second)


def test_batches_are_not_kept_in_memory():
    dealing, batch = Dealing(), batch_of()
    dealing.deal(function, [batch], WORKERS)
    reference = weakref.ref(batch)
    del batch
    gc.collect()
    assert reference() is None


def test_calls_are_for_an_iteration_like_a_short_one():
    dealing, batches = Dealing(), [batch_of()]
    first = dealing.deal(function, batches, WORKERS)
    assert not dealing.by_calls
    assert not dealing.by_whole_shares
    dealing.record(first, Cost(), 0.1)
    dealing.deal(function, batches, WORKERS)
    assert dealing.by_calls
    dealing.deal(function, batches, ["a"])
    assert not dealing.by_calls
    assert dealing.by_whole_shares
    dealing.record(first, Cost(), 60.0)
    assert not dealing.by_whole_shares


def test_shares_follow_the_throughput_of_repeated_iterations():
    dealing, batches, changed = Dealing(), [batch_of()], []
    for _ in range(4):
        iteration = dealing.deal(function, batches, WORKERS)
        changed.append(dealing.record(iteration, cost(1, 20), 1.0))
    assert changed == [False, False, True, False]
    new = dealing.deal(function, batches, WORKERS)
    assert new.weights == (1.0, 20.0, 20.0)
    assert new is iteration


def test_the_usual_time_is_that_of_the_last_iteration_of_the_same_kind():
    dealing, batches = Dealing(), [batch_of()]
    dealing.record(dealing.deal(function, batches, WORKERS), cost(1, 1), 7.0)
    assert dealing.usual_seconds == math.inf
    dealing.deal(function, [batch_of()], WORKERS)
    assert dealing.usual_seconds == 7.0
    dealing.deal(len, batches, WORKERS)
    assert dealing.usual_seconds == math.inf
