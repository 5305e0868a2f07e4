"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1: a checkpoint is saved, and the same command resumes."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from dkmeans_jobs.signals import Terminated, defer_signals, raise_on_signals

from dkmeans import checkpoints
from tests.jobs.commands import COMMAND, train


@pytest.fixture(autouse=True)
def hangup_is_not_ignored():
    """Tests may run under nohup, whose children ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


THREADS, LOCAL = [], ["--cluster", "local", "--workers", "1"]


@pytest.mark.parametrize(
    ("number", "code", "where"),
    [
        (signal.SIGINT, 130, LOCAL),
        (signal.SIGTERM, 143, LOCAL),
        (signal.SIGHUP, 129, THREADS),
        (signal.SIGUSR1, 138, LOCAL),
    ],
)
def test_a_signal_that_ends_a_job_saves_a_checkpoint_and_the_same_command_resumes(
    run_json, tmp_path, number, code, where
):
    rows = np.random.default_rng(0).normal(size=(20_000, 8)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    job = ["train", tmp_path / "rows.npy", "--model-dir", tmp_path / "m", "--num-clusters", 50]
    # Mini-batches, because centers that rest would end the job; NumPy, because it starts sooner.
    job += ["--init", "random", "--seed", 1, "--batch-rows", 10_000, "--backend", "numpy"]
    argv = [*COMMAND, *map(str, job), "--steps", "100000"]
    with subprocess.Popen(
        [*argv, *where], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while "step 1 " not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(0.3)
        # People press Ctrl-C again if nothing seems to happen. Workers take a second to end.
        for _ in range(3 if where else 1):
            os.killpg(process.pid, number)  # a terminal, or a system, sends it to the workers too
            time.sleep(0.1)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "Run the same command again" in err
    state = checkpoints.latest(str(tmp_path / "m")).state
    assert state.step > 0
    assert run_json(*job, "--max-steps", state.step + 2)["step"] == state.step + 2


def test_a_job_under_nohup_goes_on_when_its_terminal_is_closed():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raise_on_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_only_the_first_signal_interrupts_so_that_the_last_checkpoint_can_be_saved():
    saved = []

    def job():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGUSR1)
            saved.append("checkpoint")

    with pytest.raises(Terminated), raise_on_signals():
        job()
    assert saved == ["checkpoint"]


def test_ctrl_c_again_says_that_the_job_is_ending_and_interrupts_nothing(caplog):
    saved = []

    def job():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            saved.append("checkpoint")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), raise_on_signals():
        job()
    assert saved == ["checkpoint"]
    assert caplog.messages == [
        "ending already, once the last checkpoint is saved; Ctrl-\\ does not wait for it"
    ]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_deferred_sigterm_interrupts_only_when_it_is_asked_for():
    with raise_on_signals():
        with defer_signals() as raise_if_received:
            raise_if_received()
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Terminated):
            raise_if_received()


def test_the_handler_that_was_there_before_is_restored():
    before = signal.getsignal(signal.SIGTERM)
    with raise_on_signals(), defer_signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGHUP, Terminated),
        (signal.SIGUSR1, Terminated),
    ],
)
def test_a_deferred_signal_interrupts_when_it_is_asked_for_and_processes_never_get_it(
    number, error
):
    sleeping = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    before = signal.getsignal(number)
    with defer_signals() as raise_if_received:
        raise_if_received()
        process = subprocess.Popen(sleeping, stdout=subprocess.PIPE)
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with raise_on_signals(), pytest.raises(error):
        raise_if_received()
    with process:
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
        process.kill()


def test_a_signal_that_is_ignored_is_not_deferred():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as shells do for a job in background
    try:
        with defer_signals() as raise_if_received:
            os.kill(os.getpid(), signal.SIGINT)
        raise_if_received()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_while_worker_processes_start_ends_the_job(store, tmp_path):
    argv = [*COMMAND, *map(str, train(store, tmp_path / "m", "--steps", 1_000_000))]
    with subprocess.Popen(
        [*argv, *LOCAL],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while "starting worker processes" not in process.stderr.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
