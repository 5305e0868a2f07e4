"""Intervals of steps."""

from dkmeans.hooks.interval import Interval


def test_an_interval_counts_steps_and_measures_their_rate():
    interval = Interval(3, None)
    assert interval.is_due(5)
    assert interval.mark(5) is None
    assert [interval.is_due(step) for step in (6, 7, 8, 9)] == [False, False, True, True]
    assert interval.mark(8) > 0
