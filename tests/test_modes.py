"""Modes and the result of a model's function."""

import pickle
from dataclasses import FrozenInstanceError

import pytest

from dkmeans.modes import EstimatorSpec, ModeKeys, check_mode


def test_the_modes_are_tensorflows_words():
    assert [(mode.name, mode.value) for mode in ModeKeys] == [
        ("TRAIN", "train"),
        ("EVAL", "eval"),
        ("PREDICT", "infer"),
    ]


def test_a_mode_is_a_str_and_is_found_by_its_word():
    assert ModeKeys.PREDICT == "infer"
    assert f"{ModeKeys.PREDICT}" == "infer"
    assert ModeKeys("infer") is ModeKeys.PREDICT
    assert {"infer": 1}[ModeKeys.PREDICT] == 1
    with pytest.raises(ValueError, match="'predict' is not a valid ModeKeys"):
        ModeKeys("predict")


def test_an_unknown_mode_is_refused_by_the_name_of_its_argument():
    assert check_mode("mode", "infer") is ModeKeys.PREDICT
    with pytest.raises(ValueError, match=r"^mode must be one of 'train', 'eval', 'infer', got 'x'"):
        check_mode("mode", "x")
    with pytest.raises(TypeError, match=r"^mode must be one of 'train', 'eval', 'infer', got None"):
        check_mode("mode", None)


@pytest.fixture
def spec():
    return EstimatorSpec("eval", {"cluster_index": [0]}, 2.5, {"score": 2.5}, {})


def test_a_spec_is_frozen(spec):
    with pytest.raises(FrozenInstanceError):
        spec.loss = 0.0
    assert spec.loss == 2.5


def test_a_spec_can_be_compared_and_pickled(spec):
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert spec != EstimatorSpec("infer", spec.predictions, 2.5, {"score": 2.5}, {})
