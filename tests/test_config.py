"""`RunConfig`: its defaults, its checks and its copies."""

import copy
import dataclasses

import pytest

from dkmeans import Invalid, InvalidType, KMeans, RunConfig


class Connection:
    """A client that must not be copied."""

    def submit(self):
        pass

    def __copy__(self):
        raise AssertionError("copied")

    def __deepcopy__(self, memo):
        raise AssertionError("copied")


def intervals(config):
    return config.save_checkpoints_secs, config.save_checkpoints_steps


def test_the_defaults_are_the_documented_ones():
    assert dataclasses.asdict(RunConfig()) == {
        "model_dir": None,
        "tf_random_seed": None,
        "save_summary_steps": 100,
        "save_checkpoints_secs": 600,
        "save_checkpoints_steps": None,
        "keep_checkpoint_max": 5,
        "log_step_count_steps": 100,
        "client": None,
        "backend": None,
        "cache": "auto",
        "progress": None,
    }


def test_seconds_and_steps_between_checkpoints_exclude_each_other():
    assert intervals(RunConfig(save_checkpoints_steps=7)) == (None, 7)
    assert intervals(RunConfig(save_checkpoints_secs=7)) == (7, None)
    with pytest.raises(ValueError, match="must not both be set, got 7 and 8"):
        RunConfig(save_checkpoints_secs=7, save_checkpoints_steps=8)


def test_a_backend_that_does_not_exist_is_refused_by_name():
    assert RunConfig(backend="numpy").backend == "numpy"
    names = "'cuda', 'native', 'numpy'"
    with pytest.raises(Invalid, match=f"backend must be one of {names} or None, got 'c'"):
        RunConfig(backend="c")


@pytest.mark.parametrize("value", ["bar", True, 1])
def test_progress_that_does_not_exist_is_refused(value):
    assert RunConfig(progress="auto").progress == "auto"
    with pytest.raises(ValueError, match=f"progress must be 'auto' or None, got {value!r}"):
        RunConfig(progress=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("save_checkpoints_secs", -1),
        ("save_checkpoints_secs", float("nan")),
        ("save_checkpoints_steps", -1),
        ("save_summary_steps", -1),
        ("log_step_count_steps", 0),
        ("log_step_count_steps", -1),
    ],
)
def test_numbers_that_are_too_small_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*got {value!r}"):
        RunConfig(**{name: value})
    with pytest.raises(Invalid, match=name):
        RunConfig().replace(**{name: value})


@pytest.mark.parametrize(
    "name",
    [
        "save_summary_steps",
        "save_checkpoints_steps",
        "log_step_count_steps",
        "keep_checkpoint_max",
        "tf_random_seed",
    ],
)
@pytest.mark.parametrize("value", [1.5, "3", True])
def test_values_that_are_not_integers_are_refused_by_name(name, value):
    with pytest.raises(TypeError, match=f"{name} must be an integer"):
        RunConfig(**{name: value})


def test_zero_saves_nothing_on_the_way():
    for name in ("save_checkpoints_secs", "save_checkpoints_steps"):
        assert not RunConfig(**{name: 0}).saves_on_the_way
        assert RunConfig(**{name: 1}).saves_on_the_way
    assert RunConfig().saves_on_the_way


def test_seconds_may_be_fractions():
    assert RunConfig(save_checkpoints_secs=0.25).save_checkpoints_secs == 0.25


@pytest.mark.parametrize("value", [None, 0, 1])
def test_all_checkpoints_may_be_kept(value):
    assert RunConfig(keep_checkpoint_max=value).keep_checkpoint_max == value


def test_a_negative_number_of_checkpoints_is_refused():
    with pytest.raises(ValueError, match="keep_checkpoint_max must be an integer >= 0, got -1"):
        RunConfig(keep_checkpoint_max=-1)


def test_replacing_switches_between_seconds_and_steps():
    steps = RunConfig().replace(save_checkpoints_steps=9)
    assert intervals(steps) == (None, 9)
    assert intervals(steps.replace(save_checkpoints_secs=3)) == (3, None)
    assert intervals(steps.replace(save_checkpoints_steps=None)) == (600, None)
    assert intervals(steps.replace(keep_checkpoint_max=1)) == (None, 9)
    with pytest.raises(ValueError, match="must not both be set"):
        steps.replace(save_checkpoints_secs=3, save_checkpoints_steps=4)


def test_replacing_leaves_the_original_and_the_other_fields():
    config = RunConfig(model_dir="a", tf_random_seed=3, log_step_count_steps=7)
    changed = config.replace(model_dir="b")
    assert config.model_dir == "a"
    assert changed == RunConfig(model_dir="b", tf_random_seed=3, log_step_count_steps=7)


def test_an_unknown_field_is_a_type_error():
    with pytest.raises(TypeError, match="nothing"):
        RunConfig().replace(nothing=1)
    with pytest.raises(TypeError, match="nothing"):
        RunConfig(nothing=1)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().model_dir = "elsewhere"


def test_fields_are_given_by_name_only():
    with pytest.raises(TypeError, match="positional"):
        RunConfig("model")


@pytest.mark.parametrize("client", ["tcp://127.0.0.1:8786", 3, object()])
def test_a_value_that_is_not_a_client_is_a_type_error(client):
    with pytest.raises(TypeError, match=r"client must be a distributed\.Client or None"):
        RunConfig(client=client)
    with pytest.raises(InvalidType, match="client"):
        RunConfig().replace(client=client)


def test_copies_share_the_client():
    config = RunConfig(model_dir="a", client=Connection())
    for copied in (copy.deepcopy(config), copy.copy(config), config.replace(model_dir="b")):
        assert copied.client is config.client
    assert copy.deepcopy({"config": config})["config"] == config


def test_an_estimator_takes_directory_and_seed_from_its_config(tmp_path):
    config = RunConfig(model_dir=tmp_path / "m", tf_random_seed=5, save_checkpoints_steps=3)
    estimator = KMeans(2, config=config)
    assert estimator.model_dir == str(tmp_path / "m")
    assert intervals(estimator.config) == (None, 3)
    assert estimator.config.tf_random_seed == 5
