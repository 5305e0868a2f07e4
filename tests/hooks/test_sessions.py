"""Values that hooks see: names, steps, copies, and what is refused."""

import numpy as np
import pytest

from dkmeans import KMeans
from dkmeans.hooks import HistoryHook, SessionRunHook
from tests import reference
from tests.hooks.recorders import (
    BATCHES,
    CENTERS,
    MODES,
    THREE_STEPS,
    RecordingHook,
    model,
    rows_of,
    values_of,
)
from tests.reference import EUCLIDEAN


@pytest.fixture
def trained():
    return model().train(lambda: iter(BATCHES), steps=2)


def test_values_are_those_after_the_step_and_the_loss_is_from_before_its_update():
    hook = RecordingHook(
        requests={"loss": "loss", "centers": ["clusters"], "step": ("global_step",)}
    )
    model(**MODES["full batch"]).train(lambda: iter(BATCHES[:3]), [hook])
    centers = CENTERS
    for step, (rows, seen) in enumerate(zip(BATCHES, hook.results, strict=False), 1):
        centers, loss = reference.full_batch_step(rows, centers, EUCLIDEAN)
        assert seen["loss"] == pytest.approx(loss, rel=1e-6)
        assert seen["step"] == (step,)
        np.testing.assert_allclose(seen["centers"][0], centers, rtol=1e-5)
    assert len(hook.results) == 3


def test_within_an_iteration_each_step_has_its_own_loss_and_sums():
    names = ["loss", "average_loss", "update_in_steps", "Variable", "clusters"]
    hook = RecordingHook(requests=names)
    model(**THREE_STEPS).train(lambda: iter(BATCHES[:6]), [hook])
    _, losses = reference.mini_batch_iteration(BATCHES[:3], CENTERS, EUCLIDEAN)
    for step, (loss, average, pending, counts, centers) in enumerate(hook.results[:3], 1):
        assert loss == pytest.approx(losses[step - 1], rel=1e-6)
        assert average == loss / len(BATCHES[step - 1])
        assert pending == step % 3
        rows = sum(map(len, BATCHES[:step])) if step < 3 else 0
        assert counts.sum() == rows
        assert (centers == CENTERS).all() == (step < 3)


def test_every_variable_can_be_requested_also_by_its_tensorflow_name():
    for mode in MODES.values():
        estimator = model(**mode)
        names = [*estimator.train(lambda: iter(BATCHES), steps=2).get_variable_names()]
        hook = RecordingHook(requests=[*names, "clusters:0", "empty_clusters", "loss:0"])
        estimator.train(lambda: iter(BATCHES), [hook], steps=1)
        found = dict(zip(hook.requests, hook.results[0], strict=True))
        for name in names:
            np.testing.assert_array_equal(found[name], estimator.get_variable_value(name))
        np.testing.assert_array_equal(found["clusters:0"], found["clusters"])
        assert found["empty_clusters"] == 0
        assert (type(found["global_step"]), type(found["loss:0"])) == (int, float)


def test_values_are_copies():
    class Overwriting(SessionRunHook):
        def after_run(self, run_context, run_values):
            run_context.session.run("clusters")[:] = 0

    spoiled = model().train(lambda: iter(BATCHES), [Overwriting()])
    assert values_of(spoiled) == values_of(model().train(lambda: iter(BATCHES)))


def test_a_hook_that_requests_nothing_gets_none():
    hook = RecordingHook()
    model().train(lambda: iter(BATCHES), [hook], steps=2)
    assert hook.results == [None, None]


def test_an_unknown_value_is_refused_with_the_known_names():
    known = "Variable, checkpoint_time, clusters, empty_clusters, global_step, .*got 'weights'"
    with pytest.raises(ValueError, match=f"fetches must be among {known}"):
        model().train(lambda: iter(BATCHES), [RecordingHook(requests=["loss", "weights"])])
    with pytest.raises(TypeError, match="fetches must be names, or lists or dicts of them, got 3"):
        model().train(lambda: iter(BATCHES), [RecordingHook(requests=3)])


def test_there_is_no_loss_before_the_first_step():
    class Early(SessionRunHook):
        def before_run(self, run_context):
            run_context.session.run("loss")

    with pytest.raises(ValueError, match="after a step loss and average_loss, got 'loss'"):
        model().train(lambda: iter(BATCHES), [Early()])


def test_before_run_must_return_session_run_args_or_none():
    class Wrong(SessionRunHook):
        def before_run(self, run_context):
            return ["loss"]

    with pytest.raises(TypeError, match=r"Wrong\.before_run returns must be .*SessionRunArgs or N"):
        model().train(lambda: iter(BATCHES), [Wrong()])


def test_hooks_see_the_best_of_several_starts_also_after_it_has_converged():
    rows, history = rows_of(200), HistoryHook(["loss", "clusters"])
    estimator = KMeans(
        3, seed=3, use_mini_batch=False, num_restarts=4, relative_tolerance=1e-5
    ).train(lambda: rows, [history])
    assert history.history["loss"][-1] == min(history.history["loss"])
    np.testing.assert_array_equal(history.history["clusters"][-1], estimator.cluster_centers())


def test_a_prediction_has_no_loss(trained):
    with pytest.raises(ValueError, match="got 'loss'"):
        list(trained.predict(lambda: iter(BATCHES), hooks=[RecordingHook(requests="loss")]))
