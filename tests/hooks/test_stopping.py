"""Stops: requested by any hook or listener, and by the hooks made for it."""

import logging
from itertools import count
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmeans import KMeans
from dkmeans.hooks import HistoryHook, SessionRunHook, StopAtStepHook, StopIfNoDecreaseHook
from dkmeans.state import StopReason
from tests.hooks.recorders import (
    BATCHES,
    EVERY_STEP,
    RARELY,
    THREE_STEPS,
    RecordingHook,
    RecordingListener,
    StopAt,
    in_every_mode,
    model,
    reason_of,
    rows_of,
    step_of,
    values_of,
)


@pytest.fixture
def trained():
    return model().train(lambda: iter(BATCHES), steps=2)


@in_every_mode
@pytest.mark.parametrize(("method", "steps"), [("before_run", 1), ("after_run", 0)])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_a_stop_ends_training_at_exactly_that_step(mode, method, steps, step):
    estimator, hook = model(**mode), RecordingHook()
    estimator.train(lambda: iter(BATCHES), [StopAt(step, method), hook])
    assert step_of(estimator) == step + steps
    assert reason_of(estimator) is StopReason.STOPPED
    assert hook.calls[-2:] == [f"hook after_run {step + steps}", f"hook end {step + steps}"]
    limited = model(**mode).train(lambda: iter(BATCHES), steps=step + steps)
    assert values_of(estimator) == values_of(limited)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 3), max_size=3), st.integers(1, 4))
def test_stopping_and_continuing_gives_the_same_bits_as_not_stopping(stops, per_iteration):
    mode = {"mini_batch_steps_per_iteration": per_iteration}
    estimator, done = model(**mode), 0
    for steps in stops:
        hook = StopAtStepHook(num_steps=steps)
        estimator.train(lambda done=done: iter(BATCHES[done:]), [hook])
        done += steps
    estimator.train(lambda: iter([*BATCHES, *BATCHES][done:]), max_steps=12)
    whole = model(**mode).train(lambda: iter([*BATCHES, *BATCHES]), max_steps=12)
    assert values_of(estimator) == values_of(whole)


def test_the_reason_of_a_stop_is_logged(caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    model().train(lambda: iter(BATCHES), [StopAt(2)])
    assert "a hook asked to stop at step 2" in caplog.text


def test_a_stop_reads_no_more_batches_than_its_steps():
    taken = count()
    batches = (rows_of(seed=number) for number in taken)
    model().train(lambda: batches, [StopAt(4)])
    assert next(taken) <= 5


@pytest.mark.parametrize("step", [0, 2])
def test_a_listener_stops_training_after_a_checkpoint(step, caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    estimator = model(config=EVERY_STEP)
    estimator.train(lambda: iter(BATCHES), saving_listeners=[RecordingListener(stop_at=step)])
    assert step_of(estimator) == step
    assert reason_of(estimator) is StopReason.STOPPED
    assert f"asks to stop at step {step}" in caplog.text


def test_a_hook_may_stop_before_the_first_step():
    class StopFirst(SessionRunHook):
        def after_create_session(self, session, coord):
            assert not coord.should_stop()
            coord.request_stop()

    estimator = model().train(lambda: iter(BATCHES), [StopFirst()])
    assert step_of(estimator) == 0


@in_every_mode
@pytest.mark.parametrize("step", [1, 4, 5])
def test_several_starts_stop_and_continue_to_the_same_bits(mode, step):
    def starts(model_dir=None):
        model_dir = model_dir or f"memory://{uuid4().hex}"
        return KMeans(4, model_dir, "random", seed=3, num_restarts=3, config=RARELY, **mode)

    history = HistoryHook(["loss", "average_loss"])
    stopped = starts().train(lambda: iter(BATCHES), [StopAt(step), history])
    assert step_of(stopped) == step
    limited = starts().train(lambda: iter(BATCHES), steps=step)
    assert values_of(stopped) == values_of(limited)
    starts(stopped.model_dir).train(lambda: iter(BATCHES[step:]), [history])
    assert values_of(stopped) == values_of(starts().train(lambda: iter(BATCHES)))
    assert history.history["global_step"] == list(range(1, 11))


def test_an_evaluation_may_be_stopped(trained):
    class StopAfterTwo(SessionRunHook):
        def __init__(self):
            self.batches = 0

        def after_run(self, run_context, run_values):
            self.batches += 1
            if self.batches == 2:
                run_context.request_stop()

    stopped = trained.evaluate(lambda: iter(BATCHES), hooks=[StopAfterTwo()])
    assert stopped == trained.evaluate(lambda: iter(BATCHES), steps=2)
    rows = list(trained.predict(lambda: iter(BATCHES), hooks=[StopAfterTwo()]))
    assert len(rows) == len(BATCHES[0]) + len(BATCHES[1])


def test_stop_at_step_counts_this_calls_steps_or_all():
    estimator = model(**THREE_STEPS)
    for hook, step in (
        (StopAtStepHook(num_steps=2), 2),
        (StopAtStepHook(num_steps=2), 4),
        (StopAtStepHook(last_step=5), 5),
        (StopAtStepHook(last_step=5), 5),
        (StopAtStepHook(last_step=3), 5),
    ):
        estimator.train(lambda: iter(BATCHES), [hook])
        assert step_of(estimator) == step


def test_stop_at_step_takes_exactly_one_number():
    for numbers in ({}, {"num_steps": 1, "last_step": 1}):
        with pytest.raises(ValueError, match="exactly one of num_steps and last_step"):
            StopAtStepHook(**numbers)
    with pytest.raises(ValueError, match="last_step must be an integer >= 1, got 0"):
        StopAtStepHook(last_step=0)
    with pytest.raises(TypeError, match="num_steps must be an integer"):
        StopAtStepHook(num_steps=1.5)


def test_no_decrease_stops_after_that_many_steps_without_a_lower_value():
    far, near = rows_of(30, seed=5) * 9, rows_of(10, seed=5)
    batches = [far, near, far, far, near * 0.5, far, far, far, far]
    history = HistoryHook(["average_loss"])
    estimator = model(use_mini_batch=False)
    estimator.train(lambda: iter(batches), [StopIfNoDecreaseHook(3), history])
    values = history.history["average_loss"]
    best = int(np.argmin(values)) + 1
    assert step_of(estimator) == best + 3 < len(batches)


def test_no_decrease_compares_means_so_that_small_batches_are_not_better():
    rows = rows_of(60, seed=3)
    batches = [rows, rows[:5], rows, rows, rows, rows]
    means, sums = HistoryHook(["average_loss"]), HistoryHook()
    estimator = model(use_mini_batch=False)
    estimator.train(lambda: iter(batches), [means, sums, StopIfNoDecreaseHook(4, "loss")])
    assert np.argmin(sums.history["loss"]) == 1
    assert step_of(estimator) == 6
    assert np.argmin(means.history["average_loss"]) > 1


def test_no_decrease_takes_a_number_of_steps():
    with pytest.raises(ValueError, match="max_steps_without_decrease must be an integer >= 1"):
        StopIfNoDecreaseHook(0)
