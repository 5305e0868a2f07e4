"""The log on standard error: JSON for programs, one live line on a terminal."""

import json
import os
import pty
import re
import subprocess

import numpy as np
import pytest
import zarr
from dkmeans_jobs.console import TEXT, log_exit, log_output, print_result

from dkmeans.machine import usable_cores
from dkmeans.report import Progress, report_progress
from tests.jobs.commands import COMMAND, train


def test_a_log_for_programs_has_a_json_object_a_line(store, tmp_path):
    argv = [*COMMAND, *map(str, train(store, tmp_path / "m", "--steps", 3, "--log-format", "json"))]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    iterations = [each for each in events if each["event"] == "iteration"]
    assert [each["step"] for each in iterations] == [1, 2, 3]
    assert all(each["rows"] == len(np.asarray(zarr.open(store))) for each in iterations)
    assert {"loss", "change", "seconds", "rows_per_second", "empty_clusters"} <= set(iterations[0])
    assert all(each["bytes"] == each["rows"] * 3 * 4 for each in iterations)
    parts = ("read_seconds", "compute_seconds", "checkpoint_seconds")
    assert all(sum(each[part] for part in parts) <= each["seconds"] for each in iterations)
    assert all(each["compute_seconds"] > 0 == each["retries"] for each in iterations)
    assert all((each["workers"], each["threads"]) == (1, usable_cores()) for each in iterations)
    assert any("finding the first centers" in each["message"] for each in events)
    assert all(each["time"].endswith("Z") and each["level"] for each in events)
    argv[argv.index("--num-clusters") + 1] = "7000"
    failed = subprocess.run(
        [*argv, "--model-dir", str(tmp_path / "n")], capture_output=True, text=True
    )
    last = json.loads(failed.stderr.splitlines()[-1])
    assert (failed.returncode, last["event"], last["exit_code"]) == (2, "exit", 2)
    assert "num_clusters = 7000" in last["message"]


def test_a_terminal_shows_one_line_that_is_overwritten(store, tmp_path):
    driver, terminal = pty.openpty()
    argv = [str(a) for a in train(store, tmp_path / "m", "--max-steps", 5)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        [*COMMAND, *argv],
        stderr=terminal,
        stdout=subprocess.PIPE,
        env=environment,
        check=True,
        text=True,
    )
    os.close(terminal)
    shown = os.read(driver, 2**16).decode()
    assert re.search(r"step \d of 5, loss [\d.]+", shown)
    assert "\r" in shown
    assert "rows/s" in shown
    assert "already" not in done.stdout


def test_a_text_log_has_the_notable_iterations_and_the_reason_of_the_exit(capsys):
    with log_output(TEXT):
        for step in (1, 2, 3):
            progress = Progress(step, 3, 1.0, None, 0, 1, 100, 0.5)
            report_progress(progress, notable=step == 3)
        assert log_exit("no luck", 75) == 75
    lines = capsys.readouterr().err.splitlines()
    assert "step 2 " not in "".join(lines[:-1])
    assert re.fullmatch(r"[\d-]+ [\d:]+ step 3 of 3, loss 1, 200 rows/s", lines[-2])
    assert lines[-1] == "dkmeans: no luck"


@pytest.mark.parametrize(
    ("step", "last_step", "text"),
    [
        (1, None, ""),
        (3, 3, ""),
        (1, 3, ", at most 0:04 min left"),
        (1, 46, ", at most 1:30 min left"),
        (1, 2701, ", at most 1:30 h left"),
    ],
)
def test_a_live_line_ends_with_the_longest_time_left(step, last_step, text, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with log_output(TEXT):
        report_progress(Progress(step, last_step, 1.0, None, 0, 1, 100, 2.0), notable=False)
    shown = capsys.readouterr().err
    assert f"50 rows/s{text}" in shown
    assert ("left" in shown) == bool(text)


def test_a_result_is_printed_as_a_line_for_each_entry_or_as_one_json_object(capsys):
    result = {"loss": 0.123456789, "cluster_sizes": [1, 2]}
    print_result(result, as_json=False)
    assert capsys.readouterr().out == "loss           0.123457\ncluster sizes  1, 2\n"
    print_result(result, as_json=True)
    assert json.loads(capsys.readouterr().out) == result
