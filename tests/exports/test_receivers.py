"""Inputs of exported models: their names, and the receivers that are refused."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from dkmeans import InvalidData, InvalidType
from dkmeans.exports import ServingInputReceiver, as_receiver
from dkmeans.exports.receivers import Input
from tests.exports.example_models import WIDTH, predicted, rows_of


def test_a_receiver_names_the_input(model, in_tensorflow):
    expected = predicted(model, rows_of("float32"))
    assert_array_equal(in_tensorflow["serve"]["serving_default output"], expected["cluster_index"])


def test_the_inputs_are_in_the_order_of_the_keys_in_training():
    columns = {"b": np.empty((0, 2), np.float32), "a": np.empty(0, np.int64)}
    named = {"first": columns["a"], "second": columns["b"]}
    expected = [("first", None, np.int64), ("second", 2, np.float32)]
    receiver = ServingInputReceiver(columns, named)
    assert receiver.inputs() == tuple(Input(name, w, np.dtype(d)) for name, w, d in expected)


def test_the_inputs_are_in_the_order_of_the_models_columns():
    receiver = ServingInputReceiver({name: np.empty(0, np.float32) for name in "abc"})
    assert [each.name for each in receiver.inputs(("c", "a", "b"))] == ["c", "a", "b"]
    with pytest.raises(InvalidData, match=r"columns of features .*\(\['d'\] is missing\)"):
        receiver.inputs(("a", "b", "c", "d"))


def test_the_rows_of_an_input_function_are_features_without_labels():
    rows = np.empty((0, 2))
    for result in (rows, (rows, None), ServingInputReceiver(rows)):
        assert as_receiver(lambda result=result: result, "receiver_fn").features is rows


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
        "receiver_tensors must have one name for each array.*got 'x', and for the array none",
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
