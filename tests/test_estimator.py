"""The documented surface: arguments, variables and predictions."""

import copy
import inspect
from itertools import islice
from pathlib import Path
from uuid import uuid4

import dask.array as da
import numpy as np
import pandas as pd
import pytest

from dkmeans import Dataset, EstimatorSpec, KMeans, ModeKeys, RunConfig, load
from tests import reference
from tests.programs import output_of
from tests.reference import COSINE, METRICS

CENTERS = np.array([[0, 0, 1], [4, 0, 0], [0, -4, 2], [3, 3, 3]], np.float32)


def rows_of(n=30, d=3, seed=0):
    return (np.random.default_rng(seed).normal(size=(n, d)) * 3).astype(np.float32)


def model(model_dir=None, **more):
    more.setdefault("initial_clusters", CENTERS)
    return KMeans(4, model_dir or f"memory://{uuid4().hex}", **more)


@pytest.fixture
def trained():
    return model(use_mini_batch=False).train(lambda: iter([rows_of(seed=9)] * 2))


def reading(estimator):
    """Return all methods that read a model, as functions of an input_fn."""
    return {
        "predict": lambda input_fn: list(estimator.predict(input_fn)),
        "predict_cluster_index": lambda input_fn: list(estimator.predict_cluster_index(input_fn)),
        "transform": lambda input_fn: list(estimator.transform(input_fn)),
        "score": estimator.score,
        "evaluate": estimator.evaluate,
    }


METHODS = ["predict", "predict_cluster_index", "transform", "score", "evaluate"]
in_every_method = pytest.mark.parametrize("method", METHODS)


def frame_of(*names):
    return pd.DataFrame(dict(zip(names, rows_of().T, strict=True)))


@in_every_method
def test_columns_that_the_model_was_not_trained_with_are_refused(method):
    estimator = model().train(lambda: frame_of("a", "b", "c"), steps=1)
    for same in (frame_of("b", "c", "a"), dict(zip("abc", rows_of().T, strict=True)), rows_of()):
        reading(estimator)[method](lambda same=same: same)
    with pytest.raises(ValueError, match=r"trained with, .*\(\['c'\] is missing\)"):
        reading(estimator)[method](lambda: frame_of("a", "b", "d"))


def test_the_columns_of_a_checkpoint_are_those_of_its_own_model():
    path = model().train(lambda: frame_of("a", "b", "c"), steps=1).latest_checkpoint()
    other = model().train(lambda: frame_of("b", "a", "d"), steps=1)
    with pytest.raises(ValueError, match=r"\(\['c'\] is missing\)"):
        other.evaluate(lambda: frame_of("b", "a", "d"), checkpoint_path=path)


# The constructor.


def test_the_constants_are_the_documented_ones():
    assert {name: getattr(KMeans, name) for name in dir(KMeans) if name.isupper()} == {
        "ALL_DISTANCES": "all_distances",
        "CLUSTER_CENTERS_VAR_NAME": "clusters",
        "CLUSTER_INDEX": "cluster_index",
        "COSINE_DISTANCE": "cosine",
        "KMEANS_PLUS_PLUS_INIT": "kmeans_plus_plus",
        "RANDOM_INIT": "random",
        "SCORE": "score",
        "SQUARED_EUCLIDEAN_DISTANCE": "squared_euclidean",
    }


def test_arguments_have_the_documented_order_and_defaults():
    parameters = inspect.signature(KMeans).parameters
    assert {name: p.default for name, p in list(parameters.items())[1:10]} == {
        "model_dir": None,
        "initial_clusters": "random",
        "distance_metric": "squared_euclidean",
        "seed": None,
        "use_mini_batch": True,
        "mini_batch_steps_per_iteration": 1,
        "kmeans_plus_plus_num_retries": 2,
        "relative_tolerance": None,
        "config": None,
    }
    assert list(parameters)[:3] == ["num_clusters", "model_dir", "initial_clusters"]
    assert list(parameters)[9:10] == ["config"]


