"""A call of `train`: its number of steps, where it continues from, when and why it stops."""

import logging
import subprocess
import sys
from contextlib import suppress
from itertools import count, pairwise
from uuid import uuid4

import dask.array as da
import numpy as np
import pyarrow
import pytest
import zarr
from pyarrow import parquet

from dkmeans import (
    Dataset,
    InvalidData,
    KMeans,
    checkpoints,
    limit_epochs,
)
from dkmeans.hooks import StopAtStepHook
from dkmeans.state import StopReason
from tests import reference
from tests.reference import EUCLIDEAN, METRICS
from tests.train_calls import FULL, MODES, batches_of, model, rows_of, step_of, warnings_of

in_every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def values_of(estimator):
    values = estimator.get_variable_value(estimator.get_variable_names())
    return {name: (np.asarray(v).dtype, np.asarray(v).tobytes()) for name, v in values.items()}


def losses_of(caplog):
    return [r.progress.loss for r in caplog.records if hasattr(r, "progress")]


def reason_of(estimator):
    return checkpoints.latest(estimator.model_dir).stop.reason


def tables(folder, rows):
    """Return untouched datasets of the same rows, by the place where the rows are."""
    np.save(folder / "rows.npy", rows)
    zarr.create_array(str(folder / "rows.zarr"), data=rows, chunks=(16, rows.shape[1]))
    columns = {f"c{number}": column for number, column in enumerate(rows.T)}
    parquet.write_table(pyarrow.table(columns), folder / "rows.parquet")
    return {
        "array": Dataset.from_array(rows),
        ".npy": Dataset.from_npy(str(folder / "rows.npy")),
        "Zarr": Dataset.from_zarr(str(folder / "rows.zarr")),
        "Parquet": Dataset.from_parquet(str(folder / "rows.parquet")),
    }


# Steps.


@in_every_mode
def test_steps_are_counted_from_where_training_stands(mode):
    estimator = model(**mode)
    for expected in (2, 4):
        assert estimator.train(lambda: iter(batches_of()), steps=2) is estimator
        assert step_of(estimator) == expected


@in_every_mode
def test_max_steps_are_counted_from_the_beginning(mode):
    estimator = model(**mode)
    estimator.train(lambda: iter(batches_of()), max_steps=3)
    assert step_of(estimator) == 3
    estimator.train(lambda: iter(batches_of()), max_steps=5)
    assert step_of(estimator) == 5
    assert reason_of(estimator) is StopReason.MAX_STEPS


@pytest.mark.parametrize("max_steps", [1, 3])
def test_max_steps_that_are_done_ask_for_no_input(max_steps):
    estimator = model().train(lambda: iter(batches_of()), steps=3)
    latest, calls = estimator.latest_checkpoint(), []
    assert estimator.train(lambda: calls.append(1), max_steps=max_steps) is estimator
    assert not calls
    assert estimator.latest_checkpoint() == latest


def test_steps_and_max_steps_exclude_each_other():
    with pytest.raises(ValueError, match="both steps and max_steps"):
        model().train(lambda: rows_of(), steps=1, max_steps=1)


@pytest.mark.parametrize("name", ["steps", "max_steps"])
def test_steps_must_be_positive_integers(name):
    estimator = model()
    for value in (0, -1):
        with pytest.raises(ValueError, match=rf"Must specify {name} > 0, given: {value}"):
            estimator.train(lambda: rows_of(), **{name: value})
    for value in (1.5, "3", True):
        with pytest.raises(TypeError, match=name):
            estimator.train(lambda: rows_of(), **{name: value})
    estimator.train(lambda: rows_of(), **{name: np.int64(2)})
    assert step_of(estimator) == 2


@in_every_mode
def test_the_end_of_the_input_ends_training_quietly_and_saves(mode):
    estimator = model(**mode).train(lambda: iter(batches_of(5)))
    assert step_of(estimator) == 5
    assert reason_of(estimator) is StopReason.END_OF_INPUT


def test_the_end_of_the_input_comes_before_the_last_step_asked_for():
    estimator = model().train(lambda: iter(batches_of(5)), steps=100)
    assert step_of(estimator) == 5


