"""Hooks and listeners that record their calls, and a small model to train with them."""

from uuid import uuid4

import numpy as np
import pytest

from dkmeans import KMeans, RunConfig, checkpoints
from dkmeans.hooks import CheckpointSaverListener, SessionRunArgs, SessionRunHook
from tests.train_calls import MODES, rows_of

THREE_STEPS = MODES["three steps"]
in_every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
EVERY_STEP = RunConfig(save_checkpoints_steps=1, keep_checkpoint_max=0)
RARELY = RunConfig(save_checkpoints_steps=1000)
BATCHES = [rows_of(20 + seed, seed=seed) for seed in range(10)]
CENTERS = rows_of(4, seed=99)


def model(model_dir=None, config=RARELY, **more):
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


class RecordingHook(SessionRunHook):
    """A hook that records its calls, requests the given values and stores the results."""

    def __init__(self, name="hook", calls=None, requests=None):
        self.name, self.calls = name, [] if calls is None else calls
        self.requests, self.results = requests, []

    def _record(self, call):
        self.calls.append(f"{self.name} {call}")

    def begin(self):
        self._record("begin")

    def after_create_session(self, session, coord):
        self._record(f"after_create_session {session.run('global_step')}")

    def before_run(self, run_context):
        self._record(f"before_run {run_context.session.run('global_step')}")
        return None if self.requests is None else SessionRunArgs(self.requests)

    def after_run(self, run_context, run_values):
        self._record(f"after_run {run_context.session.run('global_step')}")
        self.results.append(run_values.results)

    def end(self, session):
        self._record(f"end {session.run('global_step')}")

    def abort(self, error):
        self._record(f"abort {error!r}")


class RecordingListener(CheckpointSaverListener):
    """A listener that records its calls, and requests a stop after the checkpoint of a step."""

    def __init__(self, name="listener", calls=None, stop_at=None):
        self.name, self.calls, self.stop_at = name, [] if calls is None else calls, stop_at

    def begin(self):
        self.calls.append(f"{self.name} begin")

    def before_save(self, session, global_step_value):
        assert session.run("global_step") == global_step_value
        self.calls.append(f"{self.name} before_save {global_step_value}")

    def after_save(self, session, global_step_value):
        self.calls.append(f"{self.name} after_save {global_step_value}")
        return global_step_value == self.stop_at

    def end(self, session, global_step_value):
        assert session.run("global_step") == global_step_value
        self.calls.append(f"{self.name} end {global_step_value}")


class StopAt(SessionRunHook):
    """A hook that requests a stop in one of its methods, after a number of steps."""

    def __init__(self, step, method="after_run"):
        self.step, self.method = step, method

    def _stop(self, method, context):
        if self.method == method and context.session.run("global_step") == self.step:
            assert not context.stop_requested
            context.request_stop()
            assert context.stop_requested

    def before_run(self, run_context):
        self._stop("before_run", run_context)

    def after_run(self, run_context, run_values):
        self._stop("after_run", run_context)


class StepHook(SessionRunHook):
    """A hook that calls a function after some steps.

    Args:
        actions: The functions, by step.
    """

    def __init__(self, actions):
        self._actions = actions

    def before_run(self, run_context):
        return SessionRunArgs("global_step")

    def after_run(self, run_context, run_values):
        self._actions.get(run_values.results, lambda: None)()
