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


def test_indices_and_a_comparison_are_printed_for_people_and_written(
    run, run_json, store, tmp_path
):
    for name, steps in (("m", 3), ("other", 1)):
        run_json(*train(store, tmp_path / name, "--max-steps", steps))
    flags = "--indices", "all", "--against", tmp_path / "other"
    evaluated = run_json("evaluate", store, "--model-dir", tmp_path / "m", *flags)
    assert 0 < evaluated["silhouette"] < 1
    assert sum(evaluated["cluster_sizes"]) == 900
    assert 0 <= evaluated["changed_share"] < 1
    (written,) = Path(evaluated["written_to"]).glob("*.json")
    assert json.loads(written.read_text())["cluster_mean"] == evaluated["cluster_mean"]
    _, out, _ = run("evaluate", store, "--model-dir", tmp_path / "m", *flags)
    assert "deviation of cluster 3" in out
    code, _, err = run("evaluate", store, "--model-dir", tmp_path / "m", "--indices", "dunn")
    assert code == 2
    assert "indices must be 'all' or among silhouette" in err
    code, _, err = run("evaluate", store, "--model-dir", tmp_path / "m", "--against", tmp_path)
    assert code == 2
    assert "checkpoint" in err
