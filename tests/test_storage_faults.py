"""Failures of storage while a job runs: servers and chunks. No bit of a result changes."""

import json

import numpy as np
import pytest
import zarr
from dkmeans_jobs.__main__ import main

from dkmeans import Dataset, KMeans, storage
from dkmeans.storage import zarr_store
from tests.at_step import at_step
from tests.exactly import same_state, state_of
from tests.s3_proxy import first, no_fault

TRY_AGAIN = 75


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(5).normal(size=(1200, 4)).astype(np.float32)


# Storage.


@pytest.fixture
def stored(faulty_place, rows):
    url = f"{faulty_place}/rows.zarr"
    zarr.create_array(zarr_store(url), data=rows, chunks=(100, 4))
    return url


def train(data, model_dir, *batches):
    argv = ["train", data, "--num-clusters", "4", "--model-dir", model_dir, "--seed", "3"]
    return [*argv, "--max-steps", "6", *batches]


@pytest.fixture(scope="module")
def undisturbed(rows, tmp_path_factory):
    """The state that `train` ends with when nothing fails."""
    folder = tmp_path_factory.mktemp("undisturbed")
    zarr.create_array(str(folder / "same.zarr"), data=rows, chunks=(100, 4))
    assert main(train(str(folder / "same.zarr"), str(folder / "calm"))) == 0
    return state_of(folder / "calm")


def test_a_request_to_a_server_that_is_busy_for_a_moment_is_retried(
    proxy, stored, undisturbed, tmp_path, capsys
):
    proxy.fault = first(3, "rows.zarr/c/5")
    assert main(train(stored, str(tmp_path / "m"))) == 0
    assert len(proxy.faults) == 3
    assert same_state(state_of(tmp_path / "m"), undisturbed)


def test_a_request_to_a_server_that_is_away_for_longer_is_logged_and_retried(
    short_patience, monkeypatch, proxy, stored, undisturbed, tmp_path, capsys
):
    monkeypatch.setattr("dkmeans.retry._PATIENCE_SECONDS", 30)
    proxy.fault = first(8, "rows.zarr/c/5")
    assert main(train(stored, str(tmp_path / "m"))) == 0
    assert len(proxy.faults) == 8
    assert same_state(state_of(tmp_path / "m"), undisturbed)
    err = capsys.readouterr().err
    assert err.count(f"of {stored} cannot be reached, trying again in") >= 2
    assert "503 Service Unavailable" in err


def test_rows_out_of_reach_end_the_job_with_75_and_the_same_command_continues(
    short_patience, proxy, stored, undisturbed, tmp_path, capsys
):

    def fail():
        proxy.fault = lambda method, path: "503"

    with at_step(3, fail):  # rows are read again in each step
        assert main(train(stored, str(tmp_path / "m"), "--cache", "none")) == TRY_AGAIN
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert f"of {stored} cannot be reached: " in err
    assert "Run the same command again" in err
    assert state_of(tmp_path / "m").step == 3
    assert main(train(stored, str(tmp_path / "m"))) == TRY_AGAIN
    assert f"dkmeans: error: {stored} cannot be reached: " in capsys.readouterr().err
    proxy.fault = no_fault
    assert main(train(stored, str(tmp_path / "m"))) == 0
    assert same_state(state_of(tmp_path / "m"), undisturbed)


def test_a_model_out_of_reach_ends_the_job_with_75_and_the_same_command_continues(
    short_patience, proxy, faulty_place, stored, undisturbed, capsys
):

    def fail():
        proxy.fault = lambda method, path: "503" if "/model" in path else None

    with at_step(3, fail):
        assert main(train(stored, f"{faulty_place}/model")) == TRY_AGAIN
    assert "Traceback" not in capsys.readouterr().err
    proxy.fault = no_fault
    assert state_of(f"{faulty_place}/model").step < 6
    assert main(train(stored, f"{faulty_place}/model")) == 0
    assert same_state(state_of(f"{faulty_place}/model"), undisturbed)


def test_a_commit_whose_answer_is_lost_is_not_taken_for_another_drivers(
    proxy, faulty_place, stored, undisturbed, capsys
):
    proxy.fault = first(2, "checkpoints.json", "lost", "PUT")
    assert main(train(stored, f"{faulty_place}/model")) == 0
    assert len(proxy.faults) == 2
    assert same_state(state_of(f"{faulty_place}/model"), undisturbed)