def test_all_arguments_may_be_positional(tmp_path):
    estimator = KMeans(
        4, tmp_path, CENTERS, "cosine", 3, False, 1, -1, 0.5, RunConfig(keep_checkpoint_max=2)
    )
    estimator.train(lambda: rows_of(), steps=1)
    assert estimator.config.keep_checkpoint_max == 2
    assert estimator.get_variable_names() == ["clusters", "global_step", "initialized"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_clusters", 0),
        ("num_clusters", -3),
        ("initial_clusters", "kmeans"),
        ("initial_clusters", np.zeros(3)),
        ("initial_clusters", np.zeros((2, 2, 2))),
        ("initial_clusters", np.zeros((0, 2))),
        ("initial_clusters", np.zeros((2, 0))),
        ("initial_clusters", [[0.0, np.nan]]),
        ("initial_clusters", [[0.0, np.inf]]),
        ("distance_metric", "euclidean"),
        ("distance_metric", None),
        ("mini_batch_steps_per_iteration", 0),
        ("relative_tolerance", -0.1),
        ("relative_tolerance", float("nan")),
        ("seed", -1),
    ],
)
def test_values_that_will_not_do_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        KMeans(**{"num_clusters": 3, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_clusters", 3.0),
        ("num_clusters", "3"),
        ("num_clusters", True),
        ("num_clusters", np.True_),
        ("num_clusters", None),
        ("initial_clusters", None),
        ("initial_clusters", 3j),
        ("initial_clusters", [["a", "b"]]),
        ("mini_batch_steps_per_iteration", 1.5),
        ("mini_batch_steps_per_iteration", True),
        ("kmeans_plus_plus_num_retries", 2.5),
        ("kmeans_plus_plus_num_retries", None),
        ("use_mini_batch", 1),
        ("use_mini_batch", "yes"),
        ("relative_tolerance", "0.1"),
        ("relative_tolerance", True),
        ("seed", 1.5),
        ("config", {}),
        ("config", "config"),
        ("model_dir", 3),
    ],
)
def test_types_that_will_not_do_are_refused_by_name(name, value):
    with pytest.raises(TypeError, match=name):
        KMeans(**{"num_clusters": 3, name: value})


def test_the_given_value_is_in_the_message():
    with pytest.raises(ValueError, match="num_clusters must be an integer >= 1, got -3"):
        KMeans(-3)
    with pytest.raises(ValueError, match=r"distance_metric .*squared_euclidean.* got 'manhattan'"):
        KMeans(3, distance_metric="manhattan")


def test_numpy_scalars_are_numbers():
    KMeans(
        np.int32(3),
        seed=np.int64(1),
        use_mini_batch=np.False_,
        mini_batch_steps_per_iteration=np.uint8(2),
        kmeans_plus_plus_num_retries=np.int64(-1),
        relative_tolerance=np.float32(0.1),
    )


def test_a_number_of_clusters_that_the_array_overrides_is_warned_of(caplog):
    KMeans(4, None, CENTERS)
    assert not caplog.records
    KMeans(7, None, CENTERS)
    assert "num_clusters = 7 is ignored: initial_clusters has 4 rows" in caplog.text


# Where the model is.


def test_without_a_model_dir_every_model_has_a_fresh_one():
    one, other = KMeans(3), KMeans(3, "")
    assert one.model_dir != other.model_dir
    for estimator in (one, other):
        assert Path(estimator.model_dir).is_dir()
        assert estimator.config.model_dir == estimator.model_dir


def test_the_configurations_model_dir_stands_in_where_there_is_none(tmp_path):
    config = RunConfig(model_dir=str(tmp_path))
    for given in (None, "", str(tmp_path), tmp_path):
        assert KMeans(3, given, config=config).model_dir == str(tmp_path)


def test_two_different_model_dirs_are_refused_by_both(tmp_path):
    with pytest.raises(ValueError, match=r"model_dir.*'/one'.*'/two'"):
        KMeans(3, "/one", config=RunConfig(model_dir="/two"))


def test_model_dir_is_text_and_cannot_be_set(tmp_path):
    estimator = KMeans(3, tmp_path)
    assert type(estimator.model_dir) is str
    with pytest.raises(AttributeError):
        estimator.model_dir = "elsewhere"


def test_making_a_model_writes_nothing(tmp_path):
    estimator = KMeans(3, tmp_path / "model")
    assert estimator.latest_checkpoint() is None
    assert not (tmp_path / "model").exists()


def test_the_configuration_is_a_copy_with_the_model_dir_filled_in(tmp_path):
    config = RunConfig(tf_random_seed=3)
    estimator = KMeans(3, tmp_path, config=config)
    assert estimator.config == config.replace(model_dir=str(tmp_path))
    assert estimator.config is not estimator.config
    assert config.model_dir is None
    assert copy.deepcopy(estimator.config) == estimator.config


def test_the_representation_names_what_matters(tmp_path):
    expected = f"KMeans(3, {str(tmp_path)!r}, distance_metric='squared_euclidean')"
    assert repr(KMeans(3, tmp_path)) == expected


