"""`dkmeans train`: train a model, or continue training the one in the model directory.

`command` calls `run`. The same command can always be run again: it continues from the latest
checkpoint, or does nothing if training is complete. Without limits on the command line a full-batch
run ends at a small change of the loss or after 300 steps, and a mini-batch run after one epoch.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from dkmeans_jobs.client import check_cluster, open_client
from dkmeans_jobs.input import open_input, refuse_memory, refuse_model_in_input
from dkmeans_jobs.model_dir import load_input, save_input, summarize_starts
from dkmeans_jobs.status import recorded

from dkmeans import Dataset, Invalid, KMeans, RunConfig, checkpoints, storage
from dkmeans.checkpoints import Checkpoint
from dkmeans.config import AUTO
from dkmeans.empty_clusters import EmptyClusters
from dkmeans.errors import counted
from dkmeans.hooks import MetricsServerHook, PrometheusHook, SessionRunHook
from dkmeans.mlflow import MLflowHook
from dkmeans.state import StopReason

logger = logging.getLogger("dkmeans")

_TOLERANCE = 1e-4
_MAX_STEPS = 300


@dataclass(frozen=True)
class StopConditions:
    """Conditions that end a run; the first one that is met ends it.

    Attributes:
        steps: Number of further steps; None for no such limit.
        max_steps: Step of the model at which to stop, counted over all runs; None for no limit.
        relative_tolerance: Relative change of the loss below which to stop; None never stops.
    """

    steps: int | None
    max_steps: int | None
    relative_tolerance: float | None


class _CommandModel(KMeans):
    """A model whose tolerance is relative to the loss alone, whatever the unit of the rows is."""

    _loss_offset = 0.0


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train until a stop condition is met and return a summary of the model.

    Raises:
        Invalid: the arguments or the input cannot be used.
        KeyboardInterrupt: after a checkpoint was saved.
    """
    _check(arguments)
    refuse_model_in_input("--model-dir", arguments.model_dir, arguments.input, arguments.columns)
    check_cluster(arguments)
    with ExitStack() as stack:
        return _run(arguments, _hooks(arguments, stack))


def _run(arguments: argparse.Namespace, hooks: list[SessionRunHook]) -> dict[str, Any]:
    began = time.monotonic()
    dataset = open_input(arguments.input, arguments.columns, arguments.weights, arguments.filter)
    if arguments.standardize:
        dataset = dataset.standardize()
    rows = dataset.rows or 0  # the inputs of the command line always know their number of rows
    conditions = _stop_conditions(arguments, rows)
    named = ", ".join(map(storage.without_user, arguments.input))
    input_description = {"input": named, "columns": arguments.columns, "rows": rows}
    if arguments.weights is not None:
        input_description["weights"] = storage.without_user(arguments.weights)
    if arguments.filter is not None:
        input_description["filter"] = arguments.filter
    checkpoint = _found(arguments)
    if checkpoint is None and arguments.num_clusters > rows:
        must = f"at most the number of rows, {rows}"
        raise Invalid(f"--num-clusters must be {must}, got {arguments.num_clusters}")
    if checkpoint is not None:
        dataset.check_scaling(checkpoint.settings.scaling)
    # The model is made before the cluster starts, which takes seconds. So a mistake is reported at
    # once, and so is a model with nothing left to do.
    model = _model(arguments, conditions, client=None)
    if arguments.mlflow is not None:
        # MLflow prints addresses to standard output, which is for the result of the job.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        hooks = [*hooks, MLflowHook(model, arguments.mlflow)]
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # its lines would be no JSON
    last_input = load_input(arguments.model_dir)
    same_input = input_description == last_input
    done = _is_done(checkpoint, conditions, same_input)
    if checkpoint is not None and last_input is not None and not same_input:
        consequence = "is continued from its centers; to begin anew, give"
        if done:  # for its step alone: it may have converged on the other rows only
            limit = f"--max-steps {conditions.max_steps}"
            consequence = f"is not trained on these rows, as it has the {limit}; give more,"
        _report_other_input(arguments.model_dir, last_input, consequence)
    # `done` is False without a checkpoint; the other test is for the type checker.
    if checkpoint is not None and done:
        # `train` takes no step here, but refuses arguments that differ from the model's settings.
        done_already = checkpoint.state.step
        model.train(
            lambda: dataset, max_steps=done_already, checkpoint_path=arguments.from_checkpoint
        )
    else:
        batches = _batches(dataset, rows, arguments.batch_rows, checkpoint)
        with open_client(arguments) as client:
            model = _model(arguments, conditions, client)
            with recorded(arguments.model_dir):
                limits = conditions.steps, conditions.max_steps
                model.train(
                    lambda: batches,
                    hooks,
                    *limits,
                    overwrite=bool(arguments.overwrite),
                    checkpoint_path=arguments.from_checkpoint,
                )
        # Saved only now: `job.json` must not name the input of an interrupted run.
        save_input(arguments.model_dir, input_description)
    checkpoint = checkpoints.latest(arguments.model_dir)
    assert checkpoint is not None
    state = checkpoint.state
    return {
        "status": "already done" if done else "trained",
        "stopped": checkpoint.stop.reason.value if checkpoint.stop else None,
        "step": state.step,
        "loss": state.inertia,
        "rows": rows,
        "columns": dataset.width,
        "num_clusters": len(state.centers),
        "empty_clusters": state.empty_clusters,
        **summarize_starts(checkpoint),
        "seconds": round(time.monotonic() - began, 3),
        "model_dir": arguments.model_dir,
        "checkpoint": model.latest_checkpoint(),
    }


