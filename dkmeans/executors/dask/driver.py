"""The workers of a Dask cluster.

Tasks are pure functions of chunks and a value, so a lost worker costs time and nothing else. What a
worker keeps of the rows it has read only makes it faster: runs are dealt out in the same way in
each iteration, each to the worker that did it before if that is there and not behind the others. A
worker that is much slower than others, as a processor is beside a GPU, is dealt less (`paces`).
Iterations that are over before tasks would have come far are asked for by calls (`shares`).
"""

from __future__ import annotations

import logging
import math
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from types import TracebackType
from typing import Any, TypeVar
from uuid import uuid4
from weakref import WeakKeyDictionary, ref

from dkmeans.config import NONE
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, Source
from dkmeans.data.sources.dask_array import DaskRows, FutureRows
from dkmeans.data.sources.memory import MemoryRows, ShippedRows
from dkmeans.errors import Outage
from dkmeans.executors.budget import Memory
from dkmeans.executors.dask import internals, worker
from dkmeans.executors.dask.cluster import Cluster, StrandedError, lost_errors
from dkmeans.executors.dask.dealing import Dealing
from dkmeans.executors.in_order import in_order
from dkmeans.executors.runs import Cost, Fold, Run, merged, plan, reduce_batches
from dkmeans.state import M

R = TypeVar("R")
V = TypeVar("V")

logger = logging.getLogger(__name__)

# Results that one task adds up, and that come to the driver: keeps anyone's share of them small.
_FAN_IN = 16
# The smallest run is this part of a thread's share. In an iteration of seconds each is a task, so
# that a worker that is behind has something to give away; in a quick one it would cost more.
_PARTS, _LONG_SECONDS = 16, 5.0
# One that was shorter than this is asked for by a call. Tasks would cost it more than a twentieth;
# longer ones are worth a line on Dask's dashboard, and a worker's being seen to be busy.
_SHORT_SECONDS = 0.25
# A value that is smaller, as often as there are tasks, travels with each.
_SMALL_BYTES = 2**22
_REMEMBERED_BYTES = 2**26
_FORGET_SECONDS = 2


