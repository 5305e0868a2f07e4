"""Loading: the latest checkpoint or a given one, and damage of any kind refused by name."""

import json
import re

import numpy as np
import pytest

from dkmeans import InvalidCheckpoint, KMeans, checkpoints, storage
from dkmeans.checkpoints import Manifest, loading
from tests.checkpoints.models import (
    leave_half_written,
    names_in,
    newest,
    save,
    save_step,
    state,
    values_file,
)


def test_an_empty_model_has_no_latest(model_dir):
    assert checkpoints.latest(model_dir) is None
    assert Manifest.read(model_dir) == Manifest((), None)


def test_a_model_that_is_nowhere_has_no_latest(tmp_path):
    assert checkpoints.latest(str(tmp_path / "nowhere")) is None
    assert not (tmp_path / "nowhere").exists()


def test_the_latest_comes_with_the_manifest_that_names_it(model_dir):
    assert checkpoints.open_latest(model_dir) == (Manifest((), None), None)
    saved = save_step(model_dir, 3)
    manifest, latest = checkpoints.open_latest(model_dir)
    assert manifest == saved
    assert latest.address == newest(model_dir)
    assert latest.state.step == 3


def test_any_checkpoint_is_loaded_by_its_address(model_dir):
    manifest = save_step(model_dir, 2, save_step(model_dir, 1))
    loaded = [checkpoints.load(storage.join(model_dir, name)) for name in manifest.names]
    assert [each.state.step for each in loaded] == [1, 2]


@pytest.mark.parametrize("array", ["centers", "counts", "pending_plane_0", "pending_counts"])
def test_one_flipped_bit_is_refused_by_name(model_dir, array):
    save(model_dir, state(pending=True))
    address = newest(model_dir)
    flip_a_bit(address, array)
    with pytest.raises(InvalidCheckpoint, match=array) as caught:
        checkpoints.latest(model_dir)
    assert address in str(caught.value)


