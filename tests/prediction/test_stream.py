"""Predictions and scores, batch by batch, with hooks that see each of them."""

import tracemalloc
from itertools import islice

import numpy as np
import pytest
import zarr

from dkmeans import Dataset, InvalidData, KMeans, checkpoints
from dkmeans.data.batches import Batch
from dkmeans.distance import Centers
from dkmeans.executors import Serial, Threads
from dkmeans.hooks import SessionRunArgs, SessionRunHook
from dkmeans.hooks.notifier import Notifier
from dkmeans.prediction import per_chunk
from dkmeans.prediction.measures import Measuring
from dkmeans.prediction.per_chunk import Task
from dkmeans.prediction.stream import check_columns, gathered, predictions, scores
from tests import reference
from tests.reference import EUCLIDEAN


class Recorder(SessionRunHook):
    """Records the loss of each batch, and stops after some of them."""

    def __init__(self, most=None):
        self.most, self.losses, self.ended = most, [], False

    def before_run(self, run_context):
        return SessionRunArgs("loss") if self.most is None else None

    def after_run(self, run_context, run_values):
        self.losses.append(run_values.results)
        if len(self.losses) == self.most:
            run_context.request_stop()

    def end(self, session):
        self.ended = True


@pytest.fixture
def checkpoint(model):
    return checkpoints.latest(model.model_dir)


@pytest.fixture
def centers(checkpoint):
    return Centers(checkpoint.state.centers, checkpoint.settings.distance_metric)


@pytest.fixture
def dataset(rows):
    return Dataset.from_array(rows[:250]).batch(100)


def scored(dataset, checkpoint, centers, hook, steps=None):
    notifier = Notifier(checkpoint.settings, [hook])
    return scores(dataset, checkpoint, Measuring(centers), Serial(), notifier, steps)


def predicted(dataset, checkpoint, task, hook, *, single):
    notifier = Notifier(checkpoint.settings, [hook])
    return predictions(dataset, checkpoint, task, Serial(), notifier, single=single)


def test_each_batch_has_a_score_and_hooks_see_it(dataset, checkpoint, centers, rows):
    hook = Recorder()
    found = [each.score for each in scored(dataset, checkpoint, centers, hook)]
    parts = [rows[:100], rows[100:200], rows[200:250]]
    expected = [reference.loss(part, centers.values, EUCLIDEAN) for part in parts]
    assert [float(each.weight) for each in found] == [100, 100, 50]
    np.testing.assert_allclose([each.inertia for each in found], expected, rtol=1e-9)
    assert hook.losses == [each.inertia for each in found]
    assert hook.ended


def test_only_as_many_batches_are_scored_as_steps(dataset, checkpoint, centers):
    assert len(scored(dataset, checkpoint, centers, Recorder(), steps=2)) == 2


def test_a_hook_can_stop_the_scores(dataset, checkpoint, centers):
    assert len(scored(dataset, checkpoint, centers, Recorder(most=1))) == 1


def test_scores_of_no_batches_are_refused(checkpoint, centers):
    empty = Dataset.of_batches(3, iter([]))
    with pytest.raises(InvalidData, match="at least one batch of rows, got none"):
        scored(empty, checkpoint, centers, Recorder())


def test_results_come_row_by_row_or_batch_by_batch(dataset, checkpoint, centers):
    task = Task(centers, ("cluster_index", "all_distances"))
    rows = list(predicted(dataset, checkpoint, task, Recorder(most=99), single=True))
    batches = list(predicted(dataset, checkpoint, task, Recorder(most=99), single=False))
    assert [len(each["cluster_index"]) for each in batches] == [100, 100, 50]
    for name in task.names:
        joined = np.concatenate([each[name] for each in batches])
        np.testing.assert_array_equal([each[name] for each in rows], joined)


@pytest.mark.parametrize(("single", "count"), [(True, 200), (False, 2)])
def test_a_hook_can_stop_the_predictions(dataset, checkpoint, centers, single, count):
    hook = Recorder(most=2)
    task = Task(centers, ("cluster_index",))
    assert len(list(predicted(dataset, checkpoint, task, hook, single=single))) == count
    assert hook.ended


def test_a_batch_of_several_chunks_is_gathered_in_order(rows, centers, monkeypatch):
    task = Task(centers, ("cluster_index",))
    (whole,) = Dataset.from_array(rows).batches()
    expected = gathered(whole, task, Serial())["cluster_index"]
    monkeypatch.setattr("dkmeans.data.chunks.TARGET_BYTES", 700)
    monkeypatch.setattr("dkmeans.data.chunks.SMALLEST_BYTES", 1)
    (cut,) = Dataset.from_array(rows).batches()
    assert len(cut) > 1 == len(whole)
    np.testing.assert_array_equal(gathered(cut, task, Serial())["cluster_index"], expected)


def test_rows_of_another_width_are_refused_with_both_numbers(checkpoint, rows):
    check_columns(Dataset.from_array(rows), checkpoint)
    with pytest.raises(InvalidData, match="rows must have 3 columns, as the centers have, got 2"):
        check_columns(Dataset.from_array(rows[:, :2]), checkpoint)


def test_an_evaluation_reports_progress_and_its_pieces_change_no_bit(
    tmp_path, rows, checkpoint, centers, caplog
):
    caplog.set_level("DEBUG", "dkmeans")
    zarr.create_array(str(tmp_path / "r.zarr"), data=rows, chunks=(10, 3))
    (batch,) = Dataset.from_zarr(str(tmp_path / "r.zarr")).batches()
    # The library joins small stored chunks. These chunks stay as they are.
    batch = sum((batch.rows_between(i, min(i + 10, 1003)) for i in range(0, 1003, 10)), Batch())
    assert len(batch) == 101
    notifier = Notifier(checkpoint.settings, [])
    with Threads(2) as executor:
        of = checkpoint, Measuring(centers), executor, notifier, None
        (measures,) = scores(Dataset.of_table(lambda _: batch), *of)
        (at_once,) = executor.map_reduce(per_chunk.score, [batch], centers).totals
    assert measures.score == at_once
    done = [each.progress.rows_done for each in caplog.records if hasattr(each, "progress")]
    assert len(done) > 3
    assert done == sorted(set(done))
    assert done[-1] == 1003
    assert caplog.messages[-1].startswith("evaluated 1,003 of 1,003 rows (100%), ")


def test_predictions_row_by_row_hold_few_distances_to_all_centers(tmp_path, monkeypatch):
    monkeypatch.setattr("dkmeans.prediction.stream._RESULT_BYTES", 2**16)
    rows = np.random.default_rng(7).normal(size=(40_000, 2)).astype(np.float32)
    model = KMeans(500, tmp_path, rows[:500], use_mini_batch=False)
    model.train(lambda: rows[:500], steps=1)
    tracemalloc.start()
    try:
        found = [each["all_distances"] for each in islice(model.predict(lambda: rows), 100)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == 100
    assert peak < 40_000 * 500 * 4 / 8
    assert np.array_equal(found, [*model.transform(lambda: rows[:100])])
