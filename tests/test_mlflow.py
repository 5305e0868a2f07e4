"""Runs in MLflow: written to MLflow's own server, and read back from it."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dkmeans_jobs.__main__ import main

from dkmeans import Dataset, Invalid, InvalidType, KMeans, write_report
from dkmeans.mlflow import MLflowHook
from tests.hooks.recorders import StepHook
from tests.jobs.commands import train
from tests.s3_server import free_ports

RNG = np.random.default_rng(8)
ROWS = pd.DataFrame(RNG.normal(size=(300, 3)).astype(np.float32), columns=["x", "y", "z"])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """URL of MLflow's server with a database of SQLite, to which the environment points."""
    for package in ("mlflow", "flask", "alembic"):
        if find_spec(package) is None:
            pytest.skip(f"{package}, of MLflow's server, is not installed")
    folder, (port,) = tmp_path_factory.mktemp("mlflow"), free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{folder / 'runs.db'}"]
    command += [f"--artifacts-destination={folder / 'artifacts'}"]
    # Without the processes that run jobs.
    variables = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log, pytest.MonkeyPatch.context() as environment:
        process = subprocess.Popen(
            command, env=variables, stdout=log, stderr=log, start_new_session=True
        )
        url = f"http://127.0.0.1:{port}"
        environment.setenv("MLFLOW_TRACKING_URI", url)
        try:
            while not _is_up(url):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            yield url
        finally:
            with suppress(ProcessLookupError):  # it has failed to start
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _is_up(url):
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture
def tracked(server):
    """Client of the server. The import of MLflow takes seconds, which only one process spends."""
    return import_module("mlflow").MlflowClient()


def runs_of(tracked, experiment):
    """Return the runs of an experiment, the oldest first."""
    number = tracked.get_experiment_by_name(experiment).experiment_id
    return tracked.search_runs([number], order_by=["attributes.start_time"])


def history(tracked, run, name):
    points = tracked.get_metric_history(run.info.run_id, name)
    return {point.step: point.value for point in points}


IN_A_FRESH_PROCESS = """
import json, sys
import mlflow, pandas as pd

rows = pd.read_json(sys.argv[2])
model = mlflow.pyfunc.load_model(sys.argv[1])
found = model.predict(rows[["z", "x", "y"]])
whole = model.predict(rows.astype("int64"))
try:
    model.predict(rows.astype(str))
    raise AssertionError("words were taken for numbers")
except ValueError as error:
    assert "numbers" in str(error), error
assert not {"dkmeans", "dask", "zarr"} & set(sys.modules)
print(json.dumps([found.tolist(), whole.tolist()]))
"""


def test_a_run_whose_model_mlflow_refuses_is_finished_without_it(tracked, tmp_path, caplog):
    model = KMeans(2, tmp_path / "m", seed=1, use_mini_batch=False)
    rows = ROWS.set_axis(["x", "y", ""], axis="columns")
    model.train(lambda: rows, [MLflowHook(model, "refused")], max_steps=2)
    (run,) = runs_of(tracked, "refused")
    assert run.info.status == "FINISHED"
    assert [each.path for each in tracked.list_artifacts(run.info.run_id)] == ["report.html"]
    (warning,) = [message for message in caplog.messages if "MLflow gets no" in message]
    assert warning.startswith("the run in MLflow gets no model: ")


def test_a_run_has_parameters_numbers_report_and_a_model_that_needs_no_dkmeans(tracked, tmp_path):
    model = KMeans(4, tmp_path / "m", "kmeans_plus_plus", seed=1, use_mini_batch=False)
    rows = Dataset.from_array(ROWS).standardize()
    model.train(lambda: rows, [MLflowHook(model, "whole")], max_steps=5)
    (run,) = runs_of(tracked, "whole")
    assert run.info.status == "FINISHED"
    wanted = {"num_clusters": "4", "initial_clusters": "kmeans_plus_plus", "seed": "1"}
    assert wanted.items() <= run.data.params.items()
    numbers = pd.DataFrame(model.history)
    for name in ("loss", "rows_per_second", "workers", "empty_clusters"):
        assert history(tracked, run, name) == dict(zip(numbers["step"], numbers[name], strict=True))
    report = tracked.download_artifacts(run.info.run_id, "report.html", str(tmp_path))
    write_report(model, tmp_path / "again.html")
    assert Path(report).read_text() == (tmp_path / "again.html").read_text()
    ROWS.to_json(tmp_path / "rows.json", double_precision=15)
    address = f"runs:/{run.info.run_id}/model"
    command = [sys.executable, "-P", "-c", IN_A_FRESH_PROCESS, address, tmp_path / "rows.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        [int(j) for j in model.predict_cluster_index(lambda rows=rows: rows)]
        for rows in (ROWS, ROWS.astype("int64"))
    ]


