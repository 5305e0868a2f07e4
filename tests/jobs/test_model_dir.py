"""Model directories that hold no model, and the input that a model was trained on."""

import json

import numpy as np
import pytest
import zarr
from dkmeans_jobs.model_dir import load_input, save_input

from dkmeans import load
from tests.jobs.commands import train


def test_a_missing_model_exits_with_2(run, store, tmp_path):
    for argv in (
        ["info", tmp_path / "no"],
        ["evaluate", store, "--model-dir", tmp_path / "no"],
        ["predict", store, "--model-dir", tmp_path / "no", "--output", tmp_path / "o.zarr"],
    ):
        code, _, err = run(*argv)
        assert code == 2
        assert "Could not find trained model" in err


def test_the_model_of_a_command_is_loaded_from_its_directory_alone(run_json, store, rows, tmp_path):
    model_dir = tmp_path / "m"
    more = ["--metric", "cosine", "--batch-rows", 300, "--steps-per-iteration", 3]
    run_json(*train(store, model_dir, *more))
    run_json("predict", store, "--model-dir", model_dir, "--output", tmp_path / "o.zarr")
    written = zarr.open_group(tmp_path / "o.zarr", mode="r")["cluster_index"][:]
    assert list(load(model_dir).predict_cluster_index(lambda: rows)) == written.tolist()


def test_rows_of_another_width_are_refused_before_a_cluster_is_needed(
    run, run_json, store, rows, tmp_path
):
    run_json(*train(store, tmp_path / "m"))
    np.save(tmp_path / "narrow.npy", rows[:, :1])
    for argv in (["evaluate"], ["predict", "--output", tmp_path / "o.zarr"]):
        model = ["--model-dir", tmp_path / "m", "--cluster", "tcp://127.0.0.1:1"]
        code, _, err = run(*argv, tmp_path / "narrow.npy", *model)
        assert code == 2
        assert "rows must have 3 columns, as the centers have, got 1" in err


def test_the_input_of_a_model_can_be_loaded_after_it_was_saved(tmp_path):
    assert load_input(str(tmp_path)) is None
    save_input(str(tmp_path), {"input": "rows.npy", "rows": 3})
    assert load_input(str(tmp_path)) == {"input": "rows.npy", "rows": 3}


# The right keys with other values.
STATUS = {"state": "running", "host": "h", "process": 1, "began": "", "noted": 5, "progress": 7}
OTHERS = json.dumps(STATUS | {"input": 5, "rows": "many", "filter": 8})


@pytest.mark.parametrize("name", ["job.json", "status.json", "history.json"])
@pytest.mark.parametrize("content", ["{bad", "[1, 2]", '{"state": "running"}', OTHERS])
def test_a_damaged_file_for_information_stops_neither_training_nor_info(
    run, run_json, store, tmp_path, name, content
):
    run_json(*train(store, tmp_path / "m", "--max-steps", 1))
    (tmp_path / "m" / name).write_text(content)
    code, _, err = run("info", tmp_path / "m")
    assert code == 0, err
    code, _, err = run(*train(store, tmp_path / "m", "--max-steps", 2))
    assert code == 0, err
    # `info` has warned of the status, and a history is not ignored, but kept under another name.
    is_read = content == "{bad" and name == "job.json"
    assert (f"WARNING ignoring {tmp_path / 'm' / name}, which is damaged" in err) == is_read
