"""Where the work is done: the threads of this process, or the workers of a Dask cluster.

Both give the same bits: the tree in which results are added is a function of the list of chunks
alone (`fold`), whoever computes which run of them, and in whatever order they are done.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_EXCEPTION,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from itertools import chain, islice
from threading import Event, Lock
from types import TracebackType
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from threadpoolctl import ThreadpoolController

from dkmeans.chunks import Batch, Chunk, Source
from dkmeans.errors import Invalid, Outage
from dkmeans.retry import first_line
from dkmeans.sources.dask_array import DaskRows, FutureRows
from dkmeans.sources.memory import MemoryRows, ShippedRows
from dkmeans.state import M, fold

R = TypeVar("R")
V = TypeVar("V")

logger = logging.getLogger(__name__)

# Runs of chunks per thread and iteration: enough for a fast worker to take over from a slow one.
_RUNS_PER_THREAD = 4
# Results that one task adds up: keeps the tree shallow and any one worker's share of it small.
_FAN_IN = 8
# Chunks of `map` that are worked on ahead of the one the caller waits for, per thread.
_AHEAD_PER_THREAD = 2
_SWITCH_SECONDS = 1e-4
# How often a cluster that takes its time is looked at, and how long it may be without workers: one
# that adapts gets them in minutes, and Dask gives up a worker that is silent after as many.
_LOOK_SECONDS = 5.0
_DESERTED_SECONDS = 300.0


class Executor(Protocol):
    """Applies a function to chunks and a value, wherever it does."""

    def map_reduce(
        self, function: Callable[[Chunk, V], M], batches: Sequence[Batch], value: V
    ) -> list[M]:
        """One result for each batch: `function` of each of its chunks, added up by `fold`."""
        ...

    def map(
        self, function: Callable[[Chunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """`function` of each chunk, in order, a little ahead of the caller and no more."""
        ...


class Threads(AbstractContextManager["Threads"]):
    """The threads of this process: the embedded default, and the definition of correct."""

    def __init__(self, threads: int | None = None) -> None:
        self._count = threads or usable_cores()
        self._pool = ThreadPoolExecutor(self._count, "dkmeans")
        self._stopped = Event()

    def __str__(self) -> str:
        return f"{self._count} threads of this process"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def map_reduce(
        self, function: Callable[[Chunk, V], M], batches: Sequence[Batch], value: V
    ) -> list[M]:
        """See `Executor`."""
        size = _run_size(max(map(len, batches)), self._count)
        with _computing:
            pending = [
                [self._pool.submit(self._fold, function, run, value) for run in _runs(batch, size)]
                for batch in batches
            ]
            try:
                # Woken once: a thread that is woken for each result takes the interpreter away.
                wait(chain.from_iterable(pending), return_when=FIRST_EXCEPTION)
                return [fold(future.result() for future in futures) for futures in pending]
            except BaseException:
                self._stopped.set()
                _cancel(future for futures in pending for future in futures)
                raise

    def map(
        self, function: Callable[[Chunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """See `Executor`."""
        return _ahead(
            (self._pool.submit(function, chunk, value) for chunk in chunks),
            self._count * _AHEAD_PER_THREAD,
            Future.result,
            _cancel,
        )

    def _fold(self, function: Callable[[Chunk, V], M], run: Batch, value: V) -> M:
        """A run's sum; a long one ends at the next chunk when the caller has gone."""

        def guarded(chunk: Chunk) -> M:
            if self._stopped.is_set():
                raise CancelledError
            return function(chunk, value)

        return fold(map(guarded, run))


