"""The size of each worker's share, learned from the throughput of its worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from operator import truediv

from dkmeans.executors.reduction import Throughput

# Shares change only if an iteration would then take less than this part of its time. Workers have
# cached the rows of their present shares, and measured times are not exact.
_WORTHWHILE = 0.6
# If the threads of every worker needed less than this in total, nothing can be measured.
_SHORTEST_SECONDS = 0.02
# The speed of a worker is its best of the last 3 measured iterations, because other programs may
# slow it down. At least 2 are needed.
_REMEMBERED_ITERATIONS, _NEEDED_ITERATIONS = 3, 2


class ShareSizes:
    """Relative sizes of the workers' shares: equal for all threads until some are much slower."""

    def __init__(self) -> None:
        self._speeds: dict[str, deque[float]] = {}
        self._sizes: dict[str | None, float] = {}

    def of(self, threads: Mapping[str | None, int]) -> tuple[float, ...]:
        """Return the size of each worker's share: that of a thread, times the number of threads.

        Args:
            threads: Number of threads of each worker. A thread of an unknown worker has the average
                size.
        """
        known = {worker: n for worker, n in threads.items() if worker in self._sizes}
        total = sum(self._sizes[worker] * n for worker, n in known.items())
        average = total / sum(known.values()) if known else 1.0
        return tuple(n * self._sizes.get(worker, average) for worker, n in threads.items())

    def learn(
        self,
        measured: Mapping[str, Throughput],
        threads: Mapping[str | None, int],
        work_part: float,
    ) -> bool:
        """Record the throughputs of an iteration; return True if the sizes have changed.

        The method returns early, with the sizes as they are, (1) if no worker computed long
        enough to measure, (2) if some worker has not been measured often enough, (3) if new sizes
        would gain too little. Otherwise the measured speeds become the sizes, and measuring
        begins anew: the speeds were measured under the old shares, whose rows were cached.

        Args:
            measured: Throughput of each worker that computed something.
            threads: Number of threads of each worker.
            work_part: Part of the iteration's time in which the slowest worker computed. The rest,
                messages and tasks, takes as long with other sizes.
        """
        longest = max((throughput.seconds for throughput in measured.values()), default=0.0)
        if longest < _SHORTEST_SECONDS:
            return False
        for lost in self._speeds.keys() - threads.keys():
            del self._speeds[lost]
        for worker, throughput in measured.items():
            speeds = self._speeds.setdefault(worker, deque(maxlen=_REMEMBERED_ITERATIONS))
            speeds.append(throughput.speed)
        seen = [self._speeds.get(worker or "", ()) for worker in threads]
        if min(map(len, seen)) < _NEEDED_ITERATIONS:
            return False
        best, sizes = [max(each) for each in seen], self.of(threads)
        speeds_of_workers = [n * speed for n, speed in zip(threads.values(), best, strict=True)]
        # In units of size per speed: the time of the slowest worker now, and that of every worker
        # if each share were proportional to its worker's speed.
        slowest = max(map(truediv, sizes, speeds_of_workers))
        saved = 1 - sum(sizes) / sum(speeds_of_workers) / slowest
        if 1 - work_part * saved >= _WORTHWHILE:
            return False
        self._sizes = dict(zip(threads, best, strict=True))
        self._speeds.clear()
        return True
