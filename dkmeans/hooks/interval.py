"""Intervals: decide at which steps a hook logs or writes.

The hooks that repeat something use one `Interval` each, counted in steps or in seconds.
"""

from __future__ import annotations

import time

from dkmeans.errors import Invalid, check_integer, check_number, expected


class Interval:
    """An interval between steps that are due. The first step after a restart is due.

    Args:
        steps: Number of steps; None if the interval is given in seconds.
        secs: Number of seconds; None if the interval is given in steps.
        names: Names of the two arguments in error messages.

    Raises:
        ValueError: both or none is given, or the number is not above zero.
        TypeError: it is not a number.
    """

    def __init__(
        self,
        steps: int | None,
        secs: float | None,
        names: tuple[str, str] = ("every_n_iter", "every_n_secs"),
    ) -> None:
        if (steps is None) == (secs is None):
            must = f"exactly one of {names[0]} and {names[1]} must be given"
            raise Invalid(f"{must}, got {steps!r} and {secs!r}")
        if steps is not None:
            check_integer(names[0], steps, 1)
        check_number(names[1], secs)
        if secs is not None and not secs > 0:
            raise Invalid(expected(names[1], "> 0 or None", secs))
        self._steps, self._secs = steps, secs
        # Step and time of the last mark.
        self._last: tuple[int, float] | None = None

    def restart(self) -> None:
        """Start over at the beginning of a call: its first step is due."""
        self._last = None

    def is_due(self, step: int) -> bool:
        """Return whether the interval since the last mark has passed at this step."""
        if self._last is None:
            return True
        if self._steps is not None:
            return step - self._last[0] >= self._steps
        return time.monotonic() - self._last[1] >= (self._secs or 0)

    def mark(self, step: int) -> float | None:
        """Start a new interval at this step.

        Returns:
            Steps per second since the last mark; None for the first mark.
        """
        last, self._last = self._last, (step, time.monotonic())
        if last is None:
            return None
        # Two steps may have the same time on a coarse clock.
        return (step - last[0]) / max(self._last[1] - last[1], 1e-9)
