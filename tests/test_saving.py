"""The saver: when checkpoints are written, beside what, and what an error or interrupt leaves."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from dkmeans import Conflict, KMeans, RunConfig, checkpoints
from dkmeans.fit import Fit
from dkmeans.hooks import SessionRunArgs, SessionRunHook
from tests.train_calls import batches_of, model, rows_of, step_of


@pytest.mark.parametrize("steps", [1, 4])
def test_checkpoints_are_saved_every_so_many_steps(steps):
    config = RunConfig(save_checkpoints_steps=steps, keep_checkpoint_max=0)
    estimator = model(config=config).train(lambda: iter(batches_of(10)))
    saved = [
        int(name.split("-")[1]) for name in checkpoints.Manifest.read(estimator.model_dir).names
    ]
    assert sorted({0, *range(steps, 11, steps), 10}) == sorted(set(saved))


def test_a_resumed_call_counts_the_steps_to_its_next_checkpoint_from_its_first(tmp_path):
    config = RunConfig(save_checkpoints_steps=4, keep_checkpoint_max=0)
    model(tmp_path, config=config).train(lambda: iter(batches_of(5)))
    model(tmp_path, config=config).train(lambda: iter(batches_of(6)))
    saved = {int(name.split("-")[1]) for name in checkpoints.Manifest.read(str(tmp_path)).names}
    assert saved == {0, 4, 5, 9, 11}


def other_driver(model_dir, step):
    """Save a checkpoint of a later step, as another driver does."""
    manifest, found = checkpoints.open_latest(model_dir)
    (start,) = found.fit.starts
    fit = Fit((replace(start, state=replace(start.state, step=step)),))
    checkpoints.save(model_dir, manifest, fit, found.settings, None, 5)


def test_a_driver_that_is_overtaken_raises_and_leaves_the_others_checkpoint(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    own = KMeans(2, str(tmp_path), seed=1, config=RunConfig(save_checkpoints_steps=3))
    own.train(lambda: rows, steps=1)

    def overtaken():
        for number in range(9):
            if number == 2:
                other_driver(own.model_dir, 520)
            yield rows

    with pytest.raises(Conflict, match="two of them are training"):
        own.train(lambda: overtaken())
    assert own.get_variable_value("global_step") == 520


def test_a_driver_that_is_overtaken_while_it_reads_its_input_raises_too(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    own = KMeans(2, str(tmp_path), seed=1)
    own.train(lambda: rows, steps=1)

    def slow():
        other_driver(own.model_dir, 505)
        return rows

    with pytest.raises(Conflict):
        own.train(slow, steps=1)
    assert own.get_variable_value("global_step") == 505


class Seen(SessionRunHook):
    """Sets an event when a step is done, and may then raise an error."""

    def __init__(self, step, error=None):
        self.event, self._step, self._error = threading.Event(), step, error

    def before_run(self, context):
        return SessionRunArgs("global_step")

    def after_run(self, context, values):
        if values.results == self._step:
            self.event.set()
            if self._error:
                raise self._error


def test_training_goes_on_while_a_checkpoint_is_written_and_all_are_kept(tmp_path, monkeypatch):
    save, seen, in_time = checkpoints.save, Seen(5), []

    def slow(model_dir, manifest, fit, *rest):
        if fit.step == 4:
            in_time.append(seen.event.wait(60))
        return save(model_dir, manifest, fit, *rest)

    monkeypatch.setattr(checkpoints, "save", slow)
    config = RunConfig(save_checkpoints_steps=2, keep_checkpoint_max=3)
    trained = model(tmp_path, config=config).train(lambda: rows_of(), [seen], steps=7)
    assert in_time == [True]
    names = checkpoints.Manifest.read(str(tmp_path)).names
    assert [int(name.split("-")[1]) for name in names] == [4, 6, 7]
    expected = model().train(lambda: rows_of(), steps=7)
    np.testing.assert_array_equal(trained.cluster_centers(), expected.cluster_centers())


def test_a_write_that_has_failed_ends_the_fit_at_the_next_save_and_loses_no_step(
    tmp_path, monkeypatch
):
    save = checkpoints.save

    def full(model_dir, manifest, fit, *rest):
        if fit.step == 2:
            raise OSError("no space left")
        return save(model_dir, manifest, fit, *rest)

    monkeypatch.setattr(checkpoints, "save", full)
    estimator = model(tmp_path, config=RunConfig(save_checkpoints_steps=2))
    with pytest.raises(OSError, match="no space left"):
        estimator.train(lambda: rows_of(), steps=7)
    assert step_of(estimator) == 4


def test_nothing_is_written_after_a_call_that_a_hook_has_ended_while_a_write_went_on(
    tmp_path, monkeypatch
):
    save, failing = checkpoints.save, Seen(3, RuntimeError("of a hook"))

    def slow(model_dir, manifest, fit, *rest):
        if fit.step == 2:
            assert failing.event.wait(60)
            time.sleep(0.3)  # the error of the hook is on its way
        return save(model_dir, manifest, fit, *rest)

    monkeypatch.setattr(checkpoints, "save", slow)
    estimator = model(tmp_path, config=RunConfig(save_checkpoints_steps=2))
    with pytest.raises(RuntimeError, match="of a hook"):
        estimator.train(lambda: rows_of(), [failing], steps=7)
    assert step_of(estimator) == 2


def test_an_interrupt_while_the_closing_checkpoint_is_written_loses_nothing(tmp_path, monkeypatch):
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    own = KMeans(2, str(tmp_path), seed=1)
    save, interrupts = checkpoints.save, [KeyboardInterrupt]

    def interrupted(model_dir, manifest, fit, *rest):
        if fit.step == 5 and interrupts:
            raise interrupts.pop()
        return save(model_dir, manifest, fit, *rest)

    monkeypatch.setattr(checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        own.train(lambda: rows, steps=5)
    assert own.get_variable_value("global_step") == 5


def test_an_interrupt_just_after_the_closing_checkpoint_is_written_saves_it_once(
    tmp_path, monkeypatch
):
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    own = KMeans(2, str(tmp_path), seed=1)
    save = checkpoints.save

    def interrupted(model_dir, manifest, fit, *rest):
        save(model_dir, manifest, fit, *rest)
        raise KeyboardInterrupt

    own.train(lambda: rows, steps=1)
    monkeypatch.setattr(checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        own.train(lambda: rows, steps=4)
    assert own.get_variable_value("global_step") == 5
    assert len(checkpoints.Manifest.read(own.model_dir).names) == 3
