"""A rehearsal of crashes: kill drivers and workers at random moments of training and prediction.

    python -m tests.kills --kills 200 --seed 1

A command is started again whenever its driver was killed, until it succeeds. The results must be
equal, bit by bit, to those of a run without kills. `test_kills.py` runs a few kills; the command
above runs many.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import zarr
from dkmeans_jobs.__main__ import main as main_of_jobs

from dkmeans import checkpoints

COMMAND = (sys.executable, "-m", "dkmeans_jobs")
LOCAL = ("--cluster", "local", "--workers", "2", "--threads-per-worker", "1")
DONE = 0
# About how long a job takes to start, and a cluster of its own.
START_SECONDS, CLUSTER_SECONDS = 2, 3
# Exit codes after a kill: SIGKILL; SIGTERM that the job handled; SIGTERM that came before the job
# could handle it; an outage, because a worker was killed before the job began.
EXITS_AFTER_KILL = (-signal.SIGKILL, 143, -signal.SIGTERM, 75)
# Share of the kills that hit a worker if there is one, and share of SIGKILL among the signals.
WORKER_SHARE = 0.6
SIGKILL_SHARE = 0.6


@dataclass
class Killer:
    """A random killer of processes.

    Attributes:
        rng: Random generator.
        left: Number of kills that are still to be done.
        killed: Descriptions of the kills so far.
    """

    rng: np.random.Generator
    left: int
    killed: list[str] = field(default_factory=list)

    def wait_and_kill(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        """Wait for a job that takes about this many seconds, and kill processes during it."""
        while self.left:
            try:
                process.wait(self.rng.uniform(0, seconds))
            except subprocess.TimeoutExpired:
                self.kill(process)
            if process.poll() is not None:
                return
        process.wait(120)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Send SIGKILL or SIGTERM to the driver or to one of its workers."""
        try:
            children = psutil.Process(process.pid).children(recursive=True)
            workers = [each for each in children if "spawn_main" in " ".join(each.cmdline())]
            victim = psutil.Process(process.pid)
            if workers and self.rng.random() < WORKER_SHARE:
                victim = workers[self.rng.integers(len(workers))]
            number = signal.SIGKILL if self.rng.random() < SIGKILL_SHARE else signal.SIGTERM
            victim.send_signal(number)
        except psutil.NoSuchProcess:
            return
        self.left -= 1
        name = "driver" if victim.pid == process.pid else "worker"
        self.killed.append(f"{name} {signal.Signals(number).name}")


def until_done(command: list[str], killer: Killer, seconds: float) -> None:
    """Run a command again and again until it succeeds."""
    while True:
        with tempfile.TemporaryFile() as log:
            with subprocess.Popen(command, stdout=log, stderr=log) as process:
                killer.wait_and_kill(process, seconds)
            log.seek(0)
            output = log.read().decode()
        if process.returncode == DONE:
            return
        assert process.returncode in EXITS_AFTER_KILL, output
        assert "Traceback" not in output, output


def train(rows: Path, model: Path) -> list[str]:
    """Return the command that trains forty steps, with a checkpoint after every second step."""
    steps = ("--max-steps", "40", "--save-checkpoints-steps", "2")
    settings = ("--num-clusters", "60", "--seed", "1", "--cache", "none")
    return [*COMMAND, "train", str(rows), "--model-dir", str(model), *settings, *steps]


def predict(rows: Path, model: Path, output: Path) -> list[str]:
    """Return the command that predicts clusters and distances."""
    options = ("--model-dir", str(model), "--output", str(output), "--transform")
    return [*COMMAND, "predict", str(rows), *options]


def outcome(model: Path, output: Path) -> list[bytes]:
    """Return the bytes of all results of training and prediction."""
    checkpoint = checkpoints.latest(str(model))
    assert checkpoint is not None
    state, group = checkpoint.state, zarr.open_group(output, mode="r")
    assert group.attrs["complete"] is True
    arrays = [state.centers, state.counts, np.array([state.step, state.inertia])]
    arrays += [np.asarray(group[name]) for name in ("cluster_index", "all_distances")]
    return [array.tobytes() for array in arrays]


def rehearse(folder: Path, kills: int, seed: int) -> list[str]:
    """Train and predict until this many processes are killed; return what was killed."""
    killer = Killer(np.random.default_rng(seed), 0)
    stored = folder / "rows.zarr"
    values = killer.rng.normal(size=(60_000, 16)).astype(np.float32)
    zarr.create_array(stored, data=values, chunks=(2000, 16))
    reference = folder / "model", folder / "predicted.zarr"
    seconds = []
    for command in (train(stored, reference[0]), predict(stored, *reference)):
        began = time.monotonic()
        assert main_of_jobs(command[len(COMMAND) :]) == DONE
        seconds.append(time.monotonic() - began + START_SECONDS)
    expected = outcome(*reference)
    killer.left, number = kills, 0
    while killer.left:
        cluster = () if number % 2 else LOCAL
        model, output = folder / f"model-{number}", folder / f"predicted-{number}.zarr"
        commands = train(stored, model), predict(stored, model, output)
        for command, time_of_one in zip(commands, seconds, strict=True):
            until_done([*command, *cluster], killer, time_of_one + CLUSTER_SECONDS * bool(cluster))
        assert outcome(model, output) == expected, f"round {number} of seed {seed}"
        number += 1
    return killer.killed


def main() -> None:
    """Run the rehearsal, and print what was killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        killed = rehearse(Path(folder), arguments.kills, arguments.seed)
    for name in sorted(set(killed)):
        print(f"{killed.count(name):4} {name}")
    print(f"{len(killed):4} in all: every result is that of an undisturbed run, to the bit")


if __name__ == "__main__":
    main()