def test_a_dataset_ends_where_it_says():
    estimator = model().train(lambda: limit_epochs(rows_of(), 7))
    assert step_of(estimator) == 7
    estimator.train(lambda: Dataset.from_array(rows_of()).batch(15))
    assert step_of(estimator) == 10


@in_every_mode
def test_an_untouched_dataset_is_trained_on_as_the_array_of_its_rows_is(mode, tmp_path):
    rows = rows_of(60)
    own = model(relative_tolerance=1e-3, **mode).train(lambda: rows, steps=20)
    assert step_of(own) > 2
    for place, dataset in tables(tmp_path, rows).items():
        other = model(relative_tolerance=1e-3, **mode)
        other.train(lambda dataset=dataset: dataset, steps=20)
        assert values_of(other) == values_of(own), place
        assert reason_of(other) is reason_of(own), place


def test_full_batch_training_on_an_untouched_dataset_ends_when_no_center_moves(tmp_path):
    for place, dataset in tables(tmp_path, rows_of(60)).items():
        estimator = model(**FULL).train(lambda dataset=dataset: dataset)
        assert reason_of(estimator) is StopReason.UNCHANGED, place


ENDING = {
    "limit_epochs": lambda: limit_epochs(rows_of(), 3),
    "repeat": lambda: Dataset.from_array(rows_of()).repeat(3),
    "batch": lambda: Dataset.from_array(rows_of()).batch(14),
    "take": lambda: Dataset.from_array(rows_of()).batch(9).repeat().take(3),
    "iterator": lambda: iter(batches_of(3)),
}


@pytest.mark.parametrize("input_fn", ENDING.values(), ids=ENDING)
@pytest.mark.parametrize("asked", ["steps", "max_steps", "tolerance", "both"])
def test_input_that_ends_before_what_was_asked_for_is_warned_of(input_fn, asked, caplog):
    tolerance = {"relative_tolerance": 1e-30} if asked in ("tolerance", "both") else {}
    limits = {"steps": {"steps": 90}, "max_steps": {"max_steps": 92}, "both": {"steps": 90}}
    estimator = model(**tolerance).train(lambda: rows_of(), steps=2)
    caplog.clear()
    estimator.train(input_fn, **limits.get(asked, {}))
    (warning,) = warnings_of(caplog)
    assert "the input ended after 3 steps of this call, at step 5, before " in warning
    assert ("step 92" in warning) == (asked != "tolerance")
    assert ("relative_tolerance 1e-30" in warning) == bool(tolerance)
    assert caplog.records[-1].name == "dkmeans"


def test_input_without_batches_for_a_model_that_exists_is_warned_of(caplog):
    estimator = model().train(lambda: rows_of(), steps=2)
    estimator.train(lambda: Dataset.from_array(rows_of()).take(0))
    assert (
        "ended after 0 steps of this call, at step 2, before a first step was reached"
        in caplog.text
    )


def test_one_step_is_not_called_steps(caplog):
    model().train(lambda: limit_epochs(rows_of(), 1), steps=2)
    assert warnings_of(caplog) == [
        "the input ended after 1 step of this call, at step 1, before step 2 was reached; "
        "Dataset.repeat() makes an input that does not end"
    ]


def test_input_that_is_too_short_for_an_iteration_is_warned_of(caplog):
    estimator = model(mini_batch_steps_per_iteration=5).train(lambda: iter(batches_of(3)))
    assert warnings_of(caplog) == [
        "no center has moved in this call: step 3 of the 5 of an iteration is done "
        "(mini_batch_steps_per_iteration), and the next call continues it"
    ]
    caplog.clear()
    for _ in range(2):  # as few steps as are asked for, and those that complete the iteration
        estimator.train(lambda: rows_of(), steps=1)
    assert not warnings_of(caplog)


def test_input_that_ends_as_asked_for_is_not_warned_of(caplog):
    model().train(lambda: limit_epochs(rows_of(), 3), steps=3)
    model().train(lambda: limit_epochs(rows_of(), 3))
    model(relative_tolerance=1e9).train(lambda: limit_epochs(rows_of(), 3))
    assert not warnings_of(caplog)


