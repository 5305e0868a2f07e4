"""Opening an executor: a client if there is one, else the threads of this process."""

from distributed import Client

from dkmeans.executors import Dask, Threads, open_executor


def test_an_active_client_is_used_and_threads_without_one(cluster):
    with Client(cluster), open_executor() as executor:
        assert isinstance(executor, Dask)
    with open_executor() as executor:
        assert isinstance(executor, Threads)


def test_a_given_client_is_preferred_to_the_active_one(client, cluster):
    with Client(cluster, set_as_default=False) as given, open_executor(given) as executor:
        assert executor._client is given


def test_in_a_task_threads_are_used_so_that_a_worker_does_not_wait_for_itself():
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as one:
        assert one.submit(where_it_runs).result(timeout=30) == "Threads"
        assert type(open_executor()).__name__ == "Dask"


def where_it_runs():
    with open_executor() as executor:
        return type(executor).__name__
