"""The model that a job works with, by its directory."""

from __future__ import annotations

import json
from typing import Any

from dkmeans import KMeans, RunConfig, storage
from dkmeans.checkpoints import Checkpoint
from dkmeans.model import Model

_JOB = "job.json"


def open_model(model_dir: str, config: RunConfig) -> KMeans:
    """The estimator of a trained model.

    Raises:
        InvalidCheckpoint: there is none.
    """
    found = Model(model_dir).checkpoint()
    return KMeans(
        len(found.state.centers),
        model_dir,
        distance_metric=found.settings.distance_metric,
        use_mini_batch=found.settings.use_mini_batch,
        mini_batch_steps_per_iteration=found.settings.mini_batch_steps_per_iteration,
        config=config,
    )


def about_starts(found: Checkpoint) -> dict[str, Any]:
    """What the starts of a model have got, where there are several."""
    fit = found.fit
    if len(fit.starts) == 1:
        return {}
    return {
        "best_start": fit.best,
        "losses_of_starts": [start.state.inertia for start in fit.starts],
        "steps_of_starts": [start.steps for start in fit.starts],
    }


def remember_input(model_dir: str, about: dict[str, Any]) -> None:
    """Note which rows a model was last trained on."""
    storage.write(storage.join(model_dir, _JOB), json.dumps(about).encode())


def remembered_input(model_dir: str) -> dict[str, Any] | None:
    """What `remember_input` noted, or None."""
    found = storage.read(storage.join(model_dir, _JOB))
    if found is None:
        return None
    about: dict[str, Any] = json.loads(found.data)
    return about
