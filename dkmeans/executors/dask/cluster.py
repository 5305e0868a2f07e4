"""The state of a Dask cluster: its workers, whether they are frozen, and when the cluster is lost.

`driver` waits for the results of tasks through `Cluster`, which checks the workers meanwhile. Tasks
that no worker has, or that need a worker without heartbeats, raise `StrandedError`: `driver` then
computes them again, on other workers. A cluster that is without workers for minutes, or without a
scheduler, raises `Outage`: `training` then saves a checkpoint.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from itertools import chain
from typing import Any
from uuid import uuid4

from dkmeans.errors import Invalid, InvalidData, Outage, counted
from dkmeans.executors.budget import Memory, cacheable_bytes, system_limit
from dkmeans.executors.dask import internals
from dkmeans.executors.dask.client_checks import reported_workers
from dkmeans.executors.dask.frozen_workers import FrozenWorkers
from dkmeans.retry import first_line

logger = logging.getLogger("dkmeans")

# Interval at which the workers are checked while results are awaited.
_CHECK_SECONDS = 5.0
# A cluster may be without workers for this long. An adaptive cluster gets workers within minutes,
# and Dask also drops a silent worker after some minutes.
_DESERTED_SECONDS = 300.0
# If no worker has had any of the awaited tasks for this long, the tasks are stranded. Before that
# their rows may be on the way to a worker.
_IDLE_SECONDS = 30.0
# `known_threads` may return a result of this age: a new list of workers takes half a millisecond,
# and an iteration may take only a few milliseconds.
_KNOWN_SECONDS = 0.1

# Number of workers that are asked whether this process can connect to them.
_ASKED_WORKERS = 3
# Number of processes of a cluster that one message names.
_MOST_SHOWN = 3

# Tasks are late after this many times their usual time.
LATE_FACTOR = 3
# Heartbeats are examined after this time at the latest, also if the usual time is not known.
_HEARTBEAT_SECONDS = 10.0

_PACKAGE = "dkmeans"
# Reason for which Dask cancels tasks whose input is gone for good.
_LOST_ROWS_TEXT = "lost dependencies"


class StrandedError(Outage):
    """Tasks that wait for workers that are gone or frozen."""


class Cluster:
    """The workers that a client can reach.

    Args:
        client: A `distributed.Client`.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.address = client.scheduler.address
        self._compared: frozenset[str] = frozenset()
        self._known: dict[str | None, int] = {}
        self._known_at = -math.inf
        self._deserted_at: float | None = None
        self._frozen = FrozenWorkers(client)
        self._idle: frozenset[str] = frozenset()
        self._idle_since = 0.0
        self._is_reachable: bool | None = None
        self._is_paused = False
        # Name of the plugin by which the scheduler keeps its workers, once it was registered.
        self._keeper = ""

    def __str__(self) -> str:
        return f"{counted(self.threads(), 'thread')} of the cluster at {self.address}"

    def memory(self) -> Memory:
        """Return the workers, their threads and their memory, as they are now."""
        workers = reported_workers(self.client)
        limits = [each["memory_limit"] or system_limit() for each in workers]
        used = [each["metrics"].get("memory", 0) for each in workers]
        return Memory(
            workers=len(limits),
            threads=self.threads(),
            limit=min(limits, default=0),
            room=sum(map(cacheable_bytes, limits, used)),
        )

    def compare_versions(self, workers: Iterable[str]) -> None:
        """Refuse a cluster with another dkmeans than this process, before any task is sent to it.

        A worker without the package dies when it unpickles a task, and so does the next worker that
        gets the task.

        Args:
            workers: Addresses of all workers. Those that were there the last time are not asked
                again.

        Raises:
            Invalid: dkmeans is missing on some worker or the scheduler, or is another version.
        """
        workers = frozenset(workers)
        new, self._compared = workers - self._compared, workers
        if not new:
            return
        try:
            others = internals.foreign_versions(self.client, _PACKAGE, new)
        except Exception:  # the scheduler forbids calls, or a worker is frozen
            logger.debug("versions cannot be compared", exc_info=True)
            return
        if others:
            found = _listed([f"{found or 'none'} on {name}" for name, found in others.items()])
            raise Invalid(
                f"{_PACKAGE} on the cluster must be the driver's {version(_PACKAGE)}, got "
                f"{found}; install it there and start these "
                "processes anew, or use one image for all"
            )

    @contextmanager
    def errors_translated(self) -> Iterator[None]:
        """Raise Dask's errors about the cluster as errors of this library.

        Errors raised by a task itself are not changed.

        Raises:
            Outage: the scheduler is lost.
            Invalid: workers have died while they ran a task, for lack of memory.
            InvalidData: rows were lost with their workers, and cannot be computed again.
        """
        from distributed import KilledWorker  # noqa: PLC0415 there is a client

        try:
            if self.client.status != "running":
                raise CancelledError(f"the client is {self.client.status}")
            yield
        except (Invalid, Outage):
            raise
        except KilledWorker as error:
            raise Invalid(
                f"memory of the workers must suffice for their chunks: {first_line(error)}. See "
                "their logs; give them more memory or fewer threads, or write the rows in smaller "
                "chunks"
            ) from error
        except Exception as error:
            if self.client.status == "running" and not isinstance(error, lost_errors()):
                raise
            # Only Dask's text distinguishes lost rows from a lost scheduler.
            if self.client.status == "running" and _LOST_ROWS_TEXT in str(error):
                raise InvalidData(
                    f"rows in the memory of the cluster at {self.address} were lost with their "
                    "workers, and Dask cannot compute them again; scatter or persist them anew"
                ) from error
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> Outage:
        return Outage(f"the cluster at {self.address} cannot be reached: {first_line(error)}")

    def results(
        self,
        futures: Sequence[Any],
        others: Iterable[Any] = (),
        usual_seconds: float = math.inf,
    ) -> list[Any]:
        """Return the tasks' results, waiting for the tasks as `wait_for` does, with its arguments.

        Raises:
            StrandedError, Outage: as `wait_for` does.
        """
        check = self._checking([*futures, *others], usual_seconds)
        self._wait(futures, check)
        gathering = internals.gathering(self.client, futures, direct=self.is_reachable)
        try:
            while not wait([gathering], timeout=_CHECK_SECONDS).done:
                check()
        finally:
            gathering.cancel()
        self._deserted_at, self._is_paused = None, False
        return gathering.result()

    def wait_for(self, futures: Sequence[Any], others: Iterable[Any], usual_seconds: float) -> None:
        """Wait until tasks are done or one has failed, while there are workers or may be some.

        Args:
            futures: The tasks.
            others: Tasks that these tasks depend on.
            usual_seconds: Time that such tasks have taken before.

        Raises:
            StrandedError: there are workers, but none of them works on any of the tasks; or a
                frozen worker has some of the tasks or of their results. Dask gives a task with a
                preferred worker to another worker, but not if there was no other worker at the
                moment when the preferred one was lost.
            Outage: there have been no workers for minutes.
        """
        self._wait(futures, self._checking([*futures, *others], usual_seconds))

    def _checking(self, awaited: Sequence[Any], usual_seconds: float) -> Callable[[], None]:
        """Return the function that `_wait` calls every `_CHECK_SECONDS` to check the workers."""
        self._idle = frozenset()
        late_at = time.monotonic() + LATE_FACTOR * usual_seconds
        # Frozen workers are looked for even if no usual time is known (`late_at` is infinite): a
        # worker may be frozen before the first iteration.
        frozen_at = min(late_at, time.monotonic() + _HEARTBEAT_SECONDS)

        def check() -> None:
            nonlocal late_at
            self._check_workers(awaited)
            if time.monotonic() > late_at:
                self._report_late(awaited, usual_seconds)
                late_at = math.inf
            if time.monotonic() > frozen_at:
                self._report_paused()
                self._check_frozen(awaited)

        return check

    def _wait(self, futures: Sequence[Any], check: Callable[[], None]) -> None:
        """Wait until tasks are done or one has failed, with a check from time to time."""
        waiting = internals.waiting(self.client, futures)
        try:
            while not wait([waiting], timeout=_CHECK_SECONDS).done:
                if any(future.status == "error" for future in futures):
                    return
                check()
        finally:
            waiting.cancel()
        waiting.result()

    def _check_workers(self, awaited: Sequence[Any]) -> None:
        now = time.monotonic()
        if workers := self.threads_by_worker():
            self._deserted_at = None
            self._check_progress(awaited, workers)
        elif self._deserted_at is None:
            self._deserted_at = now
            # The stop button of a notebook also interrupts the workers of its LocalCluster.
            can_scale = getattr(self.client, "cluster", None) is not None
            hint = "; after 15 s cluster.scale(n) starts n new ones" if can_scale else ""
            logger.warning(
                "the cluster at %s has no workers; waiting for some%s", self.address, hint
            )
        elif now - self._deserted_at > _DESERTED_SECONDS:
            minutes = f"{_DESERTED_SECONDS / 60:.3g} minutes"
            raise Outage(f"the cluster at {self.address} has had no workers for {minutes}")

    def _check_progress(self, awaited: Sequence[Any], workers: Iterable[str]) -> None:
        """Raise if for a while no worker has run, nor finished, any of the tasks."""
        waiting = frozenset(future.key for future in awaited if not future.done())
        running = chain.from_iterable(self.client.processing().values())
        idle = frozenset() if waiting.intersection(running) else waiting
        # While all workers are paused (`_report_paused`), Dask gives out no tasks: none are lost.
        if not idle or idle != self._idle or self._is_paused:
            self._idle, self._idle_since = idle, time.monotonic()
            return
        # If none of the workers is left that tasks may prefer, no rows are on the way to one.
        is_left = None in self._known or not self._known.keys().isdisjoint(workers)
        if time.monotonic() - self._idle_since > _IDLE_SECONDS * is_left:
            raise StrandedError(f"the cluster at {self.address} has lost workers, and their tasks")

    def _report_late(self, awaited: Sequence[Any], usual_seconds: float) -> None:
        """Warn of the workers that have awaited tasks: they may be frozen."""
        late = self._processing(awaited)
        logger.warning(
            "waiting for %s, longer than the usual %.2g s of an iteration. If a worker is frozen, "
            "end its process: the others take over",
            _listed(late) or "the scheduler",
            usual_seconds,
        )

    def _report_paused(self) -> None:
        """Warn once, until a worker runs again, if Dask has paused all workers."""
        workers = reported_workers(self.client)
        is_paused = bool(workers) and all(each.get("status") == "paused" for each in workers)
        if is_paused and not self._is_paused:
            logger.warning(
                "Dask has paused all workers of the cluster at %s, as their memory is nearly full; "
                "waiting until one of them has room",
                self.address,
            )
        self._is_paused = is_paused

    def _check_frozen(self, awaited: Sequence[Any]) -> None:
        """Raise if awaited tasks need a frozen worker.

        At least one other worker sends heartbeats then (`FrozenWorkers.silent`).
        """
        silent = self._frozen.silent()
        # Tasks on other workers, and this process, also wait for results that a frozen worker has.
        needed = silent.intersection([*self._processing(awaited), *self._holders(awaited, silent)])
        if needed:
            self._frozen.add(needed)
            names = _listed(sorted(needed))
            be = "is" if len(needed) == 1 else "are"
            raise StrandedError(f"{names} {be} frozen: other workers take over")

    def _holders(self, tasks: Sequence[Any], silent: frozenset[str]) -> list[str]:
        """Return the workers that hold results of finished tasks; none if no worker is silent.

        Dask may wait for any worker that has a result.
        """
        done = [task for task in tasks if task.status == "finished"]
        holders = self.client.who_has(done).values() if silent and done else ()
        return list(chain.from_iterable(holders))

    def _processing(self, awaited: Sequence[Any]) -> list[str]:
        """Return the workers that have some of the tasks."""
        waiting = {future.key for future in awaited if not future.done()}
        tasks = self.client.processing().items()
        return [worker for worker, keys in tasks if not waiting.isdisjoint(keys)]

    @property
    def is_reachable(self) -> bool:
        """True if this process can connect to the workers, not only to the scheduler.

        The property tries to connect once, as soon as there are workers. It is False before.
        """
        if self._is_reachable is None and (workers := sorted(self.threads_by_worker())):
            asked = workers[:: -(-len(workers) // _ASKED_WORKERS)]
            self._is_reachable = internals.reaches_workers(self.client, asked)
        return bool(self._is_reachable)

    def keep_workers(self) -> None:
        """Ask a cluster that adapts its size not to close workers without tasks."""
        if self._keeper:
            return
        from dkmeans.executors.dask.adapting import KeptWorkers  # noqa: PLC0415 there is a client

        self._keeper = f"{_PACKAGE}-{uuid4().hex}"
        try:
            self.client.register_plugin(KeptWorkers(self._keeper, self.client.id))
        except Exception:  # the scheduler forbids plugins, or is lost
            logger.debug("the scheduler cannot be asked to keep its workers", exc_info=True)

    def release_workers(self) -> None:
        """Let a cluster that adapts its size close workers again."""
        name, self._keeper = self._keeper, ""
        if name and self.client.status == "running":
            with suppress(Exception):  # the plugin was not registered, or the scheduler is lost
                self.client.unregister_scheduler_plugin(name)

    def cancel(self, futures: Iterable[Any]) -> None:
        """Cancel tasks whose results are no longer needed."""
        if self.client.status == "running":  # a lost scheduler has nothing to cancel
            self.client.cancel(list(futures))

    def threads(self) -> int:
        """Return the number of threads of all workers; at least 1, as there may yet be a worker."""
        return max(1, sum(self.threads_by_worker().values()))

    def threads_by_worker(self) -> dict[str, int]:
        """Return the number of threads of each worker, by address.

        Raises:
            Outage: the scheduler does not answer.
        """
        try:
            return {worker: int(count) for worker, count in self.client.nthreads().items()}
        except OSError as error:
            raise self._unreachable(error) from error

    def other_workers(self) -> list[str]:
        """Return the workers that are not frozen; none if no worker is known to be frozen."""
        if not self._frozen.addresses:
            return []
        return list(filter(None, self.threads_by_preferred_worker()))

    def threads_by_preferred_worker(self) -> dict[str | None, int]:
        """Return the number of threads of each worker that is not frozen, in a fixed order.

        While there is no worker, the result is {None: 1}. Also compares the versions of new
        workers. Workers that send heartbeats again no longer count as frozen.

        Raises:
            Invalid: as `compare_versions` does.
            Outage: as `threads_by_worker` does.
        """
        threads = self.threads_by_worker()
        self.compare_versions(threads)
        self._frozen.readmit(threads)
        present = sorted(threads.keys() - self._frozen.addresses)
        self._known = {worker: threads[worker] for worker in present} or {None: 1}
        self._known_at = time.monotonic()
        return self._known

    def known_threads(self) -> dict[str | None, int]:
        """Return `threads_by_preferred_worker`, as it was at most `_KNOWN_SECONDS` ago."""
        is_old = time.monotonic() - self._known_at > _KNOWN_SECONDS
        return self.threads_by_preferred_worker() if is_old else self._known


def _listed(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others."""
    more = len(names) - _MOST_SHOWN
    return ", ".join(names[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


@cache
def lost_errors() -> tuple[type[Exception], ...]:
    """Return the errors that Dask raises if the cluster failed and not the task."""
    from distributed.comm import CommClosedError  # noqa: PLC0415 takes half a second
    from distributed.scheduler import NoValidWorkerError  # noqa: PLC0415

    return CancelledError, CommClosedError, NoValidWorkerError
