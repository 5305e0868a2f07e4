"""Convergence: when a start ends because further steps would change little or nothing.

`training` calls `with_stop_reasons` after each iteration, and `with_epoch_stop_reasons` after each
epoch if there is a `ShiftTolerance`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from dkmeans.fit import Fit, Start
from dkmeans.state import FloatArray, StopReason, TrainState

logger = logging.getLogger("dkmeans")


@dataclass(frozen=True, slots=True)
class ShiftTolerance:
    """Largest shift of the centers at which a start has converged.

    Attributes:
        total: Largest sum of the squared shifts of all centers.
        steps: Number of steps over which the shift is measured: the steps of an epoch.
    """

    total: float
    steps: int = 1

    def holds(self, before: FloatArray, after: FloatArray) -> bool:
        """Return whether the squared shifts of all (k, d) centers add up to at most `total`."""
        shifts = after.astype(np.float64)
        shifts -= before
        return float(np.square(shifts, out=shifts).sum()) <= self.total


def with_stop_reasons(
    before: Fit,
    fit: Fit,
    relative_tolerance: float | None,
    offset: float,
    *,
    same_rows: bool,
) -> Fit:
    """Return the fit after an iteration, with `loss_before` of each running start up to date.

    Starts that have `converged` get a stop reason; with `same_rows` also starts whose centers did
    not move: where every iteration has the same rows, they will not move later.
    """
    starts = list(fit.starts)
    for number in fit.running:
        start, previous = fit.starts[number], before.starts[number].state
        state, loss_before = start.state, start.loss_before
        loss = state.inertia if state.pending is None else loss_before
        starts[number] = start = replace(start, loss_before=loss)
        if converged(loss_before, state, relative_tolerance, offset):
            starts[number] = _ended(fit, number, start, StopReason.CONVERGED)
        elif same_rows and np.array_equal(previous.centers, state.centers):
            starts[number] = _ended(fit, number, start, StopReason.UNCHANGED)
    return Fit(tuple(starts))


def with_epoch_centers(tolerance: ShiftTolerance | None, fit: Fit) -> Fit:
    """Return the fit that a call begins with, with `epoch_centers` set in each start.

    They are None without a tolerance. A fit that is continued within an epoch keeps its own.
    """
    starts = []
    for start in fit.starts:
        state, centers = start.state, None
        if tolerance is not None:
            centers = state.centers if state.epoch_centers is None else state.epoch_centers
        starts.append(replace(start, state=replace(state, epoch_centers=centers)))
    return Fit(tuple(starts))


def with_epoch_stop_reasons(tolerance: ShiftTolerance, fit: Fit) -> Fit:
    """Return the fit after an epoch, with the stop reason STILL for starts within the tolerance.

    The centers become those with which the end of the next epoch is compared.
    """
    starts = []
    for number, start in enumerate(fit.starts):
        before, centers = start.state.epoch_centers, start.state.centers
        start = replace(start, state=replace(start.state, epoch_centers=centers))
        if start.reason is None and before is not None and tolerance.holds(before, centers):
            start = _ended(fit, number, start, StopReason.STILL)
        starts.append(start)
    return Fit(tuple(starts))


def _ended(fit: Fit, number: int, start: Start, reason: StopReason) -> Start:
    """Return a start with its stop reason; log it if the fit has several starts."""
    if len(fit.starts) > 1:
        logger.info("start %d %s at step %d", number, reason.value, start.state.step)
    return replace(start, reason=reason)


def converged(
    loss_before: float | None,
    state: TrainState,
    relative_tolerance: float | None,
    offset: float = 1.0,
) -> bool:
    """Return True if the loss of a whole iteration changed less than the tolerance, or not at all.

    Without a tolerance no start converges.

    Args:
        loss_before: Loss of the previous whole iteration; None if there is none to compare with.
        state: State after the iteration.
        relative_tolerance: Change of the loss, relative to `offset` + the loss before, below which
            a start has converged; None for no tolerance.
        offset: 1 as in TensorFlow; with 0 the unit of the rows does not matter.
    """
    if relative_tolerance is None or loss_before is None or state.inertia is None:
        return False
    if state.pending is not None:  # unfinished: `inertia` is that of the iteration before
        return False
    change, scale = abs(state.inertia - loss_before), offset + abs(loss_before)
    return change == 0 or (scale > 0 and change / scale < relative_tolerance)