def test_an_output_that_is_no_address_is_a_type_error(tmp_path):
    with pytest.raises(TypeError, match="output must be a path or URL, got 5"):
        KMeans(3, tmp_path).write_predictions(lambda: None, 5)


def test_methods_have_the_documented_order_of_arguments():
    documented = {
        "train": ["input_fn", "hooks", "steps", "max_steps", "saving_listeners"],
        "evaluate": ["input_fn", "steps", "hooks", "checkpoint_path", "name"],
        "predict": [
            *("input_fn", "predict_keys", "hooks", "checkpoint_path", "yield_single_examples")
        ],
        "predict_cluster_index": ["input_fn"],
        "transform": ["input_fn"],
        "score": ["input_fn"],
        "eval_dir": ["name"],
        "get_variable_value": ["name"],
    }
    for method, names in documented.items():
        parameters = inspect.signature(getattr(KMeans, method)).parameters.values()
        own = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        assert [p.name for p in own][1:] == names
        assert {p.kind for p in own} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_parameters_are_a_copy_of_what_an_input_function_is_given():
    estimator, given = model(distance_metric=COSINE), []
    assert estimator.params == {"num_clusters": 4, "distance_metric": "cosine"}
    estimator.params["num_clusters"] = 9
    estimator.train(lambda params: given.append(params) or rows_of(), steps=1)
    assert given == [estimator.params] == [{"num_clusters": 4, "distance_metric": "cosine"}]


# The model's function.


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("mode", ModeKeys)
def test_the_models_function_predicts_with_the_latest_checkpoint(mode, metric):
    estimator = model(distance_metric=metric).train(lambda: rows_of(seed=9), steps=3)
    rows, before = rows_of(), estimator.latest_checkpoint()
    spec = estimator.model_fn(rows, None, mode, estimator.config)
    (expected,) = estimator.predict(lambda: rows, yield_single_examples=False)
    assert isinstance(spec, EstimatorSpec)
    assert spec.mode == mode
    np.testing.assert_equal(dict(spec.predictions), expected)
    assert spec.loss == estimator.score(lambda: rows)
    assert spec.eval_metric_ops == {"score": spec.loss}
    np.testing.assert_equal(
        spec.export_outputs,
        {
            "all_distances": {"output": expected["all_distances"]},
            "cluster_index": {"output": expected["cluster_index"]},
            "serving_default": {"output": expected["cluster_index"]},
        },
    )
    assert estimator.latest_checkpoint() == before


def test_the_models_function_takes_what_an_input_function_returns(trained):
    rows = rows_of()
    expected = trained.model_fn(rows, None, "infer", None).predictions["cluster_index"]
    columns = {"b": rows[:, 1:], "a": rows[:, 0]}
    for features in (columns, da.from_array(rows, chunks=(7, 3)), Dataset.from_array(rows)):
        spec = trained.model_fn(features, None, "infer", None)
        assert spec.predictions["cluster_index"].tolist() == expected.tolist()
    assert trained.model_fn(rows, np.zeros(30), ModeKeys.PREDICT, None)
    with pytest.raises(ValueError, match="features must have at least one row, got none"):
        trained.model_fn(Dataset.from_array(rows).take(0), None, "infer", None)


@pytest.mark.parametrize("policy", ["keep", "relocate"])
def test_a_weighted_fit_resumes_within_an_iteration_with_the_same_bits(policy):
    weights = np.exp(np.random.default_rng(5).normal(size=(4, 30)))
    batches = [(rows_of(seed=i), {"weights": weights[i]}) for i in range(4)]
    batches[2] = batches[2][0]  # without weights
    centers = np.concatenate([rows_of()[:2], rows_of()[:2] * 99])

    def new():
        more = {"mini_batch_steps_per_iteration": 4, "empty_clusters": policy}
        return model(initial_clusters=centers, **more)

    at_once = new().train(lambda: iter(batches)).checkpoint().state
    resumed = new()
    for batch in batches:
        resumed.train(lambda batch=batch: iter([batch]))
    found = resumed.checkpoint().state
    assert found.centers.tobytes() == at_once.centers.tobytes()
    assert found.counts.tobytes() == at_once.counts.tobytes()
    assert found.inertia == at_once.inertia
    assert at_once.counts.sum() == pytest.approx(weights[[0, 1, 3]].sum() + 30)


