"""`dkmeans info`: describe a model, or the backends of this machine.

`command` calls `run`. A model is described from its latest checkpoint and from the files that jobs
write beside the checkpoints. Nothing is written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from dkmeans_jobs.model_dir import load_input, summarize_starts
from dkmeans_jobs.status import Status, describe, is_running, progress_in, read_status

from dkmeans import Invalid
from dkmeans.backends import select
from dkmeans.checkpoints import Checkpoint, Manifest
from dkmeans.config import BACKENDS
from dkmeans.data.columns import value_names
from dkmeans.display import with_time_left
from dkmeans.errors import counted
from dkmeans.model import Model

# The sizes of more clusters are summarized for people, and of more columns the first are shown.
_MOST_SIZES = _MOST_NAMES = 20


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the description of a model, or with `--backends` that of the backends.

    Raises:
        InvalidCheckpoint: there is no model, or its latest checkpoint is damaged.
    """
    if arguments.backends:
        return _describe_backends()
    checkpoint = Model(arguments.model_dir).checkpoint()
    state, settings = checkpoint.state, checkpoint.settings
    mode = "full batch"
    if settings.use_mini_batch:
        steps = counted(settings.mini_batch_steps_per_iteration, "step")
        mode = f"mini-batch, {steps} per iteration"
    trained_on = load_input(arguments.model_dir) or {}
    status = read_status(arguments.model_dir)
    about = {
        "num_clusters": len(state.centers),
        "columns": int(state.centers.shape[1]),
        "column_names": list(settings.columns or ()),
        "dtype": str(state.centers.dtype),
        "distance_metric": str(settings.distance_metric),
        "standardized": _describe_scaling(checkpoint),
        "mode": mode,
        "step": state.step,
        "loss": state.inertia,
        "stopped": checkpoint.stop.reason.value if checkpoint.stop else None,
        "empty_clusters": state.empty_clusters,
        "relocated_clusters": state.relocated_clusters,
        **summarize_starts(checkpoint),
        "cluster_sizes": state.counts.tolist(),
        "centers": _few_centers(checkpoint),
        "trained_on": trained_on.get("input"),
        "training": describe(status) if status else None,
        "progress": status.progress if status else None,
        "checkpoints": list(Manifest.read(arguments.model_dir).names),
    }
    return about if arguments.json else _for_people(about, status)


def _describe_scaling(checkpoint: Checkpoint) -> dict[str, list[float]] | None:
    scaling = checkpoint.settings.scaling
    if scaling is None:
        return None
    return {"means": scaling.means.tolist(), "deviations": scaling.deviations.tolist()}


def _few_centers(checkpoint: Checkpoint) -> list[list[float]] | None:
    """Return the centers in the units of the rows that users give; None for very many numbers."""
    centers = checkpoint.original_centers
    few = len(centers) <= _MOST_SIZES and centers.shape[1] <= _MOST_NAMES
    return centers.tolist() if few else None


def _for_people(about: dict[str, Any], status: Status | None) -> dict[str, Any]:
    """Return a description of a model as people want to read it: what happens now comes first."""
    progress = progress_in(status) if status else None
    now = {"training": about["training"]}
    # The numbers of a job that is done are those of the latest checkpoint.
    if status is not None and status.state != "done" and progress is not None:
        now["progress"] = with_time_left(progress) if is_running(status) else str(progress)
    shown = now | {name: value for name, value in about.items() if name not in now}
    if "progress" not in now:
        shown["progress"] = None
    if is_running(status):
        shown["step"] = f"{about['step']} in the latest checkpoint"
    if len(about["column_names"]) > _MOST_NAMES:
        shown["column_names"] = [*about["column_names"][:_MOST_NAMES], "..."]
    if about["standardized"] is not None:
        shown["standardized"] = "by the mean and deviation of each column"
    shown |= {"centers": None, **_describe_centers(about["centers"], about["column_names"])}
    sizes = np.array(about["cluster_sizes"])
    if about["loss"] is None:  # before the first whole iteration clusters have no rows yet
        shown["cluster_sizes"] = shown["empty_clusters"] = shown["relocated_clusters"] = None
    elif len(sizes) > _MOST_SIZES:
        median = np.median(sizes)
        what = "rows" if sizes.dtype.kind == "i" else "of weight"
        least, most = (f"{size:,.10g}" for size in (sizes.min(), sizes.max()))
        shown["cluster_sizes"] = f"{least} to {most} {what}, median {median:,.0f}"
    return shown


def _describe_centers(
    centers: Sequence[Sequence[float]] | None, names: Sequence[str]
) -> dict[str, str]:
    """Return a line for each center."""
    found = {}
    for number, center in enumerate(centers or ()):
        pairs = zip(value_names(names, len(center)), center, strict=True)
        texts = [f"{name} {value:.6g}" for name, value in pairs]
        found[f"center_of_cluster_{number}"] = ", ".join(texts)
    return found


def _describe_backends() -> dict[str, Any]:
    """Return a description of each backend, or why it cannot be used, and the default one."""
    result: dict[str, Any] = {}
    for name in BACKENDS:
        try:
            result[name] = ", ".join(
                f"{key} {value}" for key, value in select(name).describe().items()
            )
            # `BACKENDS` is in the order of preference: the first entry that is set stays.
            result.setdefault(
                "default", f"{name}, the first of {', '.join(BACKENDS)} that can be used"
            )
        except Invalid as error:
            result[name] = str(error)
    return result
