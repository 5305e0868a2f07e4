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


def test_a_result_that_could_not_be_written_is_printed_without_a_place(
    run, run_json, store, tmp_path
):
    run_json(*train(store, tmp_path / "m", "--max-steps", 3))
    (tmp_path / "m" / "eval").write_text("no folder")
    code, out, err = run("evaluate", store, "--model-dir", tmp_path / "m")
    assert code == 0
    assert "average loss" in out
    assert "written to" not in out
    assert "WARNING going on without " in err


def test_an_evaluation_logs_where_it_is_made_and_how_far_it_is(run, run_json, store, tmp_path):
    run_json(*train(store, tmp_path / "m", "--max-steps", 3))
    _, _, err = run("evaluate", store, "--model-dir", tmp_path / "m")
    first, last = (line[20:] for line in err.splitlines()[-2:])
    assert first.startswith("evaluating with step 3, 4 clusters, on ")
    assert last.startswith("evaluated 900 of 900 rows (100%), ")
