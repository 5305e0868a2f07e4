"""The choice between one thread and all threads for short iterations, by measured times.

`Threads.map_reduce` asks before each reduction (docs/decisions/036). Where bounds skip most of the
work, an iteration takes a few milliseconds. Waking threads, and handing Python's lock from one to
the other, may then take longer than the work itself. How long that takes differs from machine to
machine, so both ways are timed.
"""

from __future__ import annotations

# Only iterations that all threads compute in this time are tried by one thread.
_SHORT_SECONDS = 0.01
# One thread needs at most the time that all threads are busy. It is tried only if that is less than
# so many times the time that passes.
_MOST_TIMES = 3
# The slower way is tried again when the time of the faster one has changed by the factor `_CHANGE`,
# but not within `_FEWEST` iterations; else after a pause of `_PAUSE` iterations, which doubles each
# time that the slower way stays slower.
_CHANGE, _FEWEST, _PAUSE = 1.3, 4, 16


class ShortIterations:
    """Chooses between the calling thread and all threads, for reductions by one function."""

    def __init__(self) -> None:
        self._alone = self._together = self._busy = self._at_trial = float("inf")
        # The first trial comes as soon as an iteration is short.
        self._left, self._pause = 0, _PAUSE // 2
        self._since = _FEWEST
        self._is_trial = False

    def begin(self) -> bool:
        """Return whether the calling thread should compute the next reduction alone."""
        is_short = self._together < _SHORT_SECONDS and self._busy < _MOST_TIMES * self._together
        is_alone = is_short and self._alone < self._together
        self._left, self._since = self._left - 1, self._since + 1
        faster = min(self._alone, self._together)
        has_changed = not 1 / _CHANGE < faster / self._at_trial < _CHANGE
        may_change = has_changed and self._since >= _FEWEST
        self._is_trial = is_short and (may_change or self._left <= 0)
        return is_alone != self._is_trial  # a trial takes the other way

    def end(self, seconds: float, busy: float, *, alone: bool) -> None:
        """Record how long a reduction took.

        Args:
            seconds: Time that passed.
            busy: Time that all threads together computed.
            alone: True if the calling thread computed alone.
        """
        was_faster = self._alone < self._together
        if alone:
            self._alone = seconds
        else:
            self._together, self._busy = seconds, busy
        if self._is_trial:
            is_same = was_faster == (self._alone < self._together)
            self._pause = 2 * self._pause if is_same else _PAUSE
            self._left, self._since = self._pause, 0
            self._at_trial = min(self._alone, self._together)
