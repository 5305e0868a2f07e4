"""Dealing: which worker should compute which chunks, if possible the same in each iteration.

Workers cache the rows of their shares, so a share goes to the same worker again. A worker that
joins takes the share of one that has left. While few workers have left or joined, the shares of all
others stay as they are: among hundreds of workers, dealing anew costs more than it gains.

After a short iteration, another one like it is computed by calls instead of tasks (`shares`). The
number of tasks grows with the workers, and with their threads only where an iteration takes long
enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4
from weakref import ref

from dkmeans.data.batches import Batch
from dkmeans.executors.chunk_runs import RUNS_PER_SHARE
from dkmeans.executors.dask.share_sizes import ShareSizes
from dkmeans.executors.reduction import Cost

# CPU time of scheduler and driver for a task, and the part of an iteration that tasks may cost.
_TASK_SECONDS, _TASKS_PART = 1e-3, 0.05
# The tasks of an iteration with less work than this cost more than their part, however few they
# are.
_SHORT_SECONDS = 0.25
# If the work takes longer, tasks are used anyway: Dask's dashboard shows them, and a cluster that
# adapts its size counts them. Runs are then tasks of their own, so that a slow worker's runs can be
# taken over; in a quicker iteration so many tasks would cost more than they gain.
_LONG_SECONDS = 5.0
# The first iteration, whose work is not known, may have as many tasks as one with so much work.
_FIRST_SECONDS = 20.0
# Part of the threads that may have left, or have joined and wait for a share, before the shares are
# dealt anew.
_UNDEALT_PART = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Iteration:
    """The shares of an iteration.

    Attributes:
        function: The function of a chunk and a value.
        batches: The batches, weakly: a stream of batches must not be kept in memory.
        threads: Number of threads of each worker, which is the preferred worker of one share; the
            key is None if there is no worker yet.
        share_sizes: Size of each worker's share, relative to the others.
        call: Name by which workers find the shares they have computed, for another iteration over
            the same shares.
        gone: Workers among `threads` that have left, are frozen or have another number of threads
            now: other workers must compute their shares.
    """

    function: Callable[..., Any]
    batches: tuple[ref[Batch], ...]
    threads: Mapping[str | None, int]
    share_sizes: tuple[float, ...]
    call: str
    gone: frozenset[str | None] = frozenset()

    @property
    def present(self) -> dict[str | None, int]:
        """Number of threads of each worker that is not in `gone`."""
        return {worker: n for worker, n in self.threads.items() if worker not in self.gone}

    @property
    def addresses(self) -> list[str]:
        """Addresses of the workers that are not in `gone`, in the order of their shares."""
        return list(filter(None, self.present))

    def among(self, threads: Mapping[str | None, int]) -> Iteration:
        """Return the same shares for the workers that there are now.

        The shares of workers that have left go to new workers with as many threads. If there is no
        such worker, the old one stays in `threads`, and is in `gone`.

        Args:
            threads: Number of threads of each worker.
        """
        new = [worker for worker in threads if worker not in self.threads]
        owners: dict[str | None, int] = {}
        gone: set[str | None] = set()
        for worker, count in self.threads.items():
            if threads.get(worker) == count:
                owners[worker] = count
                continue
            successor = next((each for each in new if threads[each] == count), worker)
            owners[successor] = count
            if successor == worker:
                gone.add(worker)
            else:
                new.remove(successor)
        if owners == self.threads and gone == self.gone:
            return self
        return replace(self, threads=owners, gone=frozenset(gone))

    def work_seconds(self, cost: Cost) -> float:
        """Return the longest time of a worker: its computing time, divided by its threads."""
        times = (
            throughput.seconds / self.threads.get(worker, 1)
            for worker, throughput in cost.throughputs.items()
        )
        return max(times, default=0.0)


class Dealing:
    """Deals the chunks of iterations to workers, by the times of earlier iterations."""

    def __init__(self) -> None:
        self._share_sizes = ShareSizes()
        self._last: Iteration | None = None
        # True if the shares of the last iteration are new: its workers do not remember them.
        self._is_new = True
        # True if the sizes of shares have changed since the last iteration was dealt.
        self._is_stale = False
        # Function and shares of the last iteration.
        self._measured: tuple[Any, ...] = ()
        # Time of the last iteration, and the longest time of a worker in it.
        self._seconds = self._work_seconds = math.inf
        # Time of the iteration before the present one if both are of one `_kind`; else infinity.
        self.usual_seconds = math.inf
        # Function and number of chunks of the last iteration.
        self._kind: tuple[Any, ...] = ()

    @property
    def can_call(self) -> bool:
        """True if an iteration over the shares dealt last should be computed by calls.

        Before `deal` it is False also if only one iteration has had these shares.
        """
        # Workers remember no share of a new iteration.
        if self._last is None or self._is_new:
            return False
        cost = _TASK_SECONDS * len(self._last.threads)
        return self._work_seconds < min(_SHORT_SECONDS + cost / _TASKS_PART, _LONG_SECONDS)

    @property
    def runs_per_thread(self) -> int:
        """About the number of runs of a thread that are tasks of their own.

        0 if a worker's whole share should be one task, which its threads compute together.
        """
        # Not the time of the iteration: if tasks took most of it, more tasks would take longer.
        seconds = self._work_seconds if self._work_seconds < math.inf else _FIRST_SECONDS
        if self._last is None or seconds < _LONG_SECONDS:
            return 0
        threads = sum(self._last.threads.values())
        most = int(_TASKS_PART * seconds / _TASK_SECONDS / threads)
        # With fewer than two, none could be taken over.
        return min(most, RUNS_PER_SHARE) if most > 1 else 0

    def deal(
        self,
        function: Callable[..., Any],
        batches: Sequence[Batch],
        threads: Mapping[str | None, int],
    ) -> Iteration:
        """Return the shares of the last iteration if they fit the new one, else new shares."""
        kind = function, sum(map(len, batches))
        self.usual_seconds = self._seconds if kind == self._kind else math.inf
        self._kind = kind
        work, last = (function, tuple(map(ref, batches))), self._last
        owners: Mapping[str | None, int] = threads
        if last is not None:
            kept = last.among(threads)
            # Threads of new workers without a share, and threads of workers that have left.
            undealt = sum(threads.values()) - sum(kept.present.values())
            left = sum(kept.threads.values()) - sum(kept.present.values())
            is_same = work == (last.function, last.batches) and not self._is_stale
            if is_same and undealt + left <= _UNDEALT_PART * sum(kept.threads.values()):
                self._last, self._is_new = kept, False
                return kept
            # Workers keep their order, so that new shares have many of the rows of the old ones.
            owners = kept.present | dict(threads)
        self._last = Iteration(*work, owners, self._share_sizes.of(owners), uuid4().hex)
        self._is_new, self._is_stale = True, False
        return self._last

    def record(self, iteration: Iteration, cost: Cost, seconds: float) -> bool:
        """Record an iteration; return True if the next ones are dealt differently.

        Only an iteration that is dealt like the one before is measured: in the first one workers
        compile, and read rows that they will find in memory afterwards.
        """
        self._seconds, self._work_seconds = seconds, iteration.work_seconds(cost)
        now = iteration.function, iteration.threads, iteration.share_sizes
        is_repeated, self._measured = now == self._measured, now
        work_part = self._work_seconds / max(self._work_seconds, seconds)
        if not is_repeated or not self._share_sizes.learn(
            cost.throughputs, iteration.threads, work_part
        ):
            return False
        self._is_stale = True
        return True
