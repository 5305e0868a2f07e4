"""The choice between one thread and all threads for short iterations, by measured times.

`Threads.map_reduce` asks before each reduction (docs/decisions/036). Where bounds skip most of the
work, an iteration takes a few milliseconds. Waking threads, and handing Python's lock from one to
the other, may then take longer than the work itself. How long that takes differs from machine to
machine, so both ways are timed.
"""

from __future__ import annotations

from collections import deque

# Only iterations that all threads compute in this time are tried by one thread.
_SHORT_SECONDS = 0.01
# One thread needs at most the time that all threads are busy. It is tried only if that is less than
# so many times the time that passes, and given up above so many times `_SHORT_SECONDS`.
_MOST_TIMES = 3
# Iterations of a trial. The least time of them counts: after a change of the way the first one is
# slower, by up to a half, because threads sleep, and because rows lie in the cache of another core.
_TRIAL = 2
# The slower way is tried again when the time of the faster one has changed by the factor `_CHANGE`,
# but not within `_FEWEST` iterations; else after a pause of `_PAUSE` iterations, which doubles each
# time that the slower way stays slower.
_CHANGE, _FEWEST, _PAUSE = 1.3, 6, 8


class ShortIterations:
    """Chooses between the calling thread and all threads, for reductions by one function."""

    def __init__(self) -> None:
        # The last times of the calling thread alone (True) and of all threads (False), in a row.
        self._times: dict[bool, deque[float]] = {
            alone: deque(maxlen=_TRIAL) for alone in (True, False)
        }
        self._busy = self._at_trial = float("inf")
        # The way of the last reduction, and the one that is taken when none is tried.
        self._last = self._chosen = False
        # Iterations that are left of a trial.
        self._on_trial = 0
        # The first iterations are not those to compare with: they compile, and read rows.
        self._left, self._since, self._pause = 2 + _TRIAL, 0, _PAUSE

    def begin(self) -> bool:
        """Return whether the calling thread should compute the next reduction alone."""
        if self._on_trial:
            return self._last
        together = self._time(False)
        is_short = together < _SHORT_SECONDS and self._busy < _MOST_TIMES * together
        self._left, self._since = self._left - 1, self._since + 1
        has_changed = not 1 / _CHANGE < self._faster() / self._at_trial < _CHANGE
        may_change = has_changed and self._since >= _FEWEST
        way = is_short and self._chosen
        if is_short and (may_change or self._left <= 0):
            self._on_trial = _TRIAL
            return not way
        return way

    def end(self, seconds: float, busy: float, *, alone: bool) -> None:
        """Record how long a reduction took.

        Args:
            seconds: Time that passed.
            busy: Time that all threads together computed.
            alone: True if the calling thread computed alone.
        """
        if alone != self._last:
            self._times[alone].clear()
        self._times[alone].append(seconds)
        self._last = alone
        self._on_trial = max(0, self._on_trial - 1)
        is_long = alone and seconds > _MOST_TIMES * _SHORT_SECONDS
        if is_long:  # as iterations may become: one thread does not go on with them
            self._times[True].clear()
            self._on_trial = 0
        if not alone:
            self._busy = busy
        if is_long or (alone != self._chosen and not self._on_trial):
            self._decide()

    def _decide(self) -> None:
        """Choose the faster way after a trial of the other one."""
        before, self._chosen = self._chosen, self._time(True) < self._time(False)
        self._pause = 2 * self._pause if before == self._chosen else _PAUSE
        self._left, self._since, self._at_trial = self._pause, 0, self._faster()

    def _time(self, alone: bool) -> float:
        """Return the time that a way takes; infinity if it is not known yet."""
        times = self._times[alone]
        return min(times) if len(times) == _TRIAL else float("inf")

    def _faster(self) -> float:
        return min(self._time(True), self._time(False))
