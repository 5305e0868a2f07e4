"""`dkmeans export`: write a model for those who do without dkmeans."""

from __future__ import annotations

import argparse
import os
from io import BytesIO
from typing import Any

import numpy as np

from dkmeans import storage
from dkmeans.exports import directories
from dkmeans.model import Model


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the latest checkpoint, or the one that is named, in another format.

    Raises:
        Invalid: there is no such checkpoint, or what writes the format is not installed.
    """
    model = Model(arguments.model_dir)
    path = arguments.checkpoint or model.latest_checkpoint()
    output = _WRITERS[arguments.format](model, arguments.output, path)
    return {"format": arguments.format, "output": output, "checkpoint": path}


def _saved_model(model: Model, output: str, path: str | None) -> str:
    centers = model.checkpoint(path).state.centers
    given = np.empty((0, centers.shape[1]), centers.dtype)
    return os.fsdecode(model.export_saved_model(output, lambda: given, checkpoint_path=path))


def _onnx(model: Model, output: str, path: str | None) -> str:
    model.export_onnx(output, path)
    return output


def _sklearn(model: Model, output: str, path: str | None) -> str:
    made, data = model.to_sklearn(path), BytesIO()
    import joblib  # noqa: PLC0415 comes with scikit-learn, which is there by now

    joblib.dump(made, data)
    with directories.writable("--output", output) as address:
        storage.write_whole(address, data.getvalue())
    return output


_WRITERS = {"savedmodel": _saved_model, "onnx": _onnx, "sklearn": _sklearn}
FORMATS = tuple(_WRITERS)
