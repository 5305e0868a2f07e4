"""Hooks that record values: in the log, or in a dict.

The user passes them to `train`, `evaluate` or `predict`. Each hook requests its values by name
before a step and gets them after the step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dkmeans.errors import Invalid
from dkmeans.hooks.interval import Interval
from dkmeans.hooks.sessions import (
    Session,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
)

logger = logging.getLogger("dkmeans")


class LoggingTensorHook(SessionRunHook):
    """A hook that logs values at level INFO, from the first step on.

    Args:
        tensors: Names of the values, or a dict of labels to names.
        every_n_iter: Steps between two lines.
        every_n_secs: Seconds between two lines, instead of steps.
        at_end: True to log the last values at the end of the call. Without one of the intervals
            nothing else is logged.
        formatter: Function that makes a line from a dict of labels to values.

    Raises:
        ValueError: neither an interval nor `at_end` is given, or both intervals are, or a number is
            not above zero.
    """

    def __init__(
        self,
        tensors: Mapping[str, str] | Iterable[str],
        every_n_iter: int | None = None,
        every_n_secs: float | None = None,
        at_end: bool = False,
        formatter: Callable[[dict[str, Any]], str] | None = None,
    ) -> None:
        if isinstance(tensors, str):  # it would be read as a list of letters
            raise Invalid(f"tensors must be a list of names, or a dict, got {tensors!r}")
        self._names = dict(tensors) if isinstance(tensors, Mapping) else {n: n for n in tensors}
        only_at_end = at_end and every_n_iter is None and every_n_secs is None
        self._interval = None if only_at_end else Interval(every_n_iter, every_n_secs)
        self._at_end, self._formatter = at_end, formatter or _line

    def begin(self) -> None:
        """Restart the interval."""
        if self._interval:
            self._interval.restart()

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Request the step, and the values if they are logged during the call."""
        return SessionRunArgs(["global_step", self._names if self._interval else {}])

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Log the values if they are due."""
        step, values = run_values.results
        if self._interval and self._interval.is_due(step):
            self._interval.mark(step)
            logger.info("%s", self._formatter(values))

    def end(self, session: Session) -> None:
        """Log the last values if `at_end` is set."""
        if self._at_end:
            logger.info("%s", self._formatter(session.run(self._names)))


def _line(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


class HistoryHook(SessionRunHook):
    """A hook that stores the values of every step.

    Args:
        names: Names of the values, in addition to `global_step`.

    Attributes:
        history: Lists of values by name, with one value for each step. Further calls append to
            them. `pandas.DataFrame(hook.history)` makes a table of numbers.
    """

    def __init__(self, names: Iterable[str] = ("loss",)) -> None:
        if isinstance(names, str):  # it would be read as a list of letters
            raise Invalid(f"names must be a list of names, got {names!r}")
        self.history: dict[str, list[Any]] = {name: [] for name in ("global_step", *names)}

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Request the values."""
        return SessionRunArgs({name: name for name in self.history})

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Append the values to the history."""
        for name, value in run_values.results.items():
            self.history[name].append(value)
