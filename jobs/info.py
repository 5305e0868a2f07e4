"""`dkmeans info`: what is in a model."""

from __future__ import annotations

import argparse
from typing import Any

from dkmeans_jobs.model import find_model, remembered_input

from dkmeans.checkpoints import Head


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read the latest checkpoint, and tell what it holds.

    Raises:
        InvalidCheckpoint: there is no model, or its latest checkpoint is damaged.
    """
    found = find_model(arguments.model_dir)
    state, settings = found.state, found.settings
    mode = "full batch"
    if settings.use_mini_batch:
        mode = f"mini-batch, {settings.mini_batch_steps_per_iteration} steps per iteration"
    trained_on = remembered_input(arguments.model_dir) or {}
    return {
        "num_clusters": len(state.centers),
        "columns": int(state.centers.shape[1]),
        "dtype": str(state.centers.dtype),
        "distance_metric": str(settings.distance_metric),
        "mode": mode,
        "step": state.step,
        "loss": state.inertia,
        "stopped": found.stop.reason.value if found.stop else None,
        "empty_clusters": state.empty_clusters,
        "cluster_sizes": state.counts.tolist(),
        "trained_on": trained_on.get("input"),
        "checkpoints": list(Head.read(arguments.model_dir).names),
    }
