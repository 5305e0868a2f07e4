"""Opening an executor: a client if there is one, else the threads of this process."""

import numpy as np
import pytest
from distributed import Client, worker_client

from dkmeans import Dataset, Invalid, executors
from dkmeans.executors import Dask, Threads, computes_on_gpu, open_executor, threads_of


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


def test_in_a_task_the_client_of_its_own_cluster_is_used_only_where_the_task_may_wait():
    options = {"processes": False, "n_workers": 1, "threads_per_worker": 1}
    with Client(**options, dashboard_address=":0") as one:
        with pytest.raises(Invalid, match="client must not be that of the cluster which runs this"):
            one.submit(sum_by_the_client_of_the_task, False).result(timeout=30)
        assert one.submit(sum_by_the_client_of_the_task, True).result(timeout=30) == 15


def sum_by_the_client_of_the_task(may_wait):
    with worker_client(separate_thread=may_wait) as client, open_executor(client) as executor:
        rows = np.arange(6)[:, None]
        (batch,) = Dataset.from_array(rows).batches()
        return executor.map_reduce(sum_of, [batch], None).totals[0]


def sum_of(loaded, _):
    return loaded.points.sum()


def where_it_runs():
    with open_executor() as executor:
        return type(executor).__name__


@pytest.mark.parametrize("chosen", [True, False])
def test_this_process_chooses_its_backend_and_the_workers_report_theirs(
    monkeypatch, cluster, chosen
):
    monkeypatch.setattr(executors, "chooses_gpu", lambda: chosen)
    monkeypatch.setattr(executors, "reports_gpus", lambda client: not chosen)
    assert computes_on_gpu(None, None) is chosen
    with Client(cluster, set_as_default=False) as given:
        assert computes_on_gpu(given, None) is not chosen
    with Client(cluster):
        assert computes_on_gpu(None, None) is not chosen
    assert computes_on_gpu(None, "cuda")
    assert not computes_on_gpu(None, "native")


def test_the_threads_are_the_cores_of_this_process_or_those_of_the_workers(monkeypatch, cluster):
    monkeypatch.setattr(executors, "usable_cores", lambda: 3)
    assert threads_of(None) == 3
    monkeypatch.setattr(executors, "_FEWEST_THREADS", 1)
    with Client(cluster, set_as_default=False) as given:
        assert threads_of(given) == sum(given.nthreads().values())
        monkeypatch.setattr(executors, "_FEWEST_THREADS", 99)  # more workers may come
        assert threads_of(given) == 99


def test_where_a_gpu_computes_few_threads_are_enough():
    with open_executor(on_gpu=True) as executor:
        assert executor.memory().threads == 2
