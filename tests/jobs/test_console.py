"""The log on standard error: JSON for programs, one live line on a terminal."""

import io
import json
import logging
import os
import pty
import re
import subprocess

import numpy as np
import pytest
import zarr
from dkmeans_jobs.console import JSON, TEXT, log_exit, log_output, print_result

from dkmeans.report import Progress, RowReport, report_progress
from tests.jobs.commands import COMMAND, train


def test_a_log_for_programs_has_a_json_object_a_line(store, tmp_path, run):
    argv = train(store, tmp_path / "m", "--steps", 3, "--log-format", "json")
    code, _, err = run(*argv)
    assert code == 0, err
    events = [json.loads(line) for line in err.splitlines()]
    iterations = [each for each in events if each["event"] == "iteration"]
    assert [each["step"] for each in iterations] == [1, 2, 3]
    assert all(each["rows"] == len(np.asarray(zarr.open(store))) for each in iterations)
    assert {"loss", "change", "seconds", "rows_per_second", "empty_clusters"} <= set(iterations[0])
    assert all(each["bytes"] == each["rows"] * 3 * 4 for each in iterations)
    parts = ("read_seconds", "compute_seconds", "checkpoint_seconds")
    assert all(sum(each[part] for part in parts) <= each["seconds"] for each in iterations)
    assert all(each["compute_seconds"] > 0 == each["retries"] for each in iterations)
    # One chunk is computed by one thread.
    assert all((each["workers"], each["threads"]) == (1, 1) for each in iterations)
    assert any("finding the first centers" in each["message"] for each in events)
    assert all(each["time"].endswith("Z") and each["level"] for each in events)
    argv[argv.index("--num-clusters") + 1] = "7000"
    code, _, err = run(*argv, "--model-dir", tmp_path / "n")
    last = json.loads(err.splitlines()[-1])
    assert (code, last["event"], last["exit_code"]) == (2, "exit", 2)
    assert "--num-clusters must be at most the number of rows, 900, got 7000" in last["message"]


def test_a_terminal_shows_one_line_that_is_overwritten_and_stays_above_the_reason_of_the_end(
    store, tmp_path
):
    result, shown = on_terminal(*train(store, tmp_path / "m", "--max-steps", 5, "--json"))
    assert re.search(r"step \d of 5, loss [\d.]+", shown)
    assert "\r" in shown
    assert "rows/s" in shown
    # The result does not go to the terminal of the log: a program may read it from a pipe.
    assert json.loads(result)["step"] == 5
    lines = shown_lines(shown)
    assert lines[-1] == "took all the steps it was asked for at step 5"
    assert lines[-2].startswith("step 5 of 5, loss ")
    assert sum(line.startswith("step 5 of 5") for line in lines) == 1


def on_terminal(*argv):
    """Return what a command writes to standard output and, on a terminal, to standard error."""
    driver, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        [*COMMAND, *map(str, argv)],
        stderr=terminal,
        stdout=subprocess.PIPE,
        env=environment,
        check=True,
        text=True,
    )
    os.close(terminal)
    return done.stdout, os.read(driver, 2**16).decode()


def shown_lines(output):
    """Return the lines that a terminal shows at the end: erased ones are gone."""
    lines = (line.split("\x1b[2K")[-1] for line in output.replace("\r\n", "\n").split("\n"))
    texts = (re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", line) for line in lines)
    return [text for text in texts if text]


def test_a_text_log_has_the_notable_iterations_and_the_reason_of_the_exit(capsys):
    with log_output(TEXT):
        for step in (1, 2, 3):
            progress = Progress(step, 3, 1.0, None, 0, 1, 100, 0.5)
            report_progress(progress, notable=step == 3)
        assert log_exit("no luck", 75) == 75
    lines = capsys.readouterr().err.splitlines()
    assert "step 2 " not in "".join(lines[:-1])
    assert re.fullmatch(r"[\d-]+ [\d:]+ step 3 of 3, loss 1, 200 rows/s", lines[-2])
    assert lines[-1] == "dkmeans: error: no luck"


def test_a_text_log_shows_the_level_of_warnings_and_errors_only(capsys):
    library = logging.getLogger("dkmeans.somewhere")
    with log_output(TEXT):
        library.debug("nothing to see")
        library.info("going on")
        library.warning("nothing will end this")
        library.error("lost")
        log_exit("interrupted", 130, logging.WARNING)
    lines = [re.sub(r"^[\d-]+ [\d:]+ ", "", line) for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "going on",
        "WARNING nothing will end this",
        "ERROR lost",
        "dkmeans: interrupted",
    ]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_defect_is_logged_with_its_traceback(is_terminal, capsys, monkeypatch):
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    with log_output(TEXT):
        try:
            raise LookupError("in the attic")
        except LookupError:
            logging.getLogger("dkmeans").exception("dkmeans: error: failed", extra={"exit_code": 1})
    shown = capsys.readouterr().err
    assert "dkmeans: error: failed" in shown
    assert "Traceback" in shown
    assert "LookupError: in the attic" in shown


def test_rows_that_are_done_are_progress_as_iterations_are(capsys):
    for log_format in (TEXT, JSON):
        with log_output(log_format):
            report = RowReport("predicted", 30)
            for _ in range(3):
                report.add(10)
    lines = capsys.readouterr().err.splitlines()
    assert [line[20:].split(" rows ")[0] for line in lines[:2]] == [
        "predicted 10 of 30",
        "predicted 30 of 30",
    ]
    events = [json.loads(line) for line in lines[2:]]
    assert [(e["event"], e["rows_done"], e["rows"]) for e in events] == [
        ("progress", 10, 30),
        ("progress", 20, 30),
        ("progress", 30, 30),
    ]


def test_a_result_is_printed_as_a_line_for_each_entry_or_as_one_json_object(capsys):
    result = {"loss": 0.123456789, "cluster_sizes": [1, 0.25], "stopped": None, "remarks": []}
    print_result(result, as_json=False)
    # Entries that are empty are left out.
    assert capsys.readouterr().out == "loss           0.123457\ncluster sizes  1, 0.25\n"
    print_result(result, as_json=True)
    assert json.loads(capsys.readouterr().out) == result


def test_a_result_is_printed_whatever_its_names_and_the_encoding_are(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    print_result({"columns": ["a\nb", "münze 🎉", "c\x1b[31m"]}, as_json=False)
    assert written.getvalue() == b"columns  a\\nb, m\\xfcnze \\U0001f389, c\\x1b[31m\n"
