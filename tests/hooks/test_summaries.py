"""Charts: event files that TensorBoard reads."""

import logging
import shutil
import sys
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dkmeans import Invalid, RunConfig, storage
from dkmeans.hooks import HistoryHook, PrometheusHook, SummarySaverHook, summaries
from tests.hooks.recorders import BATCHES, StepHook, model, step_of


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


def test_many_calls_write_one_file_which_tensorboard_follows(tmp_path):
    estimator = model(tmp_path, RunConfig(save_summary_steps=1))
    reader, seen = EventAccumulator(str(tmp_path)), []
    for _ in range(4):
        estimator.train(lambda: iter(BATCHES[:2])).evaluate(lambda: BATCHES[0])
        seen.append(len(reader.Reload().Scalars("loss")))
    assert seen == [2, 4, 6, 8]
    for directory in (tmp_path, Path(estimator.eval_dir())):
        assert [path.name for path in directory.glob("*tfevents*")] == [
            "events.out.tfevents.dkmeans"
        ]


@pytest.mark.parametrize("left", [3, 11, 30])
def test_a_record_that_a_killed_driver_left_half_written_is_cut_off(tmp_path, left):
    estimator = model(tmp_path, RunConfig(save_summary_steps=1))
    estimator.train(lambda: iter(BATCHES[:2]))
    (file,) = tmp_path.glob("*tfevents*")
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:left])
    estimator.train(lambda: iter(BATCHES[:2]))
    assert steps(charts(tmp_path)["loss"]) == [1, 2, 3, 4]
    assert file.read_bytes().startswith(whole)


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


def test_charts_are_drawn_in_an_object_store(s3, tmp_path):
    estimator = model(f"{s3}/{uuid4().hex}", RunConfig(save_summary_steps=1))
    estimator.train(lambda: iter(BATCHES[:2]))
    estimator.train(lambda: iter(BATCHES[:2]))
    assert step_of(estimator) == 4
    (name,) = [name for name in storage.children(estimator.model_dir) if "tfevents" in name]
    (tmp_path / name).write_bytes(storage.read(f"{estimator.model_dir}/{name}").data)
    assert steps(charts(tmp_path)["average_loss"]) == [1, 2, 3, 4]


def test_a_directory_of_charts_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    directory, history = f"{tmp_path}/file/charts", HistoryHook()
    hook = SummarySaverHook(1, output_dir=directory)
    with pytest.raises(Invalid, match="output_dir must be writable, got") as caught:
        model().train(lambda: iter(BATCHES), [hook, history])
    assert directory in str(caught.value)
    assert history.history["global_step"] == []


def test_checking_the_directory_of_charts_leaves_no_file_there(tmp_path):
    hook = SummarySaverHook(1, output_dir=f"{tmp_path}/charts")
    with pytest.raises(KeyboardInterrupt):
        model().train(lambda: iter(BATCHES), [StepHook({1: _interrupt}), hook])
    assert not list(Path(tmp_path, "charts").iterdir())


def test_an_interrupt_loses_no_points(tmp_path):
    hook = SummarySaverHook(1, output_dir=f"{tmp_path}/charts")
    with pytest.raises(KeyboardInterrupt):
        model().train(lambda: iter(BATCHES), [hook, StepHook({3: _interrupt})])
    assert len(list(Path(tmp_path, "charts").iterdir())) == 1


def _interrupt():
    raise KeyboardInterrupt


def test_charts_that_cannot_be_written_later_are_one_warning_and_wait(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(summaries, "_WRITE_INTERVAL_SECONDS", 0)
    directory = tmp_path / "charts"

    def replace_by_a_file():
        shutil.rmtree(directory)
        directory.write_bytes(b"")

    hook, estimator = SummarySaverHook(1, output_dir=str(directory)), model()
    actions = {3: replace_by_a_file, 7: directory.unlink}
    estimator.train(lambda: iter(BATCHES), [StepHook(actions), hook])
    assert step_of(estimator) == 10
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    (line,) = [line for line in warnings if "cannot be written" in line]
    assert line.startswith(f"going on without {directory}/events.out")
    assert steps(charts(directory)["loss"]) == [3, 4, 5, 6, 7, 8, 9, 10]


def test_points_that_wait_are_limited_in_number(tmp_path, monkeypatch):
    monkeypatch.setattr(summaries, "_WRITE_INTERVAL_SECONDS", 0)
    monkeypatch.setattr(summaries, "_MOST_WAITING", 5)
    directory = tmp_path / "charts"
    directory.write_bytes(b"")
    file = summaries.EventFile(str(directory))
    for step in range(20):
        file.add(step, {"loss": 1})
    directory.unlink()
    file.write()
    assert steps(charts(directory)["loss"]) == [15, 16, 17, 18, 19]


def test_an_evaluation_that_cannot_be_written_is_returned_with_one_warning(tmp_path, caplog):
    estimator = model(str(tmp_path), RunConfig()).train(lambda: iter(BATCHES))
    expected = estimator.evaluate(lambda: BATCHES[0])
    shutil.rmtree(estimator.eval_dir())
    Path(estimator.eval_dir()).write_bytes(b"")
    caplog.clear()
    assert estimator.evaluate(lambda: BATCHES[0]) == expected
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line.startswith(f"going on without {estimator.eval_dir()}/evaluation-00000010.json")
