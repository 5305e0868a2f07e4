"""Clients that cannot run the tasks of a call, and whether a cluster has GPUs."""

import asyncio

import pytest
from distributed import Client, LocalCluster

from dkmeans import Invalid, Outage
from dkmeans.executors import open_executor
from dkmeans.executors.dask import client_checks as module
from dkmeans.executors.dask.client_checks import check_client, reports_gpus
from tests.executors.laws import wait_until
from tests.programs import result_in_a_fork


def test_a_closed_client_is_refused(cluster):
    with Client(cluster, set_as_default=False) as client:
        check_client(client)
    with pytest.raises(Invalid, match="client must be connected to a scheduler, got a closed one"):
        check_client(client)


def test_an_asynchronous_client_is_refused(cluster):
    async def check():
        async with Client(cluster.scheduler_address, asynchronous=True) as client:
            check_client(client)

    with pytest.raises(Invalid, match=r"client must be .* with asynchronous=False"):
        asyncio.run(check())


def test_a_client_that_was_connected_before_this_process_was_forked_is_refused(client):
    told = result_in_a_fork(lambda: check_client(client))
    assert told.startswith("Invalid: client must be connected by the process that uses it, got")


def test_a_client_whose_scheduler_is_lost_is_an_outage_and_not_replaced_by_threads():
    options = {"processes": False, "n_workers": 0, "dashboard_address": ":0"}
    with LocalCluster(**options, protocol="tcp") as cluster:
        lost = Client(cluster.scheduler_address, timeout=0.5)
    try:
        for status in ("connecting", "closed"):  # Dask tries to connect again for a while
            wait_until(lambda status=status: lost.status == status)
            for client in (lost, None):
                with pytest.raises(Outage, match="cannot be reached: its scheduler is lost"):
                    open_executor(client)
    finally:
        lost._loop_runner.stop()
    assert type(open_executor()).__name__ == "Threads"


class Reporting:
    """A client whose workers report these things."""

    def __init__(self, *workers):
        self.workers = workers

    def scheduler_info(self, n_workers):
        assert n_workers == -1, "Dask's default leaves workers out"
        return {"workers": dict(enumerate(self.workers))}


def test_a_cluster_has_gpus_if_all_its_workers_report_one_and_cupy_is_installed(
    monkeypatch, client
):
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    gpu, processor = {"gpu": {"name": "H100"}, "nthreads": 2}, {"nthreads": 2}
    assert reports_gpus(Reporting(gpu, gpu))
    assert not reports_gpus(Reporting(gpu, processor))
    assert not reports_gpus(Reporting())
    assert not reports_gpus(client)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert not reports_gpus(Reporting(gpu))
