"""The laws of checkpoints, on every kind of storage: whole or not there, and never lost."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
import obstore
import pytest

from dkmeans import Conflict, Invalid, InvalidCheckpoint, KMeans, checkpoints, storage
from dkmeans.checkpoints import Manifest, Settings, Stop, commit
from dkmeans.distance import Distance
from dkmeans.fit import Fit, Start
from dkmeans.state import PartialSums, StopReason, TrainState

SETTINGS = Settings(Distance.SQUARED_EUCLIDEAN, True, 4)


@pytest.fixture(params=["disk", "memory", "s3"])
def model_dir(request, tmp_path):
    """An empty model's directory of each kind."""
    if request.param == "memory":
        address = f"memory://{uuid4().hex}/model"
    elif request.param == "s3":
        address = f"{request.getfixturevalue('s3')}/{uuid4().hex}/model"
    else:
        address = str(tmp_path / "model")
    checkpoints.prepare(address)
    return address


def state(step=1, dtype=np.float32, *, pending=False, k=5, d=3):
    rng = np.random.default_rng(step)
    sums = PartialSums(rng.normal(size=(k, d)), rng.integers(9, size=k), float(rng.normal()))
    return TrainState(
        centers=rng.normal(size=(k, d)).astype(dtype),
        counts=rng.integers(2**60, size=k),
        step=step,
        pending=sums if pending else None,
        pending_steps=3 if pending else 0,
        inertia=float(rng.normal()) if step else None,
    )


def fit(state):
    return Fit((Start(state, steps=state.step),))


def save(model_dir, step, head=None, keep=0):
    head = Manifest.read(model_dir) if head is None else head
    return checkpoints.save(model_dir, head, fit(state(step)), SETTINGS, None, keep)


def same_bits(one, other):
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


def names_in(model_dir):
    """The checkpoints of which any file is there."""
    if model_dir.startswith("s3://"):  # by key: SeaweedFS, unlike S3, lists emptied folders
        store = obstore.store.from_url(model_dir)
        files = [entry["path"] for page in obstore.list(store) for entry in page]
    else:
        fs, path = storage.filesystem(model_dir)
        files = [file.removeprefix(path).strip("/") for file in fs.find(path)]
    return sorted({file.partition("/")[0] for file in files if file.startswith("checkpoint-")})


def newest(model_dir):
    return storage.join(model_dir, Manifest.read(model_dir).latest)


def chunk_of(address, array):
    """The largest file below an array of a checkpoint: its numbers."""
    fs, path = storage.filesystem(storage.join(address, array))
    file = max((f for f in fs.find(path) if not f.endswith("zarr.json")), key=fs.size)
    return fs, file


# Saving and loading.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pending", [False, True])
def test_a_state_comes_back_bit_for_bit(model_dir, dtype, pending):
    saved = state(7, dtype, pending=pending)
    stop = Stop(StopReason.CONVERGED, 1e-3) if pending else None
    head = checkpoints.save(model_dir, Manifest.read(model_dir), fit(saved), SETTINGS, stop, 5)
    found = checkpoints.latest(model_dir)
    assert found.address == storage.join(model_dir, head.latest)
    assert found.settings == SETTINGS
    assert found.stop == stop
    assert same_bits(found.state.centers, saved.centers)
    assert same_bits(found.state.counts, saved.counts)
    assert (found.state.step, found.state.inertia) == (saved.step, saved.inertia)
    assert found.state.pending_steps == saved.pending_steps
    assert (found.state.pending is not None) == pending
    if pending:
        assert same_bits(found.state.pending.sums, saved.pending.sums)
        assert same_bits(found.state.pending.counts, saved.pending.counts)
        assert found.state.pending.inertia == saved.pending.inertia


@pytest.mark.parametrize("reason", StopReason)
def test_every_reason_to_stop_comes_back(tmp_path, reason):
    for tolerance in (None, 0.1):
        stop = Stop(reason, tolerance)
        head = Manifest.read(str(tmp_path))
        checkpoints.save(str(tmp_path), head, fit(state(0)), SETTINGS, stop, 1)
        assert checkpoints.latest(str(tmp_path)).stop == stop


