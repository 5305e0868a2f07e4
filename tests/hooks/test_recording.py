"""Hooks that record values: history and log."""

import logging

import pytest

from dkmeans import Invalid
from dkmeans.hooks import HistoryHook, LoggingTensorHook
from tests.hooks.recorders import BATCHES, in_every_mode, model


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
    return [r.getMessage() for r in caplog.records if r.module == "recording"]


def test_logging_starts_at_the_first_step_and_repeats_at_the_interval(caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    model().train(lambda: iter(BATCHES[:5]), [LoggingTensorHook(["global_step"], every_n_iter=2)])
    assert messages(caplog) == [f"global_step = {step}" for step in (1, 3, 5)]


def test_logging_uses_the_given_labels_and_may_log_only_at_the_end(caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    hook = LoggingTensorHook({"at": "global_step"}, at_end=True)
    model().train(lambda: iter(BATCHES[:5]), [hook])
    assert messages(caplog) == ["at = 5"]


def test_logging_takes_an_interval_in_seconds_and_a_formatter(caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    hook = LoggingTensorHook(
        ["loss"], every_n_secs=1000, formatter=lambda values: f"<{sorted(values)}>"
    )
    model().train(lambda: iter(BATCHES[:5]), [hook])
    assert messages(caplog) == ["<['loss']>"]


def test_logging_takes_a_list_of_names():
    with pytest.raises(Invalid, match="tensors must be a list of names, or a dict, got 'loss'"):
        LoggingTensorHook("loss", every_n_iter=1)


def test_logging_takes_exactly_one_interval():
    for numbers in ({}, {"every_n_iter": 1, "every_n_secs": 1}):
        with pytest.raises(ValueError, match="exactly one of every_n_iter and every_n_secs must"):
            LoggingTensorHook(["loss"], **numbers)
    with pytest.raises(ValueError, match="every_n_iter must be an integer >= 1, got 0"):
        LoggingTensorHook(["loss"], every_n_iter=0)
    with pytest.raises(ValueError, match="every_n_secs must be > 0 or None, got 0"):
        LoggingTensorHook(["loss"], every_n_secs=0)
    with pytest.raises(TypeError, match="every_n_secs must be a number"):
        LoggingTensorHook(["loss"], every_n_secs="1")
