"""The Dask executor: deals the runs of an iteration to the workers and collects their totals.

Tasks are pure functions of chunks and a value, so a lost worker costs time and changes no bit. Each
share is submitted to the worker that computed it before; Dask takes another one if that worker is
gone or busy. A short iteration that is like the last one is computed by calls instead of tasks.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from itertools import chain, groupby
from typing import Any, TypeVar
from uuid import uuid4

from dkmeans.config import NONE
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, LoadedChunk
from dkmeans.errors import Outage
from dkmeans.executors.budget import Memory
from dkmeans.executors.dask import internals, worker
from dkmeans.executors.dask.cluster import Cluster, StrandedError, lost_errors
from dkmeans.executors.dask.dealing import Dealing, Iteration
from dkmeans.executors.dask.shipping import SMALL_BYTES, Shipping, size_of
from dkmeans.executors.in_order import in_order
from dkmeans.executors.reduction import Cost, Reduction
from dkmeans.executors.runs import RUNS_PER_SHARE, Run, RunTotal, merged, plan, reduce_batches
from dkmeans.state import M

R = TypeVar("R")
V = TypeVar("V")

logger = logging.getLogger(__name__)

# Largest number of results that one task or the driver adds up, so that no process adds up all.
_FAN_IN = 16
# A worker that does not answer within this time evicts a fit later, when another fit needs room.
_EVICT_SECONDS = 2
# Calls are for iterations of a quarter of a second. A worker that has not answered after this time
# is frozen, or its share has become slow. Others shall have taken over after 15 s.
_CALL_SECONDS = 8


class Dask(AbstractContextManager["Dask"]):
    """Computes chunks on the workers of a Dask cluster.

    Each part keeps one kind of state: `_cluster` knows the workers, `_shipping` the rows that have
    been sent to them, `_dealing` the last iteration and how fast the workers were. `_held` are the
    futures of the last iteration. They are released after the tasks of the next iteration are
    submitted: a release sends a message, which would delay the first task.

    Args:
        client: A `distributed.Client`.
        cache: One of `dkmeans.config.CACHES`: which rows are cached between iterations.
    """

    def __init__(self, client: Any, cache: str = NONE) -> None:
        internals.send_promptly(client)
        self._client = client
        self._cluster = Cluster(client)
        self._cluster.compare_versions(self._cluster.threads_by_worker())
        self._shipping = Shipping(client)
        self._dealing = Dealing()
        self._read_context = worker.ReadContext(uuid4().hex, cache)
        self._held: list[Any] = []

    def __str__(self) -> str:
        return str(self._cluster)

    def __exit__(self, *error: object) -> None:
        self._shipping.forget()
        self._held = []
        self._evict()

    def memory(self) -> Memory:
        """Return the workers, their threads and their memory, as they are now."""
        return self._cluster.memory()

    def map_reduce(
        self, function: Callable[[LoadedChunk, V], M], batches: Sequence[Batch], value: V
    ) -> Reduction[M]:
        """Apply a function to each chunk of each batch, and add up the results of each batch."""
        began = time.monotonic()
        with self._cluster.errors_translated():
            iteration, totals = self._reduce_until_done(function, batches, value)
        cost = sum((total.cost for total in totals), Cost())
        is_dealt_anew = self._dealing.record(iteration, cost, time.monotonic() - began)
        if is_dealt_anew:
            logger.info("dealing the rows to the workers anew, in proportion to their throughput")
            # Rows that are cached for the old shares would take the room of the new ones.
            self._evict()
        workers, threads = len(set(iteration.workers)), len(iteration.workers)
        return Reduction(reduce_batches(totals), cost, workers, threads)

    def map(
        self, function: Callable[[LoadedChunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """Yield the result of a function for each chunk, in order."""
        coming, left = iter(chunks), deque[Chunk]()
        with self._cluster.errors_translated():
            while True:
                try:
                    for result in self._results_in_order(function, coming, left, value):
                        left.popleft()
                        yield result
                    return
                except StrandedError as error:
                    logger.warning("%s; their chunks are computed again", error)
                    # Rows and values that were sent to lost workers are sent again.
                    self._shipping.forget()
                    coming, left = chain(left, coming), deque()

    def _results_in_order(
        self,
        function: Callable[[LoadedChunk, V], R],
        chunks: Iterable[Chunk],
        submitted: deque[Chunk],
        value: V,
    ) -> Iterator[R]:
        """Yield the result for each chunk, and append each chunk to `submitted`.

        Raises:
            StrandedError: some of the submitted chunks must be computed by other workers.
        """
        # A future, because the number of chunks is not known here.
        shared = self._shipping.future(value, self._cluster.other_workers())
        task = partial(worker.apply, function)

        def submit(chunk: Chunk) -> Any:
            submitted.append(chunk)
            return self._submit(task, Batch((chunk,)), shared, self._read_context)

        def result_of(future: Any) -> R:
            result: R
            (result,) = self._cluster.results([future], [shared, *self._shipping.futures])
            return result

        threads, cancel = self._cluster.threads(), self._cluster.cancel
        yield from in_order(map(submit, chunks), threads, result_of, cancel)

    def _reduce_until_done(
        self, function: Callable[[LoadedChunk, V], M], batches: Sequence[Batch], value: V
    ) -> tuple[Iteration, list[RunTotal[M]]]:
        """Compute an iteration, and start over as often as its tasks are stranded."""
        while True:
            try:
                workers = self._cluster.preferred_workers()
                iteration = self._dealing.deal(function, batches, workers)
                return iteration, self._reduce(iteration, batches, value)
            except StrandedError as error:
                logger.warning("%s; the iteration starts over", error)
                # Rows that were sent to lost workers are sent again.
                self._shipping.forget()

    def _reduce(
        self, iteration: Iteration, batches: Sequence[Batch], value: Any
    ) -> list[RunTotal[Any]]:
        """Return the totals of all runs in order, `merged`."""
        by_calls = self._by_calls(iteration, value)
        runs = plan(batches, iteration.weights, RUNS_PER_SHARE)
        left = [run for run in runs if run.share not in by_calls]
        by_tasks = self._by_tasks(iteration, left, batches, value)
        totals = chain.from_iterable([*by_calls.values(), *by_tasks])
        return merged(sorted(totals, key=lambda total: total.run.place))

    def _by_calls(self, iteration: Iteration, value: Any) -> dict[int, list[RunTotal[Any]]]:
        """Return the totals of the shares that workers remember, by the numbers of the shares."""
        workers = iteration.addresses
        if not self._dealing.by_calls or len(workers) > _FAN_IN:
            return {}
        # Each call takes the value to a worker, and brings its totals to the driver.
        if len(workers) * size_of(value) > SMALL_BYTES:
            return {}
        try:
            answers = internals.call(
                self._client, workers, _CALL_SECONDS, worker.reduce_again, iteration.call, value
            )
        except Exception:  # the scheduler forbids calls or is lost, or a worker is frozen: then the
            # tasks will report it
            logger.debug("workers cannot be called", exc_info=True)
            return {}
        return {share: totals for answer in answers.values() for share, totals in answer.items()}

    def _by_tasks(
        self, iteration: Iteration, runs: Sequence[Run], batches: Sequence[Batch], value: Any
    ) -> list[list[RunTotal[Any]]]:
        """Return the totals of some runs, computed and merged by tasks on the workers."""
        groups = self._tasks_of(runs)
        if not groups:
            return []
        shared = self._shipping.value(value, len(groups), iteration.addresses)
        level = [self._submit_runs(iteration, group, batches, shared) for group in groups]
        futures = list(level)
        while len(level) > _FAN_IN:
            level = [
                self._client.submit(worker.merge, *level[i : i + _FAN_IN], pure=False)
                for i in range(0, len(level), _FAN_IN)
            ]
            futures += level
        # Releases the futures of the last iteration (see the class).
        self._held = futures
        try:
            others = [*futures, *self._shipping.futures]
            return self._cluster.results(level, others, self._dealing.usual_seconds)
        except BaseException:
            self._cluster.cancel(futures)
            raise

    def _tasks_of(self, runs: Sequence[Run]) -> list[list[Run]]:
        """Return the runs of each task: a whole share, or in long iterations a single run."""
        if not self._dealing.by_whole_shares:
            return [[run] for run in runs]
        # The runs of a share are adjacent: `plan` returns them in order.
        return [list(share) for _, share in groupby(runs, lambda run: run.share)]

    def _submit_runs(
        self, iteration: Iteration, runs: Sequence[Run], batches: Sequence[Batch], shared: Any
    ) -> Any:
        chunks = [batches[run.batch].chunks_between(run.start, run.stop) for run in runs]
        task = partial(worker.reduce_share, iteration.function, tuple(runs))
        reading = replace(
            self._read_context,
            preferred_worker=iteration.workers[runs[0].share],
            # Only whole shares are remembered. With a task for each run a worker would remember
            # the last run only.
            call=iteration.call if self._dealing.by_whole_shares else None,
        )
        return self._submit(task, sum(chunks, Batch()), shared, reading)

    def _submit(self, task: Any, chunks: Batch, shared: Any, reading: worker.ReadContext) -> Any:
        """Submit a task over chunks, to its preferred worker or to one that is not frozen."""
        preferred = reading.preferred_worker
        workers = self._cluster.other_workers() if preferred is None else [preferred]
        where = {"workers": workers, "allow_other_workers": True} if workers else {}
        chunks, arrays = self._shipping.rows(chunks, where)
        return self._client.submit(task, chunks, shared, reading, *arrays, **where, pure=False)

    def _evict(self) -> None:
        """Evict the rows of this fit on all workers that answer."""
        if self._read_context.cache == NONE or self._client.status != "running":
            return
        with suppress(Outage, TimeoutError, *lost_errors()):
            evicting = [
                self._client.submit(
                    worker.evict_fit, self._read_context.fit, workers=[address], pure=False
                )
                for address in self._cluster.threads_by_worker()
            ]
            for future in evicting:
                future.result(timeout=_EVICT_SECONDS)