@pytest.mark.parametrize("metric", Distance)
@pytest.mark.parametrize("mini_batch", [False, True])
def test_the_settings_come_back(tmp_path, metric, mini_batch):
    settings = Settings(metric, mini_batch, 9)
    checkpoints.save(str(tmp_path), Manifest.read(str(tmp_path)), fit(state()), settings, None, 5)
    assert checkpoints.latest(str(tmp_path)).settings == settings


def test_numbers_that_are_zeros_nans_and_infinities_come_back_bit_for_bit(model_dir):
    centers = np.array([[0.0, -0.0], [np.inf, np.nan], [5e-324, -1.7e308], [0.0, 0.0]])
    odd = TrainState(centers, np.zeros(4, np.int64))
    checkpoints.save(model_dir, Manifest.read(model_dir), fit(odd), SETTINGS, None, 5)
    assert same_bits(checkpoints.latest(model_dir).state.centers, centers)


def test_centers_stored_in_several_pieces_come_back_bit_for_bit(model_dir, monkeypatch):
    monkeypatch.setattr(commit, "_LARGEST_PIECE_BYTES", 30)
    saved = state(3, pending=True, k=11)
    checkpoints.save(model_dir, Manifest.read(model_dir), fit(saved), SETTINGS, None, 5)
    found = checkpoints.latest(model_dir).state
    assert same_bits(found.centers, saved.centers)
    assert same_bits(found.pending.sums, saved.pending.sums)


def test_an_empty_model_has_no_latest(model_dir):
    assert checkpoints.latest(model_dir) is None
    assert Manifest.read(model_dir) == Manifest((), None)


def test_a_model_that_is_nowhere_has_no_latest(tmp_path):
    assert checkpoints.latest(str(tmp_path / "nowhere")) is None
    assert not (tmp_path / "nowhere").exists()


def test_the_head_that_saving_returns_is_the_one_that_is_read(model_dir):
    head = save(model_dir, 1)
    assert Manifest.read(model_dir) == head
    head = save(model_dir, 2, head)
    assert Manifest.read(model_dir) == head


def test_preparing_twice_leaves_a_model_as_it_is(model_dir):
    save(model_dir, 1)
    checkpoints.prepare(model_dir)
    assert checkpoints.latest(model_dir).state.step == 1
    assert not [name for name in storage.children(model_dir) if "probe" in name]


@pytest.mark.parametrize(("keep", "steps"), [(1, [6]), (3, [4, 5, 6]), (0, [1, 2, 3, 4, 5, 6])])
def test_the_newest_are_kept_and_zero_keeps_all(model_dir, keep, steps):
    head = Manifest.read(model_dir)
    for step in range(1, 7):
        head = save(model_dir, step, head, keep)
    assert names_in(model_dir) == sorted(head.names)
    loaded = [checkpoints.load(storage.join(model_dir, name)) for name in head.names]
    assert [each.state.step for each in loaded] == steps


def test_keeping_fewer_than_before_removes_the_others(model_dir):
    for step in range(1, 5):
        save(model_dir, step)
    head = save(model_dir, 5, keep=2)
    assert names_in(model_dir) == sorted(head.names)
    assert len(head.names) == 2


# Two drivers.


def test_the_second_of_two_drivers_is_refused_and_leaves_nothing_behind(model_dir):
    head = save(model_dir, 1)
    won = save(model_dir, 2, head)
    with pytest.raises(Conflict, match="another driver"):
        save(model_dir, 3, head)
    assert Manifest.read(model_dir) == won
    assert names_in(model_dir) == sorted(won.names)
    assert checkpoints.latest(model_dir).state.step == 2


def test_the_second_of_two_drivers_that_begin_is_refused_too(model_dir):
    empty = Manifest.read(model_dir)
    won = save(model_dir, 1, empty)
    with pytest.raises(Conflict, match="another driver"):
        save(model_dir, 1, empty)
    assert Manifest.read(model_dir) == won
    assert names_in(model_dir) == list(won.names)


# Damage.


