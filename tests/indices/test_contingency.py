"""The agreement of two models, against scikit-learn's functions."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, mutual_info_score

from dkmeans import Dataset, Invalid, KMeans
from dkmeans.backends import select
from dkmeans.indices.contingency import agreement, check_pairs, contingency_of


def table(first, second, shape, weights=None):
    return contingency_of(first, second, weights, shape, select("numpy"))


def test_the_agreement_is_that_of_scikit_learn_in_any_parts():
    rng = np.random.default_rng(2)
    first = rng.integers(6, size=2000)
    second = np.where(rng.random(2000) < 0.8, (first + 2) % 7, rng.integers(7, size=2000))
    parts = [table(first[i : i + 300], second[i : i + 300], (6, 7)) for i in range(0, 2000, 300)]
    found = agreement(sum(parts[1:], parts[0]))
    assert found["adjusted_rand"] == pytest.approx(adjusted_rand_score(first, second), rel=1e-9)
    expected = mutual_info_score(first, second)
    assert found["mutual_information"] == pytest.approx(expected, rel=1e-9)
    assert found["matching"].tolist() == [2, 3, 4, 5, 6, 0]
    assert found["changed_share"] == pytest.approx((second != (first + 2) % 7).mean())


def test_the_weights_of_rows_are_added_up_exactly():
    rng = np.random.default_rng(3)
    first, second, weights = rng.integers(2, size=50), rng.integers(3, size=50), rng.random(50)
    whole = table(first, second, (2, 3), weights)
    for cut in (1, 20):
        parts = [
            table(first[s], second[s], (2, 3), weights[s]) for s in (slice(cut), slice(cut, 50))
        ]
        both = parts[0] + parts[1]
        assert both.pairs.tolist() == whole.pairs.tolist()
        assert both.sums.rounded().tolist() == whole.sums.rounded().tolist()


def test_the_unit_of_weights_does_not_matter_where_they_are_no_numbers_of_rows():
    rng = np.random.default_rng(2)
    index, weights = rng.integers(4, size=500), rng.random(500)
    others = np.where(rng.random(500) < 0.2, rng.integers(4, size=500), index)
    found = [
        agreement(table(index, others, (4, 4), unit * weights))["adjusted_rand"]
        for unit in (1 / 512, 1.0, 1024.0)
    ]
    assert found[0] == found[1] == found[2] == pytest.approx(0.65, abs=0.1)
    ones = agreement(table(index, others, (4, 4)))["adjusted_rand"]
    assert found[0] == pytest.approx(ones, abs=0.05)


def test_too_many_pairs_of_clusters_are_refused():
    check_pairs((8192, 8192))
    with pytest.raises(Invalid, match=r"at most 67,108,864 pairs .*, got 8,192 x 8,193"):
        check_pairs((8192, 8193))


def test_a_model_is_compared_with_another_one_and_with_its_earlier_checkpoint(tmp_path):
    rows = np.random.default_rng(4).normal(size=(500, 2))
    models = [
        KMeans(3, tmp_path / name, rows[some].copy(), use_mini_batch=False)
        for name, some in (("a", [0, 1, 2]), ("b", [2, 0, 1]))
    ]
    for model in models:
        model.train(lambda: rows, max_steps=3)
    first = models[0].latest_checkpoint()
    found = models[0].evaluate(lambda: rows, against=tmp_path / "b")
    assert (found["changed_share"], found["adjusted_rand"]) == (0.0, 1.0)
    assert found["matching"] == [1, 2, 0]
    models[0].train(lambda: rows, steps=20)
    found = models[0].evaluate(lambda: Dataset.from_array(rows), against=first)
    assert found["matching"] == [0, 1, 2]
    assert 0 < found["changed_share"] < 0.5
    wide = KMeans(2, tmp_path / "wide", np.eye(2, 5), use_mini_batch=False)
    wide.train(lambda: np.ones((4, 5)), max_steps=1)
    with pytest.raises(Invalid, match="against must be a model of 2 columns, got 5"):
        models[0].evaluate(lambda: rows, against=tmp_path / "wide")
    with pytest.raises(Invalid, match="nothing"):
        models[0].evaluate(lambda: rows, against=tmp_path / "nothing")
