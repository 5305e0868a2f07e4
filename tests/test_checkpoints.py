"""Checkpoints: what was saved is loaded, or refused by name; a crash leaves the one before."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from dkmeans import Conflict, Invalid, InvalidCheckpoint, KMeans, checkpoints, storage
from dkmeans.checkpoints import Head, Settings, Stop
from dkmeans.distance import Distance
from dkmeans.state import PartialSums, StopReason, TrainState

SETTINGS = Settings(Distance.SQUARED_EUCLIDEAN, True, 3)
POINTER = "checkpoints.json"


def state_of(step=0, k=5, d=3, dtype=np.float32):
    rng = np.random.default_rng(step)
    return TrainState(rng.normal(size=(k, d)).astype(dtype), rng.integers(0, 99, k), step)


def pending_of(k=5, d=3):
    rng = np.random.default_rng(77)
    return PartialSums(rng.normal(size=(k, d)), rng.integers(0, 9, k), 0.1 + 0.2)


def save(place, *steps, keep=0, head=None, **more):
    """Save a state for each step; the head after the last."""
    if head is None:
        checkpoints.prepare(place)
        head = Head.read(place)
    for step in steps:
        head = checkpoints.save(place, head, state_of(step, **more), SETTINGS, None, keep)
    return head


def saved_in(place):
    """The names of the checkpoints of which anything at all is kept."""
    fs, path = storage.filesystem(place)
    names = (found.partition(path.strip("/"))[2].strip("/") for found in fs.find(path))
    return sorted({name.split("/")[0] for name in names if name.startswith("checkpoint-")})


def same(one, other):
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


def address_of(place):
    return storage.join(place, Head.read(place).latest)


# What was saved is loaded.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pending", [None, pending_of()], ids=["whole", "pending"])
def test_a_state_comes_back_to_the_last_bit(place, dtype, pending):
    state = replace(
        state_of(12, dtype=dtype),
        pending=pending,
        pending_steps=2 if pending else 0,
        inertia=1 / 3,
    )
    stop = Stop(StopReason.CONVERGED, 1e-7)
    checkpoints.prepare(place)
    checkpoints.save(place, Head.read(place), state, SETTINGS, stop, 5)
    found = checkpoints.latest(place)
    assert same(found.state.centers, state.centers)
    assert same(found.state.counts, state.counts)
    assert (found.state.step, found.state.inertia) == (12, 1 / 3)
    assert found.state.pending_steps == state.pending_steps
    if pending is None:
        assert found.state.pending is None
    else:
        assert same(found.state.pending.sums, pending.sums)
        assert same(found.state.pending.counts, pending.counts)
        assert found.state.pending.inertia == pending.inertia
    assert (found.settings, found.stop) == (SETTINGS, stop)


def test_extreme_numbers_come_back_to_the_last_bit(place):
    centers = np.array([[0.0, -0.0, 5e-324], [1.7e308, -1.7e308, 0.1]])
    state = TrainState(centers, np.array([0, 2**62]), 2**40, inertia=1.7976931348623157e308)
    checkpoints.prepare(place)
    checkpoints.save(place, Head.read(place), state, SETTINGS, None, 5)
    found = checkpoints.latest(place).state
    assert same(found.centers, centers)
    assert same(found.counts, state.counts)
    assert (found.step, found.inertia) == (2**40, state.inertia)


def test_settings_of_every_kind_come_back(tmp_path):
    place = str(tmp_path)
    head = save(place)
    for settings in (
        Settings(Distance.COSINE, False, 1),
        Settings(Distance.COSINE, True, 1),
        Settings(Distance.SQUARED_EUCLIDEAN, True, 7),
    ):
        head = checkpoints.save(place, head, state_of(), settings, None, 1)
        assert checkpoints.latest(place).settings == settings


def test_centers_are_stored_in_pieces_where_they_are_large(place, monkeypatch):
    monkeypatch.setattr(checkpoints, "_LARGEST_PIECE", 100)
    save(place, 1, k=50)
    fs, path = storage.filesystem(address_of(place))
    assert sum("/centers/c/" in name for name in fs.find(path)) == 7
    assert same(checkpoints.latest(place).state.centers, state_of(1, k=50).centers)


def test_a_model_without_checkpoints_has_no_latest(place):
    assert checkpoints.latest(place) is None
    checkpoints.prepare(place)
    assert checkpoints.latest(place) is None
    assert Head.read(place).latest is None


def test_the_latest_is_the_last_saved_whatever_its_step(place):
    save(place, 3, 9, 4)
    assert checkpoints.latest(place).state.step == 4


def test_preparing_again_keeps_what_is_there(place):
    save(place, 1)
    checkpoints.prepare(place)
    assert checkpoints.latest(place).state.step == 1
    assert [name for name in storage.children(place) if "probe" in name] == []


def test_a_model_dir_may_be_a_file_url(tmp_path):
    place = f"file://{tmp_path}/model"
    save(place, 1, 2, keep=1)
    assert checkpoints.latest(place).state.step == 2
    assert checkpoints.latest(f"{tmp_path}/model").state.step == 2


# How many are kept.


def test_no_more_than_the_newest_are_kept(place):
    head = save(place, *range(6), keep=3)
    assert [name[:19] for name in head.names] == [f"checkpoint-{i:08d}" for i in (3, 4, 5)]
    assert saved_in(place) == sorted(head.names)
    assert Head.read(place).names == head.names
    assert [checkpoints.load(storage.join(place, n)).state.step for n in head.names] == [3, 4, 5]


def test_keeping_zero_keeps_all(place):
    head = save(place, *range(7), keep=0)
    assert len(head.names) == 7
    assert saved_in(place) == sorted(head.names)


def test_keeping_fewer_than_before_prunes_the_surplus(place):
    head = save(place, *range(4), keep=0)
    head = save(place, 4, keep=1, head=head)
    assert saved_in(place) == list(head.names)


# Two drivers.


def test_a_second_driver_is_refused_and_the_first_ones_checkpoint_stands(place):
    save(place, 1)
    mine, theirs = Head.read(place), Head.read(place)
    theirs = save(place, 2, head=theirs)
    with pytest.raises(Conflict, match="another driver"):
        save(place, 3, head=mine)
    assert checkpoints.latest(place).state.step == 2
    assert saved_in(place) == sorted(theirs.names)
    save(place, 4, head=theirs)
    assert checkpoints.latest(place).state.step == 4


def test_of_two_drivers_that_begin_a_model_the_second_is_refused(place):
    checkpoints.prepare(place)
    mine, theirs = Head.read(place), Head.read(place)
    save(place, 0, head=theirs)
    with pytest.raises(Conflict, match="another driver"):
        save(place, 0, head=mine)
    assert len(saved_in(place)) == 1


# Damage.


@pytest.mark.parametrize("name", ["centers/c/0/0", "counts/c/0", "pending_sums/c/0/0"])
def test_changed_bytes_are_refused_by_the_checkpoints_address(place, name):
    state = replace(state_of(1), pending=pending_of(), pending_steps=1)
    checkpoints.prepare(place)
    checkpoints.save(place, Head.read(place), state, SETTINGS, None, 5)
    file = storage.join(address_of(place), name)
    data = bytearray(storage.read(file).data)
    data[7] ^= 1
    storage.write(file, bytes(data))
    with pytest.raises(InvalidCheckpoint) as error:
        checkpoints.latest(place)
    assert address_of(place) in str(error.value)
    assert f"{name.split('/')[0]} is not what was written" in str(error.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("centers/c/0/0", None),
        ("centers/c/0/0", b"short"),
        ("counts/c/0", b""),
        ("centers/zarr.json", None),
        ("centers/zarr.json", b"{"),
        ("zarr.json", b"not json"),
        ("zarr.json", b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'),
    ],
)
def test_a_torn_checkpoint_is_refused_by_its_address(place, name, data):
    save(place, 1)
    file = storage.join(address_of(place), name)
    storage.remove(file)
    if data is not None:
        storage.write(file, data)
    with pytest.raises(InvalidCheckpoint) as error:
        checkpoints.load(address_of(place))
    assert address_of(place) in str(error.value)


def test_a_checkpoint_that_is_not_there_is_refused_by_its_address(place):
    for address in (f"{place}/checkpoint-00000001-00000000", f"{place}/no/where"):
        with pytest.raises(InvalidCheckpoint) as error:
            checkpoints.load(address)
        assert address in str(error.value)


def test_a_checkpoint_that_is_listed_and_was_removed_is_refused_by_its_address(place):
    save(place, 1)
    storage.remove(address_of(place))
    with pytest.raises(InvalidCheckpoint) as error:
        checkpoints.latest(place)
    assert address_of(place) in str(error.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b'{"format": 1}'])
def test_a_damaged_pointer_is_refused_by_its_address(place, data):
    save(place, 1)
    storage.write(storage.join(place, POINTER), data)
    with pytest.raises(InvalidCheckpoint) as error:
        checkpoints.latest(place)
    assert storage.join(place, POINTER) in str(error.value)


@pytest.mark.parametrize("names", [7, "checkpoint-00000001-00000000", [7], [None], {"a": 1}])
def test_a_pointer_that_lists_no_names_is_refused_by_its_address(tmp_path, names):
    place = str(tmp_path)
    save(place, 1)
    data = json.dumps({"format": 1, "checkpoints": names}).encode()
    storage.write(storage.join(place, POINTER), data)
    with pytest.raises(InvalidCheckpoint, match=POINTER):
        checkpoints.latest(place)


def test_checkpoints_of_another_format_are_refused_by_both_numbers(place):
    save(place, 1)
    storage.write(storage.join(place, POINTER), b'{"format": 2, "checkpoints": []}')
    with pytest.raises(InvalidCheckpoint, match="must be of format 1, got 2"):
        checkpoints.latest(place)


def test_a_file_or_folder_of_something_else_is_no_checkpoint(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder", "file/below"):
        with pytest.raises(InvalidCheckpoint, match=name):
            checkpoints.load(f"{tmp_path}/{name}")


# Crashes.


def test_a_half_written_checkpoint_does_not_count_and_is_swept(place):
    head = save(place, 1, 2)
    for step in (1, 2):
        storage.write(f"{place}/checkpoint-{step:08d}-0badc0de/centers/c/0/0", b"half")
    storage.write(f"{place}/notes/of-the-user", b"x")
    assert checkpoints.latest(place).state.step == 2
    checkpoints.sweep(place, head)
    assert saved_in(place) == sorted(head.names)
    assert checkpoints.latest(place).state.step == 2
    assert storage.read(f"{place}/notes/of-the-user").data == b"x"


def test_one_that_is_newer_than_the_latest_is_not_swept_yet(place):
    head = save(place, 1)
    newer = "checkpoint-00000002-0badc0de"
    storage.write(f"{place}/{newer}/centers/c/0/0", b"being written")
    checkpoints.sweep(place, head)
    assert newer in saved_in(place)
    head = save(place, 2, head=head)
    checkpoints.sweep(place, head)
    assert saved_in(place) == sorted(head.names)


def test_without_a_checkpoint_nothing_is_swept(place):
    checkpoints.prepare(place)
    storage.write(f"{place}/checkpoint-00000000-0badc0de/x", b"being written")
    checkpoints.sweep(place, Head.read(place))
    assert saved_in(place) == ["checkpoint-00000000-0badc0de"]


SAVER = """
import sys
import numpy as np
from dkmeans import checkpoints
from dkmeans.checkpoints import Head, Settings
from dkmeans.distance import Distance
from dkmeans.state import TrainState