class Dask(AbstractContextManager["Dask"]):
    """The workers of a Dask cluster.

    Tasks are pure functions of chunks and a value, so a lost worker costs time and nothing else.
    The value travels to the workers as the result of a task: unlike what `scatter` places, that
    can be computed again. Rows in this process's memory travel so too, once, not per iteration.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._address = client.scheduler.address
        self._deserted_at: float | None = None
        self._shipped: WeakKeyDictionary[Source, Any] = WeakKeyDictionary()

    def __str__(self) -> str:
        return f"{self._threads()} threads of the cluster at {self._address}"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shipped.clear()

    def map_reduce(
        self, function: Callable[[Chunk, V], M], batches: Sequence[Batch], value: V
    ) -> list[M]:
        """See `Executor`."""
        with self._outages_told():
            shared = self._client.submit(_identity, value, pure=False)
            size = _run_size(max(map(len, batches)), self._threads())
            results = []
            for batch in batches:
                runs = _runs(batch, size)
                level = [self._submit(_fold_run, function, run, shared) for run in runs]
                while len(level) > 1:
                    level = [
                        self._client.submit(_fold_parts, *level[i : i + _FAN_IN], pure=False)
                        for i in range(0, len(level), _FAN_IN)
                    ]
                results += level
            try:
                return [self._result(result) for result in results]
            except BaseException:
                self._cancel(results)
                raise

    def map(
        self, function: Callable[[Chunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """See `Executor`."""
        with self._outages_told():
            shared = self._client.submit(_identity, value, pure=False)
            yield from _ahead(
                (self._submit(_apply, function, (chunk,), shared) for chunk in chunks),
                self._threads() * _AHEAD_PER_THREAD,
                self._result,
                self._cancel,
            )

    @contextmanager
    def _outages_told(self) -> Iterator[None]:
        """Say it in our own words where it is the cluster that fails, and not a task."""
        try:
            if self._client.status != "running":
                raise CancelledError(f"the client is {self._client.status}")
            yield
        except (Invalid, Outage):
            raise
        except Exception as error:
            if self._client.status == "running" and not isinstance(error, _lost_errors()):
                raise
            raise self._gone(error) from error

    def _gone(self, error: Exception) -> Outage:
        return Outage(f"the cluster at {self._address} cannot be reached: {first_line(error)}")

    def _result(self, future: Any) -> Any:
        """What a task gives, waited for as long as there are workers, or some may yet come."""
        while True:
            try:
                result = future.result(timeout=_LOOK_SECONDS)
            except TimeoutError:
                if future.done():  # the task's own error, or it has just ended
                    return future.result()
                self._look_for_workers()
            else:
                self._deserted_at = None
                return result

    def _look_for_workers(self) -> None:
        now = time.monotonic()
        if self._nthreads():
            self._deserted_at = None
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
        return max(1, sum(self._nthreads()))

    def _nthreads(self) -> list[int]:
        """How many threads each worker has."""
        try:
            return [int(count) for count in self._client.nthreads().values()]
        except OSError as error:  # a scheduler that does not answer, or no more
            raise self._gone(error) from error

    def _submit(self, task: Any, function: Any, run: Batch, shared: Any) -> Any:
        """Submit a task over chunks, with their rows in memory as arguments of their own."""
        futures: dict[Source, tuple[int, Any]] = {}

        def ship(source: Source) -> Source:
            if not (
                isinstance(source, MemoryRows | FutureRows)
                or (isinstance(source, DaskRows) and source.carries_rows)
            ):
                return source
            number, _ = futures.setdefault(source, (len(futures), self._future(source)))
            table = (source.rows, source.width, source.dtype)
            return ShippedRows(number, source.name, *table, source.first)

        run = _with_leaves(run, ship)
        arrays = [future for _, future in futures.values()]
        return self._client.submit(task, function, run, shared, *arrays, pure=False)

    def _future(self, source: Source) -> Any:
        if isinstance(source, FutureRows):
            return source.future
        if source not in self._shipped:
            rows = source.array if isinstance(source, MemoryRows) else source
            self._shipped[source] = self._client.submit(_unpack, rows, pure=False)
        return self._shipped[source]


def open_executor(client: Any = None) -> Threads | Dask:
    """The executor for the client given, or else the active one, or else this process's threads."""
    client = client if client is not None else _active_client()
    return Dask(client) if client is not None else Threads()


