"""Saving: a checkpoint is whole or not there, whatever crashes, on every kind of storage."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from dkmeans import Conflict, Invalid, KMeans, checkpoints, storage
from dkmeans.checkpoints import Manifest
from dkmeans.hooks import CheckpointSaverListener
from tests.checkpoints.models import leave_half_written, names_in, save_step
from tests.programs import files_limited_to


def test_preparing_twice_leaves_a_model_as_it_is(model_dir):
    save_step(model_dir, 1)
    checkpoints.prepare(model_dir)
    assert checkpoints.latest(model_dir).state.step == 1
    assert not [name for name in storage.children(model_dir) if "probe" in name]


@pytest.mark.parametrize(("keep", "steps"), [(1, [6]), (3, [4, 5, 6]), (0, [1, 2, 3, 4, 5, 6])])
def test_the_newest_are_kept_and_zero_keeps_all(model_dir, keep, steps):
    manifest = Manifest.read(model_dir)
    for step in range(1, 7):
        manifest = save_step(model_dir, step, manifest, keep)
    assert names_in(model_dir) == sorted(manifest.names)
    loaded = [checkpoints.load(storage.join(model_dir, name)) for name in manifest.names]
    assert [each.state.step for each in loaded] == steps


def test_keeping_fewer_than_before_removes_the_others(model_dir):
    for step in range(1, 5):
        save_step(model_dir, step)
    manifest = save_step(model_dir, 5, keep=2)
    assert names_in(model_dir) == sorted(manifest.names)
    assert len(manifest.names) == 2


# Two drivers.


def test_the_second_of_two_drivers_is_refused_and_leaves_nothing_behind(model_dir):
    manifest = save_step(model_dir, 1)
    first = save_step(model_dir, 2, manifest)
    with pytest.raises(Conflict, match="another driver"):
        save_step(model_dir, 3, manifest)
    assert Manifest.read(model_dir) == first
    assert names_in(model_dir) == sorted(first.names)
    assert checkpoints.latest(model_dir).state.step == 2


def test_the_second_of_two_drivers_that_begin_is_refused_too(model_dir):
    empty = Manifest.read(model_dir)
    first = save_step(model_dir, 1, empty)
    with pytest.raises(Conflict, match="another driver"):
        save_step(model_dir, 1, empty)
    assert Manifest.read(model_dir) == first
    assert names_in(model_dir) == list(first.names)


# What crashed drivers leave.


def test_a_half_written_checkpoint_leaves_the_one_before_the_latest(model_dir):
    manifest = save_step(model_dir, 2)
    half = leave_half_written(model_dir, 3)
    assert checkpoints.latest(model_dir).state.step == 2
    assert half in names_in(model_dir)
    assert names_in(model_dir) != list(manifest.names)


def test_what_a_driver_that_began_anew_has_saved_is_not_removed_by_another_one(model_dir):
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    KMeans(2, model_dir, initial_clusters=rows[:2]).train(lambda: rows, steps=3)

    def rows_slowly():
        other = KMeans(2, model_dir, initial_clusters=rows[2:4])
        other.train(lambda: rows, steps=1, overwrite=True)
        return rows

    with pytest.raises(Conflict, match="another driver"):
        KMeans(2, model_dir).train(rows_slowly, steps=1)
    assert checkpoints.latest(model_dir).state.step == 1
    assert names_in(model_dir) == sorted(Manifest.read(model_dir).names)


def test_other_files_in_the_directory_are_not_removed(model_dir):
    manifest = save_step(model_dir, 4)
    others = ["eval/x", "notes.txt", "checkpoint-1/x", "checkpoint-00000001-old/x"]
    for name in others:
        storage.write(storage.join(model_dir, name), b"content")
    assert checkpoints.orphans(model_dir, manifest) == []
    for name in others:
        assert storage.read(storage.join(model_dir, name)).data == b"content"


TEMPORARY = [
    ".checkpoints.json.a1b2c_d4",
    ".probe-0123abcd",
    "..probe-0123abcd.a1b2c3d4",
    f"zarr.json.{'0' * 32}.partial",
    ".events.out.tfevents.17.host.1.a1b2c3d4",
]


class ChildrenAtSaves(CheckpointSaverListener):
    """A listener that lists a model's directory before each checkpoint."""

    def __init__(self, model_dir):
        self.model_dir, self.seen = model_dir, []

    def before_save(self, session, step):
        self.seen.append(set(storage.children(self.model_dir)))


def test_what_another_driver_may_own_is_removed_after_the_first_save(model_dir):
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    others = {".hidden", ".my.settings", "notes.json"}
    for step in (0, 1):  # before the first checkpoint of a model, and after its last
        orphans = {leave_half_written(model_dir, step), leave_half_written(model_dir, 9)}
        for name in {*TEMPORARY, *others}:
            storage.write(storage.join(model_dir, name), b"1")
        listener = ChildrenAtSaves(model_dir)
        model = KMeans(2, model_dir, initial_clusters=rows[:2])
        model.train(lambda: rows, steps=1, saving_listeners=[listener])
        # The first checkpoint of the second call is there already.
        left = [seen >= {*orphans, *TEMPORARY} for seen in listener.seen]
        assert left == [True, step == 1]
        assert names_in(model_dir) == sorted(Manifest.read(model_dir).names)
        children = set(storage.children(model_dir))
        assert others <= children
        assert children.isdisjoint(TEMPORARY)