def test_predictions_ignore_weights_and_losses_do_not(trained):
    rows, weights = rows_of(), np.arange(30) % 3
    expected = list(trained.predict_cluster_index(lambda: rows))
    bad = {"weights": -weights}
    for given_rows in (lambda: (rows, bad), lambda: Dataset.from_array(rows, -weights)):
        assert list(trained.predict_cluster_index(given_rows)) == expected
    spec = trained.model_fn(rows, {"weights": weights}, "eval", None)
    assert spec.predictions["cluster_index"].tolist() == expected
    repeated = np.repeat(rows, weights, axis=0)
    assert spec.loss == trained.score(lambda: (rows, {"weights": weights}))
    assert spec.loss == trained.score(lambda: repeated)


def test_the_models_function_refuses_what_training_refuses(trained):
    for arguments, error, text in [
        ((rows_of(), None, "test", None), ValueError, "mode must be one of 'train', 'eval', 'inf"),
        ((rows_of(), None, "eval", {}), TypeError, "config must be a RunConfig or None"),
        ((rows_of(), np.zeros(30), "eval", None), ValueError, "labels must be None"),
        ((rows_of(d=5), None, "eval", None), ValueError, r"3 columns.*got 5"),
        ((rows_of(0), None, "eval", None), ValueError, "at least one"),
    ]:
        with pytest.raises(error, match=text):
            trained.model_fn(*arguments)
    with pytest.raises(ValueError, match="Could not find trained model in model_dir"):
        model().model_fn(rows_of(), None, "eval", None)


def test_modes_are_the_documented_words():
    assert (ModeKeys.TRAIN, ModeKeys.EVAL, ModeKeys.PREDICT) == ("train", "eval", "infer")
    assert f"{ModeKeys.PREDICT}" == "infer"


# Variables.


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ({"use_mini_batch": False}, ["clusters", "global_step", "initialized"]),
        ({}, ["Variable", "clusters", "global_step", "initialized"]),
        (
            {"mini_batch_steps_per_iteration": 2},
            [
                "Variable",
                "clusters",
                "clusters_updated",
                "global_step",
                "initialized",
                "update_in_steps",
            ],
        ),
    ],
)
def test_every_mode_has_its_documented_variables(mode, names):
    estimator = model(**mode).train(lambda: rows_of(), steps=3)
    assert estimator.get_variable_names() == names
    values = estimator.get_variable_value(names)
    assert list(values) == names
    assert (values["clusters"].shape, values["clusters"].dtype) == ((4, 3), np.float32)
    assert (values["global_step"], np.asarray(values["global_step"]).dtype) == (3, np.int64)
    assert np.asarray(values["initialized"]).dtype == bool
    assert values["initialized"]
    if "Variable" in names:
        assert (values["Variable"].shape, values["Variable"].dtype) == ((4,), np.int64)
    if "clusters_updated" in names:
        assert values["clusters_updated"].dtype == np.float32
        assert values["update_in_steps"] == 1


def test_a_variable_has_its_original_name_too(trained):
    plain = trained.get_variable_value("clusters")
    np.testing.assert_array_equal(trained.get_variable_value("clusters:0"), plain)
    np.testing.assert_array_equal(trained.cluster_centers(), plain)
    assert list(trained.get_variable_value(["clusters:0", "global_step"])) == [
        "clusters:0",
        "global_step",
    ]


def test_an_unknown_variable_is_refused_by_name(trained):
    for names in ("weights", ["clusters", "weights"]):
        with pytest.raises(ValueError, match="weights"):
            trained.get_variable_value(names)


def test_a_changed_value_does_not_change_the_model(trained):
    before = trained.cluster_centers().copy()
    trained.cluster_centers()[:] = 0
    np.testing.assert_array_equal(trained.cluster_centers(), before)


def test_centers_are_those_on_disk(tmp_path):
    one, other = model(tmp_path), model(tmp_path)
    one.train(lambda: rows_of(), steps=1)
    np.testing.assert_array_equal(other.cluster_centers(), one.cluster_centers())
    other.train(lambda: rows_of(), steps=1)
    np.testing.assert_array_equal(other.cluster_centers(), one.cluster_centers())


def test_an_untrained_model_is_refused_everywhere():
    estimator = model()
    calls = [
        estimator.cluster_centers,
        estimator.get_variable_names,
        lambda: estimator.get_variable_value("clusters"),
        *(lambda read=read: read(lambda: rows_of()) for read in reading(estimator).values()),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="Could not find trained model in model_dir: memory:"):
            call()
    assert estimator.latest_checkpoint() is None


def test_the_latest_checkpoint_is_a_full_path(tmp_path):
    estimator = model(tmp_path).train(lambda: rows_of(), steps=2)
    latest = Path(estimator.latest_checkpoint())
    assert latest.is_dir()
    assert latest.parent == tmp_path


