"""The model directory of a job: find its model, and record which input it was trained on.

The library owns the checkpoints in the directory. This module adds one file, `job.json`. It lets
`train` see that the same command has nothing left to do, and `info` name the input.
"""

from __future__ import annotations

import json
from typing import Any

from dkmeans import Dataset, storage
from dkmeans.checkpoints import Checkpoint
from dkmeans.data.columns import KnownColumns
from dkmeans.input_fn import in_order
from dkmeans.model import Model
from dkmeans.prediction.stream import check_columns

_INPUT_FILE = "job.json"


def load_for(dataset: Dataset, model_dir: str) -> tuple[Checkpoint, Dataset]:
    """Return the latest checkpoint of a model, and rows with its columns in its order.

    Raises:
        InvalidCheckpoint: there is no model.
        InvalidData: the rows lack columns of the model, or are not as wide as the centers.
    """
    checkpoint = Model(model_dir).checkpoint()
    names = checkpoint.settings.columns
    dataset = in_order(dataset, KnownColumns(names, allows_surplus=True))
    check_columns(dataset, checkpoint)
    return checkpoint, dataset


def summarize_starts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the losses and steps of a model's starts; nothing for a model with one start."""
    fit = checkpoint.fit
    if len(fit.starts) == 1:
        return {}
    return {
        "best_start": fit.best,
        "losses_of_starts": [start.state.inertia for start in fit.starts],
        "steps_of_starts": [start.steps for start in fit.starts],
    }


def save_input(model_dir: str, about: dict[str, Any]) -> None:
    """Write the description of the input that a model was last trained on."""
    storage.write(storage.join(model_dir, _INPUT_FILE), json.dumps(about).encode())


def load_input(model_dir: str) -> dict[str, Any] | None:
    """Return the description that `save_input` wrote; None if there is none, or it is damaged."""
    about = storage.read_json(storage.join(model_dir, _INPUT_FILE))
    if not isinstance(about, dict):
        return None
    terms = about.get("filter", [])
    texts = [about.get(name) or "" for name in ("input", "columns", "weights")]
    is_whole = isinstance(about.get("rows", 0), int) and isinstance(terms, list)
    return about if is_whole and all(isinstance(text, str) for text in [*texts, *terms]) else None
