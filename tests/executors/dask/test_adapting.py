"""Clusters that adapt their size, during iterations by calls."""

from distributed import Client

from dkmeans.executors import Dask
from dkmeans.executors.dask.adapting import KeptWorkers
from tests.executors.laws import batches_of, check_iterations, wait_until


def closable(client):
    return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.workers_to_close(n=1)))


def test_workers_without_tasks_are_kept_until_the_fit_ends(client, dataset):
    batches = batches_of(dataset)
    with Dask(client) as executor:
        check_iterations(executor, batches, 1)
        assert closable(client) == 1

        def are_kept():
            check_iterations(executor, batches, 1)
            return closable(client) == 0

        wait_until(are_kept)  # a slow iteration is computed by tasks
    assert closable(client) == 1


def test_workers_are_kept_no_longer_than_the_client_of_the_fit_is_connected(client, cluster):
    with Client(cluster, set_as_default=False) as other:
        other.register_plugin(KeptWorkers("kept", other.id))
        assert closable(client) == 0
    wait_until(lambda: closable(client) == 1)
