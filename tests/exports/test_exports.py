"""Exports answer as `predict` does: in TensorFlow, in onnxruntime, and in scikit-learn."""

import copy
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import joblib
import numpy as np
import onnx
import onnxruntime
import pytest
from dkmeans_jobs.__main__ import main
from numpy.testing import assert_allclose, assert_array_equal

from dkmeans import (
    InvalidCheckpoint,
    InvalidData,
    InvalidType,
    KMeans,
    ModeKeys,
    RunConfig,
    storage,
)
from dkmeans.exports import ServingInputReceiver, onnx_model
from dkmeans.exports.savedmodel.protobuf import saved_model
from dkmeans.feature_columns import numeric_column
from dkmeans.fit import Fit, Start
from dkmeans.state import TrainState

K, WIDTH = 11, 7
KINDS = [
    (metric, dtype)
    for metric in ("squared_euclidean", "cosine")
    for dtype in ("float32", "float64")
]


def rows_of(dtype):
    rows = np.random.default_rng(5).normal(3, 1, (10_000, WIDTH))
    rows[17] = 0
    return rows.astype(dtype)


def trained(folder, metric="squared_euclidean", dtype="float32", **more):
    model = KMeans(K, str(folder), distance_metric=metric, seed=1, use_mini_batch=False, **more)
    return model.train(lambda: rows_of(dtype), steps=3)


def predicted(model, rows):
    return next(model.predict(lambda: rows, yield_single_examples=False))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A trained model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    return {kind: trained(folder / "-".join(kind), *kind) for kind in KINDS}


@pytest.fixture
def model(models):
    return models[KINDS[0]]


IN_TENSORFLOW_REFUSED = """
import sys
import tensorflow as tf

path, *shapes = sys.argv[1:]
signature = tf.saved_model.load(path).signatures["serving_default"]
for shape in shapes:
    try:
        print(signature(input=tf.zeros([int(size) for size in shape.split("x")])))
    except tf.errors.InvalidArgumentError as error:
        print("refused")
"""


# TensorFlow runs in a process of its own: it brings thread pools and handlers of its own.
IN_TENSORFLOW = """
import json, sys
import numpy as np
import tensorflow as tf

for path, tag, given, answers in json.load(sys.stdin):
    rows = {name: tf.constant(values) for name, values in np.load(given).items()}
    loaded = tf.saved_model.load(path, tags=[tag])
    found = {}
    for name, signature in loaded.signatures.items():
        for output, value in signature(**rows).items():
            found[f"{name} {output}"] = value.numpy()
    for variable in loaded.variables:
        found[variable.name] = variable.numpy()
    np.savez(answers, **{name.replace("/", "."): value for name, value in found.items()})
"""


def skip_without_tensorflow():
    if find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed: it has no wheel for every system and Python")


class Asked:
    """What TensorFlow is to answer, and once it has been run, what it did."""

    def __init__(self, folder):
        self.folder, self.questions = folder, []

    def ask(self, path, tag, **inputs):
        given, answers = (
            str(self.folder / f"{len(self.questions)}-{what}.npz") for what in ("given", "answers")
        )
        np.savez(given, **inputs)
        self.questions.append((path, tag, given, answers))

    def run(self):
        skip_without_tensorflow()
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PATH": "", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-c", IN_TENSORFLOW],
            input=json.dumps(self.questions), env=quiet, text=True, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [dict(np.load(answers)) for *_, answers in self.questions]


