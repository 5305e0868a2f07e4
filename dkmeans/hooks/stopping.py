"""Hooks that end training."""

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
    """Stops after so many steps of this call, or at a step counted over all calls.

    Args:
        num_steps: How many steps.
        last_step: At which step.

    Raises:
        ValueError: both or none is given, or it is below 1; TypeError: it is no integer.
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
        """Find out where to stop; at once where that is reached."""
        step = session.run("global_step")
        if self._num_steps is not None:
            self._last_step = step + self._num_steps
        elif step >= (self._last_step or 0):
            coord.request_stop()

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Ask for the step."""
        return SessionRunArgs("global_step")

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Stop where it is time."""
        if run_values.results >= (self._last_step or 0):
            run_context.request_stop()


class StopIfNoDecreaseHook(SessionRunHook):
    """Stops when the best value so far has not been bettered for many steps.

    That is for mini-batches, whose losses go up and down with their rows: give it as many steps as
    some passes over the data have. For full batches `relative_tolerance` says it better.

    Args:
        max_steps_without_decrease: That many steps.
        metric_name: What should decrease.

    Raises:
        ValueError: the number is below 1; TypeError: it is no integer.
    """

    def __init__(self, max_steps_without_decrease: int, metric_name: str = "average_loss") -> None:
        check_integer("max_steps_without_decrease", max_steps_without_decrease, 1)
        self._patience, self._metric_name = max_steps_without_decrease, metric_name
        self._best, self._best_step = math.inf, 0

    def after_create_session(self, session: Session, coord: Coordinator) -> None:
        """Count from here: another call may have other rows."""
        self._best, self._best_step = math.inf, session.run("global_step")

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Ask for the step and the value."""
        return SessionRunArgs(["global_step", self._metric_name])

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Stop where it is time."""
        step, value = run_values.results
        if value < self._best:
            self._best, self._best_step = value, step
        elif step - self._best_step >= self._patience:
            run_context.request_stop()