place = sys.argv[1]
checkpoints.prepare(place)
found, head = checkpoints.latest(place), Head.read(place)
checkpoints.sweep(place, head)
step = found.state.step if found else 0
while True:
    step += 1
    state = TrainState(np.full((2000, 32), step, np.float32), np.full(2000, step), step)
    settings = Settings(Distance.COSINE, True, 1)
    head = checkpoints.save(place, head, state, settings, None, 2)
    print(step, flush=True)
"""


@pytest.mark.parametrize("kills", [8])
def test_after_every_kill_the_latest_is_whole(tmp_path, kills):
    place, last = str(tmp_path / "model"), 0
    for kill in range(kills):
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVER, place], stdout=subprocess.PIPE, text=True
        )
        with saver:
            last = int(saver.stdout.readline())
            time.sleep(random.Random(kill).uniform(0.0, 0.15))
            os.kill(saver.pid, signal.SIGKILL)
            last = max([last, *map(int, saver.stdout.read().split())])
        state = checkpoints.latest(place).state
        assert state.step in (last, last + 1)
        assert (state.centers == state.step).all()
        assert (state.counts == state.step).all()
    head = save(place, state.step + 1, keep=2)
    checkpoints.sweep(place, head)
    assert saved_in(place) == sorted(head.names)


# Where nothing can be written.


def test_a_model_dir_that_cannot_be_made_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(Invalid, match=r"model_dir must be writable, got .*file/model"):
        checkpoints.prepare(f"{tmp_path}/file/model")


def test_a_model_dir_that_is_a_regular_file_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(Invalid, match=r"model_dir must be writable, got .*file"):
        KMeans(1, tmp_path / "file", seed=1).train(lambda: np.ones((3, 2)), steps=1)
    assert (tmp_path / "file").read_bytes() == b"x"


def test_a_bucket_that_is_not_there_is_refused_by_name(s3):
    with pytest.raises(Invalid, match="model_dir must be writable, got 's3://no-such-bucket/m'"):
        checkpoints.prepare("s3://no-such-bucket/m")


@contextmanager
def files_no_larger_than(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_save_that_the_disk_refuses_leaves_the_checkpoint_before_it(tmp_path):
    place = str(tmp_path)
    head = save(place, 1)
    with files_no_larger_than(100_000), pytest.raises(OSError, match="File too large"):
        save(place, 2, head=head, k=100_000)
    assert checkpoints.latest(place).state.step == 1
    assert saved_in(place) == list(head.names)
    assert save(place, 3, head=head).latest == Head.read(place).latest


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte, where this process may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield str(folder)
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_checkpoint_before_it(small_disk):
    head = save(small_disk, 1)
    with pytest.raises(OSError, match="No space left on device"):
        save(small_disk, 2, head=head, k=100_000)
    assert checkpoints.latest(small_disk).state.step == 1
    assert saved_in(small_disk) == list(head.names)
    assert save(small_disk, 3, head=head).latest == Head.read(small_disk).latest
