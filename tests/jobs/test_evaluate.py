"""Evaluation: the loss of the latest checkpoint over some rows."""

import json
from pathlib import Path

import numpy as np
import pytest

from dkmeans import KMeans
from tests.jobs.commands import train


def test_the_loss_is_that_of_the_latest_checkpoint_over_the_rows_given(
    run_json, store, rows, tmp_path
):
    run_json(*train(store, tmp_path / "m", "--max-steps", 3))
    np.save(tmp_path / "some.npy", rows[:500])
    evaluated = run_json("evaluate", tmp_path / "some.npy", "--model-dir", tmp_path / "m")
    centers = KMeans(4, str(tmp_path / "m")).cluster_centers()
    distances = ((rows[:500, None] - centers) ** 2).sum(axis=2).min(axis=1)
    assert evaluated["loss"] == pytest.approx(distances.sum(), rel=1e-5)
    assert evaluated["average_loss"] == pytest.approx(distances.mean(), rel=1e-5)
    assert evaluated["global_step"] == 3
    assert any(
        json.loads(path.read_text())["loss"] == evaluated["loss"]
        for path in Path(evaluated["written_to"]).glob("*.json")
    )
