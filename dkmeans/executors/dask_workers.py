"""The workers of a Dask cluster.

Tasks are pure functions of chunks and a value, so a lost worker costs time and nothing else. What a
worker keeps of the rows it has read only makes it faster: runs are dealt out in the same way in
each iteration, each to the worker that did it before if that is there and not behind the others.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from itertools import chain, groupby
from types import TracebackType
from typing import Any, TypeVar
from uuid import uuid4
from weakref import WeakKeyDictionary

from dkmeans.batches import Batch
from dkmeans.chunks import Chunk, Source
from dkmeans.config import NONE
from dkmeans.errors import Invalid, Outage
from dkmeans.executors import messages, tasks
from dkmeans.executors.ahead import in_order
from dkmeans.executors.memory import Memory, room, system_limit
from dkmeans.executors.runs import Run, fold_batches, merged, plan
from dkmeans.retry import first_line
from dkmeans.sources.dask_array import DaskRows, FutureRows
from dkmeans.sources.memory import MemoryRows, ShippedRows
from dkmeans.state import M

R = TypeVar("R")
V = TypeVar("V")

logger = logging.getLogger(__name__)

# Results that one task adds up, and that come to the driver: keeps anyone's share of them small.
_FAN_IN = 16
# The smallest run is this part of a thread's share. In an iteration of seconds each is a task, so
# that a worker that is behind has something to give away; in a quick one it would cost more.
_PARTS, _LONG_SECONDS = 16, 5.0
# A value that is smaller, as often as there are tasks, travels with each.
_SMALL_BYTES = 2**22
_REMEMBERED_BYTES = 2**26
# How often a cluster that takes its time is looked at, and how long it may be without workers: one
# that adapts gets them in minutes, and Dask gives up a worker that is silent after as many.
_LOOK_SECONDS = 5.0
_DESERTED_SECONDS = 300.0
_FORGET_SECONDS = 2


class _StrandedError(Exception):
    """Tasks wait for workers that are no more."""


class Dask(AbstractContextManager["Dask"]):
    """See the module's docstring.

    The value travels to the workers as the result of a task: unlike what `scatter` places, that
    can be computed again. Rows in this process's memory travel so too, once, not per iteration.

    Args:
        client: A `distributed.Client`.
        cache: Whether rows that are read again are kept: one of `CACHES`.
    """

    def __init__(self, client: Any, cache: str = NONE) -> None:
        self._client = client
        messages.hasten(client)
        self._address = client.scheduler.address
        self._deserted_at: float | None = None
        self._reading = tasks.Reading(uuid4().hex, cache)
        self._shipped: WeakKeyDictionary[Source, Any] = WeakKeyDictionary()
        self._is_quick = False
        self._held: list[Any] = []
        self._sent = 0

    def __str__(self) -> str:
        return f"{self._threads()} threads of the cluster at {self._address}"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shipped.clear()
        self._held = []
        if self._reading.cache != NONE:
            self._forget()

    def memory(self) -> Memory:
        """See `Executor`."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [each["memory_limit"] or system_limit() for each in workers]
        taken = [each["metrics"].get("memory", 0) for each in workers]
        return Memory(
            workers=len(limits),
            threads=self._threads(),
            limit=min(limits, default=0),
            room=sum(map(room, limits, taken)),
        )

    def map_reduce(
        self, function: Callable[[Chunk, V], M], batches: Sequence[Batch], value: V
    ) -> list[M]:
        """See `Executor`."""
        began = time.monotonic()
        with self._outages_told():
            folds = None
            while folds is None:
                try:
                    folds = self._fold_all(function, batches, value)
                except _StrandedError:
                    logger.warning("all workers have been replaced; the iteration begins anew")
                    self._shipped.clear()
        self._is_quick = time.monotonic() - began < _LONG_SECONDS
        return fold_batches(folds, len(batches))

    def _fold_all(
        self, function: Callable[[Chunk, V], M], batches: Sequence[Batch], value: V
    ) -> list[tuple[Run, M]]:
        """The folds of all chunks of all batches, `merged`."""
        homes = self._threads_by_worker()
        groups = self._groups(plan(batches, len(homes), _PARTS))
        shared = self._shared(value, len(groups))
        level = [self._submit_runs(function, g, batches, shared, homes) for g in groups]
        futures = list(level)
        while len(level) > _FAN_IN:
            level = [
                self._client.submit(tasks.merge, *level[i : i + _FAN_IN], pure=False)
                for i in range(0, len(level), _FAN_IN)
            ]
            futures += level
        # Only now: to let go of something sends a message, and the next would wait for it.
        self._held = futures
        try:
            return merged(chain.from_iterable(self._results(level, set(homes))))
        except BaseException:
            self._cancel(futures)
            raise

    def map(
        self, function: Callable[[Chunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """See `Executor`."""
        with self._outages_told():
            shared = self._client.submit(tasks.identity, value, pure=False)
            task = partial(tasks.apply, function)
            futures = (self._submit(task, Batch((chunk,)), shared) for chunk in chunks)
            yield from in_order(futures, self._threads(), self._result, self._cancel)

    def _groups(self, runs: Sequence[Run]) -> list[list[Run]]:
        """Which runs make a task: one alone, so that others can take it over, or a whole share."""
        if not self._is_quick:
            return [[run] for run in runs]
        return [list(mine) for _, mine in groupby(runs, lambda run: run.share)]

    def _shared(self, value: Any, times: int) -> Any:
        """A value as an argument of tasks: itself where it is small, to save a step on the way."""
        size = len(pickle.dumps(value, protocol=5))
        if times * size < _SMALL_BYTES:
            self._count_sent(times * size)
            return value
        self._count_sent(size)
        return self._client.submit(tasks.identity, value, pure=False)

    def _submit_runs(
        self,
        function: Callable[[Chunk, V], M],
        runs: Sequence[Run],
        batches: Sequence[Batch],
        shared: Any,
        homes: Sequence[str | None],
    ) -> Any:
        chunks = [batches[run.batch].chunks_between(run.start, run.stop) for run in runs]
        task = partial(tasks.fold_share, function, tuple(runs))
        return self._submit(task, sum(chunks, Batch()), shared, homes[runs[0].share])

    @contextmanager
    def _outages_told(self) -> Iterator[None]:
        """Say it in our own words where it is the cluster that fails, and not a task."""
        try:
            if self._client.status != "running":
                raise CancelledError(f"the client is {self._client.status}")
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
            if self._client.status == "running" and not isinstance(error, _lost_errors()):
                raise
            raise self._gone(error) from error

    def _gone(self, error: Exception) -> Outage:
        return Outage(f"the cluster at {self._address} cannot be reached: {first_line(error)}")

    def _result(self, future: Any) -> Any:
        return self._results([future])[0]

    def _results(self, futures: Sequence[Any], homes: Set[str | None] = frozenset()) -> list[Any]:
        """What tasks give, waited for as long as there are workers, or some may yet come.

        Args:
            futures: The tasks.
            homes: The workers that they should be done by, if any were named.

        Raises:
            _StrandedError: none of these is there any more. Dask gives tasks that certain workers
                should do to others as well, but not if there were no others when it mattered.
        """
        from distributed import wait  # noqa: PLC0415 there is a client: it is imported

        while True:
            try:
                with self._client.as_current():
                    wait(list(futures), timeout=_LOOK_SECONDS)
            except TimeoutError:
                self._look_for_workers(homes)
                if not any(future.status == "error" for future in futures):
                    continue
            self._deserted_at = None
            return list(self._client.gather(list(futures)))

    def _look_for_workers(self, homes: Set[str | None]) -> None:
        now, workers = time.monotonic(), self._nthreads().keys()
        if workers:
            self._deserted_at = None
            if homes and not homes & workers:
                raise _StrandedError
        elif self._deserted_at is None:
            self._deserted_at = now
            logger.warning("the cluster at %s has no workers; waiting for some", self._address)
        elif now - self._deserted_at > _DESERTED_SECONDS:
            minutes = f"{_DESERTED_SECONDS / 60:.3g} minutes"
            raise Outage(f"the cluster at {self._address} has had no workers for {minutes}")

    def _cancel(self, futures: Iterable[Any]) -> None:
        if self._client.status == "running":  # a scheduler that is gone has nothing to cancel
            self._client.cancel(list(futures))

    def _threads(self) -> int:
        return max(1, sum(self._nthreads().values()))

    def _nthreads(self) -> dict[str, int]:
        """How many threads each worker has."""
        try:
            return {worker: int(count) for worker, count in self._client.nthreads().items()}
        except OSError as error:  # a scheduler that does not answer, or no more
            raise self._gone(error) from error

    def _threads_by_worker(self) -> list[str | None]:
        """For each thread of the cluster its worker, in an order that stays."""
        workers = sorted(self._nthreads().items())
        return [worker for worker, count in workers for _ in range(count)] or [None]

    def _submit(self, task: Any, chunks: Batch, shared: Any, home: str | None = None) -> Any:
        """Submit a task over chunks, with their rows in memory as arguments of their own."""
        futures: dict[Source, tuple[int, Any]] = {}
        where = {"workers": [home], "allow_other_workers": True} if home else {}

        def ship(source: Source) -> Source:
            if not (
                isinstance(source, MemoryRows | FutureRows)
                or (isinstance(source, DaskRows) and source.carries_rows)
            ):
                return source
            number, _ = futures.setdefault(source, (len(futures), self._future(source, where)))
            table = (source.rows, source.width, source.dtype)
            return ShippedRows(number, source.name, *table, source.first)

        chunks = chunks.with_leaves(ship)
        arrays = [future for _, future in futures.values()]
        reading = replace(self._reading, home=home)
        return self._client.submit(task, chunks, shared, reading, *arrays, **where, pure=False)

    def _future(self, source: Source, where: dict[str, Any]) -> Any:
        if isinstance(source, FutureRows):
            return source.future
        if source not in self._shipped:
            rows = source.array if isinstance(source, MemoryRows) else source
            self._count_sent(getattr(rows, "nbytes", 0))
            self._shipped[source] = self._client.submit(tasks.unpack, rows, **where, pure=False)
        return self._shipped[source]

    def _count_sent(self, size: int) -> None:
        self._sent += size
        if self._sent > _REMEMBERED_BYTES:
            self._sent = 0
            messages.forget(self._client)

    def _forget(self) -> None:
        """Have all workers let go of the rows they keep; one that does not answer does later."""
        if self._client.status == "running":
            with suppress(Outage, TimeoutError, *_lost_errors()):
                done = [
                    self._client.submit(
                        tasks.forget, self._reading.fit, workers=[worker], pure=False
                    )
                    for worker in self._nthreads()
                ]
                for future in done:
                    future.result(timeout=_FORGET_SECONDS)


@cache
def _lost_errors() -> tuple[type[Exception], ...]:
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
