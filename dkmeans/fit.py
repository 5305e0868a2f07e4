"""Values of a fit: its starts, trained side by side over the same rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from dkmeans.state import StopReason, TrainState


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """One of the starts of a fit.

    Attributes:
        state: Where it stands. Its step is the fit's, also where it goes no further.
        reason: Why it goes no further; None: it does.
        steps: How many steps it has taken.
    """

    state: TrainState
    reason: StopReason | None = None
    steps: int = 0

    @property
    def mean_distance(self) -> float:
        """The mean distance of a row in the last whole iteration; infinite before there is one."""
        if self.state.inertia is None:
            return math.inf
        return self.state.inertia / max(1, self.state.inertia_rows)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The starts of a fit, which are trained side by side over the same rows: one or more."""

    starts: tuple[Start, ...]

    @property
    def best(self) -> int:
        """The number of the start that fits its rows best so far, the lowest among equals."""
        return min(range(len(self.starts)), key=lambda r: self.starts[r].mean_distance)

    @property
    def state(self) -> TrainState:
        """Where the best start stands."""
        return self.starts[self.best].state

    @property
    def step(self) -> int:
        """How many steps have been completed since initialization."""
        return self.starts[0].state.step

    @property
    def running(self) -> tuple[int, ...]:
        """The numbers of the starts that go on."""
        return tuple(r for r, start in enumerate(self.starts) if start.reason is None)

    @property
    def pending_steps(self) -> int:
        """How many steps of an iteration have been taken by those that go on."""
        return max(start.state.pending_steps for start in self.starts)

    def describe(self) -> Iterator[str]:
        """A sentence on each start, for people, where there are several."""
        for r, start in enumerate(self.starts if len(self.starts) > 1 else ()):
            loss = "none yet" if start.state.inertia is None else f"{start.state.inertia:.6g}"
            kept = ", the best" if r == self.best else ""
            yield f"start {r}: loss {loss} after {start.steps} steps{kept}"