# Predictions.


@pytest.mark.parametrize("metric", METRICS)
def test_predictions_are_those_of_the_reference(metric):
    rows = rows_of()
    estimator = model(distance_metric=metric).train(lambda: rows_of(seed=9), steps=3)
    centers = estimator.cluster_centers()
    index, _ = reference.nearest(rows, centers, metric)
    everything = reference.distances(rows, centers, metric)
    found = list(estimator.predict(lambda: rows))
    assert [row["cluster_index"] for row in found] == index.tolist()
    distances = np.array([row["all_distances"] for row in found])
    np.testing.assert_allclose(distances, everything, rtol=1e-6, atol=1e-7)
    assert list(estimator.predict_cluster_index(lambda: rows)) == index.tolist()
    np.testing.assert_array_equal(list(estimator.transform(lambda: rows)), distances)
    expected = reference.loss(rows, centers, metric)
    assert estimator.score(lambda: rows) == pytest.approx(expected, rel=1e-10)


def test_predictions_have_the_documented_types(trained):
    (row,) = trained.predict(lambda: rows_of(1))
    assert sorted(row) == ["all_distances", "cluster_index"]
    assert (row["all_distances"].shape, row["all_distances"].dtype) == ((4,), np.float32)
    assert row["cluster_index"].dtype == np.int64
    (index,) = trained.predict_cluster_index(lambda: rows_of(1))
    assert index.dtype == np.int64
    (distances,) = trained.transform(lambda: rows_of(1))
    assert (distances.shape, distances.dtype) == ((4,), np.float32)
    assert type(trained.score(lambda: rows_of())) is float


def test_predictions_can_come_batch_by_batch(trained):
    batches = [rows_of(5, seed=1), rows_of(7, seed=2)]
    single = list(trained.predict(lambda: iter(batches)))
    found = list(trained.predict(lambda: iter(batches), yield_single_examples=False))
    assert [batch["cluster_index"].shape for batch in found] == [(5,), (7,)]
    assert [batch["all_distances"].shape for batch in found] == [(5, 4), (7, 4)]
    for key in ("cluster_index", "all_distances"):
        joined = np.concatenate([batch[key] for batch in found])
        np.testing.assert_array_equal(joined, [row[key] for row in single])


def test_a_batch_of_several_chunks_is_one_prediction(trained):
    rows = da.from_array(rows_of(), chunks=(7, 3))
    (found,) = trained.predict(lambda: rows, yield_single_examples=False)
    assert found["cluster_index"].tolist() == list(trained.predict_cluster_index(rows_of))


def test_keys_choose_what_is_predicted(trained):
    for keys in ("cluster_index", ["cluster_index"], ["cluster_index", "probability"]):
        assert set(next(trained.predict(rows_of, keys))) == {"cluster_index"}
    both = next(trained.predict(rows_of, ["all_distances", "cluster_index"]))
    assert set(both) == {"all_distances", "cluster_index"}


def test_keys_of_which_none_is_left_are_refused_with_both_lists(trained):
    known = r"all_distances.*cluster_index.*"
    for keys, named in (("loss", "loss"), (["loss", "logits"], "loss.*logits")):
        with pytest.raises(ValueError, match=known + named):
            list(trained.predict(rows_of, keys))


def test_no_keys_are_all_keys(trained):
    assert set(next(trained.predict(rows_of, []))) == {"all_distances", "cluster_index"}


@pytest.mark.parametrize(
    "nothing",
    [
        lambda: iter([]),
        lambda: iter([np.empty((0, 3))]),
        lambda: np.empty((0, 3), np.float32),
        lambda: da.zeros((0, 3)),
        lambda: {"a": np.empty(0)},
        lambda: (np.empty((0, 3)), np.empty(0)),
        lambda: Dataset.from_array(rows_of()).take(0),
    ],
)
def test_a_prediction_over_nothing_yields_nothing(trained, nothing):
    for call in (trained.predict, trained.predict_cluster_index, trained.transform):
        assert list(call(nothing)) == []


def test_an_array_is_predicted_once_and_in_order(trained):
    rows = rows_of(1000)
    assert len(list(trained.predict(lambda: rows))) == 1000
    for data in (da.from_array(rows, chunks=(90, 3)), Dataset.from_array(rows).batch(64)):
        found = list(trained.predict_cluster_index(lambda data=data: data))
        assert found == list(trained.predict_cluster_index(lambda: rows))


