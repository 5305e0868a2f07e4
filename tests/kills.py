"""Kills drivers and workers at random moments, until training and prediction are done all the same.

    python -m tests.kills --kills 200 --seed 1

Every command is started again when its driver has been killed. What comes out must be, to the bit,
what comes out when nobody is killed.
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

from dkmeans import checkpoints

COMMAND = (sys.executable, "-m", "dkmeans_jobs")
LOCAL = ("--cluster", "local", "--workers", "2", "--threads-per-worker", "1")
DONE = 0
# Killed; told to end; told so before it could heed it; a worker was killed before it had begun.
ENDED = (-signal.SIGKILL, 143, -signal.SIGTERM, 75)


@dataclass
class Killer:
    """Who kills, and what has been killed so far."""

    rng: np.random.Generator
    left: int
    killed: list[str] = field(default_factory=list)

    def attend(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        """Wait for a job of about so many seconds; on the way kill what is to be killed."""
        while self.left:
            try:
                process.wait(self.rng.uniform(0, seconds))
            except subprocess.TimeoutExpired:
                self.kill(process)
            if process.poll() is not None:
                return
        process.wait(120)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the driver or one of its workers, at once or by asking it to end."""
        try:
            children = psutil.Process(process.pid).children(recursive=True)
            workers = [each for each in children if "spawn_main" in " ".join(each.cmdline())]
            victim = psutil.Process(process.pid)
            if workers and self.rng.random() < 0.6:
                victim = workers[self.rng.integers(len(workers))]
            number = signal.SIGKILL if self.rng.random() < 0.6 else signal.SIGTERM
            victim.send_signal(number)
        except psutil.NoSuchProcess:
            return
        self.left -= 1
        name = "driver" if victim.pid == process.pid else "worker"
        self.killed.append(f"{name} {signal.Signals(number).name}")


def until_done(command: list[str], killer: Killer, seconds: float) -> None:
    """Start a command until it has ended by itself."""
    while True:
        with tempfile.TemporaryFile() as log:
            with subprocess.Popen(command, stdout=log, stderr=log) as process:
                killer.attend(process, seconds)
            log.seek(0)
            told = log.read().decode()
        if process.returncode == DONE:
            return
        assert process.returncode in ENDED, told
        assert "Traceback" not in told, told


def train(rows: Path, model: Path) -> list[str]:
    """Training of about forty steps, with a checkpoint every other one."""
    ends = ("--max-steps", "40", "--save-checkpoints-steps", "2")
    of = ("--num-clusters", "60", "--seed", "1", "--cache", "none")
    return [*COMMAND, "train", str(rows), "--model-dir", str(model), *of, *ends]


def predict(rows: Path, model: Path, output: Path) -> list[str]:
    """Prediction of clusters and distances."""
    what = ("--model-dir", str(model), "--output", str(output), "--transform")
    return [*COMMAND, "predict", str(rows), *what]


def outcome(model: Path, output: Path) -> list[bytes]:
    """All that training and prediction have found."""
    found = checkpoints.latest(str(model))
    assert found is not None
    state, group = found.state, zarr.open_group(output, mode="r")
    assert group.attrs["complete"] is True
    arrays = [state.centers, state.counts, np.array([state.step, state.inertia])]
    arrays += [np.asarray(group[name]) for name in ("cluster_index", "all_distances")]
    return [array.tobytes() for array in arrays]


def rehearse(folder: Path, kills: int, seed: int) -> list[str]:
    """Train and predict until so many have been killed; what those were."""
    killer = Killer(np.random.default_rng(seed), 0)
    stored = folder / "rows.zarr"
    values = killer.rng.normal(size=(60_000, 16)).astype(np.float32)
    zarr.create_array(stored, data=values, chunks=(2000, 16))
    undisturbed = folder / "model", folder / "predicted.zarr"
    seconds = []
    for where in ((), LOCAL):
        for command in (train(stored, undisturbed[0]), predict(stored, *undisturbed)):
            began = time.monotonic()
            until_done([*command, *where], killer, 0)
            seconds.append(time.monotonic() - began)
    expected = outcome(*undisturbed)
    killer.left, number = kills, 0
    while killer.left:
        where, times = ((), seconds[:2]) if number % 2 else (LOCAL, seconds[:2])
        model, output = folder / f"model-{number}", folder / f"predicted-{number}.zarr"
        until_done([*train(stored, model), *where], killer, times[0] + 3 * bool(where))
        until_done([*predict(stored, model, output), *where], killer, times[1] + 3 * bool(where))
        assert outcome(model, output) == expected, f"round {number} of seed {seed}"
        number += 1
    return killer.killed


def main() -> None:
    """Rehearse, and say what was killed."""
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
