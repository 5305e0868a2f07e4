"""A checkpoint as a value: its documented variables, and the fit that training continues from."""

from dataclasses import replace

import numpy as np
import pytest

from dkmeans import KMeans, RunConfig, checkpoints
from dkmeans.checkpoints import Checkpoint, Settings, Stop, variables
from dkmeans.distance import Distance
from dkmeans.fit import Fit, Start
from dkmeans.schedule import Schedule
from dkmeans.state import PartialSums, StopReason, TrainState
from tests.checkpoints.models import SETTINGS, fit_of, state
from tests.exactly import sums_of
from tests.hooks.recorders import StepHook

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
    pending = PartialSums(sums_of([[4.0, 8.0], [0.0, 0.0]]), np.array([2, 0]))
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


@pytest.mark.parametrize("stop", [None, Stop(StopReason.INTERRUPTED, 0.1)])
def test_after_an_interruption_the_next_loss_is_compared_with_the_last(stop):
    fit = Fit((Start(state(3), None, 3, loss_before=5.0),))
    assert checkpoint_of(fit, stop).to_continue().starts[0].loss_before == 5.0


def test_after_a_call_that_has_ended_the_next_loss_is_compared_with_none():
    fit = Fit((Start(state(3), None, 3, loss_before=5.0),))
    continued = checkpoint_of(fit, Stop(StopReason.MAX_STEPS, 0.1)).to_continue()
    assert continued.starts[0].loss_before is None


# Calls with a tolerance that are killed and made again.

ROWS = np.random.default_rng(8).normal(size=(600, 2)).astype(np.float32)
MODES = {
    "full batch": {},
    "two starts": {"num_restarts": 2, "initial_clusters": "random", "seed": 4},
    "three steps": {"use_mini_batch": True, "mini_batch_steps_per_iteration": 3},
}


class KilledError(Exception):
    """An error of a hook, after which nothing is saved."""


@pytest.fixture(params=MODES)
def begin(request, tmp_path):
    """Function that trains until the loss has converged and returns the model, in each mode."""
    mode = {"use_mini_batch": False, "initial_clusters": ROWS[:5], **MODES[request.param]}

    def begin(name, every=1, hook=None, **limits):
        config = RunConfig(save_checkpoints_steps=every, save_summary_steps=0)
        model = KMeans(5, str(tmp_path / name), relative_tolerance=2e-3, config=config, **mode)

        in_batches = mode["use_mini_batch"]

        def batches():  # each step has the rows that it would have without a kill
            found = checkpoints.latest(model.model_dir)
            first = found.state.step if found else 0
            for step in range(first, first + 60):
                yield np.roll(ROWS, 200 * (step % 3), axis=0)[: 400 if in_batches else 600]

        return model.train(batches, [hook] if hook else None, **limits)

    return begin


def outcome(model):
    found = model.checkpoint()
    states = [start.state.centers.tobytes() for start in found.fit.starts]
    return found.state.step, found.stop, [start.steps for start in found.fit.starts], states


def stopping(error, step):
    def stop():
        raise error

    return StepHook({step: stop})


@pytest.mark.parametrize(("error", "every"), [(KilledError, 1), (KeyboardInterrupt, 100)])
def test_a_call_that_is_killed_after_a_step_ends_at_the_same_step_when_made_again(
    begin, error, every
):
    undisturbed = begin("undisturbed")
    last = undisturbed.checkpoint().state.step
    assert last > 8
    # The first, second and third step of an iteration of three, and the last two of all.
    for step in sorted({1, 5, 9, last - 1, last}):
        name = f"killed after {step}"
        with pytest.raises(error):
            begin(name, every, stopping(error, step))
        found = KMeans(5, str(undisturbed.model_dir).replace("undisturbed", name)).checkpoint()
        # An interrupt after the last step saves a fit that has ended.
        ended = found.stop is not None and found.stop.reason is StopReason.CONVERGED
        assert ended == (error is KeyboardInterrupt and step == last)
        model = KMeans(5, found.address.rpartition("/")[0]) if ended else begin(name, every)
        assert outcome(model) == outcome(undisturbed)


def test_a_new_call_on_a_fit_that_has_ended_compares_only_its_own_losses(begin):
    model = begin("model")
    before = model.checkpoint().state.step
    pace = 3 if model.checkpoint().settings.use_mini_batch else 1
    begin("model")
    assert model.checkpoint().state.step == before + 2 * pace


def test_a_new_call_that_is_killed_in_its_first_iteration_compares_only_its_own_losses(begin):
    model = begin("model")
    before = model.checkpoint().state.step
    pace = 3 if model.checkpoint().settings.use_mini_batch else 1
    with pytest.raises(KeyboardInterrupt):
        begin("model", hook=stopping(KeyboardInterrupt, before + 1))
    begin("model")
    assert model.checkpoint().state.step == before + 2 * pace
