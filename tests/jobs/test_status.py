"""The status that a job records, and how `dkmeans info` describes it."""

import json
import logging
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from dkmeans_jobs.__main__ import main
from dkmeans_jobs.status import Status, describe, is_running, progress_in, read_status, recorded
from obstore.exceptions import PermissionDeniedError

from dkmeans import storage
from dkmeans.report import Progress, report_progress


def iterate(*steps):
    for step in steps:
        progress = Progress(step, None, 10.0 / step, None, 0, 1, 100, 0.5)
        report_progress(progress, notable=False)


@pytest.fixture(autouse=True)
def every_record(caplog):
    with caplog.at_level(logging.DEBUG, "dkmeans"):
        yield


@pytest.fixture
def model_dir(tmp_path):
    return str(tmp_path / "m")


def test_the_last_iteration_is_in_the_status(model_dir):
    with recorded(model_dir):
        iterate(1, 2, 3)
    assert read_status(model_dir).state == "done"
    assert read_status(model_dir).progress["step"] == 3
    assert describe(read_status(model_dir)).startswith("done, ")


def test_the_progress_of_a_status_is_that_of_the_last_iteration(model_dir):
    with recorded(model_dir):
        iterate(1, 2)
    status = read_status(model_dir)
    assert progress_in(status) == Progress(2, None, 5.0, None, 0, 1, 100, 0.5)
    # Another version may have written other numbers.
    assert progress_in(replace(status, progress={"step": 2})) is None
    assert not is_running(status)
    running = replace(status, state="running")
    assert is_running(running)
    assert not is_running(replace(running, noted="2020-01-01T00:00:00Z"))


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("KeyboardInterrupt", "interrupted"),
        ("Outage", "stopped by an outage"),
        ("InvalidData", "failed (InvalidData)"),
    ],
)
def test_the_end_of_a_job_is_described_in_words(state, text):
    noted = datetime.now(UTC).isoformat()
    assert describe(Status(state, "node", 1, noted, noted)) == f"{text}, 0 s ago"


@pytest.mark.parametrize(
    ("seconds", "text"), [(40, "40 s"), (130, "2 min"), (7300, "2 h"), (3 * 86_400, "3 days")]
)
def test_the_age_of_a_status_is_in_a_unit_for_people(seconds, text):
    noted = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
    assert describe(Status("done", "node", 1, noted, noted)) == f"done, {text} ago"


def test_the_exception_that_ends_a_fit_is_recorded_by_name(model_dir):
    def fit():
        with recorded(model_dir):
            iterate(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit()
    assert read_status(model_dir).state == "KeyboardInterrupt"


def test_a_fit_that_fails_before_its_first_iteration_records_nothing(model_dir):
    with pytest.raises(ValueError, match="no model"), recorded(model_dir):
        raise ValueError("no model")
    assert read_status(model_dir) is None


def test_a_directory_that_cannot_be_written_to_does_not_end_the_fit(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with recorded(str(tmp_path / "file" / "m")):
        iterate(1, 2)


def test_a_store_that_refuses_the_status_does_not_end_the_fit(model_dir, monkeypatch, caplog):
    def refuse(address, data, *, durable):
        raise PermissionDeniedError("403")

    monkeypatch.setattr(storage.contents, "_write", refuse)
    with recorded(model_dir):
        iterate(1, 2)
    assert f"going on without {model_dir}/status.json" in caplog.text
    assert read_status(model_dir) is None


@pytest.mark.parametrize("content", ['{"state": "do', "[1]", "7", '{"loss": 1}', "\xff", None])
def test_a_damaged_status_does_not_end_the_next_job(model_dir, content):
    path = Path(model_dir, "status.json")
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if content is None else path.write_text(content)
    if content is not None:  # `info` may say that there is a folder in the place of a file
        assert read_status(model_dir) is None
    with recorded(model_dir):
        iterate(2)
    if content is not None:
        assert read_status(model_dir).progress["step"] == 2


def test_any_error_in_writing_the_status_leaves_the_fit_alone(model_dir, monkeypatch):
    def fail(address, data, level):
        raise RuntimeError("unexpected")

    monkeypatch.setattr(storage, "write_or_log", fail)
    monkeypatch.setattr("dkmeans_jobs.status._WRITE_INTERVAL_SECONDS", 0.001)
    with recorded(model_dir):
        iterate(1)
        time.sleep(0.05)
        iterate(2, 3)


def test_info_describes_a_job_that_runs_and_one_that_was_killed(tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(60_000, 16)))
    command = ["train", tmp_path / "rows.npy", "--model-dir", tmp_path / "m", "--seed", 1]
    command += ["--num-clusters", 500, "--steps", 10_000, "--save-checkpoints-steps", 1]
    argv = [sys.executable, "-m", "dkmeans_jobs", *map(str, command)]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while read_status(str(tmp_path / "m")) is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        main(["info", str(tmp_path / "m"), "--json"])
        info = json.loads(capsys.readouterr().out)
        process.kill()
    assert info["training"].startswith("running on ")
    assert f"(process {process.pid})" in info["training"]
    assert info["progress"]["step"] >= 1
    monkeypatch.setattr("dkmeans_jobs.status._SILENT_SECONDS", -1)
    main(["info", str(tmp_path / "m"), "--json"])
    assert json.loads(capsys.readouterr().out)["training"].startswith("was running on ")
