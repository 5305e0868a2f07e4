"""How fast workers go over chunks, and how much of the work each thread is therefore to have."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Work is dealt out anew where an iteration would then take less than this part of its time: what
# workers keep of the rows is in other places then, and what was measured is not exact.
_WORTHWHILE = 0.6
# An iteration that was over sooner for everybody tells nothing.
_LEAST_SECONDS = 0.02
_NO_TIME = 1e-4
# A worker is as fast as it was in the best of so many iterations: others may have held it up.
_REMEMBERED, _NEEDED = 3, 2


@dataclass(frozen=True, slots=True)
class Throughput:
    """How many chunks threads of a worker went over, and in how many seconds; `+` is both's."""

    chunks: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Throughput) -> Throughput:
        return Throughput(self.chunks + other.chunks, self.seconds + other.seconds)

    @property
    def speed(self) -> float:
        """Chunks a second, of a thread."""
        return self.chunks / max(self.seconds, _NO_TIME)


class Dealing:
    """The paces of workers as they are measured, and how work is dealt out by them.

    Every thread has the same share until some are so slow that the others wait for them.
    """

    def __init__(self) -> None:
        self._speeds: dict[str, deque[float]] = {}
        self._weights: dict[str | None, float] = {}

    def weights(self, homes: Sequence[str | None]) -> tuple[float, ...]:
        """How much of the work each thread is to have, beside the others.

        Args:
            homes: Of each thread its worker. One that is not known has as much as an average one.
        """
        known = [self._weights[home] for home in homes if home in self._weights]
        average = sum(known) / len(known) if known else 1.0
        return tuple(self._weights.get(home, average) for home in homes)

    def learn(self, measured: Mapping[str, Throughput], homes: Sequence[str | None]) -> bool:
        """Take in what an iteration has shown; whether the next ones are dealt out otherwise.

        Args:
            measured: The pace of each worker that had something to do.
            homes: Of each thread its worker.
        """
        if max((pace.seconds for pace in measured.values()), default=0.0) < _LEAST_SECONDS:
            return False
        for gone in self._speeds.keys() - set(homes):
            del self._speeds[gone]
        for worker, pace in measured.items():
            self._speeds.setdefault(worker, deque(maxlen=_REMEMBERED)).append(pace.speed)
        seen = [self._speeds.get(home or "", ()) for home in homes]
        if min(map(len, seen)) < _NEEDED:
            return False
        speeds, weights = [max(each) for each in seen], self.weights(homes)
        slowest = max(weight / speed for weight, speed in zip(weights, speeds, strict=True))
        if sum(weights) / sum(speeds) >= _WORTHWHILE * slowest:
            return False
        self._weights = dict(zip(homes, speeds, strict=True))
        self._speeds.clear()  # the next iteration begins anew
        return True
