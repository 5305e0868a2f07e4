"""Hooks and listeners: when they are called, what they see, and how they stop a call."""

import logging
import sys
from itertools import count
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dkmeans import Invalid, KMeans, RunConfig, checkpoints
from dkmeans.hooks import (
    CheckpointSaverListener,
    HistoryHook,
    LoggingTensorHook,
    PrometheusHook,
    SessionRunArgs,
    SessionRunHook,
    StopAtStepHook,
    StopIfNoDecreaseHook,
    SummarySaverHook,
)
from dkmeans.hooks.interval import Interval
from dkmeans.state import StopReason
from tests import reference
from tests.reference import EUCLIDEAN

MODES = {
    "full batch": {"use_mini_batch": False},
    "mini-batch": {"mini_batch_steps_per_iteration": 1},
    "three steps": {"mini_batch_steps_per_iteration": 3},
}
THREE = MODES["three steps"]
in_every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
EVERY_STEP = RunConfig(save_checkpoints_steps=1, keep_checkpoint_max=0)
SELDOM = RunConfig(save_checkpoints_steps=1000)


def rows_of(n=40, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


BATCHES = [rows_of(20 + seed, seed=seed) for seed in range(10)]
CENTERS = rows_of(4, seed=99)


def model(model_dir=None, config=SELDOM, **more):
    return KMeans(4, model_dir or f"memory://{uuid4().hex}", CENTERS, config=config, **more)


def step_of(estimator):
    return int(estimator.get_variable_value("global_step"))


def values_of(estimator):
    values = estimator.get_variable_value(estimator.get_variable_names())
    return {name: (np.asarray(v).dtype, np.asarray(v).tobytes()) for name, v in values.items()}


def reason_of(estimator):
    return checkpoints.latest(estimator.model_dir).stop.reason


def steps_saved(estimator):
    return [
        int(name.split("-")[1]) for name in checkpoints.Manifest.read(estimator.model_dir).names
    ]


class Diary(SessionRunHook):
    """Writes down what it is told, and asks for what it is told to ask for."""

    def __init__(self, name="hook", entries=None, asks=None):
        self.name, self.entries = name, [] if entries is None else entries
        self.asks, self.answers = asks, []

    def _note(self, what):
        self.entries.append(f"{self.name} {what}")

    def begin(self):
        self._note("begin")

    def after_create_session(self, session, coord):
        self._note(f"after_create_session {session.run('global_step')}")

    def before_run(self, run_context):
        self._note(f"before_run {run_context.session.run('global_step')}")
        return None if self.asks is None else SessionRunArgs(self.asks)

    def after_run(self, run_context, run_values):
        self._note(f"after_run {run_context.session.run('global_step')}")
        self.answers.append(run_values.results)

    def end(self, session):
        self._note(f"end {session.run('global_step')}")


class Witness(CheckpointSaverListener):
    """Writes down what it is told of checkpoints, and stops at a step."""

    def __init__(self, name="listener", entries=None, stop_at=None):
        self.name, self.entries, self.stop_at = name, [] if entries is None else entries, stop_at

    def begin(self):
        self.entries.append(f"{self.name} begin")

    def before_save(self, session, global_step_value):
        assert session.run("global_step") == global_step_value
        self.entries.append(f"{self.name} before_save {global_step_value}")

    def after_save(self, session, global_step_value):
        self.entries.append(f"{self.name} after_save {global_step_value}")
        return global_step_value == self.stop_at

    def end(self, session, global_step_value):
        assert session.run("global_step") == global_step_value
        self.entries.append(f"{self.name} end {global_step_value}")


class StopAt(SessionRunHook):
    """Asks to stop from one of its methods, when that many steps have been taken."""

    def __init__(self, step, where="after_run"):
        self.step, self.where = step, where

    def _stop(self, where, context):
        if self.where == where and context.session.run("global_step") == self.step:
            assert not context.stop_requested
            context.request_stop()
            assert context.stop_requested

    def before_run(self, run_context):
        self._stop("before_run", run_context)

    def after_run(self, run_context, run_values):
        self._stop("after_run", run_context)


# In which order.


def test_training_calls_in_the_documented_order():
    entries = []
    hooks = [Diary("a", entries), Diary("b", entries)]
    config = RunConfig(save_checkpoints_steps=2)
    model(config=config).train(
        lambda: iter(BATCHES), hooks, 3, saving_listeners=[Witness("l", entries)]
    )
    assert entries == [
        "l begin", "a begin", "b begin",
        "l before_save 0", "l after_save 0",
        "a after_create_session 0", "b after_create_session 0",
        "a before_run 0", "b before_run 0", "a after_run 1", "b after_run 1",
        "a before_run 1", "b before_run 1", "l before_save 2", "l after_save 2",
        "a after_run 2", "b after_run 2",
        "a before_run 2", "b before_run 2", "a after_run 3", "b after_run 3",
        "l before_save 3", "l after_save 3", "l end 3", "a end 3", "b end 3",
    ]  # fmt: skip


@in_every_mode
def test_every_step_is_told_before_and_after_also_at_the_end_of_the_input(mode):
    diary = Diary()
    model(**mode).train(lambda: iter(BATCHES[:5]), [diary])
    steps = [
        f"hook {when}"
        for step in range(5)
        for when in (f"before_run {step}", f"after_run {step + 1}")
    ]
    assert diary.entries == ["hook begin", "hook after_create_session 0", *steps, "hook end 5"]


def test_a_step_is_told_before_it_is_computed():
    told = []

    class Asked(SessionRunHook):
        def before_run(self, run_context):
            told.append("before")

    def first_centers(rows, missing):
        told.append("first centers")
        return rows[:missing]

    estimator = KMeans(4, initial_clusters=first_centers)
    with pytest.raises(ValueError, match="finite"):
        estimator.train(lambda: iter([BATCHES[0], np.full((5, 3), np.nan, np.float32)]), [Asked()])
    assert told == ["first centers", "before", "before"]


def test_the_last_step_of_a_converged_call_is_told_like_the_others():
    diary = Diary()
    model(relative_tolerance=1e9).train(lambda: iter(BATCHES), [diary])
    assert diary.entries[-2:] == ["hook after_run 2", "hook end 2"]


def test_each_step_is_announced_as_saved_once():
    witness = Witness()
    estimator = model(config=EVERY_STEP)
    estimator.train(lambda: iter(BATCHES[:2]), saving_listeners=[witness])
    told = [entry for entry in witness.entries if "after_save" in entry]
    assert told == [f"listener after_save {step}" for step in (0, 1, 2)]
    assert steps_saved(estimator) == [0, 1, 2, 2]  # the last with why it ended


def test_a_call_that_goes_on_announces_the_checkpoint_that_is_there():
    estimator = model().train(lambda: iter(BATCHES), steps=2)
    before, witness = estimator.latest_checkpoint(), Witness()
    estimator.train(lambda: iter(BATCHES), steps=1, saving_listeners=[witness])
    assert witness.entries == [
        "listener begin",
        *("listener before_save 2", "listener after_save 2"),
        *("listener before_save 3", "listener after_save 3"),
        "listener end 3",
    ]
    assert steps_saved(estimator) == [0, 2, 3]
    assert estimator.latest_checkpoint() != before


def test_an_announced_checkpoint_is_the_latest():
    estimator, seen = model(config=EVERY_STEP), []

    class Copier(CheckpointSaverListener):
        def after_save(self, session, global_step_value):
            seen.append((global_step_value, step_of(estimator)))

    estimator.train(lambda: iter(BATCHES), steps=3, saving_listeners=[Copier()])
    assert seen == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_checkpoints_are_saved_between_iterations():
    witness = Witness()
    model(config=EVERY_STEP, **THREE).train(
        lambda: iter(BATCHES), steps=7, saving_listeners=[witness]
    )
    saved = [entry for entry in witness.entries if "after_save" in entry]
    assert saved == [f"listener after_save {step}" for step in (0, 3, 6, 7)]


def test_a_call_with_nothing_to_do_tells_nobody():
    estimator, diary = model().train(lambda: iter(BATCHES), steps=3), Diary()
    estimator.train(lambda: iter(BATCHES), [diary], max_steps=3)
    assert diary.entries == []


def test_hooks_and_listeners_change_no_bit():
    plain = model(**THREE).train(lambda: iter(BATCHES))
    hooked = model(config=EVERY_STEP, **THREE).train(
        lambda: iter(BATCHES), [Diary(asks="clusters")], saving_listeners=[Witness()]
    )
    assert values_of(hooked) == values_of(plain)


# What they see.


def test_values_are_those_after_the_step_and_the_loss_is_from_before_its_update():
    diary = Diary(asks={"loss": "loss", "centers": ["clusters"], "step": ("global_step",)})
    model(**MODES["full batch"]).train(lambda: iter(BATCHES[:3]), [diary])
    centers = CENTERS
    for step, (rows, seen) in enumerate(zip(BATCHES, diary.answers, strict=False), 1):
        centers, loss = reference.full_batch_step(rows, centers, EUCLIDEAN)
        assert seen["loss"] == pytest.approx(loss, rel=1e-6)
        assert seen["step"] == (step,)
        np.testing.assert_allclose(seen["centers"][0], centers, rtol=1e-5)
    assert len(diary.answers) == 3


def test_within_an_iteration_each_step_has_its_own_loss_and_sums():
    names = ["loss", "average_loss", "update_in_steps", "Variable", "clusters"]
    diary = Diary(asks=names)
    model(**THREE).train(lambda: iter(BATCHES[:6]), [diary])
    _, losses = reference.mini_batch_iteration(BATCHES[:3], CENTERS, EUCLIDEAN)
    for step, (loss, average, pending, counts, centers) in enumerate(diary.answers[:3], 1):
        assert loss == pytest.approx(losses[step - 1], rel=1e-6)
        assert average == loss / len(BATCHES[step - 1])
        assert pending == step % 3
        rows = sum(map(len, BATCHES[:step])) if step < 3 else 0
        assert counts.sum() == rows
        assert (centers == CENTERS).all() == (step < 3)


def test_every_variable_may_be_asked_for_also_by_its_original_name():
    for mode in MODES.values():
        estimator = model(**mode)
        names = [*estimator.train(lambda: iter(BATCHES), steps=2).get_variable_names()]
        diary = Diary(asks=[*names, "clusters:0", "empty_clusters", "loss:0"])
        estimator.train(lambda: iter(BATCHES), [diary], steps=1)
        found = dict(zip(diary.asks, diary.answers[0], strict=True))
        for name in names:
            np.testing.assert_array_equal(found[name], estimator.get_variable_value(name))
        np.testing.assert_array_equal(found["clusters:0"], found["clusters"])
        assert found["empty_clusters"] == 0
        assert (type(found["global_step"]), type(found["loss:0"])) == (int, float)


def test_values_are_copies():
    class Vandal(SessionRunHook):
        def after_run(self, run_context, run_values):
            run_context.session.run("clusters")[:] = 0

    spoiled = model().train(lambda: iter(BATCHES), [Vandal()])
    assert values_of(spoiled) == values_of(model().train(lambda: iter(BATCHES)))


def test_who_asks_for_nothing_is_given_nothing():
    diary = Diary()
    model().train(lambda: iter(BATCHES), [diary], steps=2)
    assert diary.answers == [None, None]


def test_a_value_that_there_is_not_is_refused_with_those_there_are():
    known = r"Variable, clusters, empty_clusters, global_step, initialized, .*got 'weights'"
    with pytest.raises(ValueError, match=f"fetches must be among {known}"):
        model().train(lambda: iter(BATCHES), [Diary(asks=["loss", "weights"])])
    with pytest.raises(TypeError, match="fetches must be names, or lists or dicts of them, got 3"):
        model().train(lambda: iter(BATCHES), [Diary(asks=3)])


def test_there_is_no_loss_before_the_first_step():
    class Early(SessionRunHook):
        def before_run(self, run_context):
            run_context.session.run("loss")

    with pytest.raises(ValueError, match="after a step loss and average_loss, got 'loss'"):
        model().train(lambda: iter(BATCHES), [Early()])


def test_what_before_run_returns_must_be_arguments():
    class Wrong(SessionRunHook):
        def before_run(self, run_context):
            return ["loss"]

    with pytest.raises(TypeError, match=r"Wrong\.before_run returns must be .*SessionRunArgs or N"):
        model().train(lambda: iter(BATCHES), [Wrong()])


# How they stop.


@in_every_mode
@pytest.mark.parametrize(("where", "steps"), [("before_run", 1), ("after_run", 0)])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_a_stop_ends_training_at_exactly_that_step(mode, where, steps, step):
    estimator, diary = model(**mode), Diary()
    estimator.train(lambda: iter(BATCHES), [StopAt(step, where), diary])
    assert step_of(estimator) == step + steps
    assert reason_of(estimator) is StopReason.STOPPED
    assert diary.entries[-2:] == [f"hook after_run {step + steps}", f"hook end {step + steps}"]
    limited = model(**mode).train(lambda: iter(BATCHES), steps=step + steps)
    assert values_of(estimator) == values_of(limited)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 3), max_size=3), st.integers(1, 4))
