"""The Dask executor: deals the runs of an iteration to the workers and collects their totals.

A run is a range of consecutive chunks, whose results are added up. A share is a range of runs: what
one worker computes, or one of its threads. Tasks are pure functions of chunks and a value, so a
lost worker costs time and changes no bit. Each share is submitted to the worker that computed it
before; Dask takes another worker if that one is gone or busy. A short iteration that is like the
last one is computed by calls instead of tasks: the driver asks the workers for the shares that they
computed last. If the driver can connect to the workers, calls do not pass through the scheduler.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from typing import Any, TypeVar
from uuid import uuid4

from dkmeans.config import NONE
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk, LoadedChunk
from dkmeans.errors import Outage
from dkmeans.executors.budget import Memory
from dkmeans.executors.chunk_runs import Run, RunTotal, cut_into_runs, merged, reduce_batches
from dkmeans.executors.dask import internals, remote
from dkmeans.executors.dask.cluster import LATE_FACTOR, Cluster, StrandedError, lost_errors
from dkmeans.executors.dask.dealing import Dealing, Iteration
from dkmeans.executors.dask.shipping import Shipping, preferring, size_of
from dkmeans.executors.in_order import in_order
from dkmeans.executors.reduction import Cost, Reduction
from dkmeans.state import M

R = TypeVar("R")
V = TypeVar("V")

logger = logging.getLogger("dkmeans")

# A value larger than this is sent with tasks, not with calls. If the copies for all workers are
# larger together, the driver calls only the first worker, which calls the others.
_MOST_CALL_BYTES = 2**22
# Chunks that were lost with their workers so often in a row are given up.
_MOST_LOSSES = 5
# Results that are added up together have about this size in total, so that no process holds many
# sums of large centers.
_ADDED_BYTES = 2**26
# A worker that does not answer within this time evicts a fit later, when another fit needs room.
_EVICT_SECONDS = 2
# A call waits for this long, or `LATE_FACTOR` times the usual time if that is longer. Tasks then
# compute the missing shares, and `Cluster` finds out, in some seconds, whether a worker is frozen.
_CALL_SECONDS = 8


@dataclass(frozen=True, slots=True)
class ShareTask:
    """Runs that one task computes.

    Attributes:
        runs: The runs, in order, of one share.
        worker: The preferred worker; None if there is none.
        call: Name of the call that may ask for the share again; None if the task is only a part of
            the share.
    """

    runs: tuple[Run, ...]
    worker: str | None
    call: str | None


class Dask(AbstractContextManager["Dask"]):
    """Computes chunks on the workers of a Dask cluster.

    Each attribute keeps one kind of state: `_cluster` the workers, `_shipping` the rows that have
    been sent to them, `_dealing` the last iteration and the speed of the workers, `_held` the
    futures of the last tasks. Held futures are released after the tasks of the next iteration are
    submitted: a release sends a message, which would delay the first task. Futures of large results
    are not held: they are released at the end of their iteration.

    Args:
        client: A `distributed.Client`.
        cache: One of `dkmeans.config.CACHES`: which rows are cached between iterations.
    """

    def __init__(self, client: Any, cache: str = NONE) -> None:
        internals.send_promptly(client)
        self._client = client
        self._cluster = Cluster(client)
        self._cluster.compare_versions(self._cluster.threads_by_worker())
        self._shipping = Shipping(self._cluster)
        self._dealing = Dealing()
        self._read_context = remote.ReadContext(uuid4().hex, cache)
        self._held: list[Any] = []

    def __str__(self) -> str:
        return str(self._cluster)

    def __exit__(self, *error: object) -> None:
        self._shipping.forget()
        self._held = []
        self._cluster.release_workers()
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
        present = iteration.present
        return Reduction(reduce_batches(totals), cost, len(present), sum(present.values()))

    def map(
        self, function: Callable[[LoadedChunk, V], R], chunks: Iterable[Chunk], value: V
    ) -> Iterator[R]:
        """Yield the result of a function for each chunk, in order."""
        coming, awaited, losses = iter(chunks), deque[Chunk](), 0
        with self._cluster.errors_translated():
            while True:
                try:
                    for result in self._results_in_order(function, coming, awaited, value):
                        awaited.popleft()
                        losses = 0
                        yield result
                    return
                except (StrandedError, remote.ValueLost) as error:
                    losses += 1
                    _check_losses(losses, error)
                    logger.warning("%s; their chunks are computed again", error)
                    # Rows and values that were sent to lost workers are sent again.
                    self._shipping.forget()
                    coming, awaited = chain(awaited, coming), deque()

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
            ValueLost: the value was lost with the worker that held it.
        """
        # The value is sent once, as a future, and not with each task: there may be many chunks.
        workers = filter(None, self._cluster.threads_by_preferred_worker())
        shared = self._shipping.future(value, list(workers))
        apply = partial(remote.apply, function)

        def submit(chunk: Chunk) -> Any:
            submitted.append(chunk)
            return self._submit(apply, Batch((chunk,)), shared, self._read_context)

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
        # Calls do not need a new list of workers: if a worker has left, tasks compute its share.
        may_be_old = self._dealing.can_call
        losses = 0
        while True:
            try:
                threads = (
                    self._cluster.known_threads()
                    if may_be_old
                    else self._cluster.threads_by_preferred_worker()
                )
                may_be_old = False
                iteration = self._dealing.deal(function, batches, threads)
                return iteration, self._reduce(iteration, batches, value)
            except (StrandedError, remote.ValueLost) as error:
                losses += 1
                _check_losses(losses, error)
                logger.warning("%s; the iteration starts over", error)
                # Rows that were sent to lost workers are sent again.
                self._shipping.forget()

    def _reduce(
        self, iteration: Iteration, batches: Sequence[Batch], value: Any
    ) -> list[RunTotal[Any]]:
        """Return the totals of all runs in order, `merged`."""
        called = self._by_calls(iteration, value)
        tasks = [
            task
            for task in self._tasks_of(iteration, batches, value)
            if task.runs[0].share not in called.shares
        ]
        by_tasks = self._by_tasks(iteration, tasks, batches, value)
        totals = chain(called.totals, *by_tasks)
        return merged(sorted(totals, key=lambda total: total.run.place))

    def _by_calls(self, iteration: Iteration, value: Any) -> remote.Answer:
        """Ask workers for the shares that they computed last, with the new value, without tasks.

        Shares for which no answer comes are missing: `_reduce` has tasks compute them.
        """
        workers, size = iteration.addresses, size_of(value)
        if not workers or not self._dealing.can_call or size > _MOST_CALL_BYTES:
            return remote.Answer()
        self._cluster.keep_workers()
        # A few workers are called by the driver. Of many only the first, which calls the others.
        is_few = len(workers) <= remote.FAN_IN and len(workers) * size <= _MOST_CALL_BYTES
        called, below = (workers, []) if is_few else (workers[:1], workers[1:])
        seconds = max(_CALL_SECONDS, LATE_FACTOR * self._dealing.usual_seconds)
        arguments = iteration.call, value, below, seconds
        call = internals.call_directly if self._cluster.is_reachable else internals.call
        # Where the scheduler forbids calls or is lost, or a worker is frozen, the tasks report it.
        try:
            answers = call(self._client, called, seconds, remote.reduce_again, *arguments)
        except Exception:
            logger.debug("workers cannot be called", exc_info=True)
            return remote.Answer()
        return remote.joined(list(answers.values()))

    def _tasks_of(
        self, iteration: Iteration, batches: Sequence[Batch], value: Any
    ) -> list[ShareTask]:
        """Return the tasks of an iteration: whole shares of workers, or single runs of threads."""
        runs_per_thread = self._dealing.runs_per_thread
        counts = iteration.threads.values()
        # Tasks of single threads compute whole chunks: if there are fewer chunks than threads, all
        # threads of a worker compute pieces of them.
        has_pieces = max(counts) > 1 and sum(map(len, batches)) < sum(counts)
        # A whole share is one task if more tasks would cost more than they gain
        # (`runs_per_thread` is 0), or if its result is large: the results of many tasks would be in
        # a worker's memory at once.
        if not runs_per_thread or _is_large(value) or has_pieces:
            owners, runs = list(iteration.threads), cut_into_runs(batches, iteration.share_sizes, 1)
            # The runs of a share are adjacent: `cut_into_runs` returns them in order.
            shares = [tuple(share) for _, share in groupby(runs, lambda run: run.share)]
            return [
                task
                for share in shares
                for task in _tasks_of_share(share, owners[share[0].share], iteration)
            ]
        # Here each thread has a share of its own, so `owners` has one entry for each thread.
        present = iteration.present
        owners = [
            owner if owner in present else None
            for owner, count in iteration.threads.items()
            for _ in range(count)
        ]
        of_workers = zip(iteration.share_sizes, counts, strict=True)
        sizes = [size / count for size, count in of_workers for _ in range(count)]
        runs = cut_into_runs(batches, sizes, runs_per_thread)
        return [ShareTask((run,), owners[run.share], None) for run in runs]

    def _by_tasks(
        self, iteration: Iteration, tasks: Sequence[ShareTask], batches: Sequence[Batch], value: Any
    ) -> list[list[RunTotal[Any]]]:
        """Return the totals of some tasks, merged by further tasks on the workers."""
        if not tasks:
            return []
        # For each task the value itself, or a future of a copy of it.
        copies = self._shipping.values(value, [task.worker for task in tasks])
        fan_in, is_large = _fan_in(value), _is_large(value)
        reduce = remote.reduce_share_once if is_large else remote.reduce_share
        level = [
            self._submit_task(reduce, iteration, task, batches, copy)
            for task, copy in zip(tasks, copies, strict=True)
        ]
        futures = list(level)
        # `sent` is emptied below. Nothing else may refer to its futures: workers hold the value
        # until the last reference to them is gone.
        sent = [copy for copy in copies if copy is not value]
        del copies
        usual_seconds = self._dealing.usual_seconds
        # Releases the futures of the last iteration (see the class). The list grows below: the
        # futures of merges are held too.
        self._held = [] if is_large else futures
        try:
            if is_large:
                self._cluster.wait_for(level, [*sent, *self._shipping.futures], usual_seconds)
                # Workers release the value now, before they add up sums of its size.
                sent = []
            # The driver gets one total of large results. It is merged on the worker of its first
            # part, so that no worker holds the parts of several merges.
            owners = [task.worker if is_large else None for task in tasks]
            merge: Any = remote.merge_once if is_large else remote.merge
            while len(level) > (1 if is_large else fan_in):
                level = [
                    self._client.submit(
                        merge, *level[i : i + fan_in], **preferring(owners[i]), pure=False
                    )
                    for i in range(0, len(level), fan_in)
                ]
                owners = owners[::fan_in]
                futures += level
            others = [*futures, *sent, *self._shipping.futures]
            found = self._cluster.results(level, others, usual_seconds)
        except BaseException:
            self._cluster.cancel(futures)
            raise
        return [part.taken() for part in found] if is_large else found

    def _submit_task(
        self,
        reduce: Callable[..., Any],
        iteration: Iteration,
        task: ShareTask,
        batches: Sequence[Batch],
        shared: Any,
    ) -> Any:
        chunks = [batches[run.batch].chunks_between(run.start, run.stop) for run in task.runs]
        function = partial(reduce, iteration.function, task.runs)
        reading = replace(self._read_context, preferred_worker=task.worker, call=task.call)
        return self._submit(function, Batch.chained(chunks), shared, reading)

    def _submit(
        self, function: Any, chunks: Batch, shared: Any, reading: remote.ReadContext
    ) -> Any:
        """Submit a function of chunks, to the preferred worker or to one that is not frozen."""
        preferred = reading.preferred_worker
        where = preferring(*(self._cluster.other_workers() if preferred is None else [preferred]))
        chunks, arrays = self._shipping.rows(chunks, where)
        return self._client.submit(function, chunks, shared, reading, *arrays, **where, pure=False)

    def _evict(self) -> None:
        """Evict the rows of this fit on all workers that answer."""
        if self._read_context.cache == NONE or self._client.status != "running":
            return
        from distributed import wait  # noqa: PLC0415 there is a client, so it is imported

        with suppress(Outage, TimeoutError, *lost_errors()):
            evicting = [
                self._client.submit(
                    remote.evict_fit, self._read_context.fit, workers=[address], pure=False
                )
                for address in self._cluster.threads_by_worker()
            ]
            with self._client.as_current():
                wait(evicting, timeout=_EVICT_SECONDS)