@pytest.fixture(scope="module")
def in_tensorflow(models, tmp_path_factory):
    """What TensorFlow answers, by kind and mode: all at once, as it takes long to begin."""
    folder = tmp_path_factory.mktemp("saved")
    asked, keys = Asked(folder), []
    for (metric, dtype), model in models.items():
        rows = rows_of(dtype)
        path = model.export_saved_model(folder / metric / dtype, lambda rows=rows: rows[:0])
        asked.ask(path.decode(), "serve", input=rows)
        keys.append((metric, dtype, "infer"))
    model, rows = models[KINDS[0]], rows_of("float32")
    columns = {"c": rows[:, 3:], "a": rows[:, :2].astype(np.float64), "b": rows[:, 2]}
    receivers = {
        ModeKeys.TRAIN: lambda: rows[:0],
        ModeKeys.EVAL: lambda: columns,
        ModeKeys.PREDICT: lambda: ServingInputReceiver(rows, {"points": rows}),
    }
    path = model.experimental_export_all_saved_models(folder / "all", receivers).decode()
    asked.ask(path, "train", input=rows)
    asked.ask(path, "eval", **columns)
    asked.ask(path, "serve", points=rows)
    return dict(zip([*keys, "train", "eval", "serve"], asked.run(), strict=True))


@pytest.mark.parametrize(("metric", "dtype"), KINDS)
def test_tensorflow_answers_as_predict_does_by_each_signature(models, in_tensorflow, metric, dtype):
    found = in_tensorflow[metric, dtype, "infer"]
    own = predicted(models[metric, dtype], rows_of(dtype))
    for name in ("serving_default", "cluster_index"):
        assert found[f"{name} output"].dtype == np.int64
        assert_array_equal(found[f"{name} output"], own["cluster_index"])
    assert found["all_distances output"].dtype == np.float32
    assert_allclose(found["all_distances output"], own["all_distances"], rtol=1e-6, atol=1e-6)


def test_tensorflow_has_the_variables_of_the_checkpoint(models, in_tensorflow):
    for (metric, dtype), model in models.items():
        found = in_tensorflow[metric, dtype, "infer"]
        assert_array_equal(found["clusters:0"], model.cluster_centers())
        assert found["clusters:0"].dtype == dtype
        assert found["global_step:0"] == 3


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_graphs_to_train_and_to_evaluate_give_the_loss_and_the_predictions(
    model, in_tensorflow, mode
):
    found, rows = in_tensorflow[mode], rows_of("float32")
    own = predicted(model, rows)
    assert_allclose(found[f"{mode} loss"], model.score(lambda: rows), rtol=1e-6)
    assert_array_equal(found[f"{mode} predictions.cluster_index"], own["cluster_index"])
    assert_allclose(
        found[f"{mode} predictions.all_distances"], own["all_distances"], rtol=1e-6, atol=1e-6
    )
    assert ("eval metrics.score.value" in found) == (mode == "eval")


