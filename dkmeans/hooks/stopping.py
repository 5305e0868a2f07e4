"""Hooks that stop training: at a step, or when a value no longer decreases.

The user passes them to `train`. A stop ends training after exactly the step at which the hook
requests it, also within an iteration of several steps.
"""

from __future__ import annotations

import math

from dkmeans.errors import Invalid, check_integer
from dkmeans.hooks.sessions import (
    Coordinator,
    Session,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
)


class StopAtStepHook(SessionRunHook):
    """A hook that stops after a number of steps of this call, or at a given `global_step`.

    Args:
        num_steps: Number of steps of this call.
        last_step: The `global_step` to stop at, counted over all calls.

    Raises:
        ValueError: both or none is given, or the number is below 1.
        TypeError: it is not an integer.
    """

    def __init__(self, num_steps: int | None = None, last_step: int | None = None) -> None:
        if (num_steps is None) == (last_step is None):
            raise Invalid(
                "exactly one of num_steps and last_step must be given, "
                f"got {num_steps!r} and {last_step!r}"
            )
        for name, value in (("num_steps", num_steps), ("last_step", last_step)):
            if value is not None:
                check_integer(name, value, 1)
        self._num_steps, self._last_step = num_steps, last_step

    def after_create_session(self, session: Session, coord: Coordinator) -> None:
        """Compute the last step from `num_steps`, or stop now if `last_step` is already reached."""
        step = session.run("global_step")
        if self._num_steps is not None:
            # Computed for each call: a hook may be used for several calls.
            self._last_step = step + self._num_steps
        elif step >= (self._last_step or 0):
            coord.request_stop()

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Request the step."""
        return SessionRunArgs("global_step")

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Stop if the last step is reached."""
        if run_values.results >= (self._last_step or 0):
            run_context.request_stop()


class StopIfNoDecreaseHook(SessionRunHook):
    """A hook that stops when no step has had a lower value for a number of steps.

    It is meant for mini-batches, whose losses vary with their rows: use the number of steps of a
    few epochs. For full batches use `relative_tolerance` instead.

    Args:
        max_steps_without_decrease: Number of steps since the lowest value.
        metric_name: Name of the value that should decrease.

    Raises:
        ValueError: the number is below 1.
        TypeError: it is not an integer.
    """

    def __init__(self, max_steps_without_decrease: int, metric_name: str = "average_loss") -> None:
        check_integer("max_steps_without_decrease", max_steps_without_decrease, 1)
        self._max_steps, self._metric_name = max_steps_without_decrease, metric_name
        self._best, self._best_step = math.inf, 0

    def after_create_session(self, session: Session, coord: Coordinator) -> None:
        """Forget the lowest value of an earlier call, which may have had other rows."""
        self._best, self._best_step = math.inf, session.run("global_step")

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Request the step and the value."""
        return SessionRunArgs(["global_step", self._metric_name])

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Update the lowest value, or stop if it is too old."""
        step, value = run_values.results
        if value < self._best:
            self._best, self._best_step = value, step
        elif step - self._best_step >= self._max_steps:
            run_context.request_stop()
