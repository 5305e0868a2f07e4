"""Validation: arrays and numbers that no saved model has are refused by name."""

import json
import shutil

import numpy as np
import pytest
import zarr

import dkmeans
from dkmeans import Dataset, InvalidCheckpoint, KMeans, checkpoints, storage
from dkmeans.checkpoints.format import sha256
from dkmeans.checkpoints.validation import check_arrays, check_numbers
from dkmeans.checkpoints.zarr_files import files_of

ROWS = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Arrays and numbers of a checkpoint in the middle of an iteration with weights."""
    folder = str(tmp_path_factory.mktemp("model"))
    model = KMeans(4, folder, seed=1, mini_batch_steps_per_iteration=4, empty_clusters="relocate")
    rows = Dataset.from_array(ROWS, np.linspace(0.1, 2, 300)).standardize()
    model.train(lambda: rows.batch(50).repeat(), steps=6)
    group = zarr.open_group(model.latest_checkpoint(), mode="r")
    return folder, {name: array[...] for name, array in group.arrays()}, dict(group.attrs)


def short(array):
    return array[:1].copy()


def filled(number):
    return lambda array: np.full_like(array, number)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, short) for name in ("counts", "pending_counts", "pending_exponents")),
        *((name, short) for name in ("pending_plane_0", "column_means", "pending_weight_plane_0")),
        ("centers", lambda array: array[:, 0].copy()),
        ("centers", lambda array: array[:0]),
        ("centers", lambda array: array.astype(np.int64)),
        ("centers", lambda array: array.astype(np.float16)),
        ("centers", filled(np.nan)),
        ("counts", lambda array: array.astype(np.float32)),
        ("counts", filled(-1)),
        ("column_deviations", filled(0)),
        ("pending_exponents", filled(2**31)),
        ("pending_exponents", filled(-(2**31))),
        ("pending_plane_0", lambda array: array.astype(np.float64)),
        ("pending_plane_0", lambda array: array.astype(np.uint64)),
        ("pending_exponents", lambda array: array.astype(np.int16)),
        ("pending_farthest_copies", filled(0)),
        ("pending_farthest_winners", filled(4)),
        ("pending_farthest_copies", lambda array: array[:-1].copy()),
    ],
)
def test_an_array_that_no_model_has_is_refused_by_name(saved, name, change):
    _, arrays, _ = saved
    check_arrays(arrays)
    with pytest.raises(ValueError, match=f"{name} must be "):
        check_arrays({**arrays, name: change(arrays[name])})


def test_arrays_of_further_starts_are_checked_and_other_names_refused(saved):
    _, arrays, _ = saved
    with pytest.raises(ValueError, match="start_1_counts must be"):
        check_arrays({**arrays, "start_1_counts": np.zeros(1)})
    with pytest.raises(ValueError, match="pending_plane_x must be the name of an array"):
        check_arrays({**arrays, "pending_plane_x": arrays["pending_plane_0"]})
    with pytest.raises(ValueError, match=r"pending_farthest_.* must be"):
        check_arrays({**arrays, "pending_farthest_apart": np.array(1.0)})
    for name in ("start_01_counts", "start_٣_counts", "censtart_1_ters"):
        with pytest.raises(ValueError, match=f"{name} must be the name of an array"):
            check_arrays({**arrays, name: arrays["counts"]})


@pytest.mark.parametrize(
    ("name", "value"),
    [("step", "x"), ("step", 1e400), ("step", True), ("pending_steps", -1), ("inertia", "text")],
)
def test_a_number_of_another_type_is_refused_by_name(saved, name, value):
    *_, numbers = saved
    check_numbers(numbers)
    with pytest.raises(ValueError, match=f"{name} must be "):
        check_numbers({**numbers, name: value})


@pytest.mark.parametrize(
    ("name", "change"),
    [("counts", short), ("pending_exponents", filled(-(2**31))), ("centers", filled(np.nan))],
)
def test_a_forged_checkpoint_with_right_digests_is_refused(saved, tmp_path, name, change):
    folder, arrays, attributes = saved
    shutil.copytree(folder, tmp_path / "m")
    (latest,) = json.loads((tmp_path / "m" / "checkpoints.json").read_text())["checkpoints"][-1:]
    forged = {**arrays, name: change(arrays[name])}
    attributes = {**attributes, "sha256": {key: sha256(each) for key, each in forged.items()}}
    shutil.rmtree(tmp_path / "m" / latest)
    storage.write_files(str(tmp_path / "m" / latest), files_of(forged, attributes))
    with pytest.raises(InvalidCheckpoint, match=f"is damaged or no checkpoint: .*{name} must be"):
        dkmeans.load(tmp_path / "m")
    with pytest.raises(InvalidCheckpoint, match="is damaged"):
        checkpoints.load(str(tmp_path / "m" / latest))