def test_predictions_take_batches_only_when_they_are_needed(trained):
    taken = []

    def batches():
        for number in range(1000):
            taken.append(number)
            yield rows_of(4, seed=number)

    predictions = trained.predict(batches)
    assert len(list(islice(predictions, 10))) == 10
    assert len(taken) < 10
    predictions.close()
    assert len(taken) < 10


def test_predictions_can_be_interleaved(trained):
    one, other = rows_of(40, seed=1), rows_of(40, seed=2)
    expected = [list(trained.predict_cluster_index(lambda r=r: r)) for r in (one, other)]
    first = trained.predict_cluster_index(lambda: one)
    second = trained.predict_cluster_index(lambda: other)
    found = list(zip(first, second, strict=True))
    assert [list(column) for column in zip(*found, strict=True)] == expected


def test_predictions_can_be_dropped_half_way(trained):
    for _ in range(30):
        predictions = trained.transform(lambda: da.from_array(rows_of(400), chunks=(5, 3)))
        next(predictions)
        del predictions
    assert len(list(trained.transform(rows_of))) == 30


def test_a_prediction_keeps_the_centers_it_began_with(trained):
    rows = rows_of(60)
    expected = list(trained.predict_cluster_index(lambda: rows))
    predictions = trained.predict_cluster_index(lambda: iter([rows[:20], rows[20:]]))
    begun = list(islice(predictions, 5))
    trained.train(lambda: iter([rows_of(seed=5) - 9]), steps=1)
    assert begun + list(predictions) == expected


def test_a_chosen_checkpoint_is_used(trained):
    rows, earlier = rows_of(), trained.latest_checkpoint()
    before = list(trained.predict_cluster_index(lambda: rows))
    result = trained.evaluate(lambda: rows)
    trained.train(lambda: iter([rows_of(seed=5) - 9]), steps=1)
    found = [row["cluster_index"] for row in trained.predict(lambda: rows, checkpoint_path=earlier)]
    assert found == before
    assert trained.evaluate(lambda: rows, checkpoint_path=earlier) == result
    assert trained.evaluate(lambda: rows) != result


def test_a_checkpoint_that_is_not_there_is_named(trained):
    with pytest.raises(ValueError, match="memory://nowhere"):
        list(trained.predict(rows_of, checkpoint_path="memory://nowhere"))


def test_zero_rows_are_one_away_and_belong_to_the_first_cluster_by_cosine():
    estimator = model(distance_metric=COSINE).train(lambda: rows_of(seed=9), steps=1)
    (row,) = estimator.predict(lambda: np.zeros((1, 3), np.float32))
    assert row["cluster_index"] == 0
    assert row["all_distances"].tolist() == [1, 1, 1, 1]
    assert estimator.score(lambda: np.zeros((5, 3))) == 5


def test_arguments_of_the_wrong_type_are_named(trained):
    for call, message in (
        (lambda: trained.train(rows_of, overwrite="no"), "overwrite must be a bool, got 'no'"),
        (lambda: trained.train(rows_of, checkpoint_path=5), "checkpoint_path must be a path or"),
        (lambda: trained.evaluate(rows_of, checkpoint_path=b"x"), "checkpoint_path must be a path"),
        (lambda: list(trained.predict(rows_of, checkpoint_path=5)), "got 5"),
        (lambda: trained.get_variable_value(5), "name must be a name or a list of names, got 5"),
        (lambda: trained.get_variable_value([5]), "name must be a name or a list of names, got"),
    ):
        with pytest.raises(TypeError, match=message):
            call()


# Rows that cannot be used.


@in_every_method
def test_rows_of_another_width_are_refused_with_both_numbers(trained, method):
    for data in (rows_of(d=5), {"a": np.zeros((4, 2)), "b": np.zeros((4, 3))}):
        with pytest.raises(ValueError, match=r"3 columns.*\b5\b"):
            reading(trained)[method](lambda data=data: data)
    with pytest.raises(ValueError, match=r"3 columns.*\b5\b"):
        reading(trained)[method](lambda: iter([rows_of(d=5)]))


@in_every_method
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_not_finite_are_named_by_position(method, bad, metric):
    estimator = model(distance_metric=metric).train(lambda: rows_of(seed=9), steps=1)
    rows = rows_of()
    rows[17, 1] = bad
    for data in (rows, da.from_array(rows, chunks=(7, 3))):
        with pytest.raises(ValueError, match=r"row 17 .* column 1"):
            reading(estimator)[method](lambda data=data: data)


@pytest.mark.parametrize("method", ["evaluate", "score"])
def test_input_without_rows_is_refused(trained, method):
    for empty in (lambda: rows_of(0), lambda: iter([]), lambda: iter([rows_of(0)])):
        with pytest.raises(ValueError, match="at least one"):
            reading(trained)[method](empty)


