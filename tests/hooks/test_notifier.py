"""Calls of hooks and listeners: their order, their errors, and what is refused."""

import numpy as np
import pytest

from dkmeans import KMeans, RunConfig
from dkmeans.hooks import CheckpointSaverListener, SessionRunHook
from tests.hooks.recorders import (
    BATCHES,
    EVERY_STEP,
    THREE_STEPS,
    RecordingHook,
    RecordingListener,
    in_every_mode,
    model,
    step_of,
    steps_saved,
    values_of,
)


@pytest.fixture
def trained():
    return model().train(lambda: iter(BATCHES), steps=2)


def test_training_calls_in_the_documented_order():
    calls = []
    hooks = [RecordingHook("a", calls), RecordingHook("b", calls)]
    config = RunConfig(save_checkpoints_steps=2)
    model(config=config).train(
        lambda: iter(BATCHES), hooks, 3, saving_listeners=[RecordingListener("l", calls)]
    )
    assert calls == [
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
def test_hooks_are_called_before_and_after_every_step_also_at_the_end_of_the_input(mode):
    hook = RecordingHook()
    model(**mode).train(lambda: iter(BATCHES[:5]), [hook])
    steps = [
        f"hook {when}"
        for step in range(5)
        for when in (f"before_run {step}", f"after_run {step + 1}")
    ]
    assert hook.calls == ["hook begin", "hook after_create_session 0", *steps, "hook end 5"]


def test_before_run_is_called_before_the_step_is_computed():
    events = []

    class Recorder(SessionRunHook):
        def before_run(self, run_context):
            events.append("before")

    def first_centers(rows, missing):
        events.append("first centers")
        return rows[:missing]

    estimator = KMeans(4, initial_clusters=first_centers)
    with pytest.raises(ValueError, match="finite"):
        estimator.train(
            lambda: iter([BATCHES[0], np.full((5, 3), np.nan, np.float32)]), [Recorder()]
        )
    assert events == ["first centers", "before", "before"]


def test_after_run_is_called_for_the_last_step_of_a_converged_call():
    hook = RecordingHook()
    model(relative_tolerance=1e9).train(lambda: iter(BATCHES), [hook])
    assert hook.calls[-2:] == ["hook after_run 2", "hook end 2"]


def test_listeners_are_called_once_for_each_step():
    listener = RecordingListener()
    estimator = model(config=EVERY_STEP)
    estimator.train(lambda: iter(BATCHES[:2]), saving_listeners=[listener])
    saved = [call for call in listener.calls if "after_save" in call]
    assert saved == [f"listener after_save {step}" for step in (0, 1, 2)]
    assert steps_saved(estimator) == [0, 1, 2, 2]  # the last also has the stop reason


def test_a_continued_call_reports_the_existing_checkpoint_to_listeners():
    estimator = model().train(lambda: iter(BATCHES), steps=2)
    before, listener = estimator.latest_checkpoint(), RecordingListener()
    estimator.train(lambda: iter(BATCHES), steps=1, saving_listeners=[listener])
    assert listener.calls == [
        "listener begin",
        *("listener before_save 2", "listener after_save 2"),
        *("listener before_save 3", "listener after_save 3"),
        "listener end 3",
    ]
    assert steps_saved(estimator) == [0, 2, 3]
    assert estimator.latest_checkpoint() != before


def test_after_save_sees_the_new_checkpoint_as_the_latest():
    estimator, seen = model(config=EVERY_STEP), []

    class Reader(CheckpointSaverListener):
        def after_save(self, session, global_step_value):
            seen.append((global_step_value, step_of(estimator)))

    estimator.train(lambda: iter(BATCHES), steps=3, saving_listeners=[Reader()])
    assert seen == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_checkpoints_are_saved_between_iterations():
    listener = RecordingListener()
    model(config=EVERY_STEP, **THREE_STEPS).train(
        lambda: iter(BATCHES), steps=7, saving_listeners=[listener]
    )
    saved = [call for call in listener.calls if "after_save" in call]
    assert saved == [f"listener after_save {step}" for step in (0, 3, 6, 7)]


def test_a_call_with_nothing_to_do_calls_no_hook():
    estimator, hook = model().train(lambda: iter(BATCHES), steps=3), RecordingHook()
    estimator.train(lambda: iter(BATCHES), [hook], max_steps=3)
    assert hook.calls == []


def test_hooks_and_listeners_change_no_bit():
    plain = model(**THREE_STEPS).train(lambda: iter(BATCHES))
    hooked = model(config=EVERY_STEP, **THREE_STEPS).train(
        lambda: iter(BATCHES),
        [RecordingHook(requests="clusters")],
        saving_listeners=[RecordingListener()],
    )
    assert values_of(hooked) == values_of(plain)


@pytest.mark.parametrize(
    "call",
    [
        lambda estimator, hooks: estimator.train(lambda: iter(BATCHES), hooks),
        lambda estimator, hooks: estimator.evaluate(lambda: iter(BATCHES), None, hooks),
        lambda estimator, hooks: estimator.predict(lambda: iter(BATCHES), None, hooks),
    ],
    ids=["train", "evaluate", "predict"],
)
def test_a_value_that_is_not_a_hook_is_a_type_error(call):
    estimator = model()
    for hooks in (
        RecordingHook(),
        "hook",
        3,
        [object()],
        [RecordingHook(), None],
        [RecordingListener()],
        [RecordingHook],
    ):
        with pytest.raises(TypeError, match=r"hooks must be a list of dkmeans\.hooks\.SessionRunH"):
            call(estimator, hooks)
    assert estimator.latest_checkpoint() is None


def test_a_value_that_is_not_a_listener_is_a_type_error():
    for listeners in (RecordingListener(), [RecordingHook()], [3]):
        with pytest.raises(TypeError, match=r"saving_listeners must be .*CheckpointSaverListener"):
            model().train(lambda: iter(BATCHES), saving_listeners=listeners)


@pytest.mark.parametrize("name", ["save_checkpoints_secs", "save_checkpoints_steps"])
def test_listeners_without_checkpoints_on_the_way_are_refused(name):
    estimator = model(config=RunConfig(**{name: 0}))
    with pytest.raises(ValueError, match=r"saving_listeners need checkpoints.*save_checkpoints_s"):
        estimator.train(lambda: iter(BATCHES), saving_listeners=[RecordingListener()])
    estimator.train(lambda: iter(BATCHES), saving_listeners=[])
    assert steps_saved(estimator) == [0, 10]


def failing(base, method):
    def fail(self, *arguments):
        raise RuntimeError(f"broken {method}")

    return type("Failing", (base,), {method: fail})()


@in_every_mode
@pytest.mark.parametrize("method", ["begin", "after_create_session", "before_run", "after_run"])
def test_an_error_in_a_hook_is_raised_and_the_last_checkpoint_stays(method, mode):
    estimator = model(**mode).train(lambda: iter(BATCHES), steps=3)
    before, hook = values_of(estimator), RecordingHook()
    with pytest.raises(RuntimeError, match=f"broken {method}"):
        estimator.train(lambda: iter(BATCHES), [failing(SessionRunHook, method), hook])
    assert values_of(estimator) == before
    assert not [call for call in hook.calls if "end" in call]


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
def test_an_error_in_a_listener_is_raised(method):
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


def test_an_error_in_the_input_calls_abort_of_every_hook_and_no_end(caplog):
    def broken():
        yield BATCHES[0]
        raise OSError("the disk is gone")

    class Failing(SessionRunHook):
        def abort(self, error):
            raise RuntimeError("broken too")

    hook = RecordingHook()
    with pytest.raises(OSError, match="the disk is gone"):
        model().train(broken, [Failing(), hook])
    assert hook.calls[-2:] == ["hook after_run 1", "hook abort OSError('the disk is gone')"]
    assert "cannot finish a call that ended with an error" in caplog.text


def test_an_evaluation_calls_hooks_for_every_batch_with_its_loss(trained):
    hook = RecordingHook(requests=["loss", "average_loss", "clusters"])
    result = trained.evaluate(lambda: iter(BATCHES), 3, [hook])
    steps = ["hook before_run 2", "hook after_run 2"] * 3
    assert hook.calls == ["hook begin", "hook after_create_session 2", *steps, "hook end 2"]
    losses = [loss for loss, _, _ in hook.results]
    assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert [average for _, average, _ in hook.results] == [
        loss / len(rows) for loss, rows in zip(losses, BATCHES, strict=False)
    ]
    np.testing.assert_array_equal(hook.results[0][2], trained.cluster_centers())


@pytest.mark.parametrize("single", [True, False])
def test_a_prediction_calls_hooks_for_every_batch(trained, single):
    hook = RecordingHook(requests="global_step")
    list(
        trained.predict(lambda: iter(BATCHES[:2]), None, [hook], None, yield_single_examples=single)
    )
    steps = ["hook before_run 2", "hook after_run 2"] * 2
    assert hook.calls == ["hook begin", "hook after_create_session 2", *steps, "hook end 2"]
    assert hook.results == [2, 2]


def test_a_prediction_that_is_closed_early_calls_no_end(trained):
    hook = RecordingHook()
    predictions = trained.predict(lambda: iter(BATCHES), hooks=[hook])
    assert hook.calls == []
    next(predictions)
    predictions.close()
    assert hook.calls[-1] == "hook before_run 2"


def test_the_average_loss_is_a_mean_by_weight():
    rows, weights = np.array([[0.0], [3.0], [9.0]]), np.array([0.5, 1.5, 0.0])
    trained, evaluated = (RecordingHook(requests=["loss", "average_loss"]) for _ in range(2))
    estimator = KMeans(1, initial_clusters=np.array([[1.0]]), use_mini_batch=False)
    batches = [(rows, {"weights": weights}), (rows, {"weights": np.zeros(3)})]
    estimator.train(lambda: iter(batches), [trained])
    assert trained.results == [[6.5, 3.25], [0.0, 0.0]]
    estimator.evaluate(lambda: iter(batches), hooks=[evaluated])
    mean = estimator.cluster_centers()[0, 0]
    loss = 0.5 * mean**2 + 1.5 * (3 - mean) ** 2
    assert evaluated.results == [[pytest.approx(loss), pytest.approx(loss / 2)], [0.0, 0.0]]
    with pytest.raises(ValueError, match="must not all have the weight zero"):
        estimator.evaluate(lambda: iter(batches[1:]))


def test_a_hook_that_has_ended_is_not_aborted_by_the_end_of_another():
    class Failing(SessionRunHook):
        def end(self, session):
            raise OSError("the disk is gone")

    first, last = RecordingHook("first"), RecordingHook("last")
    with pytest.raises(OSError, match="the disk is gone"):
        model().train(lambda: iter(BATCHES), [first, Failing(), last])
    assert [call.split()[1] for call in first.calls][-1] == "end"
    assert [call.split()[1] for call in last.calls][-1] == "abort"
