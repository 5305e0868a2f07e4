"""`dkmeans info`: what is in a model, or what this machine computes with."""

from __future__ import annotations

import argparse
from typing import Any

from dkmeans_jobs.model_dir import about_starts, remembered_input
from dkmeans_jobs.status import status, told

from dkmeans import Invalid
from dkmeans.backends import select
from dkmeans.checkpoints import Manifest
from dkmeans.config import BACKENDS
from dkmeans.model import Model


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read the latest checkpoint, and tell what it holds; or tell of the backends.

    Raises:
        InvalidCheckpoint: there is no model, or its latest checkpoint is damaged.
    """
    if arguments.backends:
        return _backends()
    found = Model(arguments.model_dir).checkpoint()
    state, settings = found.state, found.settings
    mode = "full batch"
    if settings.use_mini_batch:
        mode = f"mini-batch, {settings.mini_batch_steps_per_iteration} steps per iteration"
    trained_on = remembered_input(arguments.model_dir) or {}
    job = status(arguments.model_dir)
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
        "relocated_clusters": state.relocated_clusters,
        **about_starts(found),
        "cluster_sizes": state.counts.tolist(),
        "trained_on": trained_on.get("input"),
        "training": told(job) if job else None,
        "progress": job.progress if job else None,
        "checkpoints": list(Manifest.read(arguments.model_dir).names),
    }


def _backends() -> dict[str, Any]:
    """What each backend would run here, or why it cannot, and which one is the default."""
    told: dict[str, Any] = {}
    for name in BACKENDS:
        try:
            told[name] = ", ".join(
                f"{key} {value}" for key, value in select(name).describe().items()
            )
            told.setdefault(
                "default", f"{name}, the first of {', '.join(BACKENDS)} that can be used"
            )
        except Invalid as error:
            told[name] = str(error)
    return told