@in_every_method
def test_empty_chunks_and_batches_are_skipped(trained, method):
    rows = rows_of(10)
    empty_chunks = da.concatenate([rows[:0], rows[:4], rows[:0], rows[4:]])
    expected = reading(trained)[method](lambda: rows)
    np.testing.assert_equal(reading(trained)[method](lambda: empty_chunks), expected)
    batches = [rows[:0], rows, rows[:0]]
    np.testing.assert_equal(reading(trained)[method](lambda: iter(batches)), expected)


@pytest.mark.filterwarnings("error")
def test_distances_beyond_float32_are_refused_and_other_results_are_right():
    rows = np.array([[1e30, 0.0, 0.0], [0.0, -1e30, 0.0]], np.float32)
    estimator = KMeans(2, f"memory://{uuid4().hex}", rows).train(lambda: rows, steps=1)
    assert list(estimator.predict_cluster_index(lambda: rows)) == [0, 1]
    assert estimator.score(lambda: rows) == 0
    with pytest.raises(ValueError, match=r"all_distances must be squares that float32 holds"):
        list(estimator.transform(lambda: rows))


# The input function.


def test_the_input_function_is_given_the_arguments_that_it_names():
    calls = []

    def input_fn(params, config, mode):
        calls.append((mode, params, config))
        return rows_of()

    estimator = model()
    estimator.train(input_fn, steps=1)
    estimator.evaluate(input_fn)
    estimator.score(input_fn)
    next(estimator.predict(input_fn))
    assert [mode for mode, _, _ in calls] == ["train", "eval", "eval", "infer"]
    assert all(config == estimator.config for _, _, config in calls)
    assert all(params["num_clusters"] == 4 for _, params, _ in calls)


def test_the_input_function_is_called_once_a_call(trained):
    calls = []

    def input_fn():
        calls.append(1)
        return rows_of()

    trained.train(input_fn, steps=3)
    assert len(calls) == 1
    for number, read in enumerate(reading(trained).values(), 2):
        read(input_fn)
        assert len(calls) == number


def test_an_input_function_with_other_parameters_is_refused(trained):
    with pytest.raises(TypeError, match="batch_size"):
        trained.train(lambda batch_size: rows_of(), steps=1)
    trained.train(lambda batch_size=3, *args, **kwargs: rows_of(), steps=1)


def test_what_is_no_input_function_is_refused(trained):
    for wrong in (rows_of(), None, "rows"):
        with pytest.raises(TypeError, match="input_fn"):
            trained.train(wrong, steps=1)
    for wrong in (None, 3, "rows", object()):
        with pytest.raises(TypeError, match="input_fn"):
            trained.train(lambda wrong=wrong: wrong, steps=1)


@pytest.mark.parametrize("stream", [False, True])
def test_labels_are_refused_in_training_and_evaluation_and_ignored_in_prediction(trained, stream):
    def labelled(labels):
        return lambda: iter([(rows_of(), labels)]) if stream else (rows_of(), labels)

    expected = list(trained.predict_cluster_index(rows_of))
    assert list(trained.predict_cluster_index(labelled(np.zeros(30)))) == expected
    assert list(trained.predict_cluster_index(labelled(None))) == expected
    for call in (
        lambda input_fn: trained.train(input_fn, steps=1),
        trained.evaluate,
        trained.score,
    ):
        call(labelled(None))
        with pytest.raises(ValueError, match="labels must be None"):
            call(labelled(np.zeros(30)))


def test_columns_stand_in_the_sorted_order_of_their_names(trained):
    rows = rows_of()
    columns = {"z": rows[:, 2], "a": rows[:, 0], "m": rows[:, 1:2]}
    expected = list(trained.predict_cluster_index(lambda: rows))
    assert list(trained.predict_cluster_index(lambda: columns)) == expected
    wide = {"b": rows[:, 1:], "a": rows[:, 0]}
    assert list(trained.predict_cluster_index(lambda: iter([wide]))) == expected
    dask = {name: da.from_array(values, chunks=7) for name, values in columns.items()}
    assert list(trained.predict_cluster_index(lambda: dask)) == expected


def test_training_on_columns_is_training_on_their_rows():
    rows = rows_of()
    one = model().train(lambda: {"b": rows[:, 1:], "a": rows[:, 0]}, steps=3)
    other = model().train(lambda: rows, steps=3)
    np.testing.assert_array_equal(one.cluster_centers(), other.cluster_centers())


