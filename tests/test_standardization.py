"""Standardization: means and deviations of the columns, with the same bits for any chunks."""

import logging
from fractions import Fraction
from math import sqrt

import numpy as np
import pytest

from dkmeans import Dataset, InvalidData, KMeans, RunConfig, load
from dkmeans.errors import InvalidCheckpoint
from dkmeans.executors import Dask, Serial
from dkmeans.standardization import find_scaling

RNG = np.random.default_rng(4)
# An offset of a million deviations, tiny and large values, and a column of one value.
ROWS = RNG.normal(size=(500, 4)) * [1.0, 1e-8, 1e8, 0.0] + [1e6, 0.0, 3e8, 0.1]
WEIGHTS = RNG.integers(0, 4, size=500)


def scaling_of(dataset, executor=None, backend=None):
    batches = list(dataset.batches())
    return find_scaling(batches, dataset.columns, executor or Serial(), backend)


def exact_scaling(rows, weights):
    """Return means and deviations by fractions; a constant column has the deviation 1."""
    total, found = sum(map(int, weights)), []
    for column in rows.T.tolist():
        values = [(Fraction(x), int(w)) for x, w in zip(column, weights, strict=True)]
        mean = sum(x * w for x, w in values) / total
        variance = sum((x - mean) ** 2 * w for x, w in values) / total
        found.append((float(mean), sqrt(variance) or 1.0))
    return np.array(found).T


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_means_and_deviations_are_those_of_fractions(dtype, weights):
    rows = ROWS.astype(dtype)
    found = scaling_of(Dataset.from_array(rows, weights))
    means, deviations = exact_scaling(rows, np.ones(500) if weights is None else weights)
    assert (np.abs(found.means - means) <= 1e-15 * (np.abs(means) + deviations)).all()
    assert np.allclose(found.deviations, deviations, rtol=1e-13, atol=0)


@pytest.mark.parametrize("weights", [None, WEIGHTS * 0.1], ids=["plain", "weighted"])
def test_the_bits_are_the_same_for_any_chunks_executor_and_backend(weights, client):
    dataset = Dataset.from_array(ROWS, weights)
    known = scaling_of(dataset)
    for rows in (7, 100, 499):
        assert scaling_of(dataset.batch(rows)) == known
    assert scaling_of(dataset, backend="numpy") == known
    with Dask(client) as executor:
        assert scaling_of(dataset.batch(60), executor) == known


def test_rows_of_weight_zero_do_not_count_even_in_front():
    weights = np.r_[np.zeros(450), np.ones(50)]
    found = scaling_of(Dataset.from_array(ROWS, weights).batch(100))
    assert found == scaling_of(Dataset.from_array(ROWS[450:]))
    with pytest.raises(InvalidData, match="at least one of a weight above 0"):
        scaling_of(Dataset.from_array(ROWS, np.zeros(500)))


@pytest.mark.parametrize("far", [-1e7, 1e8])
def test_a_far_first_row_of_tiny_weight_costs_no_digits(far):
    rows = np.r_[far, RNG.normal(5, 1e-3, 1000)][:, None]
    weights = np.r_[1e-16, np.ones(1000)]
    pairs = [(Fraction(x), Fraction(w)) for x, w in zip(rows[:, 0], weights, strict=True)]
    total = sum(w for _, w in pairs)
    mean = sum(x * w for x, w in pairs) / total
    deviation = sqrt(sum((x - mean) ** 2 * w for x, w in pairs) / total)
    for order in (slice(None), slice(None, None, -1)):
        dataset = Dataset.from_array(rows[order], weights[order])
        found = scaling_of(dataset.batch(100))
        assert found.deviations == pytest.approx([deviation], rel=1e-12)


def test_a_column_of_one_value_becomes_zero_and_is_logged(caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    found = scaling_of(Dataset.from_array(ROWS).named("abcd"))
    assert (found.means[3], found.deviations[3]) == (ROWS[0, 3], 1.0)
    assert not found.standardized(ROWS)[:, 3].any()
    assert caplog.messages[-1] == (
        "zero once they are standardized, as all rows have one value there: 'd'"
    )
    # A column whose deviation is one by chance is not.
    scaling_of(Dataset.from_array(np.array([[1.0], [-1.0]])))
    assert caplog.messages[-1] == "rows are standardized: 1 column by mean and deviation"


def test_columns_whose_squares_float64_does_not_hold_are_refused():
    rows = ROWS[:, [0, 0]] * [1e-200, 1e-3]
    with pytest.raises(InvalidData, match="scale column 0 first, whose values differ by less"):
        scaling_of(Dataset.from_array(rows))
    with pytest.raises(InvalidData, match="too large for squared distances"):
        scaling_of(Dataset.from_array(rows * 1e300))


def test_a_model_keeps_its_scaling_with_other_rows_and_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO, "dkmeans")
    model = KMeans(3, str(tmp_path), seed=1, config=RunConfig(save_checkpoints_steps=1))
    model.train(lambda: Dataset.from_array(ROWS).standardize().batch(50).repeat(), steps=2)
    scaling = model.checkpoint().settings.scaling
    assert scaling == scaling_of(Dataset.from_array(ROWS))
    assert "standardized by the model" not in caplog.text
    for rows in (ROWS * 7, Dataset.from_array(ROWS * 7).standardize()):
        caplog.clear()
        load(tmp_path).train(lambda r=rows: r, steps=1)
        assert "rows are standardized by the model" in caplog.text
        assert load(tmp_path).checkpoint().settings.scaling == scaling
    # Centers are seen in the units of the rows.
    near = scaling.standardized(model.centers_in_original_units())
    assert np.allclose(near, model.cluster_centers())


def test_clusters_are_described_in_the_units_of_the_rows(tmp_path):
    rows = ROWS[:, [0, 2]]
    model = KMeans(2, str(tmp_path), seed=1, use_mini_batch=False)
    model.train(lambda: Dataset.from_array(rows).standardize(), steps=3)
    index = np.array([*model.predict_cluster_index(lambda: rows)])
    found = model.evaluate(lambda: rows, indices=["cluster_mean", "cluster_deviation"])
    for cluster in range(2):
        own = rows[index == cluster]
        assert np.allclose(found["cluster_mean"][cluster], own.mean(axis=0))
        assert np.allclose(found["cluster_deviation"][cluster], own.std(axis=0))


def test_models_that_standardize_otherwise_are_not_compared(tmp_path):
    for name, rows in (("a", ROWS), ("b", ROWS * 2)):
        model = KMeans(2, str(tmp_path / name), seed=1, use_mini_batch=False)
        model.train(lambda r=rows: Dataset.from_array(r).standardize(), steps=1)
    with pytest.raises(InvalidCheckpoint, match="must be a model whose rows are standardized by"):
        model.evaluate(lambda: ROWS, against=tmp_path / "a")