@pytest.mark.parametrize("fault", ["400 RequestTimeout", "404 NoSuchKey"])
def test_an_answer_that_is_wrong_once_changes_no_bit(
    proxy, faulty_place, stored, undisturbed, capsys, fault
):
    proxy.fault = first(1, "rows.zarr/c/5", fault)
    assert main(train(stored, f"{faulty_place}/model")) == 0
    proxy.fault = first(1, "/model/checkpoint", fault)
    assert main(train(stored, f"{faulty_place}/model")) == 0
    assert len(proxy.faults) == 2
    assert same_state(state_of(f"{faulty_place}/model"), undisturbed)
    assert "already done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "fault", "code"),
    [
        ("/rows.zarr", "403 ExpiredToken", TRY_AGAIN),
        ("/model", "400 ExpiredToken", TRY_AGAIN),
        ("/model", "400 RequestTimeout", TRY_AGAIN),
        ("/rows.zarr", "403 AccessDenied", 2),
        ("/model", "403 AccessDenied", 2),
    ],
)
def test_a_server_that_refuses_on_the_way_ends_the_job_with_its_reason_in_the_last_line(
    short_patience, proxy, faulty_place, stored, undisturbed, tmp_path, capsys, what, fault, code
):
    def fail():
        proxy.fault = lambda method, path: fault if what in path else None

    model = f"{faulty_place}/model" if what == "/model" else str(tmp_path / "m")
    job = train(stored, model, "--cache", "none")
    with at_step(3, fail):
        assert main(job) == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "Debug source" not in err
    status, _, name = fault.partition(" ")
    last = err.splitlines()[-1]
    assert f"the server answered {status}" in last
    assert f"({name}: The message of {name}.)" in last
    assert ("renew the credentials" in last) == (name == "ExpiredToken")
    proxy.fault = no_fault
    assert main(job) == 0
    assert same_state(state_of(model), undisturbed)


def test_a_model_that_may_only_be_read_is_evaluated_and_used(
    proxy, faulty_place, stored, tmp_path, capsys
):
    model = f"{faulty_place}/model"
    assert main(train(stored, model)) == 0
    proxy.fault = lambda method, path: "403 AccessDenied" if method != "GET" else None
    capsys.readouterr()
    assert main(["evaluate", stored, "--model-dir", model, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["loss"] > 0
    (line,) = [each for each in err.splitlines() if "WARNING" in each]
    assert f"going on without {model}/eval/evaluation-00000006.json" in line
    assert "(AccessDenied: The message of AccessDenied.)" in line
    output = ["--output", str(tmp_path / "clusters.zarr")]
    assert main(["predict", stored, "--model-dir", model, *output]) == 0
    assert main(["info", model]) == 0


@pytest.mark.parametrize(
    ("fault", "code"),
    [("403 AccessDenied", 2), ("403 ExpiredToken", TRY_AGAIN), ("400 RequestTimeout", TRY_AGAIN)],
)
def test_predictions_that_are_refused_on_the_way_end_with_the_reason_in_the_last_line(
    short_patience, proxy, faulty_place, stored, tmp_path, capsys, fault, code
):
    assert main(train(stored, str(tmp_path / "m"))) == 0
    job = ["predict", stored, "--model-dir", str(tmp_path / "m")]
    job += ["--output", f"{faulty_place}/clusters.zarr"]
    proxy.fault = first(1, "/cluster_index/c/", "400 RequestTimeout", "PUT")
    assert main(job) == 0  # one answer that is wrong is no matter
    assert len(proxy.faults) == 1
    for what in ("/cluster_index/c/", "/cluster_index/zarr.json", "/cluster_index/_done/"):
        storage.remove(f"{faulty_place}/clusters.zarr")
        proxy.fault = lambda method, path, what=what: fault if what in path else None
        capsys.readouterr()
        assert main(job) == code, what
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert f"({fault[4:]}: The message of {fault[4:]}.)" in err.splitlines()[-1], what
    proxy.fault = no_fault
    assert main(job) == 0


# Chunks.


def test_a_broken_chunk_met_by_a_worker_is_named_after_a_checkpoint(
    cluster, rows, tmp_path, capsys
):
    path = tmp_path / "rows.zarr"
    zarr.create_array(str(path), data=rows, chunks=(100, 4))
    (path / "c" / "3" / "0").write_bytes(b"not what was written")
    where = ["--batch-rows", "100", "--cluster", cluster.scheduler_address]
    assert main(train(str(path), str(tmp_path / "m"), *where)) == 2
    err = capsys.readouterr().err
    assert f"rows 300 to 399 of {path} cannot be read" in err
    assert "Traceback" not in err
    assert state_of(tmp_path / "m").step == 3


def test_a_broken_chunk_is_not_read_again(rows, tmp_path, caplog):
    path = tmp_path / "rows.zarr"
    zarr.create_array(str(path), data=rows, chunks=(100, 4))
    (path / "c" / "3" / "0").write_bytes(b"not what was written")
    with pytest.raises(ValueError, match="cannot be read"):
        KMeans(3, str(tmp_path / "m"), seed=1).train(lambda: Dataset.from_zarr(str(path)))
    assert "trying again" not in caplog.text
