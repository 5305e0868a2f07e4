"""Checks of the estimator's arguments: what each function accepts, refuses and returns."""

import re
from pathlib import Path

import numpy as np
import pytest

from dkmeans import Invalid, InvalidType
from dkmeans.arguments import (
    check_clusters,
    check_evaluation_name,
    check_initial_clusters,
    check_predict_keys,
    check_restarts,
    check_rounds,
    check_steps,
    check_tolerance,
    choose_model_dir,
)

CENTERS = np.arange(6.0).reshape(3, 2)


@pytest.mark.parametrize("value", [None, 1, np.int64(5), np.array(5)])
def test_steps_may_be_none_or_positive(value):
    assert check_steps("steps", value) == value


@pytest.mark.parametrize("value", [1.0, "1", True])
def test_steps_that_are_not_integers_are_a_type_error(value):
    with pytest.raises(InvalidType, match=f"^steps must be an integer or None, got {value!r}$"):
        check_steps("steps", value)


@pytest.mark.parametrize("value", [0, -1])
def test_steps_that_are_not_positive_have_tensorflows_message(value):
    with pytest.raises(Invalid, match=f"^Must specify max_steps > 0, given: {value}$"):
        check_steps("max_steps", value)


def test_keys_of_predictions_are_a_name_a_list_of_names_or_none():
    names = ["all_distances", "cluster_index"]
    for given, found in ((None, names), ([], names), ("cluster_index", names[1:]), (names, names)):
        assert check_predict_keys(given, names) == found
    with pytest.raises(InvalidType, match=r"predict_keys must be a name, .* got 5"):
        check_predict_keys(5, names)
    with pytest.raises(Invalid, match=r"predict_keys must be among \['all_dist.*got \['x'\]"):
        check_predict_keys("x", names)


@pytest.mark.parametrize("value", [None, 0, 0.001, 1, np.float32(0.5)])
def test_a_tolerance_is_none_or_a_number_from_zero_on(value):
    assert check_tolerance(value) == value


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_tolerance_below_zero_is_refused(value):
    with pytest.raises(Invalid, match=f"^relative_tolerance must be >= 0 or None, got {value!r}$"):
        check_tolerance(value)


def test_the_name_of_an_evaluation_stays_in_the_model():
    for name in (None, "", "test", "of/a/folder", "v1..2"):
        check_evaluation_name(name)
    for name in ("../x", "a/../../x", "..", "a\0b"):
        with pytest.raises(Invalid, match=r"name must be a name without '\.\.' or NUL, got"):
            check_evaluation_name(name)
    with pytest.raises(InvalidType, match="name must be a str or None, got 5"):
        check_evaluation_name(5)


def test_the_number_of_clusters_is_that_of_given_centers_or_an_integer(caplog):
    assert check_clusters(None, CENTERS) == check_clusters(3, CENTERS) == 3
    assert caplog.text == ""
    assert check_clusters(5, CENTERS) == 3
    assert "num_clusters = 5 is ignored: initial_clusters has 3 rows" in caplog.text
    assert type(check_clusters(np.array(4), "random")) is int
    for number, source in ((None, "random"), (2.0, CENTERS)):
        with pytest.raises(InvalidType, match=r"^num_clusters must be an integer >= 1, got"):
            check_clusters(number, source)


@pytest.mark.parametrize("given", ["random", "kmeans_plus_plus", len])
def test_names_and_functions_of_initial_clusters_are_returned_unchanged(given):
    assert check_initial_clusters(given) is given


def test_an_array_of_initial_clusters_is_copied():
    checked = check_initial_clusters(CENTERS)
    np.testing.assert_array_equal(checked, CENTERS)
    assert not np.shares_memory(checked, CENTERS)


@pytest.mark.parametrize(
    ("dtype", "result"), [("f4", "f4"), ("f8", "f8"), ("i2", "f4"), ("i8", "f8"), ("f2", "f4")]
)
def test_an_array_of_initial_clusters_becomes_float32_or_float64(dtype, result):
    assert check_initial_clusters(CENTERS.astype(dtype)).dtype == result


