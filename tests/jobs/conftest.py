"""Fixtures of the jobs' tests: rows on disk, and the command run in this process."""

import json

import numpy as np
import pytest
import zarr
from dkmeans_jobs.__main__ import main


@pytest.fixture
def rows():
    rng = np.random.default_rng(11)
    centers = rng.normal(size=(4, 3)) * 8
    return (centers[rng.integers(4, size=900)] + rng.normal(size=(900, 3))).astype(np.float32)


@pytest.fixture
def store(rows, tmp_path):
    path = str(tmp_path / "rows.zarr")
    zarr.create_array(path, data=rows, chunks=(100, 3))
    return path


@pytest.fixture
def run(capsys):
    def run(*argv):
        code = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def run_json(run):
    def run_json(*argv):
        code, out, err = run(*argv, "--json")
        assert code == 0, err
        return json.loads(out)

    return run_json
