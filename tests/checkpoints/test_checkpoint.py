"""A checkpoint as a value: its documented variables, and the fit that training continues from."""

from dataclasses import replace

import numpy as np
import pytest

from dkmeans.checkpoints import Checkpoint, Settings, Stop, variables
from dkmeans.distance import Distance
from dkmeans.fit import Fit, Start
from dkmeans.schedule import Schedule
from dkmeans.state import PartialSums, StopReason, TrainState
from tests.checkpoints.models import SETTINGS, fit_of, state

EUCLIDEAN = Distance.SQUARED_EUCLIDEAN
FULL_BATCH = Settings(EUCLIDEAN, False, 1)
ONE_STEP = Settings(EUCLIDEAN, True, 1)


def checkpoint_of(fit, stop=None):
    return Checkpoint("memory://model/checkpoint", fit, SETTINGS, stop)


def test_settings_have_the_schedule_that_follows_from_them():
    assert FULL_BATCH.schedule == Schedule.full_batch()
    assert ONE_STEP.schedule == Schedule.mini_batch(1)
    assert SETTINGS.schedule == Schedule.mini_batch(4)


def test_its_state_is_that_of_the_best_start():
    worse, better = (replace(state(7), inertia=loss, inertia_rows=1) for loss in (2.0, 1.0))
    assert checkpoint_of(Fit((Start(worse), Start(better)))).state is better


def test_full_batch_variables_are_centers_and_step():
    saved = state(7)
    found = variables(saved, FULL_BATCH)
    assert list(found) == ["clusters", "global_step", "initialized"]
    np.testing.assert_array_equal(found["clusters"], saved.centers)
    assert found["global_step"] == 7
    assert found["initialized"]


def test_counts_are_a_variable_in_mini_batch_mode():
    saved = state(7)
    found = variables(saved, ONE_STEP)
    assert list(found) == ["Variable", "clusters", "global_step", "initialized"]
    np.testing.assert_array_equal(found["Variable"], saved.counts)


def test_the_working_copy_has_the_means_of_an_unfinished_iteration():
    pending = PartialSums(np.array([[4.0, 8.0], [0.0, 0.0]]), np.array([2, 0]), 1.0)
    centers = np.array([[9.0, 9.0], [5.0, 5.0]], np.float32)
    saved = TrainState(centers, np.zeros(2, np.int64), 3, pending, pending_steps=3)
    found = checkpoint_of(fit_of(saved)).variables()
    assert found["clusters"].tolist() == [[9, 9], [5, 5]]
    assert found["clusters_updated"].tolist() == [[2, 4], [5, 5]]
    assert found["clusters_updated"].dtype == np.float32
    assert found["Variable"].tolist() == [2, 0]
    assert found["update_in_steps"] == 3


def test_between_iterations_the_working_copy_is_the_centers():
    saved = state(4)
    found = variables(saved, SETTINGS)
    np.testing.assert_array_equal(found["clusters_updated"], saved.centers)
    assert not found["Variable"].any()
    assert found["update_in_steps"] == 0


def test_changed_variables_leave_the_state_as_it_is():
    saved = state(7)
    before = saved.centers.copy(), saved.counts.copy()
    for array in (variables(saved, ONE_STEP)[name] for name in ("clusters", "Variable")):
        array[:] = 0
    np.testing.assert_array_equal(saved.centers, before[0])
    np.testing.assert_array_equal(saved.counts, before[1])


@pytest.mark.parametrize("stop", [None, Stop(StopReason.INTERRUPTED, None)])
def test_after_an_interruption_only_the_running_starts_continue(stop):
    fit = Fit((Start(state(3), StopReason.CONVERGED, 2), Start(state(3), None, 3)))
    assert checkpoint_of(fit, stop).to_continue() is fit


@pytest.mark.parametrize("reason", [StopReason.MAX_STEPS, StopReason.CONVERGED])
def test_after_a_call_that_has_ended_all_starts_continue(reason):
    fit = Fit((Start(state(3), StopReason.CONVERGED, 2), Start(state(3), None, 3)))
    continued = checkpoint_of(fit, Stop(reason, None)).to_continue()
    assert continued.running == (0, 1)
    assert [start.steps for start in continued.starts] == [2, 3]
    assert all(a.state is b.state for a, b in zip(continued.starts, fit.starts, strict=True))


def test_a_fit_of_which_no_start_is_running_continues_with_all():
    fit = Fit((Start(state(3), StopReason.UNCHANGED, 2),))
    assert checkpoint_of(fit).to_continue().running == (0,)
