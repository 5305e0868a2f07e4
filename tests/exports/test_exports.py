"""Exports from the command line, and the code in docs/guide/exports.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import joblib
import onnxruntime
from dkmeans_jobs.__main__ import main
from numpy.testing import assert_array_equal

from tests.exports.example_models import predicted, rows_of


def test_the_command_exports_each_format(model, tmp_path, capsys):
    rows = rows_of("float32")
    expected = predicted(model, rows)["cluster_index"]
    paths = {}
    for kind in ("savedmodel", "onnx", "sklearn"):
        command = ["export", "--model-dir", model.model_dir, "--format", kind, "--json"]
        assert main([*command, "--output", str(tmp_path / kind)]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["checkpoint"] == model.latest_checkpoint()
        paths[kind] = printed["output"]
    session = onnxruntime.InferenceSession(paths["onnx"])
    assert_array_equal(session.run(["cluster_index"], {"rows": rows})[0], expected)
    assert_array_equal(joblib.load(paths["sklearn"]).predict(rows), expected)
    assert (Path(paths["savedmodel"]) / "saved_model.pb").exists()


def test_the_code_of_the_documentation_runs(tensorflow, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "guide" / "exports.md").read_text()
    code = "".join(block.split("```")[0] for block in page.split("```python\n")[1:])
    env = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "dtype=int64" in done.stdout