@dataclass(frozen=True, slots=True, eq=False)
class _Iteration:
    """What an iteration went over, and where.

    Attributes:
        call: What asks for another one like it.
    """

    function: Callable[..., Any]
    batches: tuple[ref[Batch], ...]  # a stream of them must not be kept in memory
    homes: tuple[str | None, ...]
    weights: tuple[float, ...]
    call: str

    def is_like(self, other: _Iteration) -> bool:
        """Whether they differ in nothing but the value."""
        mine = self.function, self.batches, self.homes, self.weights
        return mine == (other.function, other.batches, other.homes, other.weights)


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
        internals.hasten(client)
        self._cluster = Cluster(client)
        self._reading = worker.Reading(uuid4().hex, cache)
        self._shipped: WeakKeyDictionary[Source, Any] = WeakKeyDictionary()
        self._last: _Iteration | None = None
        self._paces = Dealing()
        self._measured: tuple[Any, ...] = ()
        self._seconds = math.inf
        self.spent, self.workers, self.threads = Cost(), 0, 0
        self._held: list[Any] = []
        self._sent = 0

    def __str__(self) -> str:
        return str(self._cluster)

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
        return self._cluster.memory()

    def map_reduce(
        self, function: Callable[[Chunk, V], M], batches: Sequence[Batch], value: V
    ) -> list[M]:
        """See `Executor`."""
        began = time.monotonic()
        with self._cluster.outages_told():
            folds = None
            while folds is None:
                try:
                    folds = self._fold_all(function, batches, value)
                except StrandedError as error:
                    logger.warning("%s; the iteration begins anew", error)
                    self._shipped.clear()
        self._seconds = time.monotonic() - began
        self.spent = sum((fold.spent for fold in folds), Cost())
        self._learn()
        return reduce_batches(folds, len(batches))

    def _learn(self) -> None:
        """Deal out the next iterations by how fast workers were in one that is like the one before.

        Before that they make ready, and read what they find in memory later. Rows that they have
        kept of shares that are not theirs any more would take the room of those that are.
        """
        last = self._last
        if last is None:
            return
        now = last.function, last.homes, last.weights
        was_like, self._measured = now == self._measured, now
        if not was_like or not self._paces.learn(self.spent.paces, last.homes):
            return
        logger.info("the rows are dealt out to the workers anew, by how fast they are")
        if self._reading.cache != NONE:
            self._forget()

    def _fold_all(
        self, function: Callable[[Chunk, V], M], batches: Sequence[Batch], value: V
    ) -> list[Fold[M]]:
        """The folds of all chunks of all batches, `merged`."""
        iteration = self._iteration(function, batches)
        done = self._called(iteration, value)
        self.workers, self.threads = len(set(iteration.homes)), len(iteration.homes)
        runs = plan(batches, iteration.weights, _PARTS)
        groups = self._groups([run for run in runs if run.share not in done])
        folds = [*done.values(), *self._by_tasks(iteration, groups, batches, value)]
        return merged(sorted(chain.from_iterable(folds), key=lambda fold: fold.run.place))

    def _by_tasks(
        self, iteration: _Iteration, groups: Sequence[list[Run]], batches: Sequence[Batch], value: V
    ) -> list[Any]:
        """The folds of groups of runs: a task for each, and some more that add up their results."""
        if not groups:
            return []
        shared = self._shared(value, len(groups))
        level = [self._submit_runs(iteration, group, batches, shared) for group in groups]
        futures = list(level)
        while len(level) > _FAN_IN:
            level = [
                self._client.submit(worker.merge, *level[i : i + _FAN_IN], pure=False)
                for i in range(0, len(level), _FAN_IN)
            ]
            futures += level
        # Only now: to let go of something sends a message, and the next would wait for it.
        self._held = futures
        try:
            return self._cluster.results(level, [*futures, *self._shipped.values()])
        except BaseException:
            self._cluster.cancel(futures)
            raise

    def _iteration(self, function: Callable[..., Any], batches: Sequence[Batch]) -> _Iteration:
        """The last one, if this is like it."""
        homes = tuple(self._cluster.homes())
        weights = self._paces.weights(homes)
        new = _Iteration(function, tuple(map(ref, batches)), homes, weights, uuid4().hex)
        if self._last is None or not self._last.is_like(new):
            self._last, self._seconds = new, max(self._seconds, _SHORT_SECONDS)
        return self._last

    def _called(self, iteration: _Iteration, value: Any) -> dict[int, list[Fold[Any]]]:
        """The folds of the shares that workers have done before and can do at once, by number."""
        workers = sorted({home for home in iteration.homes if home})
        if self._seconds >= _SHORT_SECONDS or len(workers) > _FAN_IN:
            return {}
        if len(workers) * len(pickle.dumps(value, protocol=5)) > _SMALL_BYTES:
            return {}
        try:
            answers = self._client.run(
                worker.reduce_again, iteration.call, value, workers=workers, on_error="ignore"
            )
        except Exception:  # a scheduler that is gone, which tasks tell, or that allows no calls
            logger.debug("workers cannot be called", exc_info=True)
            return {}
        return {share: folds for answer in answers.values() for share, folds in answer.items()}

    def map(
        self, function: Callable[[Chunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """See `Executor`."""
        with self._cluster.outages_told():
            shared = self._client.submit(worker.identity, value, pure=False)
            task = partial(worker.apply, function)
            futures = (
                self._submit(task, Batch((chunk,)), shared, self._reading) for chunk in chunks
            )
            threads, result = self._cluster.threads(), self._cluster.result
            yield from in_order(futures, threads, result, self._cluster.cancel)

    def _is_quick(self) -> bool:
        return self._seconds < _LONG_SECONDS

    def _groups(self, runs: Sequence[Run]) -> list[list[Run]]:
        """Which runs make a task: one alone, so that others can take it over, or a whole share."""
        if not self._is_quick():
            return [[run] for run in runs]
        return [list(mine) for _, mine in groupby(runs, lambda run: run.share)]

    def _shared(self, value: Any, times: int) -> Any:
        """A value as an argument of tasks: itself where it is small, to save a step on the way."""
        size = len(pickle.dumps(value, protocol=5))
        if times * size < _SMALL_BYTES:
            self._count_sent(times * size)
            return value
        self._count_sent(size)
        return self._client.submit(worker.identity, value, pure=False)

    def _submit_runs(
        self, iteration: _Iteration, runs: Sequence[Run], batches: Sequence[Batch], shared: Any
    ) -> Any:
        chunks = [batches[run.batch].chunks_between(run.start, run.stop) for run in runs]
        task = partial(worker.reduce_share, iteration.function, tuple(runs))
        reading = replace(
            self._reading,
            home=iteration.homes[runs[0].share],
            call=iteration.call if self._is_quick() else None,
        )
        return self._submit(task, sum(chunks, Batch()), shared, reading)

    def _submit(self, task: Any, chunks: Batch, shared: Any, reading: worker.Reading) -> Any:
        """Submit a task over chunks, with their rows in memory as arguments of their own."""
        futures: dict[Source, tuple[int, Any]] = {}
        where: dict[str, Any] = {}
        if reading.home is not None:
            where = {"workers": [reading.home], "allow_other_workers": True}

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
        return self._client.submit(task, chunks, shared, reading, *arrays, **where, pure=False)

    def _future(self, source: Source, where: dict[str, Any]) -> Any:
        if isinstance(source, FutureRows):
            return source.future
        if source not in self._shipped:
            rows = source.array if isinstance(source, MemoryRows) else source
            self._count_sent(getattr(rows, "nbytes", 0))
            self._shipped[source] = self._client.submit(worker.unpack, rows, **where, pure=False)
        return self._shipped[source]

    def _count_sent(self, size: int) -> None:
        self._sent += size
        if self._sent > _REMEMBERED_BYTES:
            self._sent = 0
            internals.forget(self._client)

    def _forget(self) -> None:
        """Have all workers let go of the rows they keep; one that does not answer does later."""
        if self._client.status == "running":
            with suppress(Outage, TimeoutError, *lost_errors()):
                done = [
                    self._client.submit(
                        worker.forget, self._reading.fit, workers=[address], pure=False
                    )
                    for address in self._cluster.threads_by_worker()
                ]
                for future in done:
                    future.result(timeout=_FORGET_SECONDS)