def test_a_call_that_has_nothing_to_do_removes_nothing(model_dir):
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    model = KMeans(2, model_dir, initial_clusters=rows[:2]).train(lambda: rows, steps=3)
    half = leave_half_written(model_dir, 2)
    model.train(lambda: rows, max_steps=3)
    assert names_in(model_dir) == sorted([*Manifest.read(model_dir).names, half])


def test_training_again_removes_what_a_crash_has_left(model_dir):
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    estimator = KMeans(2, model_dir, initial_clusters=rows[:2]).train(lambda: rows, steps=3)
    half = leave_half_written(model_dir, 2)
    estimator.train(lambda: rows, steps=1)
    assert half not in names_in(model_dir)
    assert names_in(model_dir) == sorted(Manifest.read(model_dir).names)


# Kills and full disks, for real.


SAVING = """
import sys
import numpy as np
from dkmeans import checkpoints, storage
from dkmeans.distance import Distance
from dkmeans.fit import Fit, Start
from dkmeans.state import TrainState

model_dir = sys.argv[1]
sys.stdin.read()
checkpoints.prepare(model_dir)
manifest = checkpoints.Manifest.read(model_dir)
found = checkpoints.latest(model_dir)
step = found.state.step if found else 0
settings = checkpoints.Settings(Distance.SQUARED_EUCLIDEAN, True, 1)
for orphan in checkpoints.orphans(model_dir, manifest):
    storage.remove(orphan)
while True:
    step += 1
    centers = np.full((200, 16), step, np.float32)
    state = TrainState(centers, np.full(200, step, np.int64), step)
    manifest = checkpoints.save(model_dir, manifest, Fit((Start(state),)), settings, None, 3)
    print("saved", flush=True)
"""


def start_saving(model_dir):
    """Start a driver that has imported all it needs, and saves when its stdin is closed."""
    command = [sys.executable, "-c", SAVING, model_dir]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_whenever_a_driver_is_killed_the_latest_checkpoint_is_whole(tmp_path):
    model_dir, before = str(tmp_path / "model"), 0
    drivers = [start_saving(model_dir) for _ in range(3)]
    for number, driver in enumerate(drivers):
        with driver:
            driver.stdin.close()
            assert driver.stdout.readline() == b"saved\n"
            time.sleep(0.0191 * number)
            driver.kill()
        found = checkpoints.latest(model_dir)
        step = found.state.step
        assert step > before
        assert (found.state.centers == step).all()
        assert (found.state.counts == step).all()
        before = step
    manifest = Manifest.read(model_dir)
    listed = [checkpoints.load(storage.join(model_dir, name)) for name in manifest.names]
    assert all((each.state.centers == each.state.step).all() for each in listed)


FULL = f"""
import sys
import numpy as np
from dkmeans import checkpoints, storage
from dkmeans.distance import Distance
from dkmeans.fit import Fit, Start
from dkmeans.state import TrainState

model_dir = sys.argv[1]
manifest = checkpoints.Manifest.read(model_dir)
settings = checkpoints.latest(model_dir).settings
state = TrainState(np.ones((1000, 100)), np.ones(1000, np.int64), 9)
{files_limited_to(100_000)}
try:
    checkpoints.save(model_dir, manifest, Fit((Start(state),)), settings, None, 1)
except OSError as error:
    print(type(error).__name__, error.errno)
"""


def test_a_full_disk_is_an_os_error_and_the_checkpoint_before_stands(tmp_path):
    model_dir = str(tmp_path / "model")
    checkpoints.prepare(model_dir)
    manifest = save_step(model_dir, 3)
    command = [sys.executable, "-c", FULL, model_dir]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "OSError 27\n", done.stderr
    assert Manifest.read(model_dir) == manifest
    assert names_in(model_dir) == list(manifest.names)
    assert checkpoints.latest(model_dir).state.step == 3


def test_a_directory_that_cannot_be_made_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    address = str(tmp_path / "file" / "model")
    with pytest.raises(Invalid, match="model_dir must be writable") as caught:
        checkpoints.prepare(address)
    assert address in str(caught.value)


@pytest.mark.parametrize("content", [b"", b'{"zarr_format": 3, "node', bytes(range(128, 256))])
def test_damaged_metadata_of_the_directory_is_said_and_written_anew(tmp_path, content, caplog):
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    estimator = KMeans(2, str(tmp_path), rows[:2]).train(lambda: rows, steps=1)
    (tmp_path / "zarr.json").write_bytes(content)
    estimator.train(lambda: rows, steps=1)
    (message,) = [m for m in caplog.messages if "which is damaged" in m]
    assert f"ignoring {tmp_path}/zarr.json" in message
    assert zarr.open_group(tmp_path, mode="r")[Path(estimator.latest_checkpoint()).name]


@pytest.mark.parametrize("content", [b'{"node_type": "array"}', b"[]"])
def test_a_directory_that_holds_something_else_of_zarr_is_refused_by_name(tmp_path, content):
    (tmp_path / "zarr.json").write_bytes(content)
    with pytest.raises(Invalid, match="model_dir must be a group of Zarr or a new directory, got"):
        checkpoints.prepare(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["zarr.json"]


def test_training_below_a_regular_file_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    rows = np.ones((4, 2), np.float32)
    estimator = KMeans(2, str(tmp_path / "file" / "model"))
    with pytest.raises(Invalid, match="model_dir must be writable"):
        estimator.train(lambda: rows, steps=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_is_refused_by_name(tmp_path):
    model_dir = Path(tmp_path / "model")
    checkpoints.prepare(str(model_dir))
    model_dir.chmod(0o500)
    with pytest.raises(Invalid, match="model_dir must be writable"):
        checkpoints.prepare(str(model_dir))
