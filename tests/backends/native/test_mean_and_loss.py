"""Means and losses by compiled code are those by NumPy, to the bit."""

import numpy as np
import pytest

from dkmeans import exact, loss
from dkmeans.backends.native import mean_and_loss
from dkmeans.distance import Centers, Distance
from dkmeans.exact import ExactSums
from dkmeans.exact_grid import Grid
from dkmeans.loss import inertia, total_of_terms
from dkmeans.state import PartialSums
from tests.exactly import units

# Sums in several blocks, of which the last is smaller.
K, D = 613, 40


def sums_of(kind, rng):
    """Return sums of K clusters, and their weights: (K, D) and (K, 1)."""
    rows = rng.normal(size=(3 * K, D)).astype(np.float32).astype(np.float64)
    weights = rng.integers(1, 9, 3 * K).astype(np.float64)
    if kind == "wide":  # of all sizes: more planes, and sums that cancel
        rows *= 10.0 ** rng.integers(-30, 30, rows.shape)
        rows[::7] = -rows[1::7][: len(rows[::7])]
        weights = 10.0 ** rng.integers(-9, 9, 3 * K) * rng.random(3 * K)
    if kind == "real":
        rows, weights = rng.normal(size=rows.shape), rng.random(3 * K)
    if kind == "huge":  # beyond the planes that the kernels take
        rows *= 2.0 ** rng.choice([-600, 0, 600], rows.shape, p=[0.001, 0.998, 0.001])
    index = rng.integers(0, K - 5, 3 * K)  # the last clusters are empty
    grid = Grid(np.full(D, -40))
    sums = exact.of_rows(rows, index, K, grid)
    return sums, exact.of_rows(weights[:, None], index, K, Grid(np.array([-30])))


KINDS = ("whole", "real", "wide", "huge")


@pytest.mark.parametrize("kind", KINDS)
def test_means_are_those_of_numpy(kind):
    sums, weights = sums_of(kind, np.random.default_rng(1))
    expected = sums.means(weights)
    assert sums.means(weights, mean_and_loss.quotients).tobytes() == expected.tobytes()
    counts = np.arange(K)
    expected = sums.means(counts)
    assert sums.means(counts, mean_and_loss.quotients).tobytes() == expected.tobytes()


@pytest.mark.parametrize("metric", list(Distance))
@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_numpy(kind, metric):
    rng = np.random.default_rng(2)
    sums, weights = sums_of(kind, rng)
    for dtype in (np.float32, np.float64):
        values = rng.normal(size=(K, D)).astype(dtype)
        centers, partial = Centers(values, metric), PartialSums(sums, np.arange(K), weights=weights)
        expected = total_of_terms(partial, centers, loss.terms)
        assert total_of_terms(partial, centers, mean_and_loss.terms) == expected
        assert inertia(partial, centers, mean_and_loss.terms) == inertia(partial, centers)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_terms_are_left_to_other_methods(kind):
    rng = np.random.default_rng(3)
    sums, weights = (part.in_planes() for part in sums_of(kind, rng))
    for share in (0.0, 0.4, 0.6):  # of centers with more bits than a float32
        values = rng.normal(size=(K, D))
        is_short = rng.random((K, D)) >= share
        values[is_short] = values[is_short].astype(np.float32)
        arguments = sums, weights, values, 2
        with np.errstate(all="ignore"):
            results, expected = mean_and_loss.terms(*arguments), loss.terms(*arguments)
        for result, other in zip(results, expected, strict=True):
            assert np.array_equal(result, other)


def test_sums_are_divided_where_they_lie_and_stay_as_they_are():
    sums, weights = sums_of("real", np.random.default_rng(4))
    columns = sums.columns(slice(0, D, 2))
    before = units(sums).tolist()
    expected = columns.means(weights)
    assert columns.means(weights, mean_and_loss.quotients).tobytes() == expected.tobytes()
    assert units(sums).tolist() == before
    assert (
        ExactSums.zero((2, 3)).means(np.zeros(2, int), mean_and_loss.quotients).tolist()
        == [[0.0] * 3] * 2
    )