@pytest.mark.parametrize("array", ["centers", "counts", "pending_sums", "pending_counts"])
def test_one_flipped_bit_is_refused_by_name(model_dir, array):
    pending = fit(state(pending=True))
    checkpoints.save(model_dir, Manifest.read(model_dir), pending, SETTINGS, None, 5)
    address = newest(model_dir)
    fs, file = chunk_of(address, array)
    data = bytearray(fs.cat_file(file))
    data[len(data) // 2] ^= 1
    fs.pipe_file(file, bytes(data))
    with pytest.raises(InvalidCheckpoint, match=array) as caught:
        checkpoints.latest(model_dir)
    assert address in str(caught.value)


@pytest.mark.parametrize("left", [0, 7])
def test_a_torn_checkpoint_is_refused_by_name(model_dir, left):
    save(model_dir, 1)
    address = newest(model_dir)
    fs, file = chunk_of(address, "centers")
    fs.pipe_file(file, fs.cat_file(file)[:left])
    with pytest.raises(InvalidCheckpoint) as caught:
        checkpoints.load(address)
    assert address in str(caught.value)


@pytest.mark.filterwarnings("ignore:Object at")
@pytest.mark.parametrize("part", ["centers", "counts", "zarr.json"])
def test_a_checkpoint_of_which_a_part_is_missing_is_refused_by_name(model_dir, part):
    save(model_dir, 1)
    address = newest(model_dir)
    storage.remove(storage.join(address, part))
    with pytest.raises(InvalidCheckpoint) as caught:
        checkpoints.latest(model_dir)
    assert address in str(caught.value)


def test_a_checkpoint_whose_numbers_are_missing_is_refused_by_name(model_dir):
    save(model_dir, 1)
    address = newest(model_dir)
    fs, file = chunk_of(address, "centers")
    fs.rm_file(file)
    with pytest.raises(InvalidCheckpoint) as caught:
        checkpoints.latest(model_dir)
    assert address in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"attributes": {}, "zarr_format": 3}'])
def test_a_checkpoint_whose_description_is_damaged_is_refused_by_name(model_dir, text):
    save(model_dir, 1)
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


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "7", '"x"', "{}", '{"format": 1}', '{"format": 1, "checkpoints": 7}'],
)
def test_a_damaged_list_of_checkpoints_is_refused_by_name(model_dir, text):
    save(model_dir, 1)
    address = storage.join(model_dir, "checkpoints.json")
    storage.write(address, text.encode())
    with pytest.raises(InvalidCheckpoint, match=r"checkpoints\.json is damaged") as caught:
        checkpoints.latest(model_dir)
    assert address in str(caught.value)


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b'{"format": 1, "checkpoints": [7]}'])
def test_a_list_of_checkpoints_that_is_no_list_of_names_is_refused(tmp_path, text):
    save(str(tmp_path), 1)
    (tmp_path / "checkpoints.json").write_bytes(text)
    with pytest.raises(InvalidCheckpoint, match="damaged"):
        checkpoints.latest(str(tmp_path))


def test_a_list_of_another_format_is_refused_with_both_numbers(model_dir):
    save(model_dir, 1)
    content = json.dumps({"format": 2, "checkpoints": []}).encode()
    storage.write(storage.join(model_dir, "checkpoints.json"), content)
    with pytest.raises(InvalidCheckpoint, match="must be of format 1, got 2") as caught:
        checkpoints.latest(model_dir)
    assert model_dir in str(caught.value)


# What crashed drivers leave.


def leave_half_written(model_dir, step):
    """What a driver leaves that is killed while it writes a checkpoint."""
    name = f"checkpoint-{step:08d}-{uuid4().hex[:8]}"
    commit._write(storage.join(model_dir, name), fit(state(step)), SETTINGS, None)
    fs, file = chunk_of(storage.join(model_dir, name), "counts")
    fs.rm_file(file)
    return name


def test_a_half_written_checkpoint_leaves_the_one_before_the_latest(model_dir):
    head = save(model_dir, 2)
    half = leave_half_written(model_dir, 3)
    assert checkpoints.latest(model_dir).state.step == 2
    assert half in names_in(model_dir)
    assert names_in(model_dir) != list(head.names)


