"""`dkmeans info`: describe a model, or the backends of this machine.

`__main__` calls `run`. A model is described from its latest checkpoint and from the files that jobs
write beside the checkpoints. Nothing is written.
"""

from __future__ import annotations

import argparse
from typing import Any

from dkmeans_jobs.model_dir import load_input, summarize_starts
from dkmeans_jobs.status import describe, read_status

from dkmeans import Invalid
from dkmeans.backends import select
from dkmeans.checkpoints import Manifest
from dkmeans.config import BACKENDS
from dkmeans.model import Model


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
        mode = f"mini-batch, {settings.mini_batch_steps_per_iteration} steps per iteration"
    trained_on = load_input(arguments.model_dir) or {}
    status = read_status(arguments.model_dir)
    return {
        "num_clusters": len(state.centers),
        "columns": int(state.centers.shape[1]),
        "dtype": str(state.centers.dtype),
        "distance_metric": str(settings.distance_metric),
        "mode": mode,
        "step": state.step,
        "loss": state.inertia,
        "stopped": checkpoint.stop.reason.value if checkpoint.stop else None,
        "empty_clusters": state.empty_clusters,
        "relocated_clusters": state.relocated_clusters,
        **summarize_starts(checkpoint),
        "cluster_sizes": state.counts.tolist(),
        "trained_on": trained_on.get("input"),
        "training": describe(status) if status else None,
        "progress": status.progress if status else None,
        "checkpoints": list(Manifest.read(arguments.model_dir).names),
    }


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
