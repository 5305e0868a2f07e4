"""Everything that touches Dask's internals or works around them, each with its reason.

These internals exist in dask and distributed 2026.3 to 2026.8. `send_promptly` and
`forget_messages` do nothing where the internals have changed: with such a Dask a fit is slower or
takes more memory, but it does not fail. The other functions are needed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Executor as ThreadPool
from concurrent.futures import Future
from contextlib import suppress
from importlib import import_module
from threading import Lock
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

_SEND_SECONDS = 1e-3
# Time in which the event loop of each worker has a moment to answer.
_ANSWER_SECONDS = 10
# Time in which a worker that can be reached answers.
_CONNECT_SECONDS = 2
# Time in which a worker is connected again; without a connection it gets tasks instead of calls.
# Dask gives up its first attempt after a fifth of it, so the second has `_CONNECT_SECONDS`.
_RECONNECT_SECONDS = 2.5
_SCHEDULER = "the scheduler"
_FIRST_SAFE_PYTHON = (3, 11, 9)

# Addresses of the workers that answer `call_worker`, by the client or worker that calls them.
_answering: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
# Clients that a parent process has connected, before it forked this process.
_inherited: WeakSet[Any] = WeakSet()


def send_promptly(client: Any) -> None:
    """Make the client send messages after 1 ms instead of 10 ms.

    Uses `Client.scheduler_comm.interval`. After each send the client waits that long for more
    messages, and an iteration sends several times. Without this, an iteration takes some 10 ms
    more. No upstream issue: the interval is a design choice that cannot be configured.
    """
    sender: Any = getattr(client, "scheduler_comm", None)
    if hasattr(sender, "interval"):
        sender.interval = min(sender.interval, _SEND_SECONDS)


def forget_messages(client: Any) -> None:
    """Make client and scheduler drop their logs of sent messages.

    Uses `BatchedSend.recent_message_log` and `Scheduler.stream_comms`. The client keeps the last
    messages to the scheduler, and the scheduler those to each worker, with all their contents.
    Without this, centers that travel with tasks add up to gigabytes. No upstream issue is known.
    """
    _clear_logs([getattr(client, "scheduler_comm", None)])
    with suppress(Exception):  # a scheduler that allows no calls keeps its logs
        client.run_on_scheduler(_clear_scheduler_logs)


def _clear_logs(senders: Iterable[Any]) -> None:
    for sender in senders:
        if hasattr(sender, "recent_message_log"):
            sender.recent_message_log.clear()


def _clear_scheduler_logs(dask_scheduler: Any) -> None:
    _clear_logs(dask_scheduler.stream_comms.values())


def task_threads(dask_worker: Any) -> ThreadPool:
    """Return the threads in which a worker runs its tasks.

    Uses `Worker.executors`. A function that the driver calls by `Client.run` would otherwise run
    in the worker's event loop and block it. Without these threads, short iterations would have to
    be sent as tasks.
    """
    threads: ThreadPool = dask_worker.executors["default"]
    return threads


def memory_limit(dask_worker: Any) -> int | None:
    """Return the memory limit of a worker in bytes; None if it has none.

    Uses `Worker.memory_manager`. `Worker.memory_limit` is deprecated, with this as its successor.
    """
    limit: int | None = dask_worker.memory_manager.memory_limit
    return limit


def reaches_workers(client: Any, workers: Iterable[str]) -> bool:
    """Return whether this process can connect to workers: one of some answers.

    Uses `Client.rpc`, as `Client.gather` with `direct=True` does. Such a gathering waits long for
    workers that cannot be reached.
    """

    async def ask() -> bool:
        asked = [client.rpc(address).identity() for address in workers]
        limited = [asyncio.wait_for(each, _CONNECT_SECONDS) for each in asked]
        answers = await asyncio.gather(*limited, return_exceptions=True)
        return any(isinstance(answer, dict) for answer in answers)

    return asyncio.run_coroutine_threadsafe(ask(), client.loop.asyncio_loop).result()


def call(
    client: Any, workers: list[str], seconds: float, function: Callable[..., Any], *arguments: Any
) -> dict[str, Any]:
    """Return what a function returns on each worker that answers without an error.

    Uses `callback_timeout` of `Client.sync`, to which `Client.run` passes its keywords: `run` has
    no timeout, and would wait for a worker that is frozen. Arguments and results pass through the
    scheduler.

    Raises:
        TimeoutError: some worker has not answered in time.
    """
    return dict(
        client.run(
            function, *arguments, workers=workers, on_error="ignore", callback_timeout=seconds
        )
    )


def call_directly(
    client: Any, workers: list[str], seconds: float, function: Callable[..., Any], *arguments: Any
) -> dict[str, Any]:
    """Return what a function returns on each worker that answers in time and without an error.

    As `call`, but nothing passes through the scheduler: a message of the size of large centers
    would stop it for all others.
    """

    async def ask() -> list[Any]:
        asked = (call_worker(client, each, seconds, function, *arguments) for each in workers)
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run_coroutine_threadsafe(ask(), client.loop.asyncio_loop).result()
    pairs = zip(workers, answers, strict=True)
    return {each: found for each, found in pairs if not isinstance(found, BaseException)}


async def call_worker(
    node: Any, address: str, seconds: float, function: Callable[..., Any], *arguments: Any
) -> Any:
    """Return what a function returns on a worker, which another worker or a client asks for it.

    The function may take the worker as `dask_worker`, as with `Client.run`.

    Uses `Worker.rpc` or `Client.rpc`. Without it, each worker would have to be called through the
    scheduler. Also uses `ConnectionPool.connect` and `reuse`: a request for a worker that is gone
    would try to connect for 30 s.

    Raises:
        OSError: no connection to the worker can be made.
        TimeoutError: the worker has not answered in time.
        Exception: the function has failed.
    """
    from distributed.protocol.pickle import dumps  # noqa: PLC0415 a worker has imported it

    async def answered() -> Any:
        node.rpc.reuse(address, await node.rpc.connect(address, timeout=_RECONNECT_SECONDS))
        worker, known = node.rpc(address), _answering.setdefault(node, set())
        request, answer = dumps((function, arguments)), None
        if address in known:
            answer = await worker.dkmeans_call(request=request)
        if answer is None:  # a new worker, which may have the address of an earlier one
            await worker.run(function=dumps(answer_calls))
            known.add(address)
            answer = await worker.dkmeans_call(request=request)
        return answer["result"]

    return await asyncio.wait_for(answered(), seconds)


def answer_calls(dask_worker: Any) -> None:
    """Have a worker answer `call_worker`.

    Uses `Worker.handlers`. The handler of `Client.run` writes a line to the worker's log for each
    call, which would be thousands for a fit, and an iteration would take 0.2 ms more.
    """
    from distributed.protocol import to_serialize  # noqa: PLC0415 a worker has imported it
    from distributed.protocol.pickle import loads  # noqa: PLC0415
    from distributed.utils import has_arg  # noqa: PLC0415

    async def dkmeans_call(request: bytes) -> dict[str, Any]:
        function, arguments = loads(request)
        worker = {"dask_worker": dask_worker} if has_arg(function, "dask_worker") else {}
        result = function(*arguments, **worker)
        return {"result": to_serialize(await result if asyncio.iscoroutine(result) else result)}

    dask_worker.handlers["dkmeans_call"] = dkmeans_call


def thread_count(dask_worker: Any) -> int:
    """Return the number of threads in which a worker runs its tasks.

    Uses `Worker.state.nthreads`. `Worker.nthreads` is deprecated, with this as its successor.
    """
    count: int = dask_worker.state.nthreads
    return count


def gathering(client: Any, futures: Iterable[Any], *, direct: bool) -> Future[list[Any]]:
    """Return a future of the results of tasks that are done; cancelling it ends the request.

    With `direct` the results do not pass through the scheduler, unless their worker is lost.

    Uses `Client.loop.asyncio_loop`. `Client.gather` has no timeout, and would wait for a frozen
    worker that has a result; `Client.sync` with a timeout would wait until the request to that
    worker is cancelled. For tasks that are not done, a cancelled request would later log errors.
    """
    request = client.gather(list(futures), asynchronous=True, direct=direct)
    return asyncio.run_coroutine_threadsafe(request, client.loop.asyncio_loop)


def waiting(client: Any, futures: Iterable[Any]) -> Future[Any]:
    """Return a future that is done when tasks are, or when one has failed; cancelling it is safe.

    Uses `Client.loop.asyncio_loop`. `distributed.wait` with a timeout raises an error that refers
    to itself through its traceback, and with it to the tasks: their results stay in the memory of
    the workers, also during later iterations, until the garbage collector runs.
    """
    from distributed import wait  # noqa: PLC0415 there is a client

    async def until_done() -> Any:
        with client.as_current():
            return await wait(list(futures))

    return asyncio.run_coroutine_threadsafe(until_done(), client.loop.asyncio_loop)


def foreign_versions(client: Any, package: str, workers: Iterable[str]) -> dict[str, str | None]:
    """Return the version of a package on scheduler and workers, where it is not that of the driver.

    Uses `Client.scheduler`, as `Client.get_versions` does. That asks all workers, also if one has
    joined hundreds, and has no timeout: it would wait for a worker that is frozen. Nothing is sent
    that needs the package.

    Returns:
        The versions by the names of the processes; None where the package cannot be imported.
    """
    from distributed.versions import get_versions  # noqa: PLC0415 there is a client

    own = get_versions(packages=[package])["packages"][package]
    if own is None:  # a source tree that was not installed
        return {}

    async def ask() -> dict[str, Any]:
        question = {"op": "versions", "packages": [package]}
        asked = client.scheduler.broadcast(msg=question, workers=list(workers), on_error="ignore")
        return {_SCHEDULER: await client.scheduler.versions(packages=[package]), **await asked}

    # `Client.sync` with a timeout would wait until the request to the frozen worker is cancelled.
    answer = asyncio.run_coroutine_threadsafe(ask(), client.loop.asyncio_loop)
    hosts = answer.result(_ANSWER_SECONDS)
    versions = {name: host["packages"][package] for name, host in hosts.items() if host}
    unknown = [name for name, version in versions.items() if version is None]
    return {
        name: version
        for name, version in versions.items()
        if version != own and not (name in unknown and _can_import(client, name, package))
    }


def _can_import(client: Any, name: str, package: str) -> bool:
    """Return whether a process has a package that was copied there and not installed."""
    try:
        if name == _SCHEDULER:
            client.run_on_scheduler(import_module, package)
        else:
            client.run(import_module, package, workers=[name])
    except ImportError:
        return False
    return True


def is_in_task() -> bool:
    """Return True in a thread that runs a task of Dask.

    Uses `distributed.worker.thread_state`. A fit inside a task must not use the cluster that runs
    the task: it would wait for the thread that it occupies. `distributed.get_worker` cannot tell,
    as it also finds a worker outside of tasks.
    """
    from distributed.worker import thread_state  # noqa: PLC0415 takes half a second

    return getattr(thread_state, "key", None) is not None


def has_seceded() -> bool:
    """Return True in a task that has left the threads of its worker, as in `worker_client`.

    Uses `distributed.threadpoolexecutor.thread_state`. Such a task may wait for other tasks: it
    occupies none of the worker's threads. Without this, a fit in `worker_client` is refused.
    """
    from distributed.threadpoolexecutor import thread_state  # noqa: PLC0415 takes half a second

    return not getattr(thread_state, "proceed", True)


def is_inherited(client: Any) -> bool:
    """Return True if a parent process has connected the client before it forked this process.

    Uses `Client._instances`. The threads of such a client have stayed in the parent process: each
    of its methods would wait for them for ever. No upstream issue: Dask does not support forks.
    """
    return client in _inherited


def is_lost(client: Any) -> bool:
    """Return True if Dask closed the client because its scheduler was lost, and not the user.

    Uses `Client.scheduler_comm`, `_asynchronous` and `_loop_runner`. A client that cannot connect
    again has no connection left; the thread of one that the user has closed has stopped. Without
    this, a lost client counts as one that was closed.
    """
    return (
        client.status == "closed"
        and getattr(client, "scheduler_comm", client) is None
        and not client._asynchronous
        and client._loop_runner.is_started()
    )


def lost_client() -> Any:
    """Return an active client whose scheduler was lost; None if there is none.

    Uses `Client._instances` and `_set_as_default`. Dask forgets such a client, and a fit would be
    computed by this process, whose memory may be far too small.
    """
    from distributed import Client  # noqa: PLC0415 takes half a second

    clients = [each for each in getattr(Client, "_instances", ()) if is_lost(each)]
    return next((each for each in clients if getattr(each, "_set_as_default", False)), None)


def _remember_inherited_clients() -> None:
    client_class = getattr(sys.modules.get("distributed"), "Client", None)
    _inherited.update(getattr(client_class, "_instances", ()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_remember_inherited_clients)


def make_profiler_safe() -> None:
    """Keep Dask's profiler from blocking a worker for ever on Python before 3.11.9.

    Replaces `sys._current_frames`, which the profiler calls all the time. In these versions of
    Python the call may start a garbage collection while it holds a lock, and the collection may let
    another thread start, which waits for that lock: neither continues
    (github.com/python/cpython/issues/106883). Without this, about one worker in 250 hung in its
    first task. Goes away when `requires-python` is 3.11.9.
    """
    if sys.version_info >= _FIRST_SAFE_PYTHON:
        return
    unsafe, calling = sys._current_frames, Lock()

    def current_frames() -> dict[int, FrameType]:
        with calling:
            was_enabled = gc.isenabled()
            gc.disable()
            try:
                return unsafe()
            finally:
                if was_enabled:
                    gc.enable()

    sys._current_frames = current_frames
