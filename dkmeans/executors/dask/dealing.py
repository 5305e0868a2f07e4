"""Dealing: which worker should compute which chunks, the same in each iteration as long as it can.

Workers cache the rows of their shares, so a share goes to the same worker again. An iteration that
is like the one before and was short is computed by calls instead of tasks (`shares`). The number of
tasks grows with the workers, and with their threads only where an iteration takes long enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4
from weakref import ref

from dkmeans.data.batches import Batch
from dkmeans.executors.dask.weights import Weights
from dkmeans.executors.reduction import Cost
from dkmeans.executors.runs import RUNS_PER_SHARE

# CPU time of scheduler and driver for a task, and the part of an iteration that tasks may cost.
_TASK_SECONDS, _TASKS_PART = 1e-3, 0.05
# If the work of an iteration takes less time, tasks cost more than their part, whatever their
# number. Iterations that take longer than the second limit use tasks anyway: Dask's dashboard shows
# tasks, and a cluster that adapts its size counts them.
_SHORT_SECONDS, _LONGEST_CALL_SECONDS = 0.25, 1.0
# If the work takes longer, runs are tasks of their own, so that a slow worker's runs can be taken
# over; in a quicker iteration so many tasks would cost more than they gain.
_LONG_SECONDS = 5.0
# The first iteration, whose work is not known, may have as many tasks as one with so much work.
_FIRST_SECONDS = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Iteration:
    """The shares of an iteration.

    Attributes:
        function: The function of a chunk and a value.
        batches: The batches, weakly: a stream of batches must not be kept in memory.
        threads: Number of threads of each worker, which is the preferred worker of one share; the
            key is None if there is no worker yet.
        weights: Weight of each worker's share.
        call: Name by which workers find the shares they have computed, for another iteration that
            is like this one.
    """

    function: Callable[..., Any]
    batches: tuple[ref[Batch], ...]
    threads: Mapping[str | None, int]
    weights: tuple[float, ...]
    call: str

    def is_like(self, other: Iteration) -> bool:
        """Return True if the two differ only in the value that they are computed with."""
        own = self.function, self.batches, self.threads, self.weights
        return own == (other.function, other.batches, other.threads, other.weights)

    @property
    def addresses(self) -> list[str]:
        """Addresses of the workers, sorted."""
        return [worker for worker in self.threads if worker]

    def work_seconds(self, cost: Cost) -> float:
        """Return how long the threads of the worker with the longest work needed for it."""
        times = (
            throughput.seconds / self.threads.get(worker, 1)
            for worker, throughput in cost.throughputs.items()
        )
        return max(times, default=0.0)


class Dealing:
    """Deals iterations, and learns from how long they took."""

    def __init__(self) -> None:
        self._weights = Weights()
        self._last: Iteration | None = None
        self._is_new = True
        self._measured: tuple[Any, ...] = ()
        self._seconds = self._usual_seconds = self._work_seconds = math.inf
        self._kind: tuple[Any, ...] = ()

    @property
    def usual_seconds(self) -> float:
        """Time of the iteration before, if it was of the same kind; else infinity."""
        return self._usual_seconds

    @property
    def by_calls(self) -> bool:
        """True if the next iteration should be computed by calls."""
        # Workers remember no share of a new iteration.
        if self._last is None or self._is_new:
            return False
        cost = _TASK_SECONDS * len(self._last.threads)
        return self._work_seconds < min(_SHORT_SECONDS + cost / _TASKS_PART, _LONGEST_CALL_SECONDS)

    @property
    def runs_per_thread(self) -> int:
        """About the number of runs of a thread that are tasks of their own.

        0 if a worker's whole share should be one task, which its threads compute together.
        """
        # Not the time of the iteration: if tasks took most of it, more of them would take longer.
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
        """Return the last iteration again if the new one is like it, else a new one.

        Args:
            function: The function of a chunk and a value.
            batches: The batches.
            threads: Number of threads of each worker.
        """
        kind = function, sum(map(len, batches))
        self._usual_seconds = self._seconds if kind == self._kind else math.inf
        self._kind = kind
        weights = self._weights.of(threads)
        new = Iteration(function, tuple(map(ref, batches)), threads, weights, uuid4().hex)
        self._is_new = self._last is None or not self._last.is_like(new)
        if self._last is None or self._is_new:
            self._last = new
        return self._last

    def record(self, iteration: Iteration, cost: Cost, seconds: float) -> bool:
        """Record an iteration; return True if the next ones are dealt differently.

        Only an iteration that is dealt like the one before is measured: in the first one workers
        compile, and read rows that they will find in memory afterwards.
        """
        self._seconds, self._work_seconds = seconds, iteration.work_seconds(cost)
        now = iteration.function, iteration.threads, iteration.weights
        is_repeated, self._measured = now == self._measured, now
        work = self._work_seconds / max(self._work_seconds, seconds)
        return is_repeated and self._weights.learn(cost.throughputs, iteration.threads, work)
