"""Moments of clusters: their measures, and what a chunk without rows adds."""

import numpy as np

from dkmeans.backends.moments import AMBIGUOUS, SILHOUETTE
from dkmeans.distance import Centers, Distance
from dkmeans.exact import of_rows
from dkmeans.indices.cluster_moments import Moments, moments_of
from dkmeans.state import PartialSums

CENTERS = Centers(np.array([[0.0, 0.0], [4.0, 0.0]]), Distance.SQUARED_EUCLIDEAN)
# Two rows at centers, one in the middle, and one nearly there.
ROWS = np.array([[0.0, 0.0], [4.0, 0.0], [2.0, 0.0], [1.9, 0.0]])
INDEX = np.array([0, 1, 0, 0])


def moments(rows=ROWS, index=INDEX, centers=CENTERS):
    distances = np.square(rows[:, None] - centers.values).sum(axis=2)
    sums = PartialSums(of_rows(rows, index, 2), np.bincount(index, minlength=2))
    nearest = np.sort(distances, axis=1).T
    return moments_of(rows, None, sums, index, nearest, centers, with_squares=False)


def measure(found, number):
    return found.measures.means(np.ones(2, int))[:, number].tolist()


def test_a_row_at_its_center_has_the_silhouette_one_and_one_between_two_has_zero():
    found = moments()
    assert measure(found, SILHOUETTE) == [1 + 0 + (1 - 1.9 / 2.1), 1]
    assert measure(found, AMBIGUOUS) == [1, 0]
    assert found.radius.tolist() == [2, 0]


def test_a_row_at_two_equal_centers_has_the_silhouette_zero():
    equal = Centers(np.zeros((2, 2)), Distance.SQUARED_EUCLIDEAN)
    found = moments(ROWS[:1], INDEX[:1], equal)
    assert measure(found, SILHOUETTE) == [0, 0]
    assert measure(found, AMBIGUOUS) == [1, 0]


def test_no_rows_change_nothing():
    found = moments() + Moments.zero((2, 2), with_rows=True, with_squares=False)
    assert found.weights.rounded().tolist() == [[3], [1]]
    assert measure(found, SILHOUETTE) == measure(moments(), SILHOUETTE)