def _fan_in(value: Any) -> int:
    """Return how many results are added up at a time: fewer if they are large, at least two."""
    # Sums have the size of two copies of float32 centers.
    fitting = _ADDED_BYTES // (2 * size_of(value) or 1)
    return max(2, min(remote.FAN_IN, fitting))


def _is_large(value: Any) -> bool:
    """Return whether results for a value are too large to add up `FAN_IN` of them at a time."""
    return _fan_in(value) < remote.FAN_IN


def _check_losses(losses: int, error: Exception) -> None:
    """Give up if the same chunks were lost with their workers many times in a row.

    Dask gives up a task that several workers have died of, but not if all workers die together: the
    tasks that take the place of lost ones are new to Dask.

    Raises:
        Outage: they were.
    """
    if losses == _MOST_LOSSES:
        raise Outage(
            f"workers were lost {losses} times in a row while they computed the same chunks: "
            f"{error}. See their logs; if their memory does not suffice, give them more of it or "
            "fewer threads, or write the rows in smaller chunks"
        ) from error


def _tasks_of_share(
    share: tuple[Run, ...], owner: str | None, iteration: Iteration
) -> Iterator[ShareTask]:
    """Yield the task of a share; if its worker is in `gone`, tasks for some of the others."""
    if owner not in iteration.gone:
        yield ShareTask(share, owner, iteration.call)
        return
    workers = iteration.addresses
    count = min(len(workers), remote.FAN_IN)
    for piece in cut_into_runs([range(run.size) for run in share], [1] * count, 1):
        run = share[piece.batch].part(piece.start, piece.stop)
        yield ShareTask((run,), workers[piece.share * len(workers) // count], None)
