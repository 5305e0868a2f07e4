"""Packed centers: which unit they are packed for, and how much memory that takes."""

import tracemalloc

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.native import backend as native
from dkmeans.backends.native import packed_centers, processor
from dkmeans.distance import Centers, Distance
from tests.exactly import same_partial_sums

DTYPES = (np.float32, np.float64)


def centers_of(values, metric=Distance.SQUARED_EUCLIDEAN):
    return Centers(values, Distance(metric))


def test_a_matrix_unit_is_used_for_large_problems_only():
    if not processor.matrix_unit():
        pytest.skip("this processor has no matrix unit")

    def is_used(k, d, dtype, scale=1.0):
        centers = centers_of((np.random.default_rng(0).normal(size=(k, d)) * scale).astype(dtype))
        return bool(packed_centers.PackedCentersCache()(centers, np.dtype(dtype))[0].matrix_panels)

    assert is_used(64, 16, np.float32)
    assert not is_used(63, 16, np.float32)
    assert not is_used(64, 15, np.float32)
    assert is_used(64, 16, np.float64)
    assert not is_used(64, 16, np.float32, scale=1e-30)


def test_large_centers_are_packed_within_two_copies_of_them_and_no_bit_changes():
    rng, dtype = np.random.default_rng(7), np.dtype(np.float32)
    values = rng.normal(size=(33_000, 131)).astype(dtype)
    tracemalloc.start()
    try:
        packed = native._packed_centers(centers_of(values), dtype)[1]
        assert tracemalloc.get_traced_memory()[1] < 2 * values.nbytes
    finally:
        tracemalloc.stop()
    assert np.shares_memory(packed.exact, values)
    # With few columns the kernel is one that compiles sooner.
    values = rng.normal(size=(280_000, 15)).astype(dtype)
    values[1::2] = values[::2]  # no score decides between two equal centers
    rows, centers = values[:20] + np.float32(0.5), centers_of(values)
    index, distance = native.nearest(rows, centers)
    expected = by_numpy.nearest(rows, centers)
    assert (index.tolist(), distance.tolist()) == (expected[0].tolist(), expected[1].tolist())
    assert same_partial_sums(*(each.partial_sums(rows, centers) for each in (native, by_numpy)))
