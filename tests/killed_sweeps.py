"""Sweeps that are killed at random file operations, until a number of kills is reached.

A sweep runs in a process of its own, which kills itself before one of the operations that change
files in its output. It is started again until it is done, and must end as an undisturbed one does.
"""

import json
import os
import signal
import sys
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import dkmeans

# Events that Python reports before it changes files.
CHANGES = ("os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
COUNTS = (12, 3, 7)
DONE = 0


def run(rows, output, kill_at, counted):
    """Sweep over stored rows; kill this process before the file operation of this number.

    Runs in a process of its own: a hook of Python's audit cannot be removed.

    Args:
        rows: Path of the rows.
        output: Directory of the sweep.
        kill_at: Number of the operation; None for none.
        counted: File that gets the number of operations.
    """
    operations = count(1)
    number = 0

    def hook(event, arguments):
        nonlocal number
        is_written = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        if (is_written or event in CHANGES) and str(arguments[0]).startswith(output):
            number = next(operations)
            if number == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    values = np.load(rows)
    config = dkmeans.RunConfig(save_checkpoints_steps=1)
    dkmeans.sweep(
        lambda: values, COUNTS, output, seed=4, relative_tolerance=0.0, max_steps=6, config=config
    )
    Path(counted).write_text(str(number))


def exit_code_of(*arguments):
    """Return the exit code of `run` in a process that is forked from one with its modules."""
    process = get_context("forkserver").Process(target=run, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def outcome(output):
    """Return all results of a sweep that do not depend on the time."""
    found = json.loads((output / "sweep.json").read_text())
    models = [{**model, "model_dir": None, "seconds": None} for model in found["models"]]
    centers = [dkmeans.load(output / f"k{k}").cluster_centers().tobytes() for k in COUNTS]
    return models, found["recommended"], found["reason"], centers


def rehearse(folder, kills, seed):
    """Sweep until so many processes are killed; return the operations before which they were.

    Raises:
        AssertionError: a sweep fails otherwise, or ends with other results.
    """
    rng = np.random.default_rng(seed)
    rows, counted = str(folder / "rows.npy"), str(folder / "counted")
    middles = rng.normal(size=(5, 3)) * 8
    np.save(rows, (middles[rng.integers(5, size=3000)] + rng.normal(size=(3000, 3))).astype("f4"))
    assert exit_code_of(rows, str(folder / "expected"), None, counted) == DONE
    expected, most = outcome(folder / "expected"), int(Path(counted).read_text())
    killed, numbers = [], count()
    while len(killed) < kills:
        output, code = folder / f"sweep-{next(numbers)}", -signal.SIGKILL
        while code == -signal.SIGKILL:
            kill_at = int(rng.integers(1, most)) if len(killed) < kills else None
            code = exit_code_of(rows, str(output), kill_at, counted)
            killed += [kill_at] * (code == -signal.SIGKILL)
        assert code == DONE
        assert outcome(output) == expected, f"killed before {killed}, seed {seed}"
    return killed
