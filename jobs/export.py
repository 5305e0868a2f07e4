"""`dkmeans export`: write a model in the format of another library.

`command` calls `run`. `FORMATS` lists the formats for the command line; each format has one writer
in `_WRITERS`. The libraries that write are optional, so the writers import them late.
"""

from __future__ import annotations

import argparse
import os
from io import BytesIO
from typing import Any

import numpy as np
from dkmeans_jobs.input import refuse_memory

from dkmeans import Invalid, checkpoints, storage
from dkmeans.exports import directories
from dkmeans.model import Model


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the latest checkpoint, or the one of `--checkpoint`, in another format.

    Raises:
        Invalid: the model has no such checkpoint, or the library that writes the format is missing.
    """
    refuse_memory("--output", arguments.output)
    model = Model(arguments.model_dir)
    path = arguments.checkpoint or model.latest_checkpoint()
    if path is not None:
        path = checkpoints.address_of(model.model_dir, path)
        place = storage.absolute(path).rstrip("/").rpartition("/")[0]
        if place != storage.absolute(model.model_dir).rstrip("/"):
            raise Invalid(f"--checkpoint must be one of {model.model_dir}, got {path!r}")
    output = _WRITERS[arguments.format](model, arguments.output, path)
    return {"format": arguments.format, "output": output, "checkpoint": path}


def _write_saved_model(model: Model, output: str, path: str | None) -> str:
    """Write a SavedModel to a new directory below `output` and return that directory."""
    centers = model.checkpoint(path).state.centers
    # The SavedModel takes the width and the dtype of its input from an example without rows.
    example = np.empty((0, centers.shape[1]), centers.dtype)
    return os.fsdecode(model.export_saved_model(output, lambda: example, checkpoint_path=path))


def _write_onnx(model: Model, output: str, path: str | None) -> str:
    model.export_onnx(output, path)
    return output


def _write_sklearn(model: Model, output: str, path: str | None) -> str:
    estimator, data = model.to_sklearn(path), BytesIO()
    # Both need scikit-learn, which `to_sklearn` has found.
    import joblib  # noqa: PLC0415

    from dkmeans.exports.sklearn_model import is_export  # noqa: PLC0415

    joblib.dump(estimator, data)
    directories.write_file("--output", output, data.getvalue(), is_export)
    return output


_WRITERS = {
    "savedmodel": _write_saved_model,
    "onnx": _write_onnx,
    "sklearn": _write_sklearn,
}
FORMATS = tuple(_WRITERS)
