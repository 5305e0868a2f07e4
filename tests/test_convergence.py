"""When a start has converged: by its loss, by its centers, or by their shift."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from dkmeans.convergence import (
    ShiftTolerance,
    converged,
    with_epoch_centers,
    with_epoch_stop_reasons,
    with_stop_reasons,
)
from dkmeans.fit import Fit, Start
from dkmeans.state import PartialSums, StopReason, TrainState


def state(centers, **more):
    centers = np.asarray(centers)
    return TrainState(centers, np.zeros(len(centers), np.int64), **more)


def states_of_losses(*losses):
    return [state([[0.0]], inertia=loss) for loss in losses]


def test_the_tolerance_is_strict():
    before, after = states_of_losses(3.0, 2.0)
    assert not converged(before.inertia, after, 0.25)
    assert converged(before.inertia, after, 0.2500001)


def test_the_change_is_relative_to_one_plus_the_loss_before():
    before, after = states_of_losses(99.0, 98.0)
    assert converged(before.inertia, after, 0.010001)
    assert not converged(before.inertia, after, 0.0099)


def test_with_the_offset_zero_the_change_is_relative_to_the_loss_before():
    for loss, later in ((100.0, 99.0), (1e-20, 0.99e-20)):
        before, after = states_of_losses(loss, later)
        assert converged(before.inertia, after, 0.010001, 0.0)
        assert not converged(before.inertia, after, 0.0099, 0.0)


def test_a_loss_that_rises_counts_by_its_size():
    before, after = states_of_losses(99.0, 100.0)
    assert converged(before.inertia, after, 0.010001)
    assert not converged(before.inertia, after, 0.0099)


def test_no_change_is_convergence_even_of_a_zero_loss():
    for loss in (0.0, 5.0):
        before, after = states_of_losses(loss, loss)
        assert converged(before.inertia, after, 1e-12)
        assert converged(before.inertia, after, 0)
        assert converged(before.inertia, after, 1e-12, 0.0)


def test_without_a_tolerance_nothing_converges():
    before, after = states_of_losses(5.0, 5.0)
    assert not converged(before.inertia, after, None)


def test_nothing_converges_before_there_are_two_losses():
    before, after = states_of_losses(None, 5.0)
    assert not converged(before.inertia, after, 1.0)


def test_an_unfinished_iteration_never_converges():
    before, after = states_of_losses(5.0, 5.0)
    after = replace(after, pending=PartialSums.zero((1, 1)), pending_steps=1)
    assert not converged(before.inertia, after, 1.0)


@pytest.mark.parametrize(("total", "holds"), [(24.9, False), (25.0, True)])
def test_a_shift_tolerance_limits_the_sum_of_the_squared_moves_of_all_centers(total, holds):
    before, after = np.array([[0, 0], [1, 1]]), np.array([[3, 0], [1, 5]])
    assert ShiftTolerance(total).holds(before, after) == holds


def test_moves_of_float32_centers_are_added_up_in_float64():
    before, after = (np.full((1, 2), value, np.float32) for value in (0, 3e38))
    assert not ShiftTolerance(1e70).holds(before, after)
    assert ShiftTolerance(1e77 * 2).holds(before, after)


def fit_of(*centers, loss=5.0, loss_before=None):
    states = (state([[value]], inertia=loss) for value in centers)
    return Fit(tuple(Start(each, loss_before=loss_before) for each in states))


@pytest.mark.parametrize("same_rows", [True, False])
def test_a_start_whose_centers_did_not_move_has_ended_if_the_rows_are_the_same(same_rows, caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    found = with_stop_reasons(fit_of(1, 2), fit_of(1, 3), None, 1.0, same_rows=same_rows)
    reason = StopReason.UNCHANGED if same_rows else None
    assert [each.reason for each in found.starts] == [reason, None]
    assert [each.loss_before for each in found.starts] == [5.0, 5.0]
    assert caplog.messages == ["start 0 converged: no center moves any more at step 0"] * same_rows


def test_a_start_whose_loss_hardly_changed_has_converged():
    before, after = fit_of(1), fit_of(2, loss_before=5.1)
    (found,) = with_stop_reasons(before, after, 0.1, 1.0, same_rows=True).starts
    assert found.reason is StopReason.CONVERGED
    (found,) = with_stop_reasons(before, after, 0.01, 1.0, same_rows=True).starts
    assert found.reason is None


def test_starts_that_have_hardly_moved_are_still_and_each_is_said(caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    found = with_epoch_stop_reasons(ShiftTolerance(1.0), moved(fit_of(1, 1), 2, 3))
    assert [each.reason for each in found.starts] == [StopReason.STILL, None]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("start 0 converged: the centers moved by no more")
    again = with_epoch_stop_reasons(ShiftTolerance(9.0), moved(found, 2, 6))
    assert [each.reason for each in again.starts] == [StopReason.STILL] * 2
    # Within no epoch, nothing more than the centers is to be saved.
    assert all(each.state.epoch_centers is each.state.centers for each in again.starts)


def moved(fit, *centers):
    """Return a fit that began an epoch, with other centers."""
    starts = with_epoch_centers(ShiftTolerance(0.0), fit).starts
    pairs = zip(starts, centers, strict=True)
    states = (replace(start.state, centers=np.array([[value]])) for start, value in pairs)
    return Fit(tuple(map(lambda start, state: replace(start, state=state), starts, states)))


def test_an_epoch_that_a_call_continues_began_where_it_began():
    fit = moved(fit_of(1), 2)
    (continued,) = with_epoch_centers(ShiftTolerance(0.0), fit).starts
    assert continued.state.epoch_centers.tolist() == [[1]]
    (found,) = with_epoch_stop_reasons(ShiftTolerance(0.0), fit).starts
    assert found.state.epoch_centers.tolist() == [[2]]
    (without,) = with_epoch_centers(None, fit).starts
    assert without.state.epoch_centers is None
