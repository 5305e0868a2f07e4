"""A model in its directory: checkpoints, variables, exports, pickles."""

import copy
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from dkmeans import Invalid, InvalidCheckpoint, InvalidData, KMeans, RunConfig
from dkmeans.feature_columns import numeric_column
from dkmeans.model import Model
from tests.exports.example_models import predicted, rows_of, trained

ROWS = np.array([[0, 0], [0, 1], [8, 8], [8, 9]], np.float32)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model with a checkpoint at each of the steps 0, 1 and 2, opened by its directory."""
    folder = str(tmp_path_factory.mktemp("small") / "m")
    config = RunConfig(save_checkpoints_steps=1)
    KMeans(2, folder, seed=1, use_mini_batch=False, config=config).train(lambda: ROWS, steps=2)
    return Model(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("model") / "m")


def test_a_relative_directory_stays_where_it_is_when_the_program_goes_elsewhere(
    tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    estimator = KMeans(2, "m", seed=1, use_mini_batch=False).train(lambda: ROWS, steps=1)
    monkeypatch.chdir("elsewhere")
    estimator.train(lambda: ROWS[::-1], steps=1)
    assert estimator.model_dir == str(tmp_path / "m")
    assert not list(Path().iterdir())


# Pictures.


def test_a_notebook_shows_the_parameters_the_state_and_pictures_of_a_model(tmp_path):
    estimator = KMeans(2, tmp_path / "m", ROWS[1:3], seed=7, use_mini_batch=False)
    before = estimator._repr_html_()
    assert "Could not find trained model" in before
    assert "<svg" not in before
    estimator.train(lambda: ROWS, steps=1)
    for shown in (estimator._repr_html_(), Model(str(tmp_path / "m"))._repr_html_()):
        facts = dict(re.findall(r"<th[^>]*>([^<]*)</th><td[^>]*>([^<]*)</td>", shown))
        assert facts["step"] == "1"
        assert facts["checkpoint"] == estimator.latest_checkpoint()
        assert shown.count("<svg") == 2
        assert 'aria-label="Sizes of 2 clusters: 2 to 2 in a cluster"' in shown
    assert '<td style="text-align:left">7</td>' in estimator._repr_html_()


def test_a_notebook_shows_why_a_model_cannot_be_read(tmp_path):
    estimator = KMeans(2, tmp_path / "m", seed=7).train(lambda: ROWS, steps=1)
    (tmp_path / "m" / "checkpoints.json").write_text("{")
    assert "checkpoints.json is damaged" in KMeans(2, tmp_path / "m")._repr_html_()
    assert "checkpoints.json is damaged" in estimator._repr_html_()


# Checkpoints and variables.


def test_the_latest_checkpoint_is_loaded_where_none_is_named(small):
    checkpoint = small.checkpoint()
    assert checkpoint.address == small.latest_checkpoint()
    assert Path(checkpoint.address).parent == Path(small.model_dir)
    assert checkpoint.state.step == 2
    assert_array_equal(
        small.checkpoint(Path(checkpoint.address)).state.centers, small.cluster_centers()
    )


def test_an_earlier_checkpoint_is_loaded_by_its_path(small):
    paths = Path(small.model_dir).glob("checkpoint-*")
    assert {small.checkpoint(path).state.step for path in paths} == {0, 1, 2}


def test_an_untrained_model_has_no_checkpoint_no_centers_and_no_variables(tmp_path):
    untrained = Model(str(tmp_path / "m"))
    assert untrained.latest_checkpoint() is None
    for call in (
        untrained.checkpoint,
        untrained.cluster_centers,
        untrained.get_variable_names,
        lambda: untrained.get_variable_value("clusters"),
    ):
        with pytest.raises(
            InvalidCheckpoint, match=r"Could not find trained model in model_dir: .*m\."
        ):
            call()
    assert not (tmp_path / "m").exists()


def test_a_checkpoint_that_is_missing_or_damaged_is_named(small, tmp_path):
    with pytest.raises(InvalidCheckpoint, match=r"Could not find a checkpoint at: .*nowhere"):
        small.checkpoint(tmp_path / "nowhere")
    copied = shutil.copytree(small.latest_checkpoint(), tmp_path / "copied")
    next(path for path in (copied / "centers").glob("c.*")).write_bytes(b"\0" * 16)
    with pytest.raises(InvalidCheckpoint, match="copied is damaged"):
        small.checkpoint(copied)


def test_a_checkpoint_of_large_centers_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("dkmeans.model._MOST_HELD_BYTES", 15)  # the centers have 16
    estimator = KMeans(2, tmp_path / "m", seed=1, use_mini_batch=False).train(lambda: ROWS, steps=1)
    assert estimator.checkpoint() is not estimator.checkpoint()


def test_a_checkpoint_is_read_once_while_it_is_the_latest(tmp_path):
    estimator = KMeans(2, tmp_path / "m", seed=1, use_mini_batch=False).train(lambda: ROWS, steps=1)
    first = estimator.checkpoint()
    assert estimator.checkpoint() is first
    twin = pickle.loads(pickle.dumps(estimator))
    assert twin.checkpoint() is not first
    twin.train(lambda: ROWS + 1, steps=1)
    assert estimator.checkpoint().state.step == 2
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(InvalidCheckpoint, match="Could not find trained model"):
        estimator.checkpoint()


def test_evaluations_have_a_directory_for_each_name_which_is_not_created(small):
    assert small.eval_dir() == str(Path(small.model_dir) / "eval")
    assert small.eval_dir("test") == str(Path(small.model_dir) / "eval_test")
    assert not list(Path(small.model_dir).glob("eval*"))


def test_the_centers_are_those_of_the_rows(small):
    centers = small.cluster_centers()
    assert centers.dtype == np.float32
    assert sorted(centers.tolist()) == [[0, 0.5], [8, 8.5]]


def test_variables_have_sorted_names_and_values(small):
    names = small.get_variable_names()
    assert names == ["clusters", "global_step", "initialized"]
    assert_array_equal(
        small.get_variable_value(Model.CLUSTER_CENTERS_VAR_NAME), small.cluster_centers()
    )
    values = small.get_variable_value(["global_step", "clusters:0"])
    assert list(values) == ["global_step", "clusters:0"]
    assert values["global_step"] == 2
    assert_array_equal(values["clusters:0"], small.cluster_centers())


def test_a_variable_that_does_not_exist_is_refused_with_the_names_that_do(small):
    for names in ("counts", ["clusters", "counts"]):
        with pytest.raises(
            Invalid, match="one of clusters, global_step, initialized, got 'counts'"
        ):
            small.get_variable_value(names)


# Exports.


def test_a_chosen_checkpoint_is_exported(tmp_path):
    config = RunConfig(save_checkpoints_steps=1)
    model = trained(tmp_path / "m", config=config)
    first, centers = model.latest_checkpoint(), model.cluster_centers()
    model.train(lambda: rows_of("float32"), steps=1)
    assert (model.cluster_centers() != centers).any()
    assert_array_equal(model.to_sklearn(first).cluster_centers_, centers)
    given = rows_of("float32")[:0]
    path = Path(model.export_saved_model(tmp_path, lambda: given, checkpoint_path=first).decode())
    data = (path / "variables" / "variables.data-00000-of-00001").read_bytes()
    assert data.startswith(centers.tobytes())


def test_the_deprecated_name_exports_with_a_warning(model, tmp_path):
    given = rows_of("float32")[:0]
    for base, strips in ((tmp_path, False), (os.fsencode(tmp_path), True)):
        with pytest.warns(DeprecationWarning, match="call export_saved_model"):
            path = model.export_savedmodel(base, lambda: given, strip_default_attrs=strips)
        assert Path(path.decode()).parent == tmp_path
        assert (Path(path.decode()) / "saved_model.pb").exists()


def test_arguments_that_cannot_be_exported_are_refused(model, tmp_path):
    given = rows_of("float32")[:0]
    with pytest.raises(
        ValueError, match=r"a mode of input_receiver_fn_map must be one of .*'infer', got 'serve'"
    ):
        model.experimental_export_all_saved_models(tmp_path, {"serve": lambda: given})
    with pytest.raises(ValueError, match=r"input_receiver_fn_map must have at least one mode"):
        model.experimental_export_all_saved_models(tmp_path, {})
    with pytest.raises(TypeError, match="input_receiver_fn_map must be a dict of modes"):
        model.experimental_export_all_saved_models(tmp_path, [lambda: given])
    with pytest.raises(ValueError, match=r"experimental_mode must be one of .*, got 'predict'"):
        model.export_saved_model(tmp_path, lambda: given, experimental_mode="predict")
    with pytest.raises(ValueError, match="assets_extra must name files that are there, got 'no'"):
        model.export_saved_model(tmp_path, lambda: given, {"a": "no"})
    for name in ("../a", ".", "a/./b", 1):
        with pytest.raises(ValueError, match="a dict of names below assets"):
            model.export_saved_model(tmp_path, lambda: given, {name: __file__})
    with pytest.raises(TypeError, match=r"assets_extra\['a'\] must be a path or URL, got None"):
        model.export_saved_model(tmp_path, lambda: given, {"a": None})
    with pytest.raises(ValueError, match=r"input_receiver_fn_map\['infer'\] must be defined"):
        model.experimental_export_all_saved_models(tmp_path, {"infer": None})
    with pytest.raises(TypeError, match=r"experimental_mode must be .*, got \['infer'\]"):
        model.export_saved_model(tmp_path, lambda: given, experimental_mode=["infer"])
    with pytest.raises(ValueError, match=r"assets_extra must name files.*got '/'"):
        model.export_saved_model(tmp_path, lambda: given, {"a": "/"})
    with pytest.raises(TypeError, match="assets_extra must be a dict of names and paths"):
        model.export_saved_model(tmp_path, lambda: given, ["a"])


def test_an_untrained_model_is_not_exported(tmp_path):
    model = KMeans(2, str(tmp_path / "m"))
    for export in (
        lambda: model.export_saved_model(tmp_path, lambda: np.empty((0, 2))),
        lambda: model.export_onnx(tmp_path / "m.onnx"),
        model.to_sklearn,
    ):
        with pytest.raises(InvalidCheckpoint, match="Could not find trained model in model_dir"):
            export()


def test_feature_columns_are_not_exported_but_their_rows_are(tmp_path):
    columns = [numeric_column("age", normalizer_fn=lambda age: age / 100)]
    model = KMeans(2, str(tmp_path / "m"), feature_columns=columns, seed=1)
    ages = {"age": np.array([20.0, 21, 70, 71], np.float32)}
    model.train(lambda: ages, steps=3)
    with pytest.raises(InvalidData, match="must return the rows that feature_columns make"):
        model.export_saved_model(tmp_path, lambda: ages)
    assert model.export_saved_model(tmp_path, lambda: np.empty((0, 1), np.float32))


# Pickles and copies.


def test_an_estimator_can_be_pickled_and_copied(model):
    rows = rows_of("float32")
    expected = predicted(model, rows)["cluster_index"]
    for twin in (pickle.loads(pickle.dumps(model)), copy.copy(model), copy.deepcopy(model)):
        assert twin.config == model.config
        assert_array_equal(predicted(twin, rows)["cluster_index"], expected)


def test_a_pickled_configuration_leaves_its_client_behind_and_a_copied_one_shares_it(client):
    config = RunConfig(client=client, model_dir="m")
    assert pickle.loads(pickle.dumps(config)) == RunConfig(model_dir="m")
    assert copy.deepcopy(config).client is copy.copy(config).client is client


def test_a_pickled_model_predicts_without_a_cluster_client_or_worker(model, tmp_path):
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    np.save(tmp_path / "rows.npy", rows_of("float32")[:100])
    alone = """
import pickle, sys
import numpy as np

model = pickle.load(open("model.pickle", "rb"))
rows = np.load("rows.npy")
print(*model.predict_cluster_index(lambda: rows))
assert "distributed" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", alone], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    expected = predicted(model, rows_of("float32")[:100])["cluster_index"]
    assert done.stdout.split() == [str(index) for index in expected]
