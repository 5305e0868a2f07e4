"""A fit: the states of one or several starts (`num_restarts`).

`restarts` begins the starts and moves them; `checkpoints` save a fit. All values are frozen: a step
makes a new fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dkmeans.errors import counted
from dkmeans.state import StopReason, TrainState


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """One start of a fit.

    Attributes:
        state: Its state. The step is that of the fit, even after the start has converged.
        reason: Why the start has stopped; None while it is running.
        steps: Number of steps it has taken.
        loss_before: Loss of the last whole iteration, with which the next one is compared; None
            before the first one of a call of `train`, except after an interruption
            (`Checkpoint.to_continue`).
    """

    state: TrainState
    reason: StopReason | None = None
    steps: int = 0
    loss_before: float | None = None

    @property
    def mean_distance(self) -> float:
        """Mean distance of a row to its center in the last whole iteration; infinite before it.

        `state.mean_distance` is that of the last step.
        """
        if self.state.inertia is None:
            return math.inf
        return self.state.inertia / (self.state.inertia_rows or 1)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """All starts of a fit, one or more."""

    starts: tuple[Start, ...]

    @property
    def best(self) -> int:
        """Number of the start with the least mean distance in its last whole iteration.

        Of equal ones it is the lowest number. The centers of this start are the model.
        """
        return min(range(len(self.starts)), key=lambda r: self.starts[r].mean_distance)

    @property
    def state(self) -> TrainState:
        """State of the best start."""
        return self.starts[self.best].state

    @property
    def step(self) -> int:
        """Number of steps completed since initialization."""
        return self.starts[0].state.step

    @property
    def running(self) -> tuple[int, ...]:
        """Numbers of the starts that are still running."""
        return tuple(r for r, start in enumerate(self.starts) if start.reason is None)

    @property
    def pending_steps(self) -> int:
        """Number of steps that the running starts have taken of the current iteration."""
        return max(start.state.pending_steps for start in self.starts)

    def as_saved(self) -> Fit:
        """Return the fit without what checkpoints do not save."""
        starts = (replace(start, state=start.state.as_saved()) for start in self.starts)
        return Fit(tuple(starts))

    def describe(self) -> Iterator[str]:
        """Yield a sentence about each start, for people; nothing for a single start."""
        for r, start in enumerate(self.starts if len(self.starts) > 1 else ()):
            loss = "none yet" if start.state.inertia is None else f"{start.state.inertia:.6g}"
            best = ", the best" if r == self.best else ""
            yield f"start {r}: loss {loss} after {counted(start.steps, 'step')}{best}"