def test_a_call_that_goes_on_after_a_failure_continues_its_run_and_the_next_one_begins_another(
    tracked, tmp_path
):
    def fail():
        raise KeyboardInterrupt

    def trained(max_steps, *hooks):
        model = KMeans(4, tmp_path / "m", seed=1, use_mini_batch=False)
        model.train(lambda: ROWS, [MLflowHook(model, "failed"), *hooks], max_steps=max_steps)

    with pytest.raises(KeyboardInterrupt):
        trained(4, StepHook({2: fail}))
    (run,) = runs_of(tracked, "failed")
    assert run.info.status == "KILLED"
    assert list(history(tracked, run, "loss")) == [1, 2]
    trained(4)
    (run,) = runs_of(tracked, "failed")
    assert run.info.status == "FINISHED"
    assert list(history(tracked, run, "loss")) == [1, 2, 3, 4]
    trained(5)
    _, second = runs_of(tracked, "failed")
    assert list(history(tracked, second, "loss")) == [5]


def test_a_run_that_is_not_of_the_model_is_left_alone(tracked, tmp_path):
    experiment = tracked.create_experiment("production")
    other = tracked.create_run(experiment).info.run_id
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mlflow.json").write_text(json.dumps({"run_id": other}))
    model = KMeans(4, tmp_path / "m", seed=1, use_mini_batch=False)
    model.train(lambda: ROWS, [MLflowHook(model, "mine")], max_steps=2)
    assert [run.info.status for run in runs_of(tracked, "mine")] == ["FINISHED"]
    assert tracked.get_run(other).info.status == "RUNNING"
    assert not tracked.get_run(other).data.metrics


def test_the_command_records_a_run_and_prints_nothing_but_its_result(tracked, tmp_path, capsys):
    np.save(tmp_path / "rows.npy", np.ascontiguousarray(ROWS))
    job = train(str(tmp_path / "rows.npy"), str(tmp_path / "m"), "--steps", 2, "--json")
    assert main([*map(str, job), "--mlflow", "job", "--log-format", "json"]) == 0
    out, err = capsys.readouterr()
    (run,) = runs_of(tracked, "job")
    assert history(tracked, run, "loss")[2] == json.loads(out)["loss"]
    assert all(map(json.loads, err.splitlines()))


def test_a_server_that_is_away_is_one_warning(tmp_path, monkeypatch, caplog):
    (port,) = free_ports(1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    model = KMeans(4, tmp_path / "m", seed=1, use_mini_batch=False)
    model.train(lambda: ROWS, [MLflowHook(model, "away")], max_steps=3)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warning.startswith("going on without MLflow: ")
    assert str(port) in warning
    assert model.get_variable_value("global_step") == 3


def test_an_address_that_mlflow_cannot_use_is_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo://bar")
    model = KMeans(4, tmp_path / "m", seed=1, use_mini_batch=False)
    model.train(lambda: ROWS, [MLflowHook(model, "e")], max_steps=3)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warning.startswith("going on without MLflow: ")
    assert "foo" in warning
    assert model.get_variable_value("global_step") == 3


def test_an_experiment_without_a_name_and_a_model_that_is_none_are_refused(tmp_path):
    model = KMeans(4, tmp_path / "m")
    with pytest.raises(Invalid, match="experiment must be a name that is not empty, got ' '"):
        MLflowHook(model, " ")
    with pytest.raises(InvalidType, match="experiment must be a name, got 3"):
        MLflowHook(model, 3)
    with pytest.raises(InvalidType, match="model must be a KMeans, got 'm'"):
        MLflowHook("m", "e")
