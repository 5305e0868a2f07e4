"""Trained models of each kind, and the results that TensorFlow computes from their exports.

TensorFlow takes 7 s to import, so all exports are loaded in one process, once in a session.
"""

import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from dkmeans import KMeans, ModeKeys
from dkmeans.exports import ServingInputReceiver
from tests.exports.example_models import KINDS, TIED_ROWS, rows_of, trained

# A process of its expected: TensorFlow starts thread pools and installs signal handlers.
IN_TENSORFLOW = """
import json, sys
import numpy as np
import tensorflow as tf

for path, tag, inputs, outputs in json.load(sys.stdin):
    rows = {name: tf.constant(values) for name, values in np.load(inputs).items()}
    loaded = tf.saved_model.load(path, tags=[tag])
    results = {}
    for name, signature in loaded.signatures.items():
        try:
            values = signature(**rows)
        except tf.errors.InvalidArgumentError:
            results[f"{name} refused"] = True
            continue
        for output, value in values.items():
            results[f"{name} {output}"] = value.numpy()
    for variable in loaded.variables:
        results[variable.name] = variable.numpy()
    np.savez(outputs, **{name.replace("/", "."): value for name, value in results.items()})
"""


class TensorFlowRuns:
    """Exports to load in one TensorFlow process, each with the inputs of its signatures."""

    def __init__(self, folder):
        self.folder, self.names, self.runs = folder, [], []

    def add(self, name, path, tag, **inputs):
        given, outputs = (
            str(self.folder / f"{len(self.runs)}-{what}.npz") for what in ("inputs", "outputs")
        )
        np.savez(given, **inputs)
        self.names.append(name)
        self.runs.append((path.decode(), tag, given, outputs))

    def results(self):
        """Return the outputs of each run by its name."""
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "PATH": "", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-c", IN_TENSORFLOW],
            input=json.dumps(self.runs), env=environment, text=True, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        outputs = (dict(np.load(outputs)) for *_, outputs in self.runs)
        return dict(zip(self.names, outputs, strict=True))


@pytest.fixture(scope="session")
def tensorflow():
    """Skip the test if TensorFlow is not installed."""
    if find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed: it has no wheel for every system and Python")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A trained model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    return {kind: trained(folder / "-".join(kind), *kind) for kind in KINDS}


@pytest.fixture(scope="session")
def model(models):
    return models[KINDS[0]]


@pytest.fixture(scope="session")
def offset_rows():
    """float32 rows that share an offset of a million times their spread."""
    return (np.random.default_rng(3).normal(size=(2000, 3)) + 1e6).astype(np.float32)


@pytest.fixture(scope="session")
def tied_model(tmp_path_factory):
    """A model that `TIED_ROWS` are equally far from two centers of."""
    centers = np.array([[-2.0], [3.0], [0.0]])
    folder = tmp_path_factory.mktemp("tied")
    model = KMeans(None, folder / "m", centers, use_mini_batch=False)
    return model.train(lambda: centers, steps=1)


@pytest.fixture(scope="session")
def offset_model(offset_rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("offset")
    model = KMeans(5, str(folder / "m"), seed=1, use_mini_batch=False)
    return model.train(lambda: offset_rows, steps=2)


@pytest.fixture(scope="session")
def in_tensorflow(tensorflow, models, offset_model, offset_rows, tied_model, tmp_path_factory):
    """Results of the exports in TensorFlow: by kind, mode, or name of the case."""
    folder = tmp_path_factory.mktemp("saved")
    runs = TensorFlowRuns(folder)
    for (metric, dtype), model in models.items():
        rows = rows_of(dtype)
        path = model.export_saved_model(folder / metric / dtype, lambda rows=rows: rows[:0])
        runs.add((metric, dtype), path, "serve", input=rows)
    model, rows = models[KINDS[0]], rows_of("float32")
    path = model.export_saved_model(folder / "refused", lambda: rows[:0])
    for shape in ((6, 1), (7,), (6, 8)):
        runs.add(shape, path, "serve", input=np.zeros(shape, np.float32))
    columns = {"c": rows[:, 3:], "a": rows[:, :2].astype(np.float64), "b": rows[:, 2]}
    receivers = {
        ModeKeys.TRAIN: lambda: rows[:0],
        ModeKeys.EVAL: lambda: columns,
        ModeKeys.PREDICT: lambda: ServingInputReceiver(rows, {"points": rows}),
    }
    path = model.experimental_export_all_saved_models(folder / "all", receivers)
    runs.add("train", path, "train", input=rows)
    runs.add("eval", path, "eval", **columns)
    runs.add("serve", path, "serve", points=rows)
    path = offset_model.export_saved_model(folder / "offset", lambda: offset_rows[:0])
    runs.add("offset", path, "serve", input=offset_rows)
    path = tied_model.export_saved_model(folder / "tied", lambda: TIED_ROWS[:0])
    runs.add("tied", path, "serve", input=TIED_ROWS)
    return runs.results()
