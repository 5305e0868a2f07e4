"""Predictions in storage: complete and marked as complete, or refused by name."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow.dataset
import pytest
import zarr
from dask import array as da

from dkmeans import Conflict, Dataset, Invalid, InvalidData, KMeans, checkpoints, storage
from dkmeans.checkpoints.format import sha256
from dkmeans.distance import Centers
from dkmeans.executors import Dask, open_executor
from dkmeans.prediction import output as outputs
from dkmeans.prediction.per_chunk import Task
from dkmeans.prediction.request import Request
from tests.prediction.outputs import (
    change_region,
    check_continued,
    check_whole,
    done,
    endings,
    expected,
    output_at,
    read,
    region_rows,
)


@pytest.fixture(params=["threads", "cluster"])
def executor(request):
    """Name of the executor that is active: a cluster has an active client."""
    if request.param == "cluster":
        request.getfixturevalue("client")
    return request.param


@endings
@pytest.mark.parametrize("transform", [False, True])
def test_what_is_written_is_what_is_predicted(model, rows, folder, executor, ending, transform):
    address = f"{folder}/clusters{ending}"
    assert model.write_predictions(lambda: rows, address, transform=transform) == len(rows)
    check_whole(read(address), model, rows, transform=transform)
    with open_executor() as active:
        assert isinstance(active, Dask) == (executor == "cluster")


@endings
@pytest.mark.parametrize("region", [1, 64, 100, 334, 2000])
def test_regions_are_cut_at_the_outputs_borders_though_the_inputs_are_irregular(
    model, rows, tmp_path, monkeypatch, ending, region
):
    if region == 1:
        rows = rows[:40]
    monkeypatch.setattr(outputs, "_REGION_ROWS", region)
    cuts = [0, 7, 7 + 300 * len(rows) // 1003, len(rows) - 5, len(rows)]
    irregular = da.from_array(rows, chunks=(tuple(np.diff(cuts).tolist()), 3))
    address = f"{tmp_path}/clusters{ending}"
    assert model.write_predictions(lambda: irregular, address, transform=True) == len(rows)
    check_whole(read(address), model, rows, transform=True)
    if ending == ".zarr":
        group = zarr.open_group(address, mode="r")
        assert group["cluster_index"].chunks[0] == group["all_distances"].chunks[0]
        assert group["cluster_index"].chunks[0] <= max(region, 7)
    else:
        assert len(list((tmp_path / "clusters.parquet").glob("part-*"))) >= len(rows) // 2000 + 1


@endings
def test_the_nearest_centers_are_written_with_their_distances(
    model, rows, tmp_path, ending, small_regions
):
    address = f"{tmp_path}/nearest{ending}"
    model.write_predictions(lambda: rows, address, distance=True, second=True, top=3)
    if ending == ".zarr":
        found = {name: array[:] for name, array in zarr.open_group(address, mode="r").arrays()}
    else:
        table = pyarrow.dataset.dataset(address, format="parquet").to_table()
        found = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    clusters, distances = expected(model, rows)
    order = distances.argsort(axis=1)
    assert np.array_equal(found["cluster_index"], clusters)
    assert np.array_equal(found["top_indices"], order[:, :3])
    assert np.array_equal(found["second_index"], order[:, 1])
    ranked = np.take_along_axis(distances, order, 1)
    np.testing.assert_allclose(found["top_distances"], ranked[:, :3], rtol=1e-6)
    np.testing.assert_allclose(found["second_distance"], ranked[:, 1], rtol=1e-6)
    assert found["distance"].sum() == pytest.approx(model.score(lambda: rows), rel=1e-12)
    if ending == ".parquet":
        names = ["cluster_index", "distance", "second_index", "second_distance"]
        assert table.column_names == [*names, "top_indices", "top_distances"]


def test_flags_that_are_no_bools_and_names_that_are_no_list_are_refused(model, rows, tmp_path):
    for given, message in (
        ({"distance": "no"}, "distance must be a bool, got 'no'"),
        ({"transform": 1}, "transform must be a bool, got 1"),
        ({"keep": {"a", "b"}}, "keep must be a list of names"),
        ({"keep": [1]}, "keep must be a list of names"),
    ):
        with pytest.raises(TypeError, match=message):
            model.write_predictions(lambda: rows, tmp_path / "o.zarr", **given)


def test_rows_without_end_are_refused(model, rows, tmp_path):
    endless = Dataset.from_array(rows).repeat()
    with pytest.raises(Invalid, match="must end, got a dataset without end"):
        model.write_predictions(lambda: endless, tmp_path / "o.zarr")


def test_workers_that_share_irregular_inputs_lose_no_rows(model, rows, folder, client):
    irregular = da.from_array(np.tile(rows, (40, 1)), chunks=((7, 13000, 1, 20013, 7099), 3))
    address = f"{folder}/clusters.zarr"
    written = model.write_predictions(lambda: irregular, address)
    assert written == 40 * len(rows)
    clusters, _, complete = read(address)
    assert complete is True
    assert np.array_equal(clusters, np.tile(expected(model, rows)[0], 40))


@endings
def test_a_rerun_replaces_what_an_earlier_one_wrote(model, rows, folder, ending, monkeypatch):
    address = f"{folder}/clusters{ending}"
    monkeypatch.setattr(outputs, "_REGION_ROWS", 100)
    model.write_predictions(lambda: rows, address, transform=True)
    model.train(lambda: rows + 1, steps=1)
    assert model.write_predictions(lambda: rows[:350], address) == 350
    check_whole(read(address), model, rows[:350], transform=False)


@endings
def test_a_row_that_is_not_finite_is_named_and_leaves_the_output_incomplete(
    model, rows, tmp_path, executor, ending
):
    rows[777, 1] = np.nan
    address = f"{tmp_path}/clusters{ending}"
    with pytest.raises(InvalidData, match="row 777"):
        model.write_predictions(lambda: rows, address)
    if ending == ".zarr":
        assert zarr.open_group(address, mode="r").attrs["complete"] is False
    else:
        assert not (tmp_path / "clusters.parquet" / "_SUCCESS").exists()
    rows[777, 1] = 0
    model.write_predictions(lambda: rows, address)
    check_whole(read(address), model, rows, transform=False)


def test_a_rerun_that_fails_leaves_the_output_incomplete(model, rows, tmp_path):
    for ending in (".zarr", ".parquet"):
        address = f"{tmp_path}/clusters{ending}"
        model.write_predictions(lambda: rows, address)
        broken = rows.copy()
        broken[0, 0] = np.inf
        with pytest.raises(InvalidData, match="row 0"):
            model.write_predictions(lambda: broken, address)  # noqa: B023
    assert zarr.open_group(f"{tmp_path}/clusters.zarr", mode="r").attrs["complete"] is False
    assert not (tmp_path / "clusters.parquet" / "_SUCCESS").exists()


def test_an_output_names_the_checkpoint_that_it_is_of(model, rows, tmp_path):
    first = model.latest_checkpoint()
    model.train(lambda: rows + 1, steps=1)
    address = f"{tmp_path}/clusters.zarr"
    model.write_predictions(lambda: rows, address, checkpoint_path=first)
    about = zarr.open_group(address, mode="r").attrs["dkmeans_predictions"]
    assert about["checkpoint"] == first
    assert about["centers_sha256"] == sha256(checkpoints.load(first).state.centers)


def test_a_zarr_input_is_predicted_chunk_by_chunk(model, rows, tmp_path):
    zarr.create_array(str(tmp_path / "rows.zarr"), data=rows, chunks=(90, 3))
    address = f"{tmp_path}/clusters.zarr"
    model.write_predictions(lambda: Dataset.from_zarr(str(tmp_path / "rows.zarr")), address)
    check_whole(read(address), model, rows, transform=False)


def test_rows_of_another_width_are_refused_before_anything_is_written(model, rows, tmp_path):
    with pytest.raises(InvalidData, match="3 columns"):
        model.write_predictions(lambda: rows[:, :2], f"{tmp_path}/clusters.zarr")
    assert not (tmp_path / "clusters.zarr").exists()


def test_a_model_without_a_checkpoint_writes_nothing(rows, tmp_path):
    with pytest.raises(ValueError, match="Could not find trained model"):
        KMeans(4, str(tmp_path / "m")).write_predictions(lambda: rows, f"{tmp_path}/c.zarr")
    assert not (tmp_path / "c.zarr").exists()


# A second run.


@pytest.fixture
def stored(rows, tmp_path):
    """The rows as a file with a flaw: rows of regions 0 to 5 can be predicted, row 650 cannot."""

    def mend():
        np.save(tmp_path / "rows.npy", rows)

    flawed = rows.copy()
    flawed[650] = np.nan
    np.save(tmp_path / "rows.npy", flawed)
    return (lambda: Dataset.from_npy(str(tmp_path / "rows.npy"))), mend


@endings
@pytest.mark.parametrize("transform", [False, True])
def test_a_second_run_writes_only_what_is_missing(
    model, rows, folder, tmp_path, stored, small_regions, new_log, ending, transform
):
    read_rows, mend = stored
    address = f"{folder}/clusters{ending}"
    with pytest.raises(InvalidData, match="row 650"):
        model.write_predictions(read_rows, address, transform=transform)
    already = done(address)
    assert 6 not in already
    assert {0, 1, 2} <= set(already)
    change_region(address, 1)
    mend()
    new_log()
    assert model.write_predictions(read_rows, address, transform=transform) == len(rows)
    assert f"{address} holds {len(already)} of 11 regions: writing the others" in new_log()
    check_continued(address, model, rows, tmp_path, changed=[1], transform=transform)


@endings
def test_the_same_prediction_again_reads_nothing_and_writes_nothing(
    model, rows, folder, tmp_path, small_regions, new_log, ending
):
    np.save(tmp_path / "rows.npy", rows)
    dataset = Dataset.from_npy(str(tmp_path / "rows.npy"))
    address = f"{folder}/clusters{ending}"
    model.write_predictions(lambda: dataset, address)
    change_region(address, 3)
    (tmp_path / "rows.npy").unlink()
    new_log()
    assert model.write_predictions(lambda: dataset, address) == len(rows)
    assert f"nothing to do: {address} is complete" in new_log()
    check_continued(address, model, rows, tmp_path, changed=[3], transform=False)


# The command, with an output of many regions.
SMALL_REGIONS = """
import sys
import dkmeans.prediction.output
from dkmeans_jobs.__main__ import main

