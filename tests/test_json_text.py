"""JSON text of results."""

import json

import numpy as np
import pytest

from dkmeans.json_text import json_text


@pytest.fixture(params=[1, 10**6], ids=["by Arrow", "by the standard library"], autouse=True)
def writer(request, monkeypatch):
    monkeypatch.setattr("dkmeans.json_text._LARGE", request.param)


def test_the_text_is_the_same_json_for_any_numbers():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(7, 5)) * 10.0 ** rng.integers(-300, 300, (7, 5))
    numbers[1] = [0.0, -0.0, 1.0, 1e22, 5e-324]
    arrays = {"table": numbers, "line": numbers[0], "number": numbers[0, 0], "whole": np.arange(3)}
    content = {"a": 1.5, "b": None, "c": [1, None], "d": []}
    lists = {name: array.tolist() for name, array in arrays.items()}
    assert json.loads(json_text(content | arrays)) == content | lists
    assert json_text(content) == json.dumps(content)


def test_what_is_not_a_number_is_null():
    nan = np.nan
    arrays = {"table": np.array([[1.5, nan], [nan, nan]]), "line": np.array([nan, 2]), "one": nan}
    found = json.loads(json_text({name: np.asarray(value) for name, value in arrays.items()}))
    assert found == {"table": [[1.5, None], [None, None]], "line": [None, 2.0], "one": None}


def test_a_table_without_numbers_is_written_too():
    assert json.loads(json_text({"a": np.empty((0, 3)), "b": np.empty((2, 0))})) == {
        "a": [],
        "b": [[], []],
    }
