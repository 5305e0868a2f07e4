"""Dealing: which worker should compute which chunks, the same in each iteration as long as it can.

Workers cache the rows of their shares, so a share goes to the same worker again. An iteration that
is like the one before and was short is computed by calls instead of tasks (`shares`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4
from weakref import ref

from dkmeans.data.batches import Batch
from dkmeans.executors.dask.weights import Weights
from dkmeans.executors.reduction import Cost

# For shorter iterations tasks cost more than 5 % of the time. Longer ones use tasks, so that Dask's
# dashboard shows them.
_SHORT_SECONDS = 0.25
# In a longer iteration each run is a task of its own, so that a slow worker's runs can be taken
# over; in a quicker one so many tasks would cost more than they gain.
_LONG_SECONDS = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Iteration:
    """The shares of an iteration.

    Attributes:
        function: The function of a chunk and a value.
        batches: The batches, weakly: a stream of batches must not be kept in memory.
        workers: Preferred worker of each thread's share; None if there is no worker yet.
        weights: Weight of each thread's share.
        call: Name by which workers find the shares they have computed, for another iteration that
            is like this one.
    """

    function: Callable[..., Any]
    batches: tuple[ref[Batch], ...]
    workers: tuple[str | None, ...]
    weights: tuple[float, ...]
    call: str

    def is_like(self, other: Iteration) -> bool:
        """Return True if the two differ only in the value that they are computed with."""
        own = self.function, self.batches, self.workers, self.weights
        return own == (other.function, other.batches, other.workers, other.weights)

    @property
    def addresses(self) -> list[str]:
        """Addresses of the workers, sorted."""
        return sorted({worker for worker in self.workers if worker})


class Dealing:
    """Deals iterations, and learns from how long they took."""

    def __init__(self) -> None:
        self._weights = Weights()
        self._last: Iteration | None = None
        self._measured: tuple[Any, ...] = ()
        self._seconds = self._usual_seconds = math.inf
        self._kind: tuple[Any, ...] = ()

    @property
    def usual_seconds(self) -> float:
        """Time of the iteration before, if it was of the same kind; else infinity."""
        return self._usual_seconds

    @property
    def by_calls(self) -> bool:
        """True if the next iteration should be computed by calls."""
        return self._seconds < _SHORT_SECONDS

    @property
    def by_whole_shares(self) -> bool:
        """True if a task should compute a whole share, False if each run should be a task."""
        return self._seconds < _LONG_SECONDS

    def deal(
        self,
        function: Callable[..., Any],
        batches: Sequence[Batch],
        workers: Sequence[str | None],
    ) -> Iteration:
        """Return the last iteration again if the new one is like it, else a new one.

        Args:
            function: The function of a chunk and a value.
            batches: The batches.
            workers: Preferred worker of each thread.
        """
        kind = function, sum(map(len, batches))
        self._usual_seconds = self._seconds if kind == self._kind else math.inf
        self._kind = kind
        weights = self._weights.of(workers)
        new = Iteration(function, tuple(map(ref, batches)), tuple(workers), weights, uuid4().hex)
        if self._last is None or not self._last.is_like(new):
            # Workers remember no share of a new iteration, so it must not count as short.
            self._last, self._seconds = new, max(self._seconds, _SHORT_SECONDS)
        return self._last

    def record(self, iteration: Iteration, cost: Cost, seconds: float) -> bool:
        """Record an iteration; return True if the next ones are dealt differently.

        Only an iteration that is dealt like the one before is measured: in the first one workers
        compile, and read rows that they will find in memory afterwards.
        """
        self._seconds = seconds
        now = iteration.function, iteration.workers, iteration.weights
        is_repeated, self._measured = now == self._measured, now
        return is_repeated and self._weights.learn(cost.throughputs, iteration.workers)
