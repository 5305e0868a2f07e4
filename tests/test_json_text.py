"""JSON text of results."""

import json

import numpy as np

from dkmeans.json_text import json_text, numbers_of


def test_an_array_has_the_text_of_its_numbers_in_lists():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(7, 5)) * 10.0 ** rng.integers(-300, 300, (7, 5))
    numbers[1] = [0.0, -0.0, 1.0, 1e22, 5e-324]
    arrays = {
        "table": numbers, "transposed": numbers.T, "line": numbers[0], "number": numbers[0, 0],
        "whole": np.arange(3), "no rows": np.empty((0, 3)), "no columns": np.empty((2, 0)),
    }  # fmt: skip
    content = {"a": 1.5, "b": None, "c": [1, None], "d": []}
    lists = {name: array.tolist() for name, array in arrays.items()}
    text = json_text(content | arrays)
    assert json.loads(text) == content | lists
    assert json_text(content | lists) == text


def test_what_is_not_finite_is_null():
    nan, inf = np.nan, np.inf
    arrays = {"table": np.array([[1.5, nan], [nan, -inf]]), "line": np.array([inf, 2]), "one": nan}
    expected = {"table": [[1.5, None], [None, None]], "line": [None, 2.0], "one": None}
    assert json.loads(json_text(arrays)) == expected
    assert {name: numbers_of(np.asarray(value)) for name, value in arrays.items()} == expected
