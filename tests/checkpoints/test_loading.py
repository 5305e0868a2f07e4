"""Loading: the latest checkpoint or a given one, and damage of any kind refused by name."""

import pytest

from dkmeans import InvalidCheckpoint, checkpoints, storage
from dkmeans.checkpoints import Manifest
from tests.checkpoints.models import newest, save, save_step, state, values_file


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


@pytest.mark.parametrize("array", ["centers", "counts", "pending_sums", "pending_counts"])
def test_one_flipped_bit_is_refused_by_name(model_dir, array):
    save(model_dir, state(pending=True))
    address = newest(model_dir)
    fs, file = values_file(address, array)
    data = bytearray(fs.cat_file(file))
    data[len(data) // 2] ^= 1
    fs.pipe_file(file, bytes(data))
    with pytest.raises(InvalidCheckpoint, match=array) as caught:
        checkpoints.latest(model_dir)
    assert address in str(caught.value)


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
    assert model_dir in str(caught.value)
