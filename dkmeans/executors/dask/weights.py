"""The size of each thread's share, learned from the throughput of its worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from dkmeans.executors.reduction import Throughput

# Shares change only if an iteration would then take less than this part of its time. Workers have
# cached the rows of their present shares, and measured times are not exact.
_WORTHWHILE = 0.6
# If the threads of every worker needed less than this in total, nothing can be measured.
_SHORTEST_SECONDS = 0.02
# The speed of a worker is its best of the last 3 measured iterations, because other programs may
# slow it down. At least 2 are needed.
_REMEMBERED_ITERATIONS, _NEEDED_ITERATIONS = 3, 2


class Weights:
    """Weights of the workers' shares. All are equal until some workers are much slower."""

    def __init__(self) -> None:
        self._speeds: dict[str, deque[float]] = {}
        self._weights: dict[str | None, float] = {}

    def of(self, workers: Sequence[str | None]) -> tuple[float, ...]:
        """Return the weight of each thread's share.

        Args:
            workers: Worker of each thread. An unknown worker has the average weight.
        """
        known = [self._weights[worker] for worker in workers if worker in self._weights]
        average = sum(known) / len(known) if known else 1.0
        return tuple(self._weights.get(worker, average) for worker in workers)

    def learn(self, measured: Mapping[str, Throughput], workers: Sequence[str | None]) -> bool:
        """Record the throughputs of an iteration; return True if the weights have changed.

        The method returns early, with the weights as they are, (1) if no worker computed long
        enough to measure, (2) if some thread's worker has not been measured often enough, (3) if
        new weights would gain too little. Otherwise the measured speeds become the weights, and
        measuring begins anew: the speeds were measured under the old shares, whose rows were
        cached.

        Args:
            measured: Throughput of each worker that computed something.
            workers: Worker of each thread.
        """
        longest = max((throughput.seconds for throughput in measured.values()), default=0.0)
        if longest < _SHORTEST_SECONDS:
            return False
        for lost in self._speeds.keys() - set(workers):
            del self._speeds[lost]
        for worker, throughput in measured.items():
            speeds = self._speeds.setdefault(worker, deque(maxlen=_REMEMBERED_ITERATIONS))
            speeds.append(throughput.speed)
        seen = [self._speeds.get(worker or "", ()) for worker in workers]
        if min(map(len, seen)) < _NEEDED_ITERATIONS:
            return False
        best, weights = [max(each) for each in seen], self.of(workers)
        # In units of weight per speed: the time of the slowest thread now, and that of every thread
        # if each share were proportional to its thread's speed.
        slowest = max(weight / speed for weight, speed in zip(weights, best, strict=True))
        if sum(weights) / sum(best) >= _WORTHWHILE * slowest:
            return False
        self._weights = dict(zip(workers, best, strict=True))
        self._speeds.clear()
        return True
