"""Hooks that record values: history, log and Prometheus."""

import logging
import shutil

import pytest

from dkmeans import Invalid
from dkmeans.hooks import HistoryHook, LoggingTensorHook, PrometheusHook
from tests.hooks.recorders import BATCHES, StepHook, in_every_mode, model, step_of


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


def test_prometheus_gets_a_file_with_the_last_values(tmp_path):
    path = tmp_path / "kmeans.prom"
    hook, history = PrometheusHook(path, every_n_secs=1000), HistoryHook()
    model().train(lambda: iter(BATCHES[:1]), [hook])
    assert "dkmeans_global_step 1.0" in path.read_text()
    model().train(lambda: iter(BATCHES[:5]), [hook, history])
    lines = path.read_text().splitlines()
    assert "dkmeans_global_step 5.0" in lines
    assert f"dkmeans_loss {history.history['loss'][-1]!r}" in lines
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["missing/a.prom", "folder", "file/a.prom", "a\0.prom", 250 * "a"])
def test_a_metrics_file_that_cannot_be_written_is_refused_before_the_first_step(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    path, estimator, history = tmp_path / name, model(), HistoryHook()
    with pytest.raises(Invalid, match="the metrics file must be writable, got") as caught:
        estimator.train(lambda: iter(BATCHES), [PrometheusHook(path), history])
    assert repr(str(path)) in str(caught.value)
    assert history.history["global_step"] == []
    assert estimator.latest_checkpoint() is None


def test_a_metrics_file_that_cannot_be_written_later_is_one_warning_and_the_fit_goes_on(
    tmp_path, caplog
):
    path = tmp_path / "folder" / "kmeans.prom"
    path.parent.mkdir()
    hook, estimator = PrometheusHook(path, every_n_secs=1e-9), model()
    remover = StepHook({3: lambda: shutil.rmtree(path.parent)})
    estimator.train(lambda: iter(BATCHES), [remover, hook])
    assert step_of(estimator) == 10
    lines = [line for line in messages(caplog) if "metrics file" in line]
    assert len(lines) == 1
    assert f"going on without the metrics file {path}, which cannot be written: " in lines[0]


def test_a_metrics_file_that_can_be_written_again_has_the_last_values(tmp_path):
    path = tmp_path / "folder" / "kmeans.prom"
    path.parent.mkdir()
    actions = {3: lambda: shutil.rmtree(path.parent), 6: lambda: path.parent.mkdir()}
    hook = PrometheusHook(path, every_n_secs=1e-9)
    model().train(lambda: iter(BATCHES), [StepHook(actions), hook])
    assert "dkmeans_global_step 10.0" in path.read_text()
