"""What a checkpoint is: a fit, the settings it was trained with, and how its training ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dkmeans.distance import Distance
from dkmeans.fit import Fit
from dkmeans.scaling import Scaling
from dkmeans.schedule import Schedule
from dkmeans.state import PartialSums, StopReason, TrainState


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that make a model what it is: training cannot continue with other ones.

    Attributes:
        distance_metric: The distance.
        use_mini_batch: True if a batch is a part of the data.
        mini_batch_steps_per_iteration: Number of steps in an iteration.
        columns: Names of the columns that the centers were trained on, in order; None if the rows
            had no names.
        scaling: Means and deviations by which rows are standardized; None if they are not.
        counts_first: As `Schedule` has it.
    """

    distance_metric: Distance
    use_mini_batch: bool
    mini_batch_steps_per_iteration: int
    columns: tuple[str, ...] | None = None
    scaling: Scaling | None = None
    counts_first: bool = True

    @property
    def schedule(self) -> Schedule:
        """The schedule that follows from these settings."""
        if not self.use_mini_batch:
            return Schedule.full_batch()
        steps = self.mini_batch_steps_per_iteration
        return Schedule.mini_batch(steps, counts_first=self.counts_first)


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a call of `train` ended, and the tolerance it was given.

    Attributes:
        reason: The reason.
        relative_tolerance: The relative tolerance of that call.
    """

    reason: StopReason
    relative_tolerance: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        address: Full path or URL.
        fit: The fit, with one start or more.
        settings: The settings it was trained with.
        stop: Why training ended; None for a checkpoint that was saved on the way.
    """

    address: str
    fit: Fit
    settings: Settings
    stop: Stop | None

    @property
    def state(self) -> TrainState:
        """State of the best start."""
        return self.fit.state

    @property
    def original_centers(self) -> Any:
        """(k, d) centers in the units that rows have before they are standardized."""
        centers, scaling = self.state.centers, self.settings.scaling
        return centers.copy() if scaling is None else scaling.original(centers)

    @property
    def is_unchanged(self) -> bool:
        """True if the centers no longer moved over the rows of the last call."""
        return self.stop is not None and self.stop.reason is StopReason.UNCHANGED

    def to_continue(self) -> Fit:
        """Return the fit from which the next call of `train` continues.

        After an interruption, starts that had converged stay as they are, and the next loss is
        compared with the last one. After a call that had ended, all starts continue: the next call
        asks for more of each, and may do so with other rows, so that its first loss is compared
        with none.
        """
        interrupted = self.stop is None or self.stop.reason is StopReason.INTERRUPTED
        if interrupted and self.fit.running:
            return self.fit
        return Fit(tuple(replace(s, reason=None, loss_before=None) for s in self.fit.starts))

    def variables(self) -> dict[str, Any]:
        """Return the documented variables by name, each a NumPy array or scalar."""
        return variables(self.state, self.settings)


def variables(state: TrainState, settings: Settings) -> dict[str, Any]:
    """Return the documented variables of a state by name, each a NumPy array or scalar."""
    found: dict[str, Any] = {
        "clusters": state.centers.copy(),
        "global_step": np.int64(state.step),
        "initialized": np.True_,
    }
    if settings.use_mini_batch and settings.mini_batch_steps_per_iteration == 1:
        found["Variable"] = state.counts.copy()
    elif settings.use_mini_batch:
        pending = state.pending or PartialSums.zero(state.centers.shape)
        assigned = pending.counts[:, None]
        working_copy = np.where(assigned > 0, pending.means, state.centers).astype(
            state.centers.dtype
        )
        found["Variable"] = pending.totals.copy()
        found["clusters_updated"] = working_copy
        found["update_in_steps"] = np.int64(state.pending_steps)
    return dict(sorted(found.items()))
