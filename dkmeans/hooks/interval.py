"""How often."""

from __future__ import annotations

import time

from dkmeans.errors import Invalid, check_integer, check_number, expected


class Interval:
    """Every so many steps or seconds, from the first step that is asked about.

    Args:
        steps: That many steps; None where it is seconds.
        secs: That many seconds; None where it is steps.
        names: What the two are called where they come from.

    Raises:
        ValueError: both or none is given, or it is not above zero; TypeError: it is no number.
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
        self._last: tuple[int, float] | None = None

    def restart(self) -> None:
        """Begin anew with the next step that is asked about: that of another call."""
        self._last = None

    def is_due(self, step: int) -> bool:
        """Whether it is time at this step."""
        if self._last is None:
            return True
        if self._steps is not None:
            return step - self._last[0] >= self._steps
        return time.monotonic() - self._last[1] >= (self._secs or 0)

    def mark(self, step: int) -> float | None:
        """Count from this step; returns the steps per second since the last, None at the first."""
        last, self._last = self._last, (step, time.monotonic())
        if last is None:
            return None
        return (step - last[0]) / max(self._last[1] - last[1], 1e-9)
