"""The plan of one call of `train`: what to do, and by which rules.

The estimator makes the plan. `training` and the modules below it read the plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from dkmeans.checkpoints import Settings
from dkmeans.config import RunConfig
from dkmeans.convergence import ShiftTolerance
from dkmeans.empty_clusters import EmptyClusters
from dkmeans.initialization import Initialization
from dkmeans.lloyd import Rules


@dataclass(frozen=True, slots=True)
class Plan:
    """Task of one call of `train`.

    Attributes:
        model_dir: Path or URL of the model.
        settings: Settings of the model.
        initialization: How the first centers are found. Its computation is that of the whole fit.
        last_step: Step at which to stop; None for no limit.
        relative_tolerance: Relative change of the loss below which a start has converged; None for
            no tolerance.
        config: How to run.
        num_restarts: Number of starts that are trained side by side.
        empty_clusters: What happens to centers without rows.
        has_hooks: True if the user passed hooks or listeners, which may stop the call.
        may_be_unchanged: True if the call need not take a step where no center would move, as at
            the end of the call before.
        loss_offset: Changes of the loss are relative to this + the loss before.
        shift_tolerance: Move of the centers at which a start has converged; None for no tolerance.
    """

    model_dir: str
    settings: Settings
    initialization: Initialization
    last_step: int | None
    relative_tolerance: float | None
    config: RunConfig
    num_restarts: int = 1
    empty_clusters: EmptyClusters = EmptyClusters.KEEP
    has_hooks: bool = False
    may_be_unchanged: bool = False
    loss_offset: float = 1.0
    shift_tolerance: ShiftTolerance | None = None

    @property
    def rules(self) -> Rules:
        """Rules by which centers are computed."""
        computation, schedule = self.initialization.computation, self.settings.schedule
        return Rules(computation, schedule, self.empty_clusters)

    def describe_limits(self) -> str:
        """Return the limits of the call, for people; empty if there are none."""
        limits = [] if self.last_step is None else [f"step {self.last_step}"]
        if self.relative_tolerance is not None:
            limits.append(f"relative_tolerance {self.relative_tolerance:g}")
        return " or ".join(limits)