dkmeans.prediction.output._REGION_ROWS = 500
sys.exit(main())
"""


@pytest.fixture
def predict_command(tmp_path):
    def command(model, address, *more):
        argv = ["predict", f"{tmp_path}/rows.npy", "--model-dir", model.model_dir]
        return [sys.executable, "-c", SMALL_REGIONS, *argv, "--output", address, "--json", *more]

    return command


LOCAL = ["--cluster", "local", "--workers", "1", "--threads-per-worker", "2"]


@pytest.mark.parametrize(
    ("folder", "ending", "transform", "where"),
    [
        ("disk", ".zarr", True, LOCAL),
        ("s3", ".parquet", False, []),
    ],
    indirect=["folder"],
)
def test_a_driver_and_workers_that_are_killed_lose_no_finished_region(
    tmp_path, predict_command, folder, ending, transform, where
):
    rows = np.random.default_rng(9).normal(size=(60_000, 2)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    model = KMeans(50, str(tmp_path / "model"), initial_clusters=rows[:50])
    model.train(lambda: rows[:5000], steps=1)
    address = f"{folder}/clusters{ending}"
    command = predict_command(model, address, *where, *["--transform"] * transform)
    driver = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
    while len(done(address)) < 2:
        assert driver.poll() is None, driver.stderr.read().decode()
        time.sleep(0.01)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    time.sleep(0.1)
    already = done(address)
    assert 0 < len(already) < -(-len(rows) // region_rows(address))
    change_region(address, already[-1])
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"holds {len(already)} of" in again.stderr
    assert json.loads(again.stdout)["rows"] == len(rows)
    check_continued(address, model, rows, tmp_path, changed=already[-1:], transform=transform)
    if ending == ".zarr":
        assert not list(Path(address).rglob("*.partial"))  # on the disk; elsewhere there are none


@endings
@pytest.mark.parametrize(
    ("differs", "why"),
    [
        ("rows", "input_sha256"),
        ("order", "input_sha256"),
        ("length", "rows"),
        ("results", "results"),
        ("region", "region_rows"),
        ("checkpoint", "checkpoint, centers_sha256"),
    ],
)
def test_a_run_that_differs_replaces_everything_and_logs_the_difference(
    model, rows, tmp_path, stored, small_regions, monkeypatch, new_log, ending, differs, why
):
    address = f"{tmp_path}/clusters{ending}"
    model.write_predictions(lambda: rows, address)
    change_region(address, 0)
    dataset, transform = Dataset.from_array(rows), differs == "results"
    if differs == "rows":
        rows = rows + 1
        dataset = Dataset.from_array(rows)
    elif differs == "order":
        dataset = dataset.shuffle(1)
        rows = np.concatenate([c.load(3) for batch in dataset.batches() for c in batch])
    elif differs == "length":
        rows = rows[:500]
        dataset = Dataset.from_array(rows)
    elif differs == "region":
        monkeypatch.setattr(outputs, "_REGION_ROWS", 90)
    elif differs == "checkpoint":
        model.train(lambda: rows + 1, steps=1)
    new_log()
    model.write_predictions(lambda: dataset, address, transform=transform)
    line = next(line for line in new_log().splitlines() if "replacing the predictions at" in line)
    assert address in line
    assert why in line
    check_whole(read(address), model, rows, transform=transform)


@endings
def test_what_is_half_written_is_written_again(
    model, rows, tmp_path, stored, small_regions, ending
):
    read_rows, mend = stored
    address = tmp_path / f"clusters{ending}"
    with pytest.raises(InvalidData, match="row 650"):
        model.write_predictions(read_rows, str(address), transform=True)
    if ending == ".zarr":
        whole = address / "all_distances" / "c" / "2" / "0"
        cut_off = address / "all_distances" / "c" / "6" / "0"
        cut_off.parent.mkdir()
        cut_off.write_bytes(whole.read_bytes()[:100])
        asides = [whole.with_name(f"0.{uuid4().hex}.partial")]
        mark = address / "cluster_index" / "_done" / "00000002"
        asides += [mark.with_name(".00000006.a1b2c3d4")]
    else:
        mark = address / "part-00000002.parquet"
        asides = [address / ".part-00000006.parquet.a1b2c3d4"]
    for aside in asides:
        aside.write_bytes(b"PAR1")
    mark.unlink()
    mend()
    model.write_predictions(read_rows, str(address), transform=True)
    check_whole(read(str(address)), model, rows, transform=True)
    assert not any(aside.exists() for aside in asides)


@endings
def test_a_replacement_that_is_cut_off_leaves_nothing_that_counts(
    model, rows, folder, stored, small_regions, monkeypatch, new_log, ending
):
    address = f"{folder}/clusters{ending}"
    read_rows, mend = stored
    with pytest.raises(InvalidData, match="row 650"):
        model.write_predictions(read_rows, address)
    change_region(address, 0)
    with monkeypatch.context() as patched:
        patched.setattr(storage, "clear", lambda address, keep: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            model.write_predictions(lambda: rows[:300], address)
    mend()
    new_log()
    model.write_predictions(read_rows, address)
    assert f"replacing the predictions at {address}: its identity is empty or damaged" in new_log()
    check_whole(read(address), model, rows, transform=False)


KILLED = """
import os, pickle, sys
from dataclasses import replace
from dkmeans.prediction import output as outputs

