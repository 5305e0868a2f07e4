"""Charts: event files that TensorBoard reads."""

import sys
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dkmeans import Invalid, RunConfig
from dkmeans.hooks import HistoryHook, PrometheusHook, SummarySaverHook
from tests.hooks.recorders import BATCHES, model, step_of


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


def test_consecutive_calls_continue_one_chart(tmp_path):
    config = RunConfig(save_summary_steps=1)
    for _ in range(3):
        model(tmp_path, config).train(lambda: iter(BATCHES[:2]))
    assert steps(charts(tmp_path)["loss"]) == [1, 2, 3, 4, 5, 6]


def test_points_after_the_continued_checkpoint_are_discarded(tmp_path):
    hook = SummarySaverHook(save_steps=1, output_dir=str(tmp_path))
    estimator = model(config=RunConfig(save_summary_steps=0))
    model().train(lambda: iter(BATCHES[:6]), [hook])  # a longer run, whose model was lost
    estimator.train(lambda: iter(BATCHES[:3]))
    estimator.train(lambda: iter(BATCHES[:1]), [hook])
    assert steps(charts(tmp_path)["loss"]) == [1, 2, 3, 4]


def test_evaluations_draw_charts_in_their_own_directory(tmp_path):
    estimator = model(tmp_path, RunConfig())
    for steps_done in (2, 5):
        estimator.train(lambda: iter(BATCHES), max_steps=steps_done)
        result = estimator.evaluate(lambda: BATCHES[0], name="held out")
    found = charts(estimator.eval_dir("held out"))
    assert set(found) == {"average_loss", "loss", "score"}
    assert steps(found["loss"]) == [2, 5]
    assert found["loss"][-1][1] == np.float32(result["loss"])


@pytest.mark.parametrize("none", [0, None])
def test_no_charts_are_drawn_without_save_summary_steps(tmp_path, none):
    estimator = model(tmp_path, RunConfig(save_summary_steps=none))
    estimator.train(lambda: iter(BATCHES)).evaluate(lambda: BATCHES[0])
    assert not list(Path(tmp_path).rglob("*tfevents*"))


def test_without_the_packages_training_works_and_the_hooks_name_the_missing_package(
    tmp_path, monkeypatch
):
    for package in ("tensorboard", "prometheus_client"):
        monkeypatch.setitem(sys.modules, package, None)
    model(tmp_path, RunConfig()).train(lambda: iter(BATCHES)).evaluate(lambda: BATCHES[0])
    assert not list(Path(tmp_path).rglob("*tfevents*"))
    with pytest.raises(Invalid, match=r"needs the package tensorboard: pip install 'dkmeans\[ten"):
        SummarySaverHook(1, output_dir=str(tmp_path))
    with pytest.raises(Invalid, match=r"package prometheus_client: pip install 'dkmeans\[prom"):
        PrometheusHook(tmp_path / "kmeans.prom")


def test_charts_take_exactly_one_interval(tmp_path):
    with pytest.raises(ValueError, match="exactly one of save_steps and save_secs must be given"):
        SummarySaverHook(output_dir=str(tmp_path))


def test_charts_are_drawn_in_an_object_store(s3):
    estimator = model(f"{s3}/{uuid4().hex}", RunConfig())
    estimator.train(lambda: iter(BATCHES[:2]))
    estimator.train(lambda: iter(BATCHES[:2]))
    assert step_of(estimator) == 4
