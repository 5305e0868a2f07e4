"""Descriptions of a model and of the backends."""

import re

import numpy as np

from tests.jobs.commands import train


def test_info_describes_a_model(run, run_json, store, tmp_path):
    run_json(*train(store, tmp_path / "m", "--metric", "cosine", "--max-steps", 3))
    about = run_json("info", tmp_path / "m")
    assert about["distance_metric"] == "cosine"
    assert about["step"] == 3
    assert sum(about["cluster_sizes"]) == 900
    assert about["trained_on"] == store
    assert len(about["checkpoints"]) == 2
    code, out, _ = run("info", tmp_path / "m")
    assert code == 0
    assert re.search(r"num clusters +4\n", out)


def test_info_describes_the_backends_of_this_machine(run_json):
    about = run_json("info", "--backends")
    assert about["cuda"].startswith("backend 'cuda' cannot be used on this machine: ")
    assert about["default"].startswith("native")
    assert "bits" in about["native"]
    assert f"numpy {np.__version__}" in about["numpy"]