def test_columns_of_different_lengths_are_refused(trained):
    with pytest.raises(ValueError, match=r"equally long.*3.*4"):
        trained.evaluate(lambda: {"a": np.zeros(3), "b": np.zeros((4, 2))})


def test_an_empty_dict_is_refused(trained):
    empty = {}
    with pytest.raises(ValueError, match="at least one column"):
        trained.evaluate(lambda: empty)


@pytest.mark.parametrize(("on_gpu", "chunks"), [(True, 2), (False, 7)])
def test_where_gpus_compute_the_chunks_are_larger(monkeypatch, on_gpu, chunks):
    asked, found = [], []

    def computes_on_gpu(client, backend):
        asked.append((client, backend))
        return on_gpu

    monkeypatch.setattr("dkmeans.estimator.computes_on_gpu", computes_on_gpu)
    monkeypatch.setattr("dkmeans.data.dataset.GPU_TARGET_BYTES", 64 * 2**20)
    rows = np.zeros((550_000, 3), np.float32)  # 6.6 MB
    kmeans = model(config=RunConfig(backend="numpy"))
    for give in (lambda: rows, lambda: Dataset.from_array(rows), lambda: {"x": rows}):
        batch = next(kmeans._read(give, ModeKeys.EVAL, None).batches())
        found.append(len(batch))
    assert found == [chunks] * 3
    assert set(asked) == {(None, "numpy")}


# The end of the program.


def test_work_in_a_thread_that_outlives_the_main_thread_ends_with_one_clear_line(tmp_path):
    program = """
import sys, threading, time
import numpy as np
from dkmeans import Invalid, KMeans

rows = np.random.default_rng(0).normal(size=(300, 2))
model = KMeans(3, sys.argv[1], rows[:3]).train(lambda: rows, steps=1)
calls = {
    "train": lambda: model.train(lambda: rows, steps=10**9),
    "train again": lambda: model.train(lambda: rows, steps=1),
    "evaluate": lambda: model.evaluate(lambda: rows),
    "centers": model.cluster_centers,
    "predict": lambda: list(model.predict(lambda: rows)),
    "write": lambda: model.write_predictions(lambda: rows, sys.argv[1] + ".zarr"),
}
def work():
    for name, call in calls.items():
        try:
            call()
            print(name, "done")
        except Invalid as error:
            print(name, error)
threading.Thread(target=work).start()
time.sleep(0.2)
"""
    lines = output_of(program, tmp_path / "model", PYTHONWARNINGS="ignore").splitlines()
    # One chunk is computed without other threads, and a model in memory is not read.
    complaint = "the main thread must wait for a thread that uses KMeans"
    assert [complaint in line or line.endswith(" done") for line in lines] == [True] * 6, lines
    assert [line.split()[0] for line in lines if complaint in line] == ["train", "train", "write"]
    # What the thread has trained until then is saved.
    assert KMeans(3, str(tmp_path / "model")).get_variable_value("global_step") >= 1


# Models of a directory.


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_model_is_loaded_with_its_settings_and_continued(tmp_path, restarts):
    settings = {"distance_metric": COSINE, "mini_batch_steps_per_iteration": 3}
    more = {"initial_clusters": "random", "seed": 1, "num_restarts": restarts}
    trained = model(str(tmp_path / "m"), **settings, **more)
    trained.train(lambda: Dataset.from_array(rows_of()).batch(10).repeat(), steps=3)
    loaded = load(tmp_path / "m")
    assert loaded.params == trained.params
    assert list(loaded.predict_cluster_index(rows_of)) == list(
        trained.predict_cluster_index(rows_of)
    )
    settings = loaded.checkpoint().settings
    loaded.train(lambda: Dataset.from_array(rows_of()).batch(10).repeat(), steps=3)
    assert loaded.checkpoint().settings == settings
    assert loaded.checkpoint().state.step == 6


def test_a_loaded_model_runs_as_the_configuration_says(tmp_path):
    model(str(tmp_path / "m")).train(rows_of, steps=1)
    assert load(tmp_path / "m", config=RunConfig(backend="numpy")).config.backend == "numpy"


@pytest.mark.parametrize("given", [None, 3, ["m"]])
def test_only_a_path_or_url_is_loaded(given):
    with pytest.raises(TypeError, match="model_dir must be a path or URL, got"):
        load(given)


def test_a_directory_without_a_model_is_not_loaded(tmp_path):
    with pytest.raises(ValueError, match=r"Could not find trained model in model_dir: .*m"):
        load(tmp_path / "m")
    assert not (tmp_path / "m").exists()
