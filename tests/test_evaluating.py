"""Scores and evaluations: what they return, and what is written."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from dkmeans import Dataset, KMeans
from tests import reference
from tests.reference import EUCLIDEAN

CENTERS = np.array([[0, 0, 1], [4, 0, 0], [0, -4, 2], [3, 3, 3]], np.float32)


def rows_of(n=30, d=3, seed=0):
    return (np.random.default_rng(seed).normal(size=(n, d)) * 3).astype(np.float32)


@pytest.fixture
def trained(tmp_path):
    model = KMeans(4, tmp_path, CENTERS, use_mini_batch=False)
    return model.train(lambda: iter([rows_of(seed=9)] * 2))


def test_a_score_is_of_the_first_batch_alone(trained):
    batches = [rows_of(5, seed=1), rows_of(7, seed=2)]
    expected = reference.loss(batches[0], trained.cluster_centers(), EUCLIDEAN)
    assert trained.score(lambda: iter(batches)) == pytest.approx(expected, rel=1e-10)


def test_an_evaluation_is_the_mean_over_batches_of_their_sums(trained):
    batches = [rows_of(5, seed=1), rows_of(7, seed=2), rows_of(1, seed=3)]
    losses = [reference.loss(rows, trained.cluster_centers(), EUCLIDEAN) for rows in batches]
    result = trained.evaluate(lambda: iter(batches))
    assert set(result) == {"average_loss", "global_step", "loss", "score"}
    assert result["loss"] == pytest.approx(sum(losses) / 3, rel=1e-10)
    assert result["score"] == result["loss"]
    assert result["average_loss"] == pytest.approx(sum(losses) / 13, rel=1e-10)
    assert result["global_step"] == 2
    some = trained.evaluate(lambda: iter(batches), steps=2)
    assert some["loss"] == pytest.approx(sum(losses[:2]) / 2, rel=1e-10)


def test_an_evaluation_takes_no_more_batches_than_its_steps(trained):
    taken = []

    def batches():
        for number in range(100):
            taken.append(number)
            yield rows_of(4, seed=number)

    trained.evaluate(batches, steps=3)
    assert len(taken) <= 4


def test_an_evaluation_over_no_steps_is_refused(trained):
    for steps in (0, -1):
        with pytest.raises(ValueError, match=f"Must specify steps > 0, given: {steps}"):
            trained.evaluate(rows_of, steps=steps)


def test_an_evaluation_that_nothing_ends_says_so_first(trained, monkeypatch):
    endless = Dataset.from_array(rows_of()).repeat()
    assert "average_loss" in trained.evaluate(lambda: endless, steps=2)

    def interrupt(message, *arguments):
        raise KeyboardInterrupt(message)

    monkeypatch.setattr(logging.getLogger("dkmeans"), "warning", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"nothing will end this evaluation, .*steps"):
        trained.evaluate(lambda: endless)


def test_evaluations_are_written_below_their_own_directory_and_not_before(trained, tmp_path):
    assert trained.eval_dir() == str(tmp_path / "eval")
    assert trained.eval_dir("test") == str(tmp_path / "eval_test")
    trained.score(rows_of)
    list(trained.predict(rows_of))
    assert not list(tmp_path.glob("eval*"))
    for name in (None, "test"):
        result = trained.evaluate(rows_of, name=name)
        (file,) = Path(trained.eval_dir(name)).glob("*.json")
        assert json.loads(file.read_text()) == result


def test_evaluations_do_not_disturb_the_model(trained):
    trained.evaluate(rows_of)
    trained.evaluate(rows_of, name="test")
    trained.train(lambda: rows_of(), steps=1)
    assert trained.evaluate(rows_of)["global_step"] == 3


def test_all_indices_need_no_package_beside_the_libraries_own(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert trained.evaluate(rows_of, indices="all")["sampled_silhouette"] < 1


def test_the_result_and_its_file_have_the_indices_as_lists(trained):
    result = trained.evaluate(rows_of, indices=["cluster_sizes", "silhouette"])
    assert sum(result["cluster_sizes"]) == 30
    (file,) = Path(trained.eval_dir()).glob("*.json")
    assert json.loads(file.read_text()) == result