def test_stopping_and_going_on_gives_the_same_bits_as_not_stopping(stops, per_iteration):
    mode = {"mini_batch_steps_per_iteration": per_iteration}
    estimator, done = model(**mode), 0
    for steps in stops:
        hook = StopAtStepHook(num_steps=steps)
        estimator.train(lambda done=done: iter(BATCHES[done:]), [hook])
        done += steps
    estimator.train(lambda: iter([*BATCHES, *BATCHES][done:]), max_steps=12)
    whole = model(**mode).train(lambda: iter([*BATCHES, *BATCHES]), max_steps=12)
    assert values_of(estimator) == values_of(whole)


def test_the_reason_is_told(caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    model().train(lambda: iter(BATCHES), [StopAt(2)])
    assert "a hook asked to stop at step 2" in caplog.text


def test_a_stop_takes_no_more_batches_than_its_steps():
    taken = count()
    batches = (rows_of(seed=number) for number in taken)
    model().train(lambda: batches, [StopAt(4)])
    assert next(taken) <= 5


@pytest.mark.parametrize("step", [0, 2])
def test_a_listener_stops_training_after_a_checkpoint(step, caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    estimator = model(config=EVERY_STEP)
    estimator.train(lambda: iter(BATCHES), saving_listeners=[Witness(stop_at=step)])
    assert step_of(estimator) == step
    assert reason_of(estimator) is StopReason.STOPPED
    assert f"asks to stop at step {step}" in caplog.text


def test_a_hook_may_stop_before_the_first_step():
    class Never(SessionRunHook):
        def after_create_session(self, session, coord):
            assert not coord.should_stop()
            coord.request_stop()

    estimator = model().train(lambda: iter(BATCHES), [Never()])
    assert step_of(estimator) == 0


@in_every_mode
@pytest.mark.parametrize("step", [1, 4, 5])
def test_several_starts_stop_and_go_on_to_the_same_bits(mode, step):
    def starts(model_dir=None):
        model_dir = model_dir or f"memory://{uuid4().hex}"
        return KMeans(4, model_dir, "random", seed=3, num_restarts=3, config=SELDOM, **mode)

    history = HistoryHook(["loss", "average_loss"])
    stopped = starts().train(lambda: iter(BATCHES), [StopAt(step), history])
    assert step_of(stopped) == step
    limited = starts().train(lambda: iter(BATCHES), steps=step)
    assert values_of(stopped) == values_of(limited)
    starts(stopped.model_dir).train(lambda: iter(BATCHES[step:]), [history])
    assert values_of(stopped) == values_of(starts().train(lambda: iter(BATCHES)))
    assert history.history["global_step"] == list(range(1, 11))


def test_of_several_starts_hooks_see_the_best_also_where_it_rests():
    rows, history = rows_of(200), HistoryHook(["loss", "clusters"])
    estimator = KMeans(
        3, seed=3, use_mini_batch=False, num_restarts=4, relative_tolerance=1e-5
    ).train(lambda: rows, [history])
    assert history.history["loss"][-1] == min(history.history["loss"])
    np.testing.assert_array_equal(history.history["clusters"][-1], estimator.cluster_centers())


# What is refused.


@pytest.mark.parametrize(
    "call",
    [
        lambda estimator, hooks: estimator.train(lambda: iter(BATCHES), hooks),
        lambda estimator, hooks: estimator.evaluate(lambda: iter(BATCHES), None, hooks),
        lambda estimator, hooks: estimator.predict(lambda: iter(BATCHES), None, hooks),
    ],
    ids=["train", "evaluate", "predict"],
)
def test_a_hook_that_is_none_is_a_type_error(call):
    estimator = model()
    for hooks in (Diary(), "hook", 3, [object()], [Diary(), None], [Witness()], [Diary]):
        with pytest.raises(TypeError, match=r"hooks must be a list of dkmeans\.hooks\.SessionRunH"):
            call(estimator, hooks)
    assert estimator.latest_checkpoint() is None


def test_a_listener_that_is_none_is_a_type_error():
    for listeners in (Witness(), [Diary()], [3]):
        with pytest.raises(TypeError, match=r"saving_listeners must be .*CheckpointSaverListener"):
            model().train(lambda: iter(BATCHES), saving_listeners=listeners)


@pytest.mark.parametrize("name", ["save_checkpoints_secs", "save_checkpoints_steps"])
def test_listeners_without_checkpoints_on_the_way_are_refused(name):
    estimator = model(config=RunConfig(**{name: 0}))
    with pytest.raises(ValueError, match=r"saving_listeners need checkpoints.*save_checkpoints_s"):
        estimator.train(lambda: iter(BATCHES), saving_listeners=[Witness()])
    estimator.train(lambda: iter(BATCHES), saving_listeners=[])
    assert steps_saved(estimator) == [0, 10]


# What goes wrong in them.


def failing(base, method):
    def fail(self, *arguments):
        raise RuntimeError(f"broken {method}")

    return type("Failing", (base,), {method: fail})()


@in_every_mode
@pytest.mark.parametrize("method", ["begin", "after_create_session", "before_run", "after_run"])
def test_an_error_in_a_hook_goes_on_its_way_and_the_last_checkpoint_stands(method, mode):
    estimator = model(**mode).train(lambda: iter(BATCHES), steps=3)
    before, diary = values_of(estimator), Diary()
    with pytest.raises(RuntimeError, match=f"broken {method}"):
        estimator.train(lambda: iter(BATCHES), [failing(SessionRunHook, method), diary])
    assert values_of(estimator) == before
    assert not [entry for entry in diary.entries if "end" in entry]


def test_an_error_in_a_hook_leaves_the_checkpoints_on_the_way():
    class Late(SessionRunHook):
        def after_run(self, run_context, run_values):
            if run_context.session.run("global_step") == 5:
                raise RuntimeError("broken")

    estimator = model(config=RunConfig(save_checkpoints_steps=2))
    with pytest.raises(RuntimeError, match="broken"):
        estimator.train(lambda: iter(BATCHES), [Late()])
    assert step_of(estimator) == 4


@pytest.mark.parametrize("method", ["begin", "before_save", "after_save", "end"])
def test_an_error_in_a_listener_goes_on_its_way(method):
    estimator = model().train(lambda: iter(BATCHES), steps=3)
    with pytest.raises(RuntimeError, match=f"broken {method}"):
        estimator.train(
            lambda: iter(BATCHES),
            steps=1,
            saving_listeners=[failing(CheckpointSaverListener, method)],
        )
    assert step_of(estimator) == (4 if method == "end" else 3)


def test_an_interrupt_in_a_hook_saves_what_was_computed():
    class Interrupted(SessionRunHook):
        def after_run(self, run_context, run_values):
            if run_context.session.run("global_step") == 5:
                raise KeyboardInterrupt

    estimator = model()
    with pytest.raises(KeyboardInterrupt):
        estimator.train(lambda: iter(BATCHES), [Interrupted()])
    assert step_of(estimator) == 5


def test_an_error_in_the_input_ends_no_hook():
    def broken():
        yield BATCHES[0]
        raise OSError("the disk is gone")

    diary = Diary()
    with pytest.raises(OSError, match="the disk is gone"):
        model().train(broken, [diary])
    assert diary.entries[-1] == "hook after_run 1"


# Evaluations and predictions.


@pytest.fixture
def trained():
    return model().train(lambda: iter(BATCHES), steps=2)


def test_an_evaluation_tells_of_every_batch_with_its_loss(trained):
    diary = Diary(asks=["loss", "average_loss", "clusters"])
    result = trained.evaluate(lambda: iter(BATCHES), 3, [diary])
    steps = ["hook before_run 2", "hook after_run 2"] * 3
    assert diary.entries == ["hook begin", "hook after_create_session 2", *steps, "hook end 2"]
    losses = [loss for loss, _, _ in diary.answers]
    assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert [average for _, average, _ in diary.answers] == [
        loss / len(rows) for loss, rows in zip(losses, BATCHES, strict=False)
    ]
    np.testing.assert_array_equal(diary.answers[0][2], trained.cluster_centers())


def test_an_evaluation_may_be_stopped(trained):
    class Second(SessionRunHook):
        def __init__(self):
            self.batches = 0

        def after_run(self, run_context, run_values):
            self.batches += 1
            if self.batches == 2:
                run_context.request_stop()

    stopped = trained.evaluate(lambda: iter(BATCHES), hooks=[Second()])
    assert stopped == trained.evaluate(lambda: iter(BATCHES), steps=2)
    rows = list(trained.predict(lambda: iter(BATCHES), hooks=[Second()]))
    assert len(rows) == len(BATCHES[0]) + len(BATCHES[1])


@pytest.mark.parametrize("single", [True, False])
def test_a_prediction_tells_of_every_batch(trained, single):
    diary = Diary(asks="global_step")
    list(
        trained.predict(
            lambda: iter(BATCHES[:2]), None, [diary], None, yield_single_examples=single
        )
    )
    steps = ["hook before_run 2", "hook after_run 2"] * 2
    assert diary.entries == ["hook begin", "hook after_create_session 2", *steps, "hook end 2"]
    assert diary.answers == [2, 2]


def test_a_prediction_that_is_dropped_ends_no_hook(trained):
    diary = Diary()
    predictions = trained.predict(lambda: iter(BATCHES), hooks=[diary])
    assert diary.entries == []
    next(predictions)
    predictions.close()
    assert diary.entries[-1] == "hook before_run 2"


def test_a_prediction_has_no_loss(trained):
    with pytest.raises(ValueError, match="got 'loss'"):
        list(trained.predict(lambda: iter(BATCHES), hooks=[Diary(asks="loss")]))


# Ready ones: stopping.


def test_stop_at_step_counts_this_calls_steps_or_all():
    estimator = model(**THREE)
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


def test_no_decrease_stops_after_so_many_steps_without_a_better_value():
    far, near = rows_of(30, seed=5) * 9, rows_of(10, seed=5)
    batches = [far, near, far, far, near * 0.5, far, far, far, far]
    history = HistoryHook(["average_loss"])
    estimator = model(use_mini_batch=False)
    estimator.train(lambda: iter(batches), [StopIfNoDecreaseHook(3), history])
    values = history.history["average_loss"]
    best = int(np.argmin(values)) + 1
    assert step_of(estimator) == best + 3 < len(batches)


def test_no_decrease_goes_by_the_mean_of_a_row_so_that_small_batches_are_not_better():
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


# Ready ones: recording.


@in_every_mode
def test_a_history_has_the_values_of_every_step_over_several_calls(mode):
    history = HistoryHook(["loss", "empty_clusters"])
    estimator = model(**mode)
    for _ in range(2):
        estimator.train(lambda: iter(BATCHES[:4]), [history])
    assert history.history["global_step"] == list(range(1, 9))
    assert set(history.history) == {"global_step", "loss", "empty_clusters"}
    assert all(type(loss) is float for loss in history.history["loss"])


def test_a_history_takes_a_list_of_names():
    with pytest.raises(ValueError, match="names must be a list of names, got 'loss'"):
        HistoryHook("loss")


def messages(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "dkmeans.hooks.recording"]


def test_logging_tells_values_from_the_first_step_every_so_many(caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    model().train(lambda: iter(BATCHES[:5]), [LoggingTensorHook(["global_step"], every_n_iter=2)])
    assert messages(caplog) == [f"global_step = {step}" for step in (1, 3, 5)]


def test_logging_names_values_as_it_is_told_to_and_may_do_so_at_the_end(caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    hook = LoggingTensorHook({"at": "global_step"}, at_end=True)
    model().train(lambda: iter(BATCHES[:5]), [hook])
    assert messages(caplog) == ["at = 5"]


def test_logging_goes_by_seconds_and_has_its_lines_made(caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    hook = LoggingTensorHook(
        ["loss"], every_n_secs=1000, formatter=lambda values: f"<{sorted(values)}>"
    )
    model().train(lambda: iter(BATCHES[:5]), [hook])
    assert messages(caplog) == ["<['loss']>"]


def test_logging_takes_exactly_one_number():
    for numbers in ({}, {"every_n_iter": 1, "every_n_secs": 1}):
        with pytest.raises(ValueError, match="exactly one of every_n_iter and every_n_secs must"):
            LoggingTensorHook(["loss"], **numbers)
    with pytest.raises(ValueError, match="every_n_iter must be an integer >= 1, got 0"):
        LoggingTensorHook(["loss"], every_n_iter=0)
    with pytest.raises(ValueError, match="every_n_secs must be > 0 or None, got 0"):
        LoggingTensorHook(["loss"], every_n_secs=0)
    with pytest.raises(TypeError, match="every_n_secs must be a number"):
        LoggingTensorHook(["loss"], every_n_secs="1")


def test_a_pace_tells_how_fast_steps_go():
    pace = Interval(3, None)
    assert pace.is_due(5)
    assert pace.mark(5) is None
    assert [pace.is_due(step) for step in (6, 7, 8, 9)] == [False, False, True, True]
    assert pace.mark(8) > 0


def test_a_file_for_prometheus_says_where_training_stands(tmp_path):
    path = tmp_path / "kmeans.prom"
    hook, history = PrometheusHook(path, every_n_secs=1000), HistoryHook()
    model().train(lambda: iter(BATCHES[:1]), [hook])
    assert "dkmeans_global_step 1.0" in path.read_text()
    model().train(lambda: iter(BATCHES[:5]), [hook, history])
    lines = path.read_text().splitlines()
    assert "dkmeans_global_step 5.0" in lines
    assert f"dkmeans_loss {history.history['loss'][-1]!r}" in lines
    assert list(tmp_path.iterdir()) == [path]


# Charts.


def charts(directory):
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def steps(points):
    return [step for step, _ in points]


def test_training_draws_charts_that_tensorboard_reads(tmp_path):
    history = HistoryHook(["loss", "average_loss", "empty_clusters"])
    config = RunConfig(save_summary_steps=3)
    model(tmp_path, config).train(lambda: iter(BATCHES), [history])
    found = charts(tmp_path)
    assert set(found) == {"loss", "average_loss", "empty_clusters", "global_step/sec"}
    for name in ("loss", "average_loss", "empty_clusters"):
        values = np.float32(history.history[name])[::3]
        assert found[name] == list(zip([1, 4, 7, 10], values, strict=True))
    assert steps(found["global_step/sec"]) == [4, 7, 10]


def test_calls_that_follow_draw_one_chart(tmp_path):
    config = RunConfig(save_summary_steps=1)
    for _ in range(3):
        model(tmp_path, config).train(lambda: iter(BATCHES[:2]))
    assert steps(charts(tmp_path)["loss"]) == [1, 2, 3, 4, 5, 6]


def test_points_beyond_the_checkpoint_that_is_gone_on_from_are_given_up(tmp_path):
    hook = SummarySaverHook(save_steps=1, output_dir=str(tmp_path))
    estimator = model(config=RunConfig(save_summary_steps=0))
    model().train(lambda: iter(BATCHES[:6]), [hook])  # a run that got further, and was lost
    estimator.train(lambda: iter(BATCHES[:3]))
    estimator.train(lambda: iter(BATCHES[:1]), [hook])
    assert steps(charts(tmp_path)["loss"]) == [1, 2, 3, 4]


def test_evaluations_draw_below_their_own_directory(tmp_path):
    estimator = model(tmp_path, RunConfig())
    for steps_done in (2, 5):
        estimator.train(lambda: iter(BATCHES), max_steps=steps_done)
        result = estimator.evaluate(lambda: BATCHES[0], name="held out")
    found = charts(estimator.eval_dir("held out"))
    assert set(found) == {"average_loss", "loss", "score"}
    assert steps(found["loss"]) == [2, 5]
    assert found["loss"][-1][1] == np.float32(result["loss"])


@pytest.mark.parametrize("none", [0, None])
def test_no_charts_are_drawn_where_none_are_wanted(tmp_path, none):
    estimator = model(tmp_path, RunConfig(save_summary_steps=none))
    estimator.train(lambda: iter(BATCHES)).evaluate(lambda: BATCHES[0])
    assert not list(Path(tmp_path).rglob("*tfevents*"))


def test_without_the_packages_training_goes_on_and_hooks_say_what_is_missing(tmp_path, monkeypatch):
    for package in ("tensorboard", "prometheus_client"):
        monkeypatch.setitem(sys.modules, package, None)
    model(tmp_path, RunConfig()).train(lambda: iter(BATCHES)).evaluate(lambda: BATCHES[0])
    assert not list(Path(tmp_path).rglob("*tfevents*"))
    with pytest.raises(Invalid, match=r"needs the package tensorboard: pip install 'dkmeans\[ten"):
        SummarySaverHook(1, output_dir=str(tmp_path))
    with pytest.raises(Invalid, match=r"package prometheus_client: pip install 'dkmeans\[prom"):
        PrometheusHook(tmp_path / "kmeans.prom")


def test_charts_take_exactly_one_number(tmp_path):
    with pytest.raises(ValueError, match="exactly one of save_steps and save_secs must be given"):
        SummarySaverHook(output_dir=str(tmp_path))


def test_charts_are_drawn_in_an_object_store(s3):
    estimator = model(f"{s3}/{uuid4().hex}", RunConfig())
    estimator.train(lambda: iter(BATCHES[:2]))
    estimator.train(lambda: iter(BATCHES[:2]))
    assert step_of(estimator) == 4
