"""Exit codes and error lines of the command."""

import errno
import os
import subprocess
import threading

import pytest
from dkmeans_jobs.signals import Terminated

from dkmeans import KMeans
from tests.jobs.commands import COMMAND, train


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num-clusters", "0"], "num_clusters must be an integer >= 1, got 0"),
        (["--num-clusters", "901"], "901"),
        (["--full-batch", "--batch-rows", "5"], "must not both be given"),
        (["--steps", "1", "--max-steps", "1"], "must not both be given"),
        (["--model-dir", "memory://m"], "--model-dir must be a path or URL that lasts longer than"),
        (["--steps", "0"], "--steps must be >= 1, got 0"),
        (["--max-steps", "0"], "--max-steps must be >= 1, got 0"),
        (["--metrics-file", "m.txt"], "--metrics-file must end in .prom"),
        (["--cluster", "local", "--memory-limit", "300MB"], "must be at least 500 MiB, which a"),
        (["--steps-per-iteration", "2"], "must come with --batch-rows"),
        (["--batch-rows", "0"], "--batch-rows must be >= 1, got 0"),
        (["--columns", "a"], "::a must be a Zarr array: nothing is there"),
        (["--workers", "2"], "--workers must come with --cluster local"),
        (["--cluster", "nowhere"], "--cluster must be threads, local, local-cuda or tcp://"),
        (["--cluster", "local", "--memory-limit", "much"], "--memory-limit must be a size"),
        (["--cluster", "local-cuda"], "--cluster local-cuda must have "),
        (["--backend", "cuda"], "backend 'cuda' cannot be used on this machine: "),
        (["--relative-tolerance", "-1"], "relative_tolerance must be >= 0"),
        (["--config", "nothere.toml"], "nothere.toml cannot be read"),
    ],
)
def test_a_mistake_of_the_user_exits_with_2_and_without_a_traceback(
    run, store, tmp_path, more, message
):
    code, out, err = run(*train(store, tmp_path / "m"), *more)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num-clusters", "three"], "argument --num-clusters: must be an integer, got 'three'"),
        (["--relative-tolerance", "x"], "argument --relative-tolerance: must be a number, got 'x'"),
        (["--model-dir", ""], "argument --model-dir: must not be empty"),
        (["--columns", ""], "argument --columns: must not be empty"),
    ],
)
def test_a_flag_with_a_wrong_value_is_named_with_what_it_must_be(
    run, store, tmp_path, capsys, more, message
):
    with pytest.raises(SystemExit) as exit_:
        run(*train(store, tmp_path / "m"), *more)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more_exits_with_2_and_names_the_place(
    run, store, tmp_path, monkeypatch, number
):
    def refuse(*arguments, **keywords):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(KMeans, "train", refuse)
    code, _, err = run(*train(store, tmp_path / "m"))
    assert code == 2
    line = f"{tmp_path / 'm'} cannot be written: [Errno {number}] {os.strerror(number)}"
    assert err.splitlines()[-1] == f"dkmeans: error: {line}"


def test_an_unexpected_error_of_the_system_keeps_its_traceback(run, store, tmp_path, monkeypatch):
    def refuse(*arguments, **keywords):
        raise FileNotFoundError(errno.ENOENT, "gone")

    monkeypatch.setattr(KMeans, "train", refuse)
    code, _, err = run(*train(store, tmp_path / "m"))
    assert code == 1
    assert "Traceback" in err


@pytest.mark.parametrize(("interrupt", "code"), [(Terminated(15), 143), (KeyboardInterrupt(), 130)])
def test_a_lock_that_an_interrupt_has_broken_does_not_hide_the_interrupt(
    run, store, tmp_path, monkeypatch, interrupt, code
):
    def interrupted(*arguments, **keywords):
        try:
            raise interrupt
        finally:
            threading.Lock().release()

    monkeypatch.setattr(KMeans, "train", interrupted)
    code_of_run, _, err = run(*train(store, tmp_path / "m", "--overwrite"))
    assert code_of_run == code
    assert "Run the same command again without --overwrite to go on" in err


@pytest.mark.parametrize(("redirection", "code"), [(">&-", 0), ("> /dev/full", 2), ("| true", 0)])
def test_a_result_that_nobody_can_read_is_no_defect(run_json, store, tmp_path, redirection, code):
    run_json(*train(store, tmp_path / "m", "--max-steps", 1))
    command = " ".join([*COMMAND, "info", str(tmp_path / "m")])
    script = f"{command} {redirection}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == (code != 0)
    assert not lines or lines[0].startswith("dkmeans: error: the job is done, but its result")


@pytest.mark.parametrize(("job", "is_resumed"), [("evaluate", False), ("predict", True)])
def test_only_jobs_that_go_on_where_they_stopped_say_so(
    run, run_json, store, tmp_path, monkeypatch, job, is_resumed
):
    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    run_json(*train(store, tmp_path / "m", "--max-steps", 1))
    monkeypatch.setattr(KMeans, "evaluate", interrupt)
    monkeypatch.setattr(KMeans, "write_predictions", interrupt)
    output = ["--output", tmp_path / "o.zarr"] if is_resumed else []
    code, _, err = run(job, store, "--model-dir", tmp_path / "m", *output)
    assert code == 130
    assert "dkmeans: interrupted. Run the same command again" in err
    assert ("to go on where it stopped" in err) == is_resumed