def _found(arguments: argparse.Namespace) -> Checkpoint | None:
    """Return the checkpoint to continue from; None for a new model."""
    if arguments.overwrite:
        return None
    model_dir, earlier = arguments.model_dir, arguments.from_checkpoint
    rollback = checkpoints.rollback_to(model_dir, earlier) if earlier is not None else None
    return rollback.checkpoint if rollback else checkpoints.latest(model_dir)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse arguments that exclude each other or have no meaning."""
    if arguments.full_batch and arguments.batch_rows is not None:
        raise Invalid("--full-batch and --batch-rows must not both be given")
    if arguments.batch_rows is None and arguments.steps_per_iteration is not None:
        raise Invalid("--steps-per-iteration must come with --batch-rows, got none")
    for name in ("batch_rows", "steps", "max_steps"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise Invalid(f"--{name.replace('_', '-')} must be >= 1, got {value}")
    if arguments.metrics_file and not arguments.metrics_file.endswith(".prom"):
        raise Invalid(
            "--metrics-file must end in .prom, because the node exporter reads no other files, got "
            f"{arguments.metrics_file!r}"
        )
    if arguments.steps is not None and arguments.max_steps is not None:
        raise Invalid("--steps and --max-steps must not both be given")
    refuse_memory("--model-dir", arguments.model_dir)
    if arguments.overwrite and arguments.from_checkpoint is not None:
        raise Invalid("--overwrite and --from-checkpoint must not both be given")


def _hooks(arguments: argparse.Namespace, stack: ExitStack) -> list[SessionRunHook]:
    """Return the hooks that export metrics; a taken port is refused now, before the input is read.

    The stack frees the port at its end.
    """
    hooks: list[SessionRunHook] = []
    if arguments.metrics_file:
        hooks.append(PrometheusHook(arguments.metrics_file))
    if arguments.metrics_port is not None:
        hooks.append(stack.enter_context(MetricsServerHook(arguments.metrics_port)))
    return hooks


def _stop_conditions(arguments: argparse.Namespace, rows: int) -> StopConditions:
    """Return the stop conditions of the arguments, or the default ones."""
    given = StopConditions(arguments.steps, arguments.max_steps, arguments.relative_tolerance)
    if given.steps is not None or given.max_steps is not None:
        return given
    if arguments.batch_rows is None:
        tolerance = given.relative_tolerance
        return StopConditions(None, _MAX_STEPS, _TOLERANCE if tolerance is None else tolerance)
    if given.relative_tolerance is not None:
        return given
    return StopConditions(None, -(-rows // arguments.batch_rows), None)  # one epoch, over all runs


def _model(arguments: argparse.Namespace, conditions: StopConditions, client: Any) -> KMeans:
    names = "oversampling", "initialization_rounds", "initialization_rows"
    # Arguments that were not given keep the estimator's own defaults.
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return _CommandModel(
        arguments.num_clusters,
        arguments.model_dir,
        initial_clusters=arguments.init or "random",
        distance_metric=arguments.metric or "squared_euclidean",
        seed=arguments.seed,
        use_mini_batch=arguments.batch_rows is not None,
        mini_batch_steps_per_iteration=(
            1 if arguments.steps_per_iteration is None else arguments.steps_per_iteration
        ),
        relative_tolerance=conditions.relative_tolerance,
        config=RunConfig(
            client=client,
            backend=arguments.backend,
            cache=arguments.cache or AUTO,
            save_checkpoints_secs=arguments.save_checkpoints_secs,
            save_checkpoints_steps=arguments.save_checkpoints_steps,
            # A fit in full batch has few steps.
            save_summary_steps=1 if arguments.batch_rows is None else 100,
        ),
        num_restarts=1 if arguments.num_restarts is None else arguments.num_restarts,
        empty_clusters=arguments.empty_clusters or EmptyClusters.KEEP,
        **given,
    )


def _report_other_input(model_dir: str, last_input: dict[str, Any], consequence: str) -> None:
    """Warn that a model was last trained on another input, and what follows from it."""
    columns, weights = last_input.get("columns"), last_input.get("weights")
    filters = " and ".join(last_input.get("filter", []))
    logger.warning(
        "%s holds a model that was last trained on other input (%s of %s%s%s%s) and %s --overwrite "
        "or another --model-dir",
        model_dir,
        counted(last_input.get("rows", 0), "row"),
        last_input.get("input"),
        f", columns {columns}" if columns else "",
        f", weights {weights}" if weights else "",
        f", where {filters}" if filters else "",
        consequence,
    )


def _is_done(checkpoint: Checkpoint | None, conditions: StopConditions, same_input: bool) -> bool:
    """Return whether the model already meets the stop conditions of this run."""
    if checkpoint is None:
        return False
    if conditions.max_steps is not None and checkpoint.state.step >= conditions.max_steps:
        return True
    # A model that converged on other rows has not converged on these. With `--steps` the user asks
    # for further steps in any case.
    if checkpoint.stop is None or not same_input or conditions.steps is not None:
        return False
    if checkpoint.stop.reason is StopReason.UNCHANGED:
        return True
    # Converged at a tolerance at most as large as this run's.
    before, now = checkpoint.stop.relative_tolerance, conditions.relative_tolerance
    fine_enough = before is not None and now is not None and before <= now
    return checkpoint.stop.reason is StopReason.CONVERGED and fine_enough


def _batches(
    dataset: Dataset, rows: int, size: int | None, checkpoint: Checkpoint | None
) -> Dataset:
    """Return the batches for training, beginning where the model's last run stopped.

    Each step takes one batch, so the step of the model tells how many batches were used.
    """
    if size is None:
        return dataset.repeat()
    step = checkpoint.state.step if checkpoint else 0
    return dataset.batch(size).repeat().skip(step % -(-rows // size))