def flip_a_bit(address, array="centers"):
    fs, file = values_file(address, array)
    data = bytearray(fs.cat_file(file))
    data[len(data) // 2] ^= 1
    fs.pipe_file(file, bytes(data))


def remedy(model_dir):
    """Return the intact checkpoint that the error of a damaged model names."""
    with pytest.raises(InvalidCheckpoint) as caught:
        checkpoints.open_latest(model_dir)
    found = re.search(
        r"is damaged.*\. The newest intact checkpoint is (\S+): go on from it with train "
        r"--from-checkpoint, in Python with checkpoint_path$",
        str(caught.value),
    )
    return found[1]


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_latest_checkpoint_names_the_newest_that_is_intact(model_dir, damaged):
    for step in range(1, 5):
        save_step(model_dir, step)
    names = Manifest.read(model_dir).names
    for name in names[-damaged:]:
        flip_a_bit(storage.join(model_dir, name))
    intact = remedy(model_dir)
    assert intact == storage.join(model_dir, names[-damaged - 1])
    assert checkpoints.load(intact).state.step == 4 - damaged
    checkpoints.rollback_to(model_dir, intact).commit(model_dir)
    assert checkpoints.latest(model_dir).state.step == 4 - damaged
    save_step(model_dir, 9)
    # As the same job does when it is run again; the name is enough.
    assert checkpoints.rollback_to(model_dir, intact.rpartition("/")[2]) is None
    assert checkpoints.latest(model_dir).state.step == 9


@pytest.mark.parametrize("data", [b"", b"{", b'{"format": 1, "checkpoints": ["x"]}', b"\xff"])
def test_a_damaged_manifest_names_the_newest_checkpoint_that_is_intact(model_dir, data):
    for step in (9, 10, 101):
        save_step(model_dir, step)
    flip_a_bit(newest(model_dir))
    storage.write(f"{model_dir}/checkpoints.json", data)
    intact = remedy(model_dir)
    assert checkpoints.load(intact).state.step == 10
    checkpoints.rollback_to(model_dir, intact).commit(model_dir)
    assert checkpoints.latest(model_dir).state.step == 10


def test_the_message_of_a_damaged_model_says_if_no_other_checkpoint_is_intact(model_dir):
    for step in (1, 2):
        save_step(model_dir, step)
        flip_a_bit(newest(model_dir))
    with pytest.raises(InvalidCheckpoint, match=f"No other checkpoint in {model_dir} is intact"):
        checkpoints.latest(model_dir)


def test_a_checkpoint_or_manifest_of_another_version_suggests_no_older_one(model_dir):
    for step in (1, 2):
        save_step(model_dir, step)
    description = storage.join(newest(model_dir), "zarr.json")
    content = json.loads(storage.read(description).data)
    content["attributes"]["format"] = 3
    storage.write(description, json.dumps(content).encode())
    with pytest.raises(InvalidCheckpoint, match=r"another version of dkmeans wrote it$"):
        checkpoints.latest(model_dir)
    storage.write(f"{model_dir}/checkpoints.json", b'{"format": 3}')
    with pytest.raises(InvalidCheckpoint, match=r"another version of dkmeans wrote it$"):
        checkpoints.latest(model_dir)


def test_a_damaged_model_is_used_and_trained_further_as_its_message_says(tmp_path):
    rows = np.random.default_rng(3).normal(size=(200, 2)).astype(np.float32)
    model_dir = str(tmp_path / "model")
    model = KMeans(3, model_dir, initial_clusters=rows[:3]).train(lambda: rows, steps=2)
    model.train(lambda: rows, steps=2)
    flip_a_bit(model.latest_checkpoint())
    assert model.checkpoint().state.step == 4  # in memory: this driver has saved it
    model = KMeans(3, model_dir, initial_clusters=rows[:3])
    with pytest.raises(InvalidCheckpoint, match="newest intact checkpoint"):
        model.train(lambda: rows, steps=1)
    intact = remedy(model_dir)
    assert model.evaluate(lambda: rows, checkpoint_path=intact)["global_step"] == 2
    assert next(model.predict(lambda: rows, checkpoint_path=intact))
    for step in (3, 4):
        model.train(lambda: rows, steps=1, checkpoint_path=intact)
        assert model.checkpoint().state.step == step
    assert len(Manifest.read(model_dir).names) == len(names_in(model_dir))


def test_a_lost_manifest_is_no_new_model(model_dir):
    leave_half_written(model_dir, 0)  # what a driver leaves that is killed in initialization
    assert checkpoints.latest(model_dir) is None
    for step in (0, 1, 2):
        save_step(model_dir, step)
    flip_a_bit(newest(model_dir))
    storage.remove(f"{model_dir}/checkpoints.json")
    with pytest.raises(
        InvalidCheckpoint, match=r"checkpoints\.json is missing\. The newest"
    ) as caught:
        checkpoints.latest(model_dir)
    (intact,) = re.findall(r"newest intact checkpoint is (\S+):", str(caught.value))
    checkpoints.rollback_to(model_dir, intact).commit(model_dir)
    assert checkpoints.latest(model_dir).state.step == 1


def test_a_checkpoint_to_go_back_to_must_be_an_intact_one_of_the_model(model_dir):
    for step in (1, 2, 3):
        save_step(model_dir, step)
    names = Manifest.read(model_dir).names
    flip_a_bit(storage.join(model_dir, names[1]))
    rotated_out = "checkpoint-00000001-00000000"
    for path, complaint in {
        storage.join(model_dir, names[1]): "is damaged: centers",
        storage.join(model_dir, rotated_out): "Could not find a checkpoint",
        storage.join(model_dir, "eval"): f"must be one of {model_dir}, got",
        storage.join(f"{model_dir}-other", names[0]): f"must be one of {model_dir}, got",
    }.items():
        with pytest.raises(InvalidCheckpoint, match=complaint):
            checkpoints.rollback_to(model_dir, path)
    assert Manifest.read(model_dir).names == names


def test_a_reader_beside_a_driver_that_keeps_one_checkpoint_finds_it(model_dir, monkeypatch):
    rivals = iter(range(2, 6))

    def saved_meanwhile(address):
        step = next(rivals, None)  # the driver is faster than the reader, four times
        if step is not None:
            save_step(model_dir, step, keep=1)
        return read(address)

    save_step(model_dir, 1, keep=1)
    read = loading._read
    monkeypatch.setattr(loading, "_read", saved_meanwhile)
    assert checkpoints.latest(model_dir).state.step == 5


def test_a_checkpoint_that_is_replaced_too_fast_to_be_read_is_refused(tmp_path, monkeypatch):
    model_dir, step = str(tmp_path), 0
    checkpoints.prepare(model_dir)

    def saved_meanwhile(address):
        nonlocal step
        step += 1
        save_step(model_dir, step, keep=1)
        return read(address)

    save_step(model_dir, 0, keep=1)
    read = loading._read
    monkeypatch.setattr(loading, "_MOST_LOOKS", 3)
    monkeypatch.setattr(loading, "_read", saved_meanwhile)
    with pytest.raises(InvalidCheckpoint, match="has replaced its latest checkpoint 3 times"):
        checkpoints.latest(model_dir)


@pytest.mark.parametrize("left", [0, 7])
def test_a_torn_checkpoint_is_refused_by_name(model_dir, left):
    save_step(model_dir, 1)
    address = newest(model_dir)
    fs, file = values_file(address, "centers")
    fs.pipe_file(file, fs.cat_file(file)[:left])
    with pytest.raises(InvalidCheckpoint) as caught:
        checkpoints.load(address)
    assert address in str(caught.value)


@pytest.mark.filterwarnings("ignore:Object at")
@pytest.mark.parametrize("part", ["centers", "counts", "zarr.json"])
def test_a_checkpoint_of_which_a_part_is_missing_is_refused_by_name(model_dir, part):
    save_step(model_dir, 1)
    address = newest(model_dir)
    storage.remove(storage.join(address, part))
    with pytest.raises(InvalidCheckpoint) as caught:
        checkpoints.latest(model_dir)
    assert address in str(caught.value)


def test_a_checkpoint_whose_numbers_are_missing_is_refused_by_name(model_dir):
    save_step(model_dir, 1)
    address = newest(model_dir)
    fs, file = values_file(address, "centers")
    fs.rm_file(file)
    with pytest.raises(InvalidCheckpoint) as caught:
        checkpoints.latest(model_dir)
    assert address in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"attributes": {}, "zarr_format": 3}'])
def test_a_checkpoint_whose_description_is_damaged_is_refused_by_name(model_dir, text):
    save_step(model_dir, 1)
    address = newest(model_dir)
    storage.write(storage.join(address, "zarr.json"), text.encode())
    with pytest.raises(InvalidCheckpoint) as caught:
        checkpoints.load(address)
    assert address in str(caught.value)


def test_a_checkpoint_that_is_not_there_is_refused_by_name(model_dir):
    address = storage.join(model_dir, "checkpoint-00000001-00000000")
    with pytest.raises(InvalidCheckpoint, match="Could not find a checkpoint") as caught:
        checkpoints.load(address)
    assert address in str(caught.value)


def test_a_group_that_is_no_checkpoint_is_refused_by_name(model_dir):
    with pytest.raises(InvalidCheckpoint) as caught:
        checkpoints.load(model_dir)
    assert f"{model_dir} must be a checkpoint, as checkpoint-" in str(caught.value)
