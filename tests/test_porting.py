"""docs/coming-from/tensorflow.md: its code runs unchanged, and the tests that it names exist."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from dkmeans import checkpoints

TESTS = Path(__file__).parent
GUIDE = (TESTS.parent / "docs" / "coming-from" / "tensorflow.md").read_text()
AFTER, UNCHANGED, HOOK = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
ROWS = [line for line in GUIDE.splitlines() if line.startswith("| ") and "---" not in line]
NAMED = re.findall(r"(test_\w+\.py)::(test_\w+)", GUIDE)


@pytest.fixture
def ported():
    """The variables of the guide's example after all of its statements have run."""
    names = {}
    for code in (AFTER, UNCHANGED):
        for statement in ast.parse(code).body:
            exec(
                compile(ast.Module([statement], []), "docs/coming-from/tensorflow.md", "exec"),
                names,
            )
    return names


def test_the_ported_example_finds_clusters(ported, capsys):
    kmeans, points = ported["kmeans"], ported["points"].astype(np.float32)
    centers = ported["cluster_centers"]
    assert centers.shape == (5, 2)
    assert kmeans.get_variable_value("global_step") == 10
    distances = ((points[:, None] - centers) ** 2).sum(axis=2)
    index = list(kmeans.predict_cluster_index(ported["input_fn"]))
    assert index == distances.argmin(axis=1).tolist()
    assert kmeans.score(ported["input_fn"]) == pytest.approx(distances.min(axis=1).sum(), rel=1e-5)


def test_the_ported_example_trains_in_its_first_call(capsys):
    names = {}
    exec(AFTER, names)
    kmeans = names["kmeans"].train(names["input_fn"])
    first, latest = (
        checkpoints.load(f"{kmeans.model_dir}/{name}").state
        for name in checkpoints.Manifest.read(kmeans.model_dir).names
    )
    assert (first.step, latest.step) == (0, 1)
    assert (first.centers != latest.centers).any()


def test_the_ported_hook_stops_training(ported, capsys):
    exec(HOOK, ported)
    assert "good enough at step 11" in capsys.readouterr().out


def test_every_test_that_the_guide_names_exists():
    assert len(NAMED) > 80
    for file, name in NAMED:
        assert f"\ndef {name}(" in next(TESTS.rglob(file)).read_text(), f"{file} has no {name}"


def test_every_promise_and_difference_names_its_test():
    promised = ROWS[next(i for i, row in enumerate(ROWS) if "held by" in row) :]
    for row in promised:
        if "held by" not in row and "| to come |" not in row:
            assert re.search(r"test_\w+\.py::test_\w+ \|$", row), row
