"""JSON text of results."""

import json

import numpy as np

from dkmeans.json_text import json_text


def test_the_text_is_the_same_json_for_any_numbers():
    rng = np.random.default_rng(0)
    numbers = (rng.normal(size=(7, 5)) * 10.0 ** rng.integers(-300, 300, (7, 5))).tolist()
    numbers[1] = [0.0, -0.0, 1.0, 1e22, 5e-324]
    content = {"a": 1.5, "b": None, "c": [1, None], "d": [], "table": [*numbers, [None] * 5, []]}
    assert json.loads(json_text(content)) == content
    without = {name: content[name] for name in "abcd"}
    assert json_text(without) == json.dumps(without)