def _active_client() -> Any:
    if "distributed" not in sys.modules:  # nobody has made a client; spare half a second
        return None
    from distributed import default_client  # noqa: PLC0415

    try:
        client = default_client()
    except ValueError:
        return None
    return client if client.status == "running" else None


@cache
def _lost_errors() -> tuple[type[Exception], ...]:
    """What Dask raises where it is not the task that failed."""
    from distributed.comm import CommClosedError  # noqa: PLC0415 half a second, for its users
    from distributed.scheduler import NoValidWorkerError  # noqa: PLC0415

    return CancelledError, CommClosedError, NoValidWorkerError


def _identity(value: V) -> V:
    return value


def _unpack(rows: Any) -> Any:
    """Rows as they were shipped, or made by the graph that was."""
    return rows.read(rows.first, rows.first + rows.rows) if isinstance(rows, DaskRows) else rows


def _apply(function: Callable[[Chunk, V], R], run: Batch, value: V, *arrays: Any) -> R:
    _one_blas_thread()
    (chunk,) = _unpacked(run, arrays)
    return function(chunk, value)


def _fold_run(function: Callable[[Chunk, V], M], run: Batch, value: V, *arrays: Any) -> M:
    _one_blas_thread()
    return fold(function(chunk, value) for chunk in _unpacked(run, arrays))


def _fold_parts(*parts: M) -> M:
    return fold(parts)


def _unpacked(run: Batch, arrays: Sequence[Any]) -> Batch:
    """The chunks with the arrays that travelled beside them put where they belong."""

    def unpack(source: Source) -> Source:
        if not isinstance(source, ShippedRows):
            return source
        return MemoryRows(arrays[source.argument], source.name, source.first)

    return _with_leaves(run, unpack) if arrays else run


def _with_leaves(run: Batch, change: Callable[[Source], Source]) -> Batch:
    return tuple(replace(chunk, source=chunk.source.with_leaves(change)) for chunk in run)


def _run_size(chunks: int, threads: int) -> int:
    """A power of two: the least that leaves no more runs than the threads should have."""
    size = 1
    while chunks > size * threads * _RUNS_PER_THREAD:
        size *= 2
    return size


def _runs(batch: Batch, size: int) -> list[Batch]:
    return [batch[i : i + size] for i in range(0, len(batch), size)]


def _ahead(
    futures: Iterator[Any],
    window: int,
    result_of: Callable[[Any], Any],
    cancel: Callable[[Iterable[Any]], None],
) -> Iterator[Any]:
    """The results of futures in order; they are drawn, and so submitted, `window` at a time."""
    waiting = deque(islice(futures, window))
    try:
        while waiting:
            result = result_of(waiting.popleft())
            waiting.extend(islice(futures, 1))
            yield result
    finally:
        cancel(waiting)


def _cancel(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()


class _Computing(AbstractContextManager[None]):
    """How this process is set while its threads compute: fits that overlap share the setting.

    BLAS starts no threads of its own: the cores are taken. And a thread that waits for the
    interpreter has it soon: NumPy gives it up for each operation and takes it back before the
    thread that was woken for it arrives; asking early made two threads a tenth faster.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._running = 0
        self._restore = ExitStack()
        # threadpoolctl heeds one thread at a time: who restores must be who has set.
        self._keeper = ThreadPoolExecutor(1, "dkmeans-settings")

    def __enter__(self) -> None:
        with self._lock:
            self._running += 1
            if self._running == 1:
                self._keeper.submit(self._set).result()

    def _set(self) -> None:
        self._restore.enter_context(_blas().limit(limits=1, user_api="blas"))
        self._restore.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(_SWITCH_SECONDS)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                self._keeper.submit(self._restore.close).result()


_computing = _Computing()


def _renew_after_fork() -> None:
    """A forked child has no thread but the one that forked it: the keeper did not come along."""
    global _computing
    _computing = _Computing()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)


@cache
def _one_blas_thread() -> None:
    """On a worker, for good: its threads are for tasks, and BLAS would add as many for each."""
    _blas().limit(limits=1, user_api="blas")


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def usable_cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
