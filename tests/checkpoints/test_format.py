"""The format of a checkpoint: what is saved comes back bit for bit, on every kind of storage."""

import json
from dataclasses import replace

import numpy as np
import pytest
import zarr

from dkmeans import InvalidCheckpoint, checkpoints, storage
from dkmeans.checkpoints import Settings, Stop, zarr_files
from dkmeans.checkpoints.format import check_digests, check_format, checkpoint_of, parts_of, sha256
from dkmeans.distance import Centers, Distance
from dkmeans.fit import Fit, Start
from dkmeans.loss import inertia
from dkmeans.scaling import Scaling
from dkmeans.state import Farthest, StopReason, TrainState
from tests.checkpoints.models import SETTINGS, fit_of, newest, same_bits, save, state
from tests.exactly import same_partial_sums, same_sums, sums_of


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pending", [False, True])
def test_a_state_comes_back_bit_for_bit(model_dir, dtype, pending):
    saved = state(7, dtype, pending=pending)
    stop = Stop(StopReason.CONVERGED, 1e-3) if pending else None
    manifest = save(model_dir, saved, stop=stop)
    found = checkpoints.latest(model_dir)
    assert found.address == storage.join(model_dir, manifest.latest)
    assert found.settings == SETTINGS
    assert found.stop == stop
    assert same_bits(found.state.centers, saved.centers)
    assert same_bits(found.state.counts, saved.counts)
    assert (found.state.step, found.state.inertia) == (saved.step, saved.inertia)
    assert found.state.pending_steps == saved.pending_steps
    assert (found.state.pending is not None) == pending
    if pending:
        assert same_partial_sums(found.state.pending, saved.pending)


def test_the_names_of_the_columns_come_back_and_earlier_checkpoints_have_none(tmp_path):
    arrays, attributes = parts_of(Fit((Start(state(3)),)), SETTINGS, None)
    assert checkpoint_of("m", arrays, attributes).settings.columns is None
    del attributes["settings"]["columns"]
    assert checkpoint_of("m", arrays, attributes).settings == SETTINGS
    for columns, found in (
        (("größe", "v[2]"), ("größe", "v[2]")),
        (("größe", "v_bucketized"), None),  # of feature columns, by an earlier version
    ):
        named = replace(SETTINGS, columns=columns)
        _, attributes = parts_of(Fit((Start(state(3)),)), named, None)
        again = checkpoint_of("m", arrays, json.loads(json.dumps(attributes)))
        assert again.settings == replace(named, columns=found)


def test_the_means_and_deviations_of_the_columns_come_back(model_dir):
    scaling = Scaling.of(np.array([1.0, -2e9, 0.1]), np.array([1e-9, 3.0, 1.0]))
    save(model_dir, state(3), replace(SETTINGS, scaling=scaling))
    found = checkpoints.latest(model_dir).settings.scaling
    assert found == scaling
    assert same_bits(found.means, scaling.means)
    assert same_bits(found.deviations, scaling.deviations)


@pytest.mark.parametrize("reason", StopReason)
def test_every_reason_to_stop_comes_back(tmp_path, reason):
    for tolerance in (None, 0.1):
        stop = Stop(reason, tolerance)
        save(str(tmp_path), state(0), stop=stop)
        assert checkpoints.latest(str(tmp_path)).stop == stop


def test_the_reason_that_was_once_saved_as_settled_is_unchanged(tmp_path):
    fit = Fit((Start(state(5), StopReason.UNCHANGED, 4), Start(state(6), None, 5)))
    save(str(tmp_path), fit, stop=Stop(StopReason.UNCHANGED, None))
    description = tmp_path / newest(str(tmp_path)) / "zarr.json"
    text = description.read_text()
    assert text.count('"UNCHANGED"') == 2
    description.write_text(text.replace('"UNCHANGED"', '"SETTLED"'))
    found = checkpoints.latest(str(tmp_path))
    assert found.stop.reason is StopReason.UNCHANGED
    assert [start.reason for start in found.fit.starts] == [StopReason.UNCHANGED, None]


@pytest.mark.parametrize("metric", Distance)
@pytest.mark.parametrize("mini_batch", [False, True])
def test_the_settings_come_back(tmp_path, metric, mini_batch):
    settings = Settings(metric, mini_batch, 9)
    save(str(tmp_path), state(), settings)
    assert checkpoints.latest(str(tmp_path)).settings == settings


def test_numbers_that_are_zeros_smallest_and_largest_come_back_bit_for_bit(model_dir):
    centers = np.array([[0.0, -0.0], [5e-324, -1.7e308], [0.0, 0.0]])
    save(model_dir, TrainState(centers, np.zeros(3, np.int64)))
    assert same_bits(checkpoints.latest(model_dir).state.centers, centers)


def test_centers_stored_in_several_pieces_come_back_bit_for_bit(model_dir, monkeypatch):
    monkeypatch.setattr(zarr_files, "_LARGEST_PIECE_BYTES", 30)
    saved = state(3, pending=True, k=11)
    save(model_dir, saved)
    found = checkpoints.latest(model_dir).state
    assert same_bits(found.centers, saved.centers)
    assert same_partial_sums(found.pending, saved.pending)


def test_running_means_come_back_bit_for_bit(model_dir):
    saved = replace(state(3), means=np.random.default_rng(3).normal(size=(5, 3)))
    save(model_dir, saved)
    assert same_bits(checkpoints.latest(model_dir).state.means, saved.means)
    save(model_dir, state(4))
    assert checkpoints.latest(model_dir).state.means is None