def test_sweeping_removes_what_is_half_written_of_older_steps_only(model_dir):
    head = save(model_dir, 1)
    head = save(model_dir, 4, head)
    for step in (1, 3):
        leave_half_written(model_dir, step)
    # Another driver may be writing these: its closing checkpoint is often of the same step.
    others = [leave_half_written(model_dir, step) for step in (4, 5)]
    checkpoints.remove_orphans(model_dir, head)
    assert names_in(model_dir) == sorted([*head.names, *others])
    assert checkpoints.latest(model_dir).state.step == 4


def test_sweeping_leaves_what_others_keep_in_the_directory(model_dir):
    head = save(model_dir, 4)
    others = ["eval/x", "notes.txt", "checkpoint-1/x", "checkpoint-00000001-old/x"]
    for name in others:
        storage.write(storage.join(model_dir, name), b"mine")
    checkpoints.remove_orphans(model_dir, head)
    for name in others:
        assert storage.read(storage.join(model_dir, name)).data == b"mine"


def test_sweeping_a_model_without_a_checkpoint_removes_nothing(model_dir):
    half = leave_half_written(model_dir, 0)
    checkpoints.remove_orphans(model_dir, Manifest.read(model_dir))
    assert names_in(model_dir) == [half]


def test_training_again_sweeps_what_a_crash_has_left(model_dir):
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
from dkmeans import checkpoints
from dkmeans.distance import Distance
from dkmeans.fit import Fit, Start
from dkmeans.state import TrainState

model_dir = sys.argv[1]
sys.stdin.read()
checkpoints.prepare(model_dir)
head = checkpoints.Manifest.read(model_dir)
found = checkpoints.latest(model_dir)
step = found.state.step if found else 0
settings = checkpoints.Settings(Distance.SQUARED_EUCLIDEAN, True, 1)
checkpoints.remove_orphans(model_dir, head)
while True:
    step += 1
    centers = np.full((200, 16), step, np.float32)
    state = TrainState(centers, np.full(200, step, np.int64), step)
    head = checkpoints.save(model_dir, head, Fit((Start(state),)), settings, None, 3)
    print("saved", flush=True)
"""


def start_saving(model_dir):
    """A driver that has imported all it needs, and begins when its stdin is closed."""
    command = [sys.executable, "-c", SAVING, model_dir]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_whenever_a_driver_is_killed_the_latest_checkpoint_is_whole(tmp_path):
    model_dir, before = str(tmp_path / "model"), 0
    drivers = [start_saving(model_dir) for _ in range(8)]
    for number, driver in enumerate(drivers):
        with driver:
            driver.stdin.close()
            assert driver.stdout.readline() == b"saved\n"
            time.sleep(0.0137 * number)
            driver.kill()
        found = checkpoints.latest(model_dir)
        step = found.state.step
        assert step > before
        assert (found.state.centers == step).all()
        assert (found.state.counts == step).all()
        before = step
    head = Manifest.read(model_dir)
    checkpoints.remove_orphans(model_dir, head)
    listed = [checkpoints.load(storage.join(model_dir, name)) for name in head.names]
    assert all((each.state.centers == each.state.step).all() for each in listed)


FULL = """
import resource, signal, sys
import numpy as np
from dkmeans import checkpoints
from dkmeans.distance import Distance
from dkmeans.fit import Fit, Start
from dkmeans.state import TrainState

model_dir = sys.argv[1]
head = checkpoints.Manifest.read(model_dir)
settings = checkpoints.latest(model_dir).settings
state = TrainState(np.ones((1000, 100)), np.ones(1000, np.int64), 9)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoints.save(model_dir, head, Fit((Start(state),)), settings, None, 1)
except OSError as error:
    print(type(error).__name__, error.errno)
"""


def test_a_full_disk_is_an_os_error_and_the_checkpoint_before_stands(tmp_path):
    model_dir = str(tmp_path / "model")
    checkpoints.prepare(model_dir)
    head = save(model_dir, 3)
    command = [sys.executable, "-c", FULL, model_dir]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "OSError 27\n", done.stderr
    assert Manifest.read(model_dir) == head
    assert names_in(model_dir) == list(head.names)
    assert checkpoints.latest(model_dir).state.step == 3


def test_a_directory_that_cannot_be_made_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    address = str(tmp_path / "file" / "model")
    with pytest.raises(Invalid, match="model_dir must be writable") as caught:
        checkpoints.prepare(address)
    assert address in str(caught.value)


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
