"""Dask's internals: still where they were, and of no harm where they are not."""

import time

import pytest

from dkmeans.executors import Dask
from dkmeans.executors.dask import internals
from dkmeans.partial_sums import accumulate
from tests.executors.laws import batches_of, centers


@pytest.mark.parametrize("function", [internals.send_promptly, internals.forget_messages])
@pytest.mark.parametrize("client", [object(), type("Client", (), {"scheduler_comm": object()})()])
def test_clients_without_these_internals_are_left_as_they_are(function, client):
    before = dict(vars(client)) if hasattr(client, "__dict__") else {}
    function(client)
    assert (dict(vars(client)) if hasattr(client, "__dict__") else {}) == before


def test_a_client_sends_messages_after_a_millisecond(client):
    internals.send_promptly(client)
    assert client.scheduler_comm.interval <= 1e-3


def test_sent_messages_are_forgotten(client):
    client.submit(pow, 2, 5, pure=False).result()
    assert client.scheduler_comm.recent_message_log
    internals.forget_messages(client)
    assert len(client.scheduler_comm.recent_message_log) <= 1


def test_dask_does_not_log_all_messages_of_a_fit(client, dataset, monkeypatch):
    def logged_messages(dask_scheduler):
        return sum(len(comm.recent_message_log) for comm in dask_scheduler.stream_comms.values())

    monkeypatch.setattr("dkmeans.executors.dask.shipping._LOGGED_BYTES", 2000)
    with Dask(client) as executor:
        for _ in range(20):
            executor.map_reduce(accumulate, batches_of(dataset), centers())
    assert client.run_on_scheduler(logged_messages) < 20
    assert len(client.scheduler_comm.recent_message_log) < 20


def test_only_a_task_is_in_a_task(client):
    assert not internals.is_in_task()
    assert client.submit(internals.is_in_task, pure=False).result()


def test_workers_are_reached_if_one_of_some_answers(client):
    nobody = "tcp://127.0.0.1:1"
    assert internals.reaches_workers(client, [nobody, *client.nthreads()])
    assert not internals.reaches_workers(client, [nobody])


def test_a_call_of_a_worker_that_is_gone_fails_long_before_it_would_be_late(client):
    here = list(client.nthreads())
    begun = time.monotonic()
    answers = internals.call_directly(client, ["tcp://127.0.0.1:1", *here], 300, pow, 2, 5)
    assert answers == dict.fromkeys(here, 32)
    assert time.monotonic() - begun < 20


def address_of(dask_worker):
    return dask_worker.address


async def later(number, dask_worker):
    return number, dask_worker.address


def forget_handler(dask_worker):
    del dask_worker.handlers["dkmeans_call"]


def test_functions_and_coroutines_are_called_with_the_worker_if_they_take_it(client):
    here = list(client.nthreads())
    for _ in range(2):
        assert internals.call_directly(client, here, 5, address_of) == {each: each for each in here}
        found = internals.call_directly(client, here, 5, later, 7)
        assert found == {each: (7, each) for each in here}


def test_a_call_that_fails_has_no_answer_and_a_new_worker_at_an_address_has_one(client):
    first, *others = client.nthreads()
    assert internals.call_directly(client, [first], 5, pow, 2, "x") == {}
    assert internals.call_directly(client, [first], 5, pow, 2, 5) == {first: 32}
    client.run(forget_handler, workers=[first])  # as if another worker had the address
    here = [first, *others]
    assert internals.call_directly(client, here, 5, pow, 2, 5) == dict.fromkeys(here, 32)


def test_a_worker_has_threads_for_its_tasks_and_a_memory_limit(client):
    def found(dask_worker):
        begun = time.monotonic()
        threads = internals.task_threads(dask_worker)
        assert threads.submit(pow, 2, 5).result() == 32
        assert time.monotonic() - begun < 10
        return internals.memory_limit(dask_worker)

    assert all(limit > 10**8 for limit in client.run(found).values())
