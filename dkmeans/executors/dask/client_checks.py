"""Whether a client can run the tasks of a call, and what its scheduler reports of the workers.

`executors` asks before it uses a client; `cluster` asks again while results are awaited.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from dkmeans.errors import Invalid, Outage
from dkmeans.executors.dask import internals


def check_client(client: Any) -> None:
    """Refuse a client that cannot run the tasks of this call.

    Raises:
        Invalid: the client cannot be used here.
        Outage: its scheduler is lost.
    """
    if internals.is_inherited(client):
        raise Invalid(
            "client must be connected by the process that uses it, got one that was connected "
            "before this process was forked; connect a client in the child process, or start "
            "processes with multiprocessing's method 'spawn'"
        )
    if client.status == "closed" and not internals.is_lost(client):
        raise Invalid("client must be connected to a scheduler, got a closed one")
    if client.status in ("closed", "closing", "connecting"):
        place = getattr(client.scheduler, "address", client.id)
        raise Outage(
            f"the cluster at {place} cannot be reached: its scheduler is lost. Connect another "
            "client; for the threads of this process, close and delete this one"
        )
    if client.asynchronous:
        raise Invalid(
            "client must be a distributed.Client with asynchronous=False, used outside of its "
            "event loop, got one with asynchronous=True; make the call in a thread, with a client "
            "of its own"
        )
    if internals.is_in_task() and not internals.has_seceded() and _runs_this_task(client):
        raise Invalid(
            "client must not be that of the cluster which runs this task, got one: the task would "
            "wait for the thread that it occupies. Call within `with distributed.worker_client() "
            "as client`, or without a client, for the threads of this process"
        )


def _runs_this_task(client: Any) -> bool:
    from distributed import get_worker  # noqa: PLC0415 a worker has imported it

    return bool(get_worker().scheduler.address == client.scheduler.address)


def reports_gpus(client: Any) -> bool:
    """Return whether all workers of a cluster have reported a GPU, and CuPy is installed here.

    The driver is taken to have the packages of the workers. CuPy is not imported: an import may
    take memory of a GPU.
    """
    if find_spec("cupy") is None:
        return False
    workers = reported_workers(client)
    # Dask's diagnostics report a GPU where pynvml is installed; dask-cuda requires pynvml.
    return bool(workers) and all("gpu" in each for each in workers)


def reported_workers(client: Any) -> list[dict[str, Any]]:
    """Return what the scheduler knows of each worker; nothing once the scheduler is lost."""
    return list(client.scheduler_info(n_workers=-1).get("workers", {}).values())
