"""`dkmeans train`: find clusters, or go on finding them."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

from dkmeans_jobs.client import open_client
from dkmeans_jobs.input import open_input
from dkmeans_jobs.model_dir import about_starts, remember_input, remembered_input
from dkmeans_jobs.status import noted

from dkmeans import Dataset, Invalid, KMeans, RunConfig, checkpoints
from dkmeans.checkpoints import Checkpoint
from dkmeans.config import AUTO
from dkmeans.empty_clusters import EmptyClusters
from dkmeans.hooks import PrometheusHook
from dkmeans.state import StopReason

_TOLERANCE = 1e-4
_MAX_STEPS = 300


@dataclass(frozen=True)
class Ends:
    """When a run ends."""

    steps: int | None
    max_steps: int | None
    relative_tolerance: float | None


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, and tell where that led.

    Raises:
        Invalid: the arguments or the input cannot be used.
        KeyboardInterrupt: after a checkpoint.
    """
    began = time.monotonic()
    _check(arguments)
    dataset = open_input(arguments.input, arguments.columns)
    rows = dataset.rows or 0
    ends = _ends(arguments, rows)
    hooks = [PrometheusHook(arguments.metrics_file)] if arguments.metrics_file else None
    about = {"input": arguments.input, "columns": arguments.columns, "rows": rows}
    found = checkpoints.latest(arguments.model_dir)
    with open_client(arguments) as client:
        model = _model(arguments, ends, client)
        done = _is_done(found, ends, about == remembered_input(arguments.model_dir))
        if found is not None and done:
            # Takes no step, and refuses to pass another model off as this one.
            model.train(lambda: dataset, max_steps=found.state.step)
        else:
            batches = _batches(dataset, rows, arguments.batch_rows, found)
            with noted(arguments.model_dir, found.state.step if found else 0):
                model.train(lambda: batches, hooks, ends.steps, ends.max_steps)
            remember_input(arguments.model_dir, about)
    found = checkpoints.latest(arguments.model_dir)
    assert found is not None
    state = found.state
    return {
        "status": "already done" if done else "trained",
        "stopped": found.stop.reason.value if found.stop else None,
        "step": state.step,
        "loss": state.inertia,
        "rows": rows,
        "columns": dataset.width,
        "num_clusters": len(state.centers),
        "empty_clusters": state.empty_clusters,
        **about_starts(found),
        "seconds": round(time.monotonic() - began, 3),
        "model_dir": arguments.model_dir,
        "checkpoint": model.latest_checkpoint(),
    }


def _check(arguments: argparse.Namespace) -> None:
    if arguments.full_batch and arguments.batch_rows is not None:
        raise Invalid("--full-batch and --batch-rows must not both be given")
    if arguments.batch_rows is not None and arguments.batch_rows < 1:
        raise Invalid(f"--batch-rows must be >= 1, got {arguments.batch_rows}")
    if arguments.batch_rows is None and arguments.steps_per_iteration is not None:
        raise Invalid("--steps-per-iteration must come with --batch-rows, got none")
    if arguments.steps is not None and arguments.max_steps is not None:
        raise Invalid("--steps and --max-steps must not both be given")


def _ends(arguments: argparse.Namespace, rows: int) -> Ends:
    """The ends asked for, or the default ones."""
    asked = Ends(arguments.steps, arguments.max_steps, arguments.relative_tolerance)
    if asked.steps is not None or asked.max_steps is not None:
        return asked
    if arguments.batch_rows is None:
        tolerance = asked.relative_tolerance
        return Ends(None, _MAX_STEPS, _TOLERANCE if tolerance is None else tolerance)
    if asked.relative_tolerance is not None:
        return asked
    return Ends(None, -(-rows // arguments.batch_rows), None)


def _model(arguments: argparse.Namespace, ends: Ends, client: Any) -> KMeans:
    names = "oversampling", "initialization_rounds", "initialization_rows"
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return KMeans(
        arguments.num_clusters,
        arguments.model_dir,
        initial_clusters=arguments.init or "random",
        distance_metric=arguments.metric or "squared_euclidean",
        seed=arguments.seed,
        use_mini_batch=arguments.batch_rows is not None,
        mini_batch_steps_per_iteration=(
            1 if arguments.steps_per_iteration is None else arguments.steps_per_iteration
        ),
        relative_tolerance=ends.relative_tolerance,
        config=RunConfig(
            client=client,
            backend=arguments.backend,
            cache=arguments.cache or AUTO,
            save_checkpoints_secs=arguments.save_checkpoints_secs,
            save_checkpoints_steps=arguments.save_checkpoints_steps,
        ),
        num_restarts=1 if arguments.num_restarts is None else arguments.num_restarts,
        empty_clusters=arguments.empty_clusters or EmptyClusters.KEEP,
        **given,
    )


def _is_done(found: Checkpoint | None, ends: Ends, same_input: bool) -> bool:
    """Whether there is nothing left to do for this run."""
    if found is None:
        return False
    if ends.max_steps is not None and found.state.step >= ends.max_steps:
        return True
    if found.stop is None or not same_input or ends.steps is not None:
        return False
    if found.stop.reason is StopReason.SETTLED:
        return True
    before, now = found.stop.relative_tolerance, ends.relative_tolerance
    fine_enough = before is not None and now is not None and before <= now
    return found.stop.reason is StopReason.CONVERGED and fine_enough


def _batches(dataset: Dataset, rows: int, size: int | None, found: Checkpoint | None) -> Dataset:
    """The batches from where the model's last run left off."""
    if size is None:
        return dataset.repeat()
    done = found.state.step if found else 0
    return dataset.batch(size).repeat().skip(done % -(-rows // size))
