"""A cluster as an executor sees it: its workers, what becomes of tasks, and when it is gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import cache
from itertools import chain
from typing import Any

from dkmeans.errors import Invalid, Outage
from dkmeans.executors.budget import Memory, room, system_limit
from dkmeans.retry import first_line

logger = logging.getLogger(__name__)

# How often a cluster that takes its time is looked at, and how long it may be without workers: one
# that adapts gets them in minutes, and Dask gives up a worker that is silent after as many.
_LOOK_SECONDS = 5.0
_DESERTED_SECONDS = 300.0
# How long nobody may work on what is waited for: rows may be on their way to a worker.
_IDLE_SECONDS = 30.0


class StrandedError(Outage):
    """Tasks wait for workers that are no more."""


class Cluster:
    """The workers that a client reaches, waited for where they take their time.

    Args:
        client: A `distributed.Client`.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.address = client.scheduler.address
        self._deserted_at: float | None = None
        self._idle: frozenset[str] = frozenset()
        self._idle_since = 0.0

    def __str__(self) -> str:
        return f"{self.threads()} threads of the cluster at {self.address}"

    def memory(self) -> Memory:
        """What the workers have now."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [each["memory_limit"] or system_limit() for each in workers]
        taken = [each["metrics"].get("memory", 0) for each in workers]
        return Memory(
            workers=len(limits),
            threads=self.threads(),
            limit=min(limits, default=0),
            room=sum(map(room, limits, taken)),
        )

    @contextmanager
    def outages_told(self) -> Iterator[None]:
        """Say it in our own words where it is the cluster that fails, and not a task.

        Raises:
            Outage: the scheduler is gone.
            Invalid: workers have died of a task, for want of memory.
        """
        try:
            if self.client.status != "running":
                raise CancelledError(f"the client is {self.client.status}")
            yield
        except (Invalid, Outage):
            raise
        except _killed_error() as error:
            raise Invalid(
                f"memory of the workers must suffice for their chunks: {first_line(error)}. See "
                "their logs; give them more memory or fewer threads, or write the rows in smaller "
                "chunks"
            ) from error
        except Exception as error:
            if self.client.status == "running" and not isinstance(error, lost_errors()):
                raise
            raise self._gone(error) from error

    def _gone(self, error: Exception) -> Outage:
        return Outage(f"the cluster at {self.address} cannot be reached: {first_line(error)}")

    def result(self, future: Any) -> Any:
        """What a task gives; see `results`."""
        return self.results([future])[0]

    def results(self, futures: Sequence[Any], others: Iterable[Any] = ()) -> list[Any]:
        """What tasks give, waited for as long as there are workers, or some may yet come.

        Args:
            futures: The tasks.
            others: Those that they wait for, if any.

        Raises:
            StrandedError: nobody works on any of them, though there are workers. Dask gives tasks
                that a certain worker should do to others as well, but not if there were no others
                when it mattered.
            Outage: there have been no workers for long.
        """
        from distributed import wait  # noqa: PLC0415 there is a client: it is imported

        self._idle = frozenset()
        awaited = [*futures, *others]
        while True:
            try:
                with self.client.as_current():
                    wait(list(futures), timeout=_LOOK_SECONDS)
            except TimeoutError:
                self._look_for_workers(awaited)
                if not any(future.status == "error" for future in futures):
                    continue
            self._deserted_at = None
            return list(self.client.gather(list(futures)))

    def _look_for_workers(self, awaited: Sequence[Any]) -> None:
        now = time.monotonic()
        if self.threads_by_worker():
            self._deserted_at = None
            self._look_for_work(awaited)
        elif self._deserted_at is None:
            self._deserted_at = now
            logger.warning("the cluster at %s has no workers; waiting for some", self.address)
        elif now - self._deserted_at > _DESERTED_SECONDS:
            minutes = f"{_DESERTED_SECONDS / 60:.3g} minutes"
            raise Outage(f"the cluster at {self.address} has had no workers for {minutes}")

    def _look_for_work(self, awaited: Sequence[Any]) -> None:
        """Raise where nobody has worked on any task, nor finished one, for a while."""
        waiting = frozenset(future.key for future in awaited if not future.done())
        worked_on = chain.from_iterable(self.client.processing().values())
        idle = frozenset() if waiting.intersection(worked_on) else waiting
        if not idle or idle != self._idle:
            self._idle, self._idle_since = idle, time.monotonic()
        elif time.monotonic() - self._idle_since > _IDLE_SECONDS:
            raise StrandedError(f"the cluster at {self.address} has lost workers, and their tasks")

    def cancel(self, futures: Iterable[Any]) -> None:
        """Have tasks not be done that nobody waits for any more."""
        if self.client.status == "running":  # a scheduler that is gone has nothing to cancel
            self.client.cancel(list(futures))

    def threads(self) -> int:
        """How many threads all workers have; one at least: there may yet be a worker."""
        return max(1, sum(self.threads_by_worker().values()))

    def threads_by_worker(self) -> dict[str, int]:
        """How many threads each worker has."""
        try:
            return {worker: int(count) for worker, count in self.client.nthreads().items()}
        except OSError as error:  # a scheduler that does not answer, or no more
            raise self._gone(error) from error

    def homes(self) -> list[str | None]:
        """For each thread its worker, in an order that stays; None where there is none yet."""
        workers = sorted(self.threads_by_worker().items())
        return [worker for worker, count in workers for _ in range(count)] or [None]


@cache
def lost_errors() -> tuple[type[Exception], ...]:
    """What Dask raises where it is not the task that failed."""
    from distributed.comm import CommClosedError  # noqa: PLC0415 half a second, for its users
    from distributed.scheduler import NoValidWorkerError  # noqa: PLC0415

    return CancelledError, CommClosedError, NoValidWorkerError


@cache
def _killed_error() -> type[Exception]:
    """What Dask raises for a task that several workers have died of."""
    from distributed import KilledWorker  # noqa: PLC0415

    killed: type[Exception] = KilledWorker
    return killed
