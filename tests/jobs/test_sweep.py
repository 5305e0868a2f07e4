"""A sweep by the command line."""

import pytest


def test_a_sweep_prints_each_model_and_one_that_it_recommends(run, run_json, store, tmp_path):
    flags = "--num-clusters", "2,4,6", "--output", tmp_path / "s", "--seed", 3
    found = run_json("sweep", store, *flags)
    assert [each["num_clusters"] for each in found["models"]] == [2, 4, 6]
    assert found["recommended"] == 4
    code, out, err = run("sweep", store, *flags)
    assert code == 0
    assert "0 models to train, 3 done already" in err
    assert "4 clusters" in out
    assert "silhouette 0." in out
    assert "the largest silhouette" in out
    evaluated = run_json("evaluate", store, "--model-dir", found["recommended_model"])
    assert evaluated["loss"] == found["models"][1]["loss"]


@pytest.mark.parametrize("counts", ["4,x", "4,,5", "4,", "0,3"])
def test_numbers_of_clusters_that_are_none_are_refused(run, store, tmp_path, counts):
    code, _, err = run("sweep", store, "--num-clusters", counts, "--output", tmp_path)
    assert code == 2
    assert "--num-clusters must be " in err
