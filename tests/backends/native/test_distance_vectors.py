"""The terms of exact distances, called from small compiled functions and compared with NumPy."""

import numpy as np
import pytest
from numba import njit

from dkmeans.backends.native import distance_vectors


@njit
def sum_octets(points, scale, targets, cosine, octets, sums):
    distance_vectors.sum_octets(points, 1, scale, targets, 1, cosine, 0, octets, sums)


@njit
def last_terms(points, scale, targets, cosine, count, terms):
    start = points.shape[1] - count
    distance_vectors.last_terms(points, 1, scale, targets, 1, cosine, start, count, terms)


def terms_of(points, scale, targets, cosine):
    return points[1] * scale * targets[1] if cosine else (points[1] - targets[1]) ** 2


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eight_sums_have_the_terms_of_every_eighth_column(dtype, cosine):
    points, targets = np.random.default_rng(3).normal(size=(2, 2, 24)).astype(dtype)
    scale, sums = 0.3, np.full(8, np.nan)
    targets = targets.astype(np.float64)
    sum_octets(points, scale, targets, cosine, 3, sums)
    terms = terms_of(points.astype(np.float64), scale, targets, cosine).reshape(3, 8)
    assert sums.tolist() == (terms[0] + terms[1] + terms[2]).tolist()


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("count", [1, 5, 7])
def test_the_last_columns_have_a_term_each_and_those_beyond_none(count, cosine):
    points, targets = np.random.default_rng(4).normal(size=(2, 2, 10))
    terms = np.full(8, np.nan)
    last_terms(points, 0.7, targets, cosine, count, terms)
    expected = terms_of(points, 0.7, targets, cosine)[-count:]
    assert terms.tolist() == [*expected, *[0.0] * (8 - count)]
