"""Directions, lengths, and what centers become of means."""

import numpy as np
import pytest

from dkmeans.distance import Centers, Distance, directions, inverse_norms, project
from tests import reference


def rows_of(n, d, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


def test_distances_are_called_by_their_documented_names():
    assert [str(distance) for distance in Distance] == ["squared_euclidean", "cosine"]


def test_centers_know_their_width():
    assert Centers(np.zeros((3, 5)), Distance.COSINE).width == 5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_directions_have_length_one_in_float64(dtype):
    rows = rows_of(20, 4, dtype) * np.logspace(-4, 18, 20, dtype=dtype)[:, None]
    found = directions(rows)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, reference.units(rows), rtol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-14)


def test_a_zero_row_stays_zero():
    assert not directions(np.zeros((2, 3), np.float32)).any()
    assert np.isfinite(inverse_norms(np.zeros((2, 3), np.float32))).all()


def test_rows_shorter_than_a_millionth_are_scaled_as_if_they_were_that_long():
    found = directions(np.array([[1e-7, 0.0], [1e-6, 0.0], [1e-5, 0.0]]))
    np.testing.assert_allclose(found[:, 0], [0.1, 1.0, 1.0], rtol=1e-12)


def test_lengths_of_float32_rows_near_its_limits_are_right():
    rows = np.array([[3e30, 4e30], [3e38, 0.0], [3e-5, 4e-5]], np.float32)
    expected = 1 / np.linalg.norm(rows.astype(np.float64), axis=1)
    np.testing.assert_allclose(inverse_norms(rows), expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 3, 33, 1001, 9001])
def test_a_rows_length_does_not_depend_on_its_neighbours(d, dtype):
    rows = rows_of(20, d, dtype)
    together = inverse_norms(rows)
    alone = [inverse_norms(rows[i : i + 1])[0] for i in range(len(rows))]
    assert together.tolist() == alone


def test_euclidean_centers_are_the_means_themselves():
    means = rows_of(3, 2)
    np.testing.assert_array_equal(project(means, Distance.SQUARED_EUCLIDEAN), means)


def test_cosine_centers_are_the_directions_of_the_means():
    means = rows_of(3, 2)
    np.testing.assert_allclose(project(means, Distance.COSINE), reference.units(means), rtol=1e-14)
