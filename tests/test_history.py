"""The history of a model: which iterations it has, and what becomes of a damaged one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from obstore.exceptions import PermissionDeniedError

import dkmeans
from dkmeans import Dataset, KMeans, RunConfig, storage
from dkmeans import history as module
from dkmeans.history import (
    History,
    losses_of_iterations,
    read_history,
    table_of,
    write_history,
)
from dkmeans.hooks import HistoryHook
from dkmeans.report import Progress

ROWS = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)


def recorded(model_dir, step, *steps):
    """Write a history that continues from `step` with further steps."""
    history = History(model_dir, step)
    for each in steps:
        history.add(Progress(each, None, 10.0 / each, None, 0, 1, 100, 0.5))
    news = history.news()
    if news:
        history.note_written(news, write_history(model_dir, news))


def steps_in(model_dir):
    return [each["step"] for each in read_history(model_dir)]


@pytest.fixture
def model_dir(tmp_path):
    return str(tmp_path / "m")


def test_a_model_has_the_numbers_of_its_iterations_from_its_directory_alone(model_dir):
    hook = HistoryHook(["loss"])
    model = KMeans(4, model_dir, seed=1, use_mini_batch=False)
    assert model.history == {}
    model.train(lambda: ROWS, [hook], steps=3).train(lambda: ROWS, [hook], steps=2)
    history = dkmeans.load(model_dir).history
    assert history["step"].tolist() == [1, 2, 3, 4, 5]
    assert history["loss"].tolist() == hook.history["loss"]
    assert np.isnan(history["change"]).tolist() == [True, False, False, True, False]
    assert (history["rows"] == 200).all()
    assert history["time"].dtype.kind == "M"
    assert pd.DataFrame(history).shape == (5, len(history))


def test_the_history_has_no_iterations_after_the_latest_checkpoint(model_dir):
    def stop(step):
        class Stop(dkmeans.hooks.SessionRunHook):
            def after_run(self, run_context, run_values):
                steps.append(1)
                if len(steps) == step:
                    raise RuntimeError("a hook fails")

        steps = []
        return Stop()

    config = RunConfig(save_checkpoints_steps=2)
    model = KMeans(4, model_dir, seed=1, use_mini_batch=False, config=config)
    with pytest.raises(RuntimeError, match="a hook fails"):
        model.train(lambda: ROWS, [stop(5)], steps=9)
    assert model.history["step"].tolist() == [1, 2, 3, 4]
    first = sorted(Path(model_dir).glob("checkpoint-00000002-*"))[0]
    model.train(lambda: ROWS, steps=1, checkpoint_path=first)
    assert model.history["step"].tolist() == [1, 2, 3]


def test_iterations_after_the_step_that_training_continues_from_are_dropped(model_dir):
    recorded(model_dir, 0, 1, 2, 3)
    recorded(model_dir, 2, 3, 4)
    assert steps_in(model_dir) == [1, 2, 3, 4]
    recorded(model_dir, 0, 1)
    assert steps_in(model_dir) == [1]


def test_a_long_history_is_thinned_out(model_dir, monkeypatch):
    monkeypatch.setattr("dkmeans.history._MOST_BYTES", 2_000)
    recorded(model_dir, 0, 1)
    for step in range(2, 40):
        recorded(model_dir, step - 1, step)
    found = steps_in(model_dir)
    assert len(found) <= 13
    assert (found[0], found[-1]) == (1, 39)


def test_of_many_waiting_iterations_every_second_is_dropped(model_dir, monkeypatch):
    monkeypatch.setattr("dkmeans.history._MOST_WAITING", 10)
    recorded(model_dir, 0, *range(1, 40))
    found = steps_in(model_dir)
    assert len(found) <= 10
    assert (found[0], found[-1]) == (1, 39)


def test_iterations_are_added_to_the_file_and_wait_while_it_cannot_be_written(model_dir):
    recorded(model_dir, 0, 1)
    path, history = Path(model_dir, "history.json"), History(model_dir, 1)
    first = path.read_bytes()
    for step in (2, 3):
        history.add(Progress(step, None, 0.5, None, 0, 1, 100, 0.5))
        news = history.news()
        history.note_written(news, 0 if step == 2 else write_history(model_dir, news))
    assert path.read_bytes().startswith(first[:-1])
    assert steps_in(model_dir) == [1, 2, 3]
    assert history.news() is None


def test_a_history_without_news_is_not_written_again(model_dir):
    recorded(model_dir, 0, 1)
    history, path = History(model_dir, 1), Path(model_dir, "history.json")
    path.write_text("other")
    assert history.news() is None
    assert path.read_text() == "other"


DAMAGED = ['[{"step": 1}, {"st', "[1]", "7", '{"loss": 1}', '[{"step": "1"}]', "\xff"]
DAMAGED += ['[{"step": 1, "loss": "low"}]', '[{"step": 1, "time": "noon"}]']


@pytest.mark.parametrize("content", [*DAMAGED, None])
def test_a_history_that_cannot_be_read_is_kept_under_another_name(model_dir, caplog, content):
    path = Path(model_dir, "history.json")
    path.parent.mkdir()
    path.mkdir() if content is None else path.write_text(content, "latin-1")
    recorded(model_dir, 1, 2)
    assert steps_in(model_dir) == [2]
    (kept,) = Path(model_dir).glob("history-*.json")
    assert kept.is_dir() if content is None else kept.read_text("latin-1") == content
    (warning,) = [each for each in caplog.messages if each.startswith(f"{path} cannot be read (")]
    assert warning.endswith(f"; it is kept as {kept}")


@pytest.mark.parametrize("content", DAMAGED)
def test_a_history_that_cannot_be_read_counts_as_none(model_dir, content):
    Path(model_dir).mkdir()
    Path(model_dir, "history.json").write_text(content, "latin-1")
    assert read_history(model_dir) == []


def test_what_can_be_read_of_a_history_is_continued(model_dir):
    Path(model_dir).mkdir()
    Path(model_dir, "history.json").write_text('[{"step": 1}, 7, {"step": 2}]')
    recorded(model_dir, 1, 2)
    assert steps_in(model_dir) == [1, 2]
    assert len(list(Path(model_dir).glob("history-*.json"))) == 1


def test_a_history_that_can_be_neither_read_nor_renamed_stays_as_it_is(
    model_dir, monkeypatch, caplog
):
    def refuse(*_):
        raise PermissionDeniedError("403")

    Path(model_dir).mkdir()
    Path(model_dir, "history.json").write_text("7")
    monkeypatch.setattr(storage, "rename", refuse)
    recorded(model_dir, 1, 2)
    assert Path(model_dir, "history.json").read_text() == "7"
    assert "going on without a history: " in caplog.text


def test_a_store_that_refuses_the_history_does_not_end_training(model_dir, monkeypatch):
    def refuse(address, data, *, durable):
        raise PermissionDeniedError("403")

    monkeypatch.setattr(storage.contents, "_write", refuse)
    recorded(model_dir, 0, 1)
    assert steps_in(model_dir) == []


def test_a_long_history_that_cannot_be_read_now_is_not_thinned_out(model_dir, monkeypatch):
    def refuse(address):
        raise PermissionDeniedError("403")

    recorded(model_dir, 0, *range(1, 6))
    monkeypatch.setattr(module, "_MOST_BYTES", 100)
    monkeypatch.setattr(storage, "read_json", refuse)
    recorded(model_dir, 5, 6)
    monkeypatch.undo()
    assert steps_in(model_dir) == [1, 2, 3, 4, 5, 6]


def test_a_number_that_an_iteration_does_not_have_is_nan():
    table = table_of([{"step": 1}, {"step": 2, "loss": 0.5}])
    assert table["step"].tolist() == [1, 2]
    np.testing.assert_array_equal(table["loss"], [np.nan, 0.5])


def test_losses_are_those_of_whole_iterations(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 2))
    batches = Dataset.from_array(rows).batch(10).repeat()
    losses = []
    for stops in ([12], [4, 9, 12]):
        directory = tmp_path / str(len(stops))
        for stop in stops:
            model = KMeans(2, directory, rows[:2].copy(), mini_batch_steps_per_iteration=6)
            done = stops[stops.index(stop) - 1] if stop > stops[0] else 0
            model.train(lambda done=done: batches.skip(done), max_steps=stop)
        losses.append([each.tolist() for each in losses_of_iterations(model.history, 6)])
    assert losses[0] == losses[1]
    assert losses[0][0] == [6, 12]
    assert [each.tolist() for each in losses_of_iterations({}, 6)] == [[], []]
