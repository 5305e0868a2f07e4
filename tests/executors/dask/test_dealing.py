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

WORKERS = {"a": 1, "b": 2}


def batch_of(chunks=8):
    return Batch.of(Chunk(Numbers(chunks), 0, chunks))


def function(chunk, value):
    return 1


def cost(slow, fast, seconds=1.0):
    """Cost of an iteration in which each thread computed for some seconds, at these speeds."""
    one, two = (
        Throughput(n * seconds, threads * seconds) for n, threads in ((slow, 1), (2 * fast, 2))
    )
    return Cost(throughputs={"a": one, "b": two})


def test_the_same_batches_and_workers_are_the_very_same_iteration():
    dealing, batches = Dealing(), [batch_of(), batch_of(3)]
    first = dealing.deal(function, batches, WORKERS)
    assert dealing.deal(function, list(batches), dict(WORKERS)) is first
    assert first.addresses == ["a", "b"]
    assert first.share_sizes == (1.0, 2.0)


def test_shares_stay_while_few_of_many_workers_leave_or_join():
    dealing, batches = Dealing(), [batch_of(1000)]
    cluster = {str(number): 2 for number in range(100)}
    first = dealing.deal(function, batches, cluster)
    dealing.record(first, Cost(), 1.0)
    smaller = {worker: n for worker, n in cluster.items() if worker not in ("7", "8")}
    left = dealing.deal(function, batches, smaller)
    assert left.gone == {"7", "8"}
    assert left.addresses == list(smaller)
    # One with as many threads takes the share of the first that left; the other one waits.
    joined = dealing.deal(function, batches, {"waits": 1, **smaller, "new": 2})
    assert list(joined.threads)[6:9] == ["6", "new", "8"]
    assert joined.gone == {"8"}
    assert dealing.can_call
    assert {each.call for each in (first, left, joined)} == {first.call}
    assert dealing.deal(function, batches, cluster).gone == set()
    few = dict(list(cluster.items())[:90])
    assert dealing.deal(function, batches, few).call != first.call


def test_a_new_worker_has_the_place_of_one_that_left_also_in_new_shares():
    dealing = Dealing()
    dealing.deal(function, [batch_of()], {"b": 2, "c": 2, "d": 2})
    dealt = dealing.deal(function, [batch_of()], {"a": 2, "b": 2, "d": 2})
    assert list(dealt.threads) == ["b", "a", "d"]


@pytest.mark.parametrize("change", ["function", "batches", "workers", "threads"])
def test_another_iteration_has_another_name(change):
    dealing, batches = Dealing(), [batch_of(), batch_of()]
    first = dealing.deal(function, batches, WORKERS)
    changed = {
        "function": (len, batches, WORKERS),
        "batches": (function, [batch_of(9), batches[1]], WORKERS),
        "workers": (function, batches, {"a": 1, "c": 3}),
        "threads": (function, batches, {"a": 2, "b": 1}),
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
    assert not dealing.can_call
    assert dealing.runs_per_thread == 16
    dealing.record(first, cost(1, 1, 0.1), 9.0)  # tasks and messages took the rest
    dealing.deal(function, batches, WORKERS)
    assert dealing.can_call
    assert dealing.runs_per_thread == 0
    dealing.deal(function, batches, {"a": 1})
    assert not dealing.can_call
    dealing.deal(function, batches, {"a": 1})
    dealing.record(first, cost(1, 1, 60.0), 60.0)
    assert not dealing.can_call
    assert dealing.runs_per_thread == 16


@pytest.mark.parametrize(
    ("workers", "threads", "seconds", "called", "pieces"),
    [
        (2, 1, 0.3, False, 0),
        (100, 8, 0.9, True, 0),
        (1000, 8, 4.9, True, 0),
        (1000, 8, 5.1, False, 0),
        (1000, 8, 600.0, False, 3),
        (64, 4, 10.0, False, 0),
    ],
)
def test_tasks_cost_a_small_part_of_an_iteration(workers, threads, seconds, called, pieces):
    dealing, batches = Dealing(), [batch_of()]
    cluster = {str(number): threads for number in range(workers)}
    iteration = dealing.deal(function, batches, cluster)
    throughputs = {str(number): Throughput(1, seconds * threads) for number in range(workers)}
    dealing.record(iteration, Cost(throughputs=throughputs), seconds)
    dealing.deal(function, batches, cluster)
    assert (dealing.can_call, dealing.runs_per_thread) == (called, pieces)


def test_shares_follow_the_throughput_of_repeated_iterations():
    dealing, batches, changed = Dealing(), [batch_of()], []
    for _ in range(4):
        iteration = dealing.deal(function, batches, WORKERS)
        changed.append(dealing.record(iteration, cost(1, 20), 1.0))
    assert changed == [False, False, True, False]
    new = dealing.deal(function, batches, WORKERS)
    assert new.share_sizes == (1.0, 40.0)
    assert new is iteration


def test_the_usual_time_is_that_of_the_last_iteration_of_the_same_kind():
    dealing, batches = Dealing(), [batch_of()]
    dealing.record(dealing.deal(function, batches, WORKERS), cost(1, 1), 7.0)
    assert dealing.usual_seconds == math.inf
    dealing.deal(function, [batch_of()], WORKERS)
    assert dealing.usual_seconds == 7.0
    dealing.deal(len, batches, WORKERS)
    assert dealing.usual_seconds == math.inf