def test_an_unknown_name_of_initial_clusters_is_refused_with_the_known_names():
    with pytest.raises(Invalid, match=r"'random'.*, a 2-D array, or a function, got 'zeros'$"):
        check_initial_clusters("zeros")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.empty((0, 2)), "must have rows and columns, got shape (0, 2)"),
        (np.empty((2, 0)), "must have rows and columns, got shape (2, 0)"),
        (np.array([[0.0, np.inf]]), "must be finite, got NaN or infinity"),
        (np.array([[0.0, np.nan]]), "must be finite, got NaN or infinity"),
        (np.zeros(3), "must be 2-D"),
    ],
)
def test_unusable_arrays_of_initial_clusters_are_refused(given, message):
    with pytest.raises(Invalid, match=f"^initial_clusters {re.escape(message)}"):
        check_initial_clusters(given)


def test_initial_clusters_that_are_not_numbers_are_a_type_error():
    with pytest.raises(InvalidType, match="initial_clusters"):
        check_initial_clusters([["a", "b"]])


def test_restarts_must_be_a_positive_integer():
    check_restarts(3, "random")
    with pytest.raises(InvalidType, match=r"^num_restarts must be an integer >= 1, got 1.5$"):
        check_restarts(1.5, "random")
    with pytest.raises(Invalid, match=r"^num_restarts must be an integer >= 1, got 0$"):
        check_restarts(0, "random")


def test_restarts_from_an_array_must_be_one():
    check_restarts(1, CENTERS)
    with pytest.raises(
        Invalid, match=r"^num_restarts must be 1 where initial_clusters is an array"
    ):
        check_restarts(2, CENTERS)


def test_parameters_of_kmeans_parallel_must_be_positive():
    check_rounds(2.0, 5, None, "k-means||")
    check_rounds(np.float32(0.5), 1, 1, "k-means||")
    for oversampling in (0, -1.0, np.inf, np.nan):
        with pytest.raises(
            Invalid, match=r"^oversampling must be a finite number above zero, got "
        ):
            check_rounds(oversampling, 5, None, "k-means||")
    with pytest.raises(Invalid, match=r"^initialization_rounds must be an integer >= 1, got 0$"):
        check_rounds(2.0, 0, None, "k-means||")
    with pytest.raises(Invalid, match=r"^initialization_rows must be an integer >= 1, got 0$"):
        check_rounds(2.0, 5, 0, "k-means||")


@pytest.mark.parametrize("oversampling", ["2", None, True])
def test_an_oversampling_that_is_not_a_number_is_a_type_error(oversampling):
    with pytest.raises(
        InvalidType, match=r"^oversampling must be a finite number above zero, got "
    ):
        check_rounds(oversampling, 5, None, "k-means||")


@pytest.mark.parametrize(
    ("given", "configured"), [("a", None), (None, "a"), ("a", "a"), (Path("a"), "a"), ("", "a")]
)
def test_the_model_dir_is_that_of_the_argument_or_of_the_config(given, configured):
    assert choose_model_dir(given, configured) == "a"


def test_without_a_model_dir_a_new_temporary_directory_is_created(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = Path(choose_model_dir(None, None)), Path(choose_model_dir(None, None))
    assert first != second
    assert first.is_dir()
    assert first.parent == tmp_path


def test_two_different_model_dirs_are_refused_with_both():
    must = "model_dir and config.model_dir must be equal"
    with pytest.raises(Invalid, match=f"^{re.escape(must)}, got 'a' and 'b'$"):
        choose_model_dir("a", "b")


@pytest.mark.parametrize(("given", "configured"), [(3, None), (None, b"a")])
def test_a_model_dir_that_is_not_a_path_is_a_type_error(given, configured):
    with pytest.raises(InvalidType, match=r"^model_dir must be a path, a URL or None, got "):
        choose_model_dir(given, configured)


def test_a_start_that_was_replaced_is_refused_with_the_name_of_its_replacement():
    with pytest.raises(Invalid, match=r"'k-means\|\|' has replaced 'afk-mc2', got 'afk-mc2'"):
        check_initial_clusters("afk-mc2")


@pytest.mark.parametrize("source", ["random", np.zeros((2, 2)), print])
def test_parameters_of_another_initialization_are_said_to_be_ignored(source, caplog):
    check_rounds(1.0, 3, None, source)
    check_rounds(2.0, 4, 5, "k-means||")
    assert caplog.messages == []
    check_rounds(2, 3, 100, source)
    told = "oversampling, initialization_rows: ignored, because initial_clusters is not 'k-means||'"
    assert caplog.messages == [told]