class InterruptAfterStep(logging.Handler):
    """A log handler that raises what Ctrl-C raises as soon as a step is reported."""

    def emit(self, record):
        """Interrupt the call."""
        if hasattr(record, "progress"):
            raise KeyboardInterrupt


@pytest.fixture
def after_one_step(caplog):
    """Interrupt each call after its first step."""
    caplog.set_level(logging.INFO, "dkmeans")
    handler = InterruptAfterStep()
    logging.getLogger("dkmeans").addHandler(handler)
    yield
    logging.getLogger("dkmeans").removeHandler(handler)


ENDLESS = {
    "array": lambda: rows_of(),
    "Dask array": lambda: da.from_array(rows_of(), chunks=(7, 3)),
    "dict": lambda: {"a": rows_of()},
    "untouched dataset": lambda: Dataset.from_array(rows_of()),
    "repeat": lambda: Dataset.from_array(rows_of()).shuffle(1).repeat().batch(9).skip(2),
    "limit_epochs without a number": lambda: limit_epochs(rows_of()),
}


NO_END = "nothing will end this call of train, because its input has no end"


@pytest.mark.parametrize("input_fn", ENDLESS.values(), ids=ENDLESS)
def test_a_call_that_nothing_ends_is_warned_of_before_its_first_step(
    input_fn, after_one_step, caplog
):
    with pytest.raises(KeyboardInterrupt):
        model().train(input_fn)
    first = caplog.records[0]
    assert (first.name, first.levelno) == ("dkmeans", logging.WARNING)
    assert first.getMessage().startswith(NO_END)
    for remedy in ("steps", "max_steps", "hook", "relative_tolerance"):
        assert remedy in first.getMessage()


def test_full_batch_training_on_repeated_batches_is_a_call_that_nothing_ends(
    after_one_step, caplog
):
    with pytest.raises(KeyboardInterrupt):
        model(**FULL).train(lambda: Dataset.from_array(rows_of()).batch(20).repeat())
    assert warnings_of(caplog)[0].startswith(NO_END)


