"""The kernels: exact distances have NumPy's bits, and the cache notices changed intrinsics."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.native import backend as native
from dkmeans.backends.native import kernels, matrix, sum_vectors, vectors
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


def test_the_cached_code_becomes_invalid_when_the_intrinsics_change():
    files = [Path(module.__file__).read_bytes() for module in (vectors, matrix, sum_vectors)]
    assert hashlib.sha256(b"".join(files)).hexdigest()[:12] == kernels.INTRINSICS
