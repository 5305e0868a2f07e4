"""Dense columns: numbers, intervals and counts; functions of the user; refused values."""

import pickle

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import Invalid, InvalidData
from dkmeans.feature_columns import bucketized_column, indicator_column, numeric_column
from tests.feature_columns.example_columns import rows, vocabulary


@given(st.lists(st.floats(-10, 10, width=32), min_size=1), st.floats(-5, 5, width=32))
def test_a_boundary_begins_its_bucket(values, border):
    features = {"x": np.array(values, np.float32)}
    found = rows(features, bucketized_column(numeric_column("x"), [border]))
    assert np.array_equal(found[:, 1] == 1, features["x"] >= np.float32(border))
    assert (found.sum(axis=1) == 1).all()


def test_several_words_of_a_row_are_counted():
    words = np.array([["a", "a"], ["b", "a"], ["", "c"]])
    assert rows({"w": words}, vocabulary("w", ["a", "b"])).tolist() == [[2, 0], [1, 1], [0, 0]]


def test_a_default_value_fills_what_is_missing():
    column = numeric_column("x", shape=2, default_value=[7, 8])
    table = np.array([[1, np.nan], [np.nan, 2]])
    assert rows({"x": table}, column).tolist() == [[1, 8], [7, 2]]
    gaps = np.array([1, None], object)
    assert rows({"x": gaps}, numeric_column("x", default_value=5)).tolist() == [[1], [5]]


def test_a_normalizer_sees_rows_of_the_shape_after_the_default():
    seen = []

    def normalizer(values):
        seen.append(values.shape)
        return values + 1

    column = numeric_column("x", (2, 3), default_value=0, normalizer_fn=normalizer)
    table = np.full((4, 2, 3), np.nan)
    assert rows({"x": table}, column).tolist() == [[1] * 6] * 4
    assert set(seen) == {(4, 2, 3)}


def test_a_normalizer_gets_floats_of_small_integers_and_a_default_keeps_its_digits():
    column = numeric_column("x", normalizer_fn=lambda x: x * 10)
    assert rows({"x": np.array([100, -3], np.int8)}, column).tolist() == [[1000.0], [-30.0]]
    column = numeric_column("x", default_value=2049.0)
    assert rows({"x": np.array([1, np.nan], np.float16)}, column).tolist() == [[1.0], [2049.0]]


def test_a_normalizer_that_works_in_place_changes_nothing_but_the_rows():
    def halve(values):
        values /= 2
        return values

    array = np.array([2.0, 4.0], np.float32)
    assert rows({"x": array}, numeric_column("x", normalizer_fn=halve)).tolist() == [[1], [2]]
    assert array.tolist() == [2, 4]


def test_values_of_a_row_may_have_several_dimensions():
    column, table = numeric_column("x", (2, 2)), [[[1, 2], [3, 4]]]
    for values in (table, np.array(table), da.from_array(np.array(table))):
        assert rows({"x": values}, column).tolist() == [[1, 2, 3, 4]]
    stored = zarr.create_array({}, data=np.array(table))
    with pytest.raises(InvalidData, match=r"must be 1-D or 2-D in Zarr, got shape \(1, 2, 2\)"):
        rows({"x": stored}, column)


def test_columns_are_values_that_can_be_pickled_and_compared():
    column = bucketized_column(numeric_column("x"), [1, 2])
    assert pickle.loads(pickle.dumps(column)) == column
    word = vocabulary("w", ["a"])
    assert pickle.loads(pickle.dumps(word)) == word


# Refusals.


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: numeric_column(3), "key must be a str, got 3"),
        (lambda: numeric_column("x", 0), "shape must be an integer >= 1, got 0"),
        (lambda: numeric_column("x", ()), r"shape must be of one dimension at least, got \(\)"),
        (lambda: numeric_column("x", dtype=str), "dtype must be a real dtype, got"),
        (lambda: numeric_column("x", 2, [1, 2, 3]), "default_value must be one finite number, or"),
        (lambda: numeric_column("x", 1, "a"), "default_value must be a number or numbers, got 'a'"),
        (lambda: numeric_column("x", normalizer_fn=3), "normalizer_fn must be a function or None"),
        (lambda: bucketized_column("x", [1]), "source_column must be a numeric_column, got 'x'"),
        (
            lambda: bucketized_column(numeric_column("x", (2, 2)), [1]),
            r"source_column must be of one dimension, got shape \(2, 2\)",
        ),
        (lambda: bucketized_column(numeric_column("x"), [2, 1]), "boundaries must be ascending"),
        (lambda: bucketized_column(numeric_column("x"), []), "boundaries must be a list of finite"),
        (lambda: bucketized_column(numeric_column("x"), "a"), "boundaries must be a list of num"),
        (lambda: indicator_column(numeric_column("x")), "categorical_column must be a categorical"),
    ],
)
def test_arguments_of_dense_columns_are_refused_by_name(make, text):
    with pytest.raises(Invalid, match=text):
        make()


@pytest.mark.parametrize(
    ("features", "column", "text"),
    [
        ({"x": [0, np.inf]}, numeric_column("x"), "'x' must be finite; row 1 of the features"),
        (
            {"x": [0, np.nan]},
            bucketized_column(numeric_column("x"), [0]),
            "finite; row 1 .* nan",
        ),
        (
            {"x": [1.0]},
            numeric_column("x", normalizer_fn=np.sum),
            "normalizer_fn of 'x' must return the shape that it is given",
        ),
        (
            {"x": [0.0]},
            numeric_column("x", normalizer_fn=lambda x: x.no_such),
            "normalizer_fn of 'x' has failed: AttributeError: 'numpy.ndarray' object has no",
        ),
        (
            {"x": [0.0]},
            numeric_column("x", normalizer_fn=lambda x: x + np.inf),
            "'x' must be finite after normalizer_fn; row 0",
        ),
    ],
)
def test_numbers_that_cannot_be_used_are_refused_by_key_and_row(features, column, text):
    with pytest.raises(Invalid, match=text):
        rows(features, column)
