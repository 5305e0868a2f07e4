"""Exact distances: they have the bits of the NumPy backend."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.native import backend as native
from dkmeans.distance import Centers, Distance
from tests.reference import METRICS

DTYPES = (np.float32, np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
@given(width=st.integers(1, 700), seed=st.integers(0, 2**32))
def test_distances_have_the_bits_of_the_numpy_backend(metric, dtype, width, seed):
    rows = np.random.default_rng(seed).normal(size=(13, width)).astype(dtype)
    centers = Centers(rows[:5] + dtype(0.5), Distance(metric))
    index, distance = native.nearest(rows, centers)
    expected_index, expected_distance = by_numpy.nearest(rows, centers)
    assert index.tolist() == expected_index.tolist()
    assert distance.tobytes() == expected_distance.tobytes()