@pytest.mark.parametrize("metric", Distance)
def test_pending_sums_and_their_loss_are_loaded_from_format_1(metric):
    saved, rows = state(3, pending=True), np.random.default_rng(1).normal(size=(5, 3))
    arrays, attributes = parts_of(fit_of(saved), replace(SETTINGS, distance_metric=metric), None)
    old = {name: arrays[name] for name in ("centers", "counts", "pending_counts")}
    del attributes["pending_squares"]
    attributes |= {"format": 1, "pending_inertia": 0.7}
    check_format("there", attributes["format"])
    pending = checkpoint_of("there", old | {"pending_sums": rows}, attributes).state.pending
    assert same_sums(pending.sums, sums_of(rows))
    assert pending.counts.tolist() == saved.pending.counts.tolist()
    assert inertia(pending, Centers(saved.centers, metric)) == 0.7


def test_the_farthest_rows_of_an_unfinished_iteration_come_back_bit_for_bit(tmp_path):
    saved = state(3, pending=True)
    farthest = Farthest.among(
        np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        np.array([2.0, 9.0]),
        np.array([1, 0]),
        np.array([1, 3]),
        most=5,
    )
    saved = replace(saved, pending=replace(saved.pending, farthest=farthest))
    save(str(tmp_path), saved)
    found = checkpoints.latest(str(tmp_path)).state.pending.farthest
    assert found.most == 5
    for name in ("rows", "distances", "clusters", "copies"):
        assert same_bits(getattr(found, name), getattr(farthest, name))
    names = set(zarr.open_group(newest(str(tmp_path)), mode="r").array_keys())
    assert {"pending_farthest_apart", "pending_farthest_winners"} < names


def test_the_best_start_is_saved_like_a_single_one():
    worse, better = (replace(state(7), inertia=loss, inertia_rows=1) for loss in (2.0, 1.0))
    alone, _ = parts_of(fit_of(better), SETTINGS, None)
    arrays, attributes = parts_of(Fit((Start(worse), Start(better))), SETTINGS, None)
    assert set(arrays) == {*alone, "start_0_centers", "start_0_counts"}
    assert all(arrays[name] is alone[name] for name in alone)
    assert len(attributes["starts"]) == 2


def test_arrays_and_attributes_are_a_checkpoint_again_after_json():
    saved = fit_of(state(7, pending=True))
    arrays, attributes = parts_of(saved, SETTINGS, Stop(StopReason.STOPPED, 0.5))
    attributes = json.loads(json.dumps(attributes))
    check_format("there", attributes["format"])
    check_digests("there", arrays, attributes)
    found = checkpoint_of("there", arrays, attributes)
    assert (found.address, found.settings) == ("there", SETTINGS)
    assert found.stop == Stop(StopReason.STOPPED, 0.5)
    assert same_partial_sums(found.state.pending, saved.state.pending)


def test_a_digest_is_of_dtype_shape_and_values():
    values = np.arange(6.0).reshape(2, 3)
    others = [values.astype(np.float32), values.reshape(3, 2), values + 1, values[:1]]
    digests = {sha256(array) for array in (values, *others)}
    assert len(digests) == 5
    assert sha256(np.asfortranarray(values)) == sha256(values[:, ::-1][:, ::-1]) == sha256(values)


def test_an_array_that_is_not_what_was_written_is_refused_by_name():
    arrays, attributes = parts_of(fit_of(state(7)), SETTINGS, None)
    damaged = arrays | {"counts": arrays["counts"] + 1}
    with pytest.raises(InvalidCheckpoint, match="there is damaged: counts is not what was written"):
        check_digests("there", damaged, attributes)


def test_another_format_is_refused_with_both_numbers():
    with pytest.raises(InvalidCheckpoint, match="there must be of format 2, got 3: another"):
        check_format("there", 3)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("loss", [None, 0.1 + 0.2])
def test_the_loss_to_compare_with_comes_back_bit_for_bit(model_dir, number, loss):
    starts = tuple(Start(state(7), None, 7, loss) for _ in range(number))
    save(model_dir, Fit(starts))
    found = checkpoints.latest(model_dir).fit
    assert [start.loss_before for start in found.starts] == [loss] * number


@pytest.mark.parametrize("number", [1, 2])
def test_an_earlier_checkpoint_compares_with_the_loss_of_its_last_iteration(number):
    starts = tuple(Start(state(7), None, 7, 1.5) for _ in range(number))
    arrays, attributes = parts_of(Fit(starts), SETTINGS, None)
    for numbers in (attributes, *attributes.get("starts", [])):
        del numbers["loss_before"]
    found = checkpoint_of("there", arrays, attributes).fit
    assert [start.loss_before for start in found.starts] == [state(7).inertia] * number


def test_weighted_sums_of_an_unfinished_iteration_come_back(tmp_path):
    weights = sums_of([[0.1], [2.0**70], [0.0], [1.0], [1e-30]])
    rows = np.arange(6.0).reshape(2, 3)
    table = rows, np.array([5.0, 4.0]), np.array([1, 0]), np.array([2, 1])
    farthest = Farthest(*table, 5, weights=sums_of([[0.3], [1e9]]))
    before = state(7, pending=True)
    pending = replace(before.pending, weights=weights, farthest=farthest)
    counts = np.array([0.5, 1.0, 3.0, 2.5, 0.0])
    save(str(tmp_path), replace(before, pending=pending, counts=counts))
    found = checkpoints.latest(str(tmp_path)).state
    assert same_bits(found.counts, counts)
    assert same_partial_sums(found.pending, pending)
    assert same_sums(found.pending.weights, weights)
    assert same_sums(found.pending.farthest.weights, farthest.weights)
