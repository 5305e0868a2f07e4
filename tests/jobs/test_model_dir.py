"""Model directories that hold no model, and the input that a model was trained on."""

from dkmeans_jobs.model_dir import load_input, open_model, save_input

from dkmeans import Dataset, RunConfig, checkpoints
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


def test_a_model_opens_with_the_settings_it_was_trained_with(run_json, store, tmp_path):
    model_dir = str(tmp_path / "m")
    more = ["--metric", "cosine", "--batch-rows", 300, "--steps-per-iteration", 3]
    run_json(*train(store, model_dir, *more))
    trained = checkpoints.latest(model_dir)
    model = open_model(model_dir, RunConfig())
    model.train(lambda: Dataset.from_zarr(store).batch(300).repeat(), steps=3)
    assert checkpoints.latest(model_dir).settings == trained.settings
    assert checkpoints.latest(model_dir).state.step == trained.state.step + 3


def test_the_input_of_a_model_can_be_loaded_after_it_was_saved(tmp_path):
    assert load_input(str(tmp_path)) is None
    save_input(str(tmp_path), {"input": "rows.npy", "rows": 3})
    assert load_input(str(tmp_path)) == {"input": "rows.npy", "rows": 3}
