"""How fast workers go over chunks, and how much of the work each thread is therefore to have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Work is dealt out anew where an iteration would then take less than this part of its time: what
# workers keep of the rows would be in other places, and what was measured is not exact.
_WORTHWHILE = 0.6
# Workers that were busy for less are not told apart.
_LEAST_SECONDS = 0.02
# Of what was measured before, so much is left in the next iteration.
_MEMORY = 0.5


@dataclass(frozen=True, slots=True)
class Pace:
    """How many chunks threads of a worker went over, and in how many seconds; `+` is both's."""

    chunks: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Pace) -> Pace:
        return Pace(self.chunks + other.chunks, self.seconds + other.seconds)

    def faded(self) -> Pace:
        """The same speed, less certain."""
        return Pace(_MEMORY * self.chunks, _MEMORY * self.seconds)

    @property
    def speed(self) -> float:
        """Chunks a second, of a thread."""
        return self.chunks / self.seconds


class Paces:
    """The paces of workers as they are measured, and how work is dealt out by them.

    Every thread has the same share until some are so slow that the others wait for them.
    """

    def __init__(self) -> None:
        self._measured: dict[str, Pace] = {}
        self._weights: dict[str | None, float] = {}

    def weights(self, homes: Sequence[str | None]) -> tuple[float, ...]:
        """How much of the work each thread is to have, beside the others.

        Args:
            homes: Of each thread its worker. One that is not known has as much as an average one.
        """
        known = [self._weights[home] for home in homes if home in self._weights]
        average = sum(known) / len(known) if known else 1.0
        return tuple(self._weights.get(home, average) for home in homes)

    def learn(self, measured: Mapping[str, Pace], homes: Sequence[str | None]) -> None:
        """Take in what an iteration has shown, and deal out the next ones by it if that is better.

        Args:
            measured: The pace of each worker that had something to do.
            homes: Of each thread its worker.
        """
        for worker, pace in measured.items():
            if pace.seconds >= _LEAST_SECONDS:
                self._measured[worker] = self._measured.get(worker, Pace()).faded() + pace
        speeds = [self._measured[home].speed for home in homes if home in self._measured]
        if len(speeds) < len(homes) or min(speeds) <= 0:
            return
        weights = self.weights(homes)
        each = [weight / speed for weight, speed in zip(weights, speeds, strict=True)]
        if sum(weights) / sum(speeds) < _WORTHWHILE * max(each):
            self._weights = dict(zip(homes, speeds, strict=True))