def test_rows_of_another_width_are_refused_by_tensorflow_too(model, tmp_path):
    skip_without_tensorflow()
    given = rows_of("float32")[:0]
    path = model.export_saved_model(tmp_path, lambda: given).decode()
    command = [sys.executable, "-c", IN_TENSORFLOW_REFUSED, path, "6x1", "7", "6x8"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["refused"] * 3


def test_a_receiver_names_the_input(model, in_tensorflow):
    own = predicted(model, rows_of("float32"))
    assert_array_equal(in_tensorflow["serve"]["serving_default output"], own["cluster_index"])


def test_a_saved_model_is_a_directory_named_by_the_time_and_nothing_beside(model, tmp_path):
    (tmp_path / "vocabulary.txt").write_text("a b c")
    extra = {"words/vocabulary.txt": str(tmp_path / "vocabulary.txt")}
    given = rows_of("float32")[:0]
    paths = [
        Path(model.export_saved_model(tmp_path / "base", lambda: given, extra).decode())
        for _ in range(3)
    ]
    assert sorted(paths) == sorted((tmp_path / "base").iterdir())
    assert len({int(path.name) for path in paths}) == 3
    files = sorted(
        str(path.relative_to(paths[0])) for path in paths[0].rglob("*") if path.is_file()
    )
    assert files == [
        "assets.extra/words/vocabulary.txt",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
    assert (paths[0] / files[0]).read_text() == "a b c"


def test_a_saved_model_may_be_text(model, tmp_path):
    given = rows_of("float32")[:0]
    path = Path(model.export_saved_model(tmp_path, lambda: given, as_text=True).decode())
    text = (path / "saved_model.pbtxt").read_text()
    assert 'method_name: "tensorflow/serving/predict"' in text
    assert not (path / "saved_model.pb").exists()


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


def test_a_file_that_is_replaced_keeps_its_mode_and_links_stay_links(model, tmp_path):
    real, link = tmp_path / "real.onnx", tmp_path / "link.onnx"
    real.write_text("before")
    real.chmod(0o600)
    link.symlink_to(real)
    model.export_onnx(link)
    assert link.is_symlink()
    assert onnx.load(real).graph.name == "kmeans"
    assert real.stat().st_mode & 0o777 == 0o600
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        ValueError, match=r"path must be writable, .*no file that could be replaced"
    ):
        model.export_onnx(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_paths_need_not_be_unicode(model, tmp_path):
    base = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    path = model.export_saved_model(base, lambda: rows_of("float32")[:0])
    assert path.startswith(os.fsencode(base))
    assert (Path(os.fsdecode(path)) / "saved_model.pb").exists()


def test_exports_that_begin_together_have_a_directory_each(model, tmp_path):
    given = rows_of("float32")[:0]
    with ThreadPoolExecutor(6) as pool:
        exports = [
            pool.submit(model.export_saved_model, tmp_path / "base", lambda: given)
            for _ in range(12)
        ]
        paths = {Path(export.result().decode()) for export in exports}
    assert len(paths) == 12
    assert paths == set((tmp_path / "base").iterdir())
    assert all((path / "variables" / "variables.index").exists() for path in paths)


def test_the_deprecated_name_exports_and_says_so(model, tmp_path):
    given = rows_of("float32")[:0]
    with pytest.warns(DeprecationWarning, match="call export_saved_model"):
        path = model.export_savedmodel(tmp_path, lambda: given)
    assert (Path(path.decode()) / "saved_model.pb").exists()


def test_exports_go_to_object_storage_too(model, s3):
    given = rows_of("float32")[:0]
    path = model.export_saved_model(f"{s3}/exports", lambda: given).decode()
    assert path.startswith(f"{s3}/exports/")
    data = storage.read(f"{path}/saved_model.pb").data
    assert saved_model().FromString(data).meta_graphs[0].meta_info_def.tags == ["serve"]
    model.export_onnx(f"{s3}/exports/model.onnx")
    assert onnx.load_model_from_string(storage.read(f"{s3}/exports/model.onnx").data)


def test_what_cannot_be_written_leaves_nothing(model, tmp_path):
    limited = f"""
import resource, signal
import numpy as np
from dkmeans.model import Model

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
given = np.empty((0, {WIDTH}), np.float32)
Model({model.model_dir!r}).export_saved_model({str(tmp_path / "base")!r}, lambda: given)
"""
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert not (tmp_path / "base").exists()


ONE = np.empty((0, 1))
REFUSED = [
    (None, ValueError, "serving_input_receiver_fn must be defined"),
    (5, InvalidType, "serving_input_receiver_fn must be a function that returns rows, got 5"),
    (lambda: np.empty((0, 3)), InvalidData, "must have 7 columns, as the model has, got 3"),
    (lambda: {1: ONE, "b": ONE}, InvalidType, r"names in features must be str, got \[1, 'b'\]"),
    (
        lambda: {"class": np.empty((0, WIDTH))},
        ValueError,
        "names of inputs must differ as parameters of a function, got 'class'",
    ),
    (
        lambda: {"a b": ONE, "a_b": np.empty((0, WIDTH - 1))},
        ValueError,
        "names of inputs must differ as parameters of a function, got 'a_b'",
    ),
    (lambda: np.empty((3, 0)), InvalidData, r"input must have columns, got the shape \(3, 0\)"),
    (lambda: np.empty((0, WIDTH), np.longdouble), InvalidType, "input must hold numbers, got"),
    (lambda: iter([ONE]), InvalidType, "input must be an array of numbers, got list_iterator"),
    (dict, InvalidData, "features must have at least one column, got an empty dict"),
    (lambda: np.empty(7), InvalidData, r"input must have the shape \(n, d\), got \(7,\)"),
    (lambda: np.array([["a"]]), InvalidType, "input must hold numbers, got dtype <U1"),
    (
        lambda: ServingInputReceiver(np.empty((0, WIDTH)), {"x": np.empty((0, WIDTH))}),
        ValueError,
        "receiver_tensors must have one name for each array.*got 'x', and for 'input' none",
    ),
    (
        lambda: ServingInputReceiver({"a": ONE, "b": ONE}, {"x": ONE, "y": ONE}),
        ValueError,
        r"which must be different arrays.*got 'x', 'y', and for 'a' \['x', 'y'\]",
    ),
    (
        lambda: ServingInputReceiver(ONE, {"x": ONE, "y": np.empty((0, 1))}),
        ValueError,
        "receiver_tensors must have one name for each array in features.*got 'x', 'y'",
    ),
    (
        lambda: ServingInputReceiver(np.empty((0, WIDTH)), "x"),
        InvalidType,
        "receiver_tensors must be a dict of the arrays in features, or None, got 'x'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("receiver", "kind", "text"), REFUSED)
def test_receivers_that_do_not_fit_are_refused(model, tmp_path, receiver, kind, text):
    with pytest.raises(kind, match=text):
        model.export_saved_model(tmp_path / "base", receiver)
    assert not (tmp_path / "base").exists()


def test_what_cannot_be_exported_is_refused(model, tmp_path):
    given = rows_of("float32")[:0]
    with pytest.raises(ValueError, match=r"modes to export must be among .*'infer'.*, got 'serve'"):
        model.experimental_export_all_saved_models(tmp_path, {"serve": lambda: given})
    with pytest.raises(ValueError, match=r"modes to export must be among .*, got none"):
        model.experimental_export_all_saved_models(tmp_path, {})
    with pytest.raises(TypeError, match="input_receiver_fn_map must be a dict of modes"):
        model.experimental_export_all_saved_models(tmp_path, [lambda: given])
    with pytest.raises(ValueError, match=r"modes to export must be among .*, got 'predict'"):
        model.export_saved_model(tmp_path, lambda: given, experimental_mode="predict")
    with pytest.raises(ValueError, match="assets_extra must name files that are there, got 'no'"):
        model.export_saved_model(tmp_path, lambda: given, {"a": "no"})
    for name in ("../a", ".", "a/./b", 1):
        with pytest.raises(ValueError, match="a dict of names below assets"):
            model.export_saved_model(tmp_path, lambda: given, {name: __file__})
    with pytest.raises(TypeError, match=r"assets_extra\['a'\] must be a path or URL, got None"):
        model.export_saved_model(tmp_path, lambda: given, {"a": None})
    with pytest.raises(TypeError, match=r"experimental_mode must be a str, got \['infer'\]"):
        model.export_saved_model(tmp_path, lambda: given, experimental_mode=["infer"])
    with pytest.raises(ValueError, match=r"assets_extra must name files.*got '/'"):
        model.export_saved_model(tmp_path, lambda: given, {"a": "/"})
    with pytest.raises(TypeError, match="assets_extra must be a dict of names and paths"):
        model.export_saved_model(tmp_path, lambda: given, ["a"])
    with (
        pytest.warns(DeprecationWarning, match="call export_saved_model"),
        pytest.raises(ValueError, match="strip_default_attrs must be True, got False"),
    ):
        model.export_savedmodel(tmp_path, lambda: given, strip_default_attrs=False)


def test_places_that_cannot_be_written_to_are_refused_by_argument(model, tmp_path, capsys):
    given = rows_of("float32")[:0]
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"export_dir_base must be writable, got .*file'"):
        model.export_saved_model(tmp_path / "file", lambda: given)
    for nothing in (None, ""):
        with pytest.raises(TypeError, match="export_dir_base must be a path or URL, got"):
            model.export_saved_model(nothing, lambda: given)
    assert main(["export", "--model-dir", "no://m", "--format", "onnx", "--output", "m"]) == 2
    assert "'no://m" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"path must be writable, got .*folder'"):
        model.export_onnx(tmp_path / "folder")
    command = ["export", "--model-dir", model.model_dir, "--format", "sklearn"]
    assert main([*command, "--output", str(tmp_path / "folder")]) == 2
    assert "--output must be writable" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert not list((tmp_path / "folder").iterdir())


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


@pytest.mark.parametrize(("metric", "dtype"), KINDS)
def test_onnx_answers_as_predict_does(models, tmp_path, metric, dtype):
    model, rows = models[metric, dtype], rows_of(dtype)
    model.export_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    index, distances = session.run(["cluster_index", "all_distances"], {"rows": rows})
    own = predicted(model, rows)
    assert_array_equal(index, own["cluster_index"])
    assert distances.dtype == np.float32
    assert_allclose(distances, own["all_distances"], rtol=1e-6, atol=1e-6)
    about = onnx.load(tmp_path / "model.onnx").metadata_props
    assert {each.key: each.value for each in about} == {
        "distance_metric": metric, "global_step": "3",
    }  # fmt: skip


def test_short_rows_have_directions_too(models, tmp_path):
    model = models["cosine", "float32"]
    rows = (np.random.default_rng(1).normal(size=(400, WIDTH)) * 1e-20).astype(np.float32)
    model.export_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    own = predicted(model, rows)["cluster_index"]
    assert len(set(own)) > 5
    assert_array_equal(session.run(["cluster_index"], {"rows": rows})[0], own)


@pytest.mark.parametrize(("metric", "dtype"), KINDS)
def test_scikit_learn_answers_as_predict_does(models, metric, dtype):
    model, rows = models[metric, dtype], rows_of(dtype)
    rows[17] = rows[16]  # a row of zeros has no direction there
    found = model.to_sklearn()
    assert_array_equal(found.predict(rows), predicted(model, rows)["cluster_index"])
    assert_array_equal(
        pickle.loads(pickle.dumps(found)).predict(rows), predicted(model, rows)["cluster_index"]
    )


def test_scikit_learns_estimator_is_fitted_as_its_own_are(model):
    found, rows = model.to_sklearn(), rows_of("float32")
    assert found.n_clusters == K
    assert found.n_features_in_ == WIDTH
    assert_array_equal(found.cluster_centers_, model.cluster_centers())
    distances = predicted(model, rows)["all_distances"]
    assert_allclose(found.transform(rows) ** 2, distances, rtol=1e-3, atol=1e-3)
    assert_allclose(-found.score(rows), model.score(lambda: rows), rtol=1e-5)
    assert len(found.get_feature_names_out()) == K
    assert found.fit(rows[:100]).cluster_centers_.shape == (K, WIDTH)


def test_an_offset_that_all_rows_share_costs_exports_no_precision(tmp_path):
    rows = (np.random.default_rng(3).normal(size=(2000, 3)) + 1e6).astype(np.float32)
    model = KMeans(5, str(tmp_path / "m"), seed=1, use_mini_batch=False)
    model.train(lambda: rows, steps=2)
    own = predicted(model, rows)["cluster_index"]
    model.export_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert_array_equal(session.run(["cluster_index"], {"rows": rows})[0], own)
    path = model.export_saved_model(tmp_path, lambda: rows[:0]).decode()
    asked = Asked(tmp_path)
    asked.ask(path, "serve", input=rows)
    assert_array_equal(asked.run()[0]["serving_default output"], own)


@pytest.mark.parametrize("spread", [1e3, 1e6, 1e9])
def test_distances_of_exports_lose_no_more_than_is_documented(tmp_path, spread):
    rng = np.random.default_rng(9)
    centers = rng.normal(size=(6, 4))
    centers[5] += spread
    rows = centers[rng.integers(6, size=500)] + 0.1 * rng.normal(size=(500, 4))
    model = KMeans(6, str(tmp_path / "m"), initial_clusters=centers, use_mini_batch=False)
    model.train(lambda: rows, steps=1)
    centers = model.cluster_centers()
    model.export_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    index, distances = session.run(["cluster_index", "all_distances"], {"rows": rows})
    exact = ((rows[:, None] - centers) ** 2).sum(axis=2)
    bound = 1e-15 * ((rows - centers.mean(axis=0)) ** 2).sum(axis=1)
    assert (np.abs(distances - exact) <= bound[:, None] + 1e-6 * exact).all()
    gaps = np.sort(exact, axis=1)
    sure = gaps[:, 1] - gaps[:, 0] > 2 * bound
    assert_array_equal(index[sure], exact.argmin(axis=1)[sure])
    assert sure.all() == (spread < 1e8)


def test_a_model_too_large_for_onnx_is_refused_with_the_arithmetic(model):
    centers = np.broadcast_to(np.float32(0), (2**14, 2**14))  # takes no memory
    state = TrainState(centers, np.zeros(2**14, np.int64))
    large = replace(model.checkpoint(), fit=Fit((Start(state),)))
    with pytest.raises(ValueError, match=r"16,384 centers x 16,384 columns x 8 bytes = 2.0 GiB"):
        onnx_model.model(large)


def test_the_command_exports_each_format(model, tmp_path, capsys):
    rows = rows_of("float32")
    own = predicted(model, rows)["cluster_index"]
    paths = {}
    for kind in ("savedmodel", "onnx", "sklearn"):
        command = ["export", "--model-dir", model.model_dir, "--format", kind, "--json"]
        assert main([*command, "--output", str(tmp_path / kind)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["checkpoint"] == model.latest_checkpoint()
        paths[kind] = told["output"]
    session = onnxruntime.InferenceSession(paths["onnx"])
    assert_array_equal(session.run(["cluster_index"], {"rows": rows})[0], own)
    assert_array_equal(joblib.load(paths["sklearn"]).predict(rows), own)
    assert (Path(paths["savedmodel"]) / "saved_model.pb").exists()


def test_the_command_says_which_extra_a_format_needs(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "dkmeans.exports.onnx_model", raising=False)
    monkeypatch.delattr("dkmeans.exports.onnx_model", raising=False)
    command = ["export", "--model-dir", model.model_dir, "--format", "onnx"]
    assert main([*command, "--output", str(tmp_path / "m.onnx")]) == 2
    assert (
        "an ONNX file needs the package onnx: pip install 'dkmeans[onnx]'"
        in capsys.readouterr().err
    )


def test_the_code_of_the_documentation_runs(tmp_path):
    skip_without_tensorflow()
    page = (Path(__file__).parents[2] / "docs" / "exports.md").read_text()
    code = "".join(block.split("```")[0] for block in page.split("```python\n")[1:])
    env = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "dtype=int64" in done.stdout


# Pickles and copies.


def test_an_estimator_can_be_pickled_and_copied(model):
    rows = rows_of("float32")
    own = predicted(model, rows)["cluster_index"]
    for twin in (pickle.loads(pickle.dumps(model)), copy.copy(model), copy.deepcopy(model)):
        assert twin.config == model.config
        assert_array_equal(predicted(twin, rows)["cluster_index"], own)


def test_a_pickled_configuration_leaves_its_client_behind_and_a_copied_one_shares_it(client):
    config = RunConfig(client=client, model_dir="m")
    assert pickle.loads(pickle.dumps(config)) == RunConfig(model_dir="m")
    assert copy.deepcopy(config).client is copy.copy(config).client is client


def test_a_model_is_loaded_and_asked_with_no_cluster_client_or_worker(model, tmp_path):
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
    own = predicted(model, rows_of("float32")[:100])["cluster_index"]
    assert done.stdout.split() == [str(index) for index in own]