folder, place = sys.argv[1], pickle.loads(bytes.fromhex(sys.argv[2]))
CHANGES = "open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"

def prepare(number):
    "Prepare an output in a process that is killed at this file operation; return the exit code."
    ending = os.path.splitext(place.destination.address)[1]
    destination = replace(place.destination, address=f"{folder}/{number}{ending}")
    here = replace(place, destination=destination)
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    left = [number]
    def count(event, args):
        if event in CHANGES and str(args[0]).startswith(destination.address):
            if not left[0]:
                os._exit(9)
            left[0] -= 1
    sys.addaudithook(count)
    outputs.prepare(here)
    os._exit(0)

number = 0
while prepare(number) == 9:
    number += 1
print(number)
"""


@endings
def test_a_driver_that_is_killed_while_it_creates_its_output_can_be_run_again(
    model, rows, tmp_path, ending
):
    place = output_at(f"{tmp_path}/output{ending}", model, rows)
    command = [sys.executable, "-c", KILLED, str(tmp_path), pickle.dumps(place).hex()]
    kills = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert kills >= 5
    for number in range(kills):
        address = f"{tmp_path}/{number}{ending}"
        outputs.prepare(replace(place, destination=replace(place.destination, address=address)))
        assert not [name for name in storage.children(address) if name.startswith(".")]
    model.write_predictions(lambda: rows, f"{tmp_path}/3{ending}", transform=True)
    check_whole(read(f"{tmp_path}/3{ending}"), model, rows, transform=True)


@endings
def test_a_run_that_was_killed_at_its_very_end_is_tidied_by_the_next_one(
    model, rows, tmp_path, ending
):
    address = f"{tmp_path}/clusters{ending}"
    model.write_predictions(lambda: rows, address)
    before = sorted(tmp_path.rglob("*"))
    identity = "zarr.json" if ending == ".zarr" else "_dkmeans_predictions"
    storage.write(f"{address}/.{identity}.a1b2c3d4", b"")
    if ending == ".zarr":
        storage.write(f"{address}/cluster_index/_done/00000000", b"")
    model.write_predictions(lambda: rows, address)
    assert sorted(tmp_path.rglob("*")) == before


@endings
def test_an_output_that_is_not_complete_can_be_read(model, stored, tmp_path, small_regions, ending):
    read_rows, _ = stored
    address = f"{tmp_path}/clusters{ending}"
    with pytest.raises(InvalidData, match="row 650"):
        model.write_predictions(read_rows, address, transform=True)
    already = np.isin(np.arange(1003) // 100, done(address))
    if ending == ".parquet":
        assert pyarrow.dataset.dataset(address).count_rows() == already.sum()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(address)
        assert {name for name, _ in group.arrays()} == {"cluster_index", "all_distances"}
        assert {name for name, _ in group.members()} == {"cluster_index", "all_distances"}
    assert (group["cluster_index"][:][already] >= 0).all()
    assert (group["cluster_index"][600:700] == -1).all()
    assert np.isnan(group["all_distances"][600:700]).all()


@endings
def test_a_part_that_was_removed_is_written_again(
    model, rows, folder, tmp_path, small_regions, ending
):
    address = f"{folder}/clusters{ending}"
    model.write_predictions(lambda: rows, address)
    storage.remove(address)
    model.write_predictions(lambda: rows, address)
    check_whole(read(address), model, rows, transform=False)
    if ending == ".parquet":
        storage.remove(f"{address}/part-00000004.parquet")
        change_region(address, 5)
        model.write_predictions(lambda: rows, address)
        check_continued(address, model, rows, tmp_path, changed=[5], transform=False)
    else:
        storage.remove(f"{address}/cluster_index")
        model.write_predictions(lambda: rows, address)
        check_whole(read(address), model, rows, transform=False)


@endings
@pytest.mark.parametrize(
    ("there", "error", "message"),
    [
        ("nothing", InvalidData, "output must be at a place that all workers see; "),
        ("another prediction", Conflict, "another run has replaced "),
    ],
)
def test_a_worker_that_does_not_see_what_the_driver_made_is_refused(
    model, rows, tmp_path, ending, there, error, message
):
    address = f"{tmp_path}/clusters{ending}"
    (whole,) = Dataset.from_array(rows).batches()
    checkpoint = checkpoints.latest(model.model_dir)
    place = outputs.plan_output(address, whole, checkpoint, Request())
    if there == "another prediction":
        others = replace(place.destination.prediction, input="others")
        outputs.prepare(replace(place, destination=replace(place.destination, prediction=others)))
    before = sorted(tmp_path.rglob("*"))
    centers = Centers(checkpoint.state.centers, checkpoint.settings.distance_metric)
    writing = outputs.Writing(Task(centers, ("cluster_index",)), place.destination)
    with pytest.raises(error, match=message):
        outputs.write_region(place.regions[0].loaded(), writing)
    assert sorted(tmp_path.rglob("*")) == before


@endings
def test_wide_rows_are_read_and_written_in_parts_of_bounded_memory(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(outputs, "_REGION_INPUT_BYTES", 2**24)
    rows = np.random.default_rng(8).normal(size=(60_000, 256)).astype(np.float32)  # 61 MB
    stored = zarr.create_array(tmp_path / "rows.zarr", data=rows, chunks=(1000, 256))
    model = KMeans(3, tmp_path / "m", rows[:3], use_mini_batch=False)
    model.train(lambda: rows[:100], steps=1)
    expected = [*model.predict_cluster_index(lambda: rows)]
    address = f"{tmp_path}/clusters{ending}"
    tracemalloc.start()
    try:
        model.write_predictions(lambda: Dataset.from_array(stored), address)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 8 * 2**20  # some chunks of 8 MB in each of two threads
    assert read(address)[0].tolist() == expected
    assert region_rows(address) <= 2**14


def test_an_output_that_another_process_sets_up_at_the_same_time_is_a_conflict(
    model, rows, tmp_path, monkeypatch
):
    address, replace_file = str(tmp_path / "clusters.zarr"), os.replace

    def too_late(source, target):
        if str(target).startswith(address):
            Path(source).unlink()  # as the other process does, which empties the folder
        return replace_file(source, target)

    monkeypatch.setattr(os, "replace", too_late)
    with pytest.raises(Conflict, match=r"another process has changed .*clusters.zarr while this"):
        model.write_predictions(lambda: rows, address)