def test_a_call_that_something_may_end_is_not_warned_of(caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    rows = rows_of(60)
    model().train(lambda: rows, steps=2)
    model().train(lambda: rows, max_steps=2)
    model(relative_tolerance=1e9).train(lambda: rows)
    model(**FULL).train(lambda: rows)
    model().train(lambda: iter([rows] * 3))
    assert "no end" not in caplog.text
    model().train(lambda: rows, [StopAtStepHook(2)])
    assert "the input has no end: only a hook or listener can end this call" in caplog.text
    assert not warnings_of(caplog)


def test_a_bare_array_repeats_for_ever():
    estimator = model().train(lambda: rows_of(), steps=25)
    assert step_of(estimator) == 25
    assert estimator.get_variable_value("Variable").sum() == 4 + 25 * 40


def test_input_without_rows_is_refused():
    for empty in (iter([]), iter([rows_of(0)]), rows_of(0)):
        with pytest.raises(ValueError, match="at least one"):
            model().train(lambda empty=empty: empty, steps=1)


def test_batches_without_rows_are_no_steps():
    batches = [rows_of(0), rows_of(5), rows_of(0), rows_of(6)]
    assert step_of(model().train(lambda: iter(batches))) == 2


def test_no_more_batches_are_taken_than_steps():
    taken = count()
    batches = (rows_of(seed=number) for number in taken)
    model().train(lambda: batches, steps=4)
    assert next(taken) <= 5


# Convergence.


@in_every_mode
def test_a_tolerance_never_stops_a_call_before_its_second_iteration(mode):
    estimator = model(relative_tolerance=1e9, **mode)
    whole = mode.get("mini_batch_steps_per_iteration", 1)
    for times in (1, 2):
        estimator.train(lambda: iter(batches_of(12)))
        assert step_of(estimator) == times * 2 * whole
        assert reason_of(estimator) is StopReason.CONVERGED


def test_the_step_that_converges_has_moved_the_centers():
    batches = batches_of(2)
    estimator = model(relative_tolerance=1e9, **FULL).train(lambda: iter(batches))
    expected = rows_of(4, seed=99)
    for rows in batches:
        expected, _ = reference.full_batch_step(rows, expected, EUCLIDEAN)
    np.testing.assert_allclose(estimator.cluster_centers(), expected, rtol=1e-5)


def test_the_tolerance_is_met_at_the_step_of_the_reference():
    rows = rows_of(300)
    centers, losses = rows[:4].astype(np.float64), []
    for _ in range(60):
        centers, loss = reference.full_batch_step(rows, centers, EUCLIDEAN)
        losses.append(loss)
    changes = [abs(b - a) / (1 + a) for a, b in pairwise(losses)]
    expected = 2 + next(i for i, change in enumerate(changes) if change < 1e-3)
    estimator = model(initial_clusters=rows[:4], relative_tolerance=1e-3, **FULL)
    assert step_of(estimator.train(lambda: rows, steps=60)) == expected


def test_a_zero_loss_that_stays_has_converged():
    rows = rows_of(4)
    estimator = model(initial_clusters=rows, relative_tolerance=1e-6)
    estimator.train(lambda: rows, steps=50)
    assert step_of(estimator) == 2


def test_full_batch_training_on_an_array_ends_when_no_center_moves():
    rows = rows_of(60)
    for data in (rows, da.from_array(rows, chunks=(7, 3)), limit_epochs(rows, 1000)):
        estimator = model(**FULL).train(lambda data=data: data)
        assert reason_of(estimator) is StopReason.UNCHANGED
        assert 1 < step_of(estimator) < 100
        before = estimator.cluster_centers()
        again, _ = reference.full_batch_step(rows, before, EUCLIDEAN)
        np.testing.assert_allclose(before, again, rtol=1e-5)


@pytest.mark.parametrize("restarts", [{}, {"num_restarts": 2, "initial_clusters": "random"}])
def test_a_converged_model_takes_no_further_step_with_the_same_rows(restarts):
    rows = rows_of(60)
    estimator = model(**FULL, **restarts).train(lambda: rows)
    converged, address = step_of(estimator), estimator.latest_checkpoint()
    for limits in ({}, {"max_steps": 100}):
        estimator.train(lambda: rows, **limits)
        assert step_of(estimator) == converged
        assert estimator.latest_checkpoint() == address
    others = rows_of(60, seed=1)
    estimator.train(lambda: others, max_steps=converged + 1)
    assert step_of(estimator) == converged + 1


def test_full_batch_training_on_batches_does_not_end_when_no_center_moves():
    rows = rows_of(4)
    estimator = model(initial_clusters=rows, **FULL).train(lambda: iter([rows] * 5))
    assert step_of(estimator) == 5


# Dead clusters.


FAR = np.array([[0, 0, 0], [900, 900, 900], [1, 1, 1], [-800, 0, 0]], np.float32)


@pytest.mark.parametrize(
    ("mode", "when"),
    [
        (FULL, "in the last iteration"),
        (MODES["three steps"], "in the last iteration"),
        (MODES["mini-batch"], "since the first step"),
    ],
)
def test_clusters_without_rows_are_warned_of_at_the_end_of_a_call(mode, when, caplog):
    model(initial_clusters=FAR, **mode).train(lambda: rows_of(), steps=6)
    assert warnings_of(caplog) == [
        f"2 of 4 clusters got no rows {when}: give empty_clusters='relocate', or train fewer "
        "clusters"
    ]


@in_every_mode
def test_relocated_clusters_are_not_warned_of(mode, caplog):
    relocated = model(initial_clusters=FAR, empty_clusters="relocate", **mode)
    relocated.train(lambda: rows_of(), steps=6)
    assert not warnings_of(caplog)


def test_clusters_for_which_there_are_no_rows_to_relocate_are_warned_of(caplog):
    rows = np.zeros((9, 3), np.float32)
    model(empty_clusters="relocate", **FULL).train(lambda: rows, steps=2)
    assert warnings_of(caplog) == [
        "3 of 4 clusters got no rows in the last iteration: train fewer clusters"
    ]


def test_a_cluster_without_rows_in_one_mini_batch_is_not_warned_of(caplog):
    centers = np.array([[0, 0], [9, 9]], np.float32)
    model(k=2, initial_clusters=centers).train(lambda: iter([centers[:1], centers[1:]]))
    model(k=2, initial_clusters=centers).train(lambda: iter([centers[1:], centers[:1]]))
    assert not warnings_of(caplog)


def test_unchanged_centers_end_every_later_call_at_once():
    rows = rows_of(60)
    estimator = model(**FULL).train(lambda: rows)
    before, step = estimator.cluster_centers(), step_of(estimator)
    estimator.train(lambda: rows, steps=50)
    assert step < step_of(estimator) <= step + 2
    np.testing.assert_array_equal(estimator.cluster_centers(), before)


# Where training continues from.


def trained(model_dir, splits, mode, metric=EUCLIDEAN, fresh=True):
    batches, done = batches_of(10), 0
    estimator = model(model_dir, distance_metric=metric, **mode)
    for steps in splits:
        if fresh:
            estimator = model(model_dir, distance_metric=metric, **mode)
        estimator.train(lambda done=done: iter(batches[done:]), steps=steps)
        done += steps
    return values_of(estimator)


@in_every_mode
@pytest.mark.parametrize("metric", METRICS)
def test_stopping_and_continuing_gives_the_same_bits_as_not_stopping(metric, mode):
    whole = trained(None, [10], mode, metric, fresh=False)
    assert trained(None, [5, 5], mode, metric, fresh=False) == whole
    for splits in ([5, 5], [1, 3, 6], [4, 1, 1, 4]):
        assert trained(f"memory://{uuid4().hex}", splits, mode, metric) == whole


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from dkmeans import KMeans
folder = Path(sys.argv[1])
batches = np.load(folder / "batches.npy")
for number, mode in enumerate([dict(use_mini_batch=False), {},
                               dict(mini_batch_steps_per_iteration=3)]):
    KMeans(4, folder / str(number), batches[0][:4], **mode).train(
        lambda: iter(list(batches[5:])), steps=5)
"""


def test_another_process_continues_to_the_same_bits(tmp_path):
    batches = np.stack(batches_of(10))
    np.save(tmp_path / "batches.npy", batches)
    for number, mode in enumerate(MODES.values()):
        begun = KMeans(4, tmp_path / str(number), batches[0][:4], **mode)
        begun.train(lambda: iter(list(batches)), steps=5)
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True)
    for number, mode in enumerate(MODES.values()):
        here = model(initial_clusters=batches[0][:4], **mode)
        here.train(lambda: iter(list(batches)), steps=10)
        there = KMeans(4, tmp_path / str(number), batches[0][:4], **mode)
        assert values_of(there) == values_of(here)


def test_a_model_continues_without_initialization():
    def never(inputs, missing):
        raise AssertionError("initialized twice")

    estimator = model().train(lambda: rows_of(), steps=2)
    again = model(estimator.model_dir, initial_clusters=never).train(lambda: rows_of(), steps=1)
    assert step_of(again) == 3


def test_a_model_is_begun_anew_and_the_old_one_stands_until_the_first_checkpoint(tmp_path):
    def model(directory, k=3):
        return KMeans(k, str(tmp_path / directory), seed=k, use_mini_batch=False)

    old = model("m", 4).train(lambda: rows_of(), steps=3)
    latest, others = old.latest_checkpoint(), rows_of()[:, :2] + 1
    with pytest.raises(InvalidData, match="finite"):
        model("m").train(lambda: others * np.nan, steps=2, overwrite=True)
    assert old.latest_checkpoint() == latest
    new = model("m").train(lambda: others, steps=2, overwrite=True)
    alone = model("alone").train(lambda: others, steps=2)
    assert np.array_equal(new.cluster_centers(), alone.cluster_centers())
    assert len(new.history["step"]) == 2
    assert not list((tmp_path / "m").glob("checkpoint-00000003-*"))
    (tmp_path / "m" / "checkpoints.json").write_text("{")
    assert model("m", 2).train(lambda: others, steps=1, overwrite=True).checkpoint().state.step == 1
    with pytest.raises(ValueError, match="overwrite and checkpoint_path must not both be given"):
        new.train(lambda: others, overwrite=True, checkpoint_path=latest)


def test_a_call_that_is_refused_does_not_go_back(tmp_path):
    model = KMeans(3, str(tmp_path / "m"), seed=1, use_mini_batch=False)
    earlier = model.train(rows_of, steps=1).latest_checkpoint()
    latest = model.train(rows_of, steps=1).latest_checkpoint()
    other = KMeans(4, model.model_dir, seed=1, use_mini_batch=False)

    def narrow():
        return rows_of()[:, :1]

    for train, error, message in (
        (lambda: model.train(lambda: 5, steps=1, checkpoint_path=earlier), TypeError, "input_fn"),
        (lambda: model.train(narrow, steps=1, checkpoint_path=earlier), ValueError, "columns"),
        (lambda: other.train(rows_of, steps=1, checkpoint_path=earlier), ValueError, "clusters"),
    ):
        with pytest.raises(error, match=message):
            train()
        assert model.latest_checkpoint() == latest
    broken = rows_of()
    broken[3] = np.nan
    with pytest.raises(InvalidData, match="row 3"):  # in the first iteration
        model.train(lambda: broken, steps=1, checkpoint_path=earlier)
    assert model.latest_checkpoint() == latest
    model.train(rows_of, max_steps=1, checkpoint_path=earlier)
    assert model.latest_checkpoint() == earlier
    assert model.train(rows_of, steps=1).checkpoint().state.step == 2


def test_a_call_that_takes_no_step_goes_back(tmp_path):
    model = KMeans(3, str(tmp_path / "m"), seed=1, use_mini_batch=False)
    rows = rows_of()
    converged = model.train(lambda: rows).latest_checkpoint()
    assert model.train(lambda: rows + 1, steps=1).latest_checkpoint() != converged
    assert model.train(lambda: rows, checkpoint_path=converged).latest_checkpoint() == converged


def test_an_unfinished_iteration_is_finished_by_the_next_call():
    batches = batches_of(4)
    mode = MODES["three steps"]
    estimator = model(**mode).train(lambda: iter(batches[:2]))
    np.testing.assert_array_equal(estimator.cluster_centers(), rows_of(4, seed=99))
    assert estimator.get_variable_value("update_in_steps") == 2
    assert estimator.get_variable_value("Variable").sum() == 80
    estimator.train(lambda: iter(batches[2:3]))
    expected, _ = reference.mini_batch_iteration(batches[:3], rows_of(4, seed=99), EUCLIDEAN)
    np.testing.assert_allclose(estimator.cluster_centers(), expected, rtol=1e-5)
    assert estimator.get_variable_value("update_in_steps") == 0


def test_rows_of_another_width_than_the_model_are_refused_with_both_numbers():
    estimator = model().train(lambda: rows_of(), steps=1)
    with pytest.raises(ValueError, match=r"3 columns.*got 5"):
        estimator.train(lambda: rows_of(d=5), steps=1)
    assert step_of(estimator) == 1


def test_a_later_batch_of_another_width_is_refused_and_the_steps_before_it_are_saved():
    estimator = model()
    with pytest.raises(ValueError, match=r"3 columns.*\(40, 5\)"):
        estimator.train(lambda: iter([rows_of(), rows_of(), rows_of(d=5)]))
    assert step_of(estimator) == 2


# Errors and interrupts.


@in_every_mode
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named_by_position(bad, mode):
    rows = rows_of()
    rows[[17, 30], 2] = bad
    for data in (rows, da.from_array(rows, chunks=(7, 3))):
        with pytest.raises(ValueError, match=r"row 17 .* column 2"):
            model(**mode).train(lambda data=data: data, steps=1)


def test_a_later_batch_that_is_not_finite_keeps_the_steps_before_it():
    bad = np.full((5, 3), np.nan, np.float32)
    estimator = model()
    with pytest.raises(ValueError, match=r"row 0 of batch 3"):
        estimator.train(lambda: iter([*batches_of(3), bad]))
    assert step_of(estimator) == 3
    expected = model().train(lambda: iter(batches_of(3)))
    np.testing.assert_array_equal(estimator.cluster_centers(), expected.cluster_centers())


@in_every_mode
def test_an_interrupt_saves_the_completed_iterations_and_is_raised(mode):
    def interrupted():
        yield from batches_of(7)
        raise KeyboardInterrupt

    estimator = model(**mode)
    with pytest.raises(KeyboardInterrupt):
        estimator.train(interrupted)
    completed = 6 if mode is MODES["three steps"] else 7
    assert step_of(estimator) == completed
    assert reason_of(estimator) is StopReason.INTERRUPTED
    whole = model(**mode).train(lambda: iter(batches_of(10)))
    estimator.train(lambda: iter(batches_of(10)[completed:]))
    assert values_of(estimator) == values_of(whole)


def test_an_error_in_the_input_is_raised_and_the_model_is_saved():
    def failing():
        yield from batches_of(2)
        raise OSError("the disk is gone")

    estimator = model()
    with pytest.raises(OSError, match="the disk is gone"):
        estimator.train(failing)
    assert step_of(estimator) == 2


def test_a_failed_call_on_a_model_leaves_what_it_was():
    estimator = model().train(lambda: iter(batches_of(3)))
    before = values_of(estimator)
    with pytest.raises(ValueError, match="finite"):
        estimator.train(lambda: iter([np.full((5, 3), np.nan, np.float32)]))
    assert values_of(estimator) == before


def test_a_chunk_that_cannot_be_read_is_named_and_the_steps_before_it_are_saved(tmp_path):
    rows = np.random.default_rng(3).normal(size=(600, 4)).astype(np.float32)
    path = tmp_path / "r.zarr"
    zarr.create_array(str(path), data=rows, chunks=(100, 4))
    (path / "c" / "3" / "0").write_bytes(b"not what was written")
    model = KMeans(3, str(tmp_path / "m"), seed=1)
    with pytest.raises(InvalidData, match=r"rows 300 to 399 of .*r\.zarr cannot be read"):
        model.train(lambda: Dataset.from_zarr(str(path)).batch(100))
    assert model.get_variable_value("global_step") == 3


# Numbers.


@in_every_mode
@pytest.mark.parametrize("metric", METRICS)
def test_chunks_change_nothing_beyond_rounding(metric, mode):
    rows = rows_of(200)
    whole = model(distance_metric=metric, **mode).train(lambda: rows, steps=3)
    for size in (1, 33, 128):
        chunked = model(distance_metric=metric, **mode)
        chunked.train(lambda size=size: da.from_array(rows, chunks=(size, 3)), steps=3)
        np.testing.assert_allclose(
            chunked.cluster_centers(), whole.cluster_centers(), rtol=1e-6, atol=1e-7
        )


@in_every_mode
def test_equal_runs_are_equal_to_the_bit(mode):
    one, other = (
        model(initial_clusters="kmeans_plus_plus", seed=5, **mode).train(
            lambda: da.from_array(rows_of(500), chunks=(37, 3)), steps=6
        )
        for _ in range(2)
    )
    assert values_of(one) == values_of(other)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.float16, bool])
def test_other_real_dtypes_are_computed_in_float32(dtype):
    rows = (np.abs(rows_of()) * 3).astype(dtype)
    one = model().train(lambda: rows, steps=2)
    other = model().train(lambda: rows.astype(np.float32), steps=2)
    assert values_of(one) == values_of(other)


@in_every_mode
def test_a_float32_model_is_not_continued_with_float64_rows(mode):
    estimator = model(**mode).train(lambda: rows_of(), steps=1)
    before = estimator.latest_checkpoint()
    doubles = rows_of(dtype=np.float64)
    for data in (doubles, da.from_array(doubles, chunks=(7, 3)), {"a": doubles}):
        with pytest.raises(InvalidData, match=r"continued model's dtype, float32.*of float64"):
            estimator.train(lambda data=data: data, steps=1)
    assert estimator.latest_checkpoint() == before
    estimator = model(**mode).train(lambda: doubles, steps=1).train(lambda: rows_of(), steps=1)
    assert estimator.cluster_centers().dtype == np.float64


def test_float64_rows_are_computed_in_float64():
    rows = rows_of(dtype=np.float64)
    estimator = model(initial_clusters=rows[:4], **FULL).train(lambda: iter([rows]))
    expected, _ = reference.full_batch_step(rows, rows[:4], EUCLIDEAN)
    assert estimator.cluster_centers().dtype == np.float64
    np.testing.assert_allclose(estimator.cluster_centers(), expected, rtol=1e-13, atol=1e-15)


def test_integers_that_float32_does_not_hold_are_refused():
    with pytest.raises(ValueError, match=r"16777216; got 16777217"):
        model().train(lambda: np.full((9, 3), 2**24 + 1), steps=1)


@pytest.mark.parametrize("length", [1e160, 1e200])
def test_rows_too_long_to_square_are_refused_or_right_by_cosine(length):
    rows = np.array([[3.0, 4.0], [4.0, -3.0]]) * length
    estimator = model(k=2, initial_clusters=[[3.0, 4.0], [4.0, -3.0]], distance_metric="cosine")
    with suppress(InvalidData):
        estimator.train(lambda: rows, steps=1)
    if step_of(estimator):
        np.testing.assert_allclose(estimator.cluster_centers(), [[0.6, 0.8], [0.8, -0.6]])


def test_strided_reversed_and_fortran_ordered_arrays_are_the_rows_they_show():
    rows = rows_of(80, 6)
    for view in (rows[::2, ::2], rows[::-1, ::-1], np.asfortranarray(rows), rows.astype(">f4")):
        width = view.shape[1]
        plain = np.array(view, np.float32, order="C")
        some = {"initial_clusters": rows_of(4, width, seed=99)}
        one = model(**some).train(lambda view=view: view, steps=2)
        other = model(**some).train(lambda plain=plain: plain, steps=2)
        assert values_of(one) == values_of(other)


# Logs and checkpoints.


def test_each_iteration_reports_its_loss(caplog):
    caplog.set_level(logging.DEBUG, "dkmeans")
    rows = rows_of()
    model(**FULL).train(lambda: iter([rows] * 3))
    centers, expected = rows_of(4, seed=99), []
    for _ in range(3):
        centers, loss = reference.full_batch_step(rows, centers, EUCLIDEAN)
        expected.append(loss)
    np.testing.assert_allclose(losses_of(caplog), expected, rtol=1e-6)


def test_empty_clusters_are_counted_and_reported(caplog):
    caplog.set_level(logging.DEBUG, "dkmeans")
    centers = np.array([[0, 0, 0], [900, 900, 900], [1, 1, 1], [-800, 0, 0]], np.float32)
    model(initial_clusters=centers, **FULL).train(lambda: iter([rows_of()] * 2))
    reported = [r.progress for r in caplog.records if hasattr(r, "progress")]
    assert [progress.empty_clusters for progress in reported] == [2, 2]
    assert all("2 empty clusters" in str(progress) for progress in reported)


def test_the_reason_for_stopping_is_logged(caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    model().train(lambda: rows_of(), steps=2)
    assert f"{StopReason.MAX_STEPS.value} at step 2" in caplog.text


def test_a_store_with_conditional_writes_is_trained_on_without_a_warning(s3, caplog):
    model(f"{s3}/{uuid4().hex}").train(lambda: rows_of(), steps=1)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_store_that_ignores_conditional_writes_is_warned_of_and_trained_on(
    s3_without_conditional_writes, caplog
):
    model_dir = f"{s3_without_conditional_writes}/model"
    estimator = model(model_dir).train(lambda: rows_of(), steps=2)
    assert f"the store of {model_dir} ignores conditional writes" in caplog.text
    assert step_of(estimator.train(lambda: rows_of(), steps=2)) == 4
    expected = model().train(lambda: rows_of(), steps=4)
    np.testing.assert_array_equal(estimator.cluster_centers(), expected.cluster_centers())
