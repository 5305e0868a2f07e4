"""Calls that use a model from its directory: settings that must not change, ignored arguments.

The settings of a model are in its checkpoint. How its first centers were found is in a file of its
own, which the call that begins the model writes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

import numpy as np

from dkmeans import storage
from dkmeans.checkpoints import Checkpoint, Settings
from dkmeans.errors import InvalidCheckpoint
from dkmeans.initialization import KMEANS_PARALLEL, KMEANS_PLUS_PLUS, RANDOM, Initialization
from dkmeans.training_plan import Plan

logger = logging.getLogger("dkmeans")

# File in the directory of a model: how its first centers were found (`_origin`).
_ORIGIN_FILE = "initialization.json"
# Number of first centers that are hashed at a time.
_CENTERS_AT_ONCE = 1024


def check_same_model(plan: Plan, found: Checkpoint) -> None:
    """Refuse to continue a model with other settings than the plan's.

    Raises:
        InvalidCheckpoint: a setting differs.
    """
    own, its = plan.settings, found.settings
    k = plan.initialization.num_clusters
    differences = [
        ("num_clusters", k, len(found.state.centers)),
        ("distance_metric", str(own.distance_metric), str(its.distance_metric)),
        ("use_mini_batch", own.use_mini_batch, its.use_mini_batch),
        ("num_restarts", plan.num_restarts, len(found.fit.starts)),
    ]
    if own.use_mini_batch:
        steps = own.mini_batch_steps_per_iteration, its.mini_batch_steps_per_iteration
        differences.append(("mini_batch_steps_per_iteration", *steps))
    source = plan.initialization.source
    if isinstance(source, np.ndarray):
        width = "columns of initial_clusters", source.shape[1], found.state.centers.shape[1]
        differences.append(width)
    for name, mine, saved in differences:
        if mine != saved:
            raise InvalidCheckpoint(
                f"{name} must be that of the model in model_dir, {saved!r}, to continue it, "
                f"got {mine!r}; give overwrite=True (--overwrite) or another model_dir to "
                f"begin anew ({plan.model_dir})"
            )


def check_same_centers(num_clusters: int, settings: Settings, found: Checkpoint) -> None:
    """Refuse to compute with a checkpoint whose centers are not as an estimator's parameters say.

    Raises:
        InvalidCheckpoint: the number of clusters or the distance differs.
    """
    for name, mine, saved in (
        ("num_clusters", num_clusters, len(found.state.centers)),
        ("distance_metric", str(settings.distance_metric), str(found.settings.distance_metric)),
    ):
        if mine != saved:
            raise InvalidCheckpoint(
                f"{name} must be that of the checkpoint, {saved!r}, got {mine!r}; "
                f"dkmeans.load(model_dir) takes it from there ({found.address})"
            )


def report_ignored(plan: Plan, step: int) -> None:
    """Warn of arguments about the first centers that differ from those the model began with.

    A model is continued from its centers, so these arguments have no effect.

    Raises:
        Outage: the storage does not answer.
    """
    before, now = _load_origin(plan.model_dir), _origin(plan.initialization)
    # "random" and None are the defaults: a call that continues a model need not repeat the source
    # and seed of its first centers.
    defaults = {"initial_clusters": RANDOM, "seed": None}
    ignored = {
        name: value
        for name, value in now.items()
        if name in before and before[name] != value and defaults.get(name, "") != value
    }
    if ignored:
        logger.warning(
            "ignored, because %s holds a model that is continued from step %d: %s; to begin anew, "
            "give overwrite=True (--overwrite) or another model_dir",
            plan.model_dir,
            step,
            ", ".join(f"{name} {ignored[name]} (was {before[name]})" for name in ignored),
        )


def _origin(initialization: Initialization) -> dict[str, Any]:
    """Return the arguments that decide the first centers, by name, as they are saved."""
    source = initialization.source
    if isinstance(source, np.ndarray):
        digest = hashlib.sha256()
        # Some at a time: large centers as float64 are two more copies of them.
        for start in range(0, len(source), _CENTERS_AT_ONCE):
            digest.update(source[start : start + _CENTERS_AT_ONCE].astype(np.float64).tobytes())
        return {"initial_clusters": f"array {source.shape}, sha256 {digest.hexdigest()[:12]}"}
    if not isinstance(source, str):
        # Functions of the same name count as the same: their code cannot be compared.
        name = getattr(source, "__qualname__", type(source).__qualname__)
        return {"initial_clusters": f"function {name}"}
    origin: dict[str, Any] = {"initial_clusters": source, "seed": initialization.seed}
    if source == KMEANS_PLUS_PLUS:
        origin["kmeans_plus_plus_num_retries"] = initialization.retries
    if source == KMEANS_PARALLEL:
        origin["oversampling"] = initialization.rounds.oversampling
        origin["initialization_rounds"] = initialization.rounds.rounds
        origin["initialization_rows"] = initialization.most_rows
    return origin


def save_origin(plan: Plan) -> None:
    """Write how the first centers of a new model were found, for later calls that continue it."""
    content = json.dumps(_origin(plan.initialization)).encode()
    storage.write(storage.join(plan.model_dir, _ORIGIN_FILE), content)


def _load_origin(model_dir: str) -> dict[str, Any]:
    """Return what `save_origin` has written; nothing if there is no such file or it is damaged."""
    found = storage.read(storage.join(model_dir, _ORIGIN_FILE))
    try:
        origin = json.loads(found.data) if found else {}
    except ValueError:
        return {}
    return origin if isinstance(origin, dict) else {}
