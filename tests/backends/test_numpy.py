"""What is the NumPy backend's own: buffers, groups, and bits that BLAS does not change.

test_backends.py tests that the answers are right.
"""

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from dkmeans.backends import numpy as by_numpy
from dkmeans.distance import Centers, Distance
from tests import reference
from tests.exactly import units
from tests.reference import EUCLIDEAN


def test_a_thread_uses_its_buffers_again_and_shares_them_with_no_other():
    buffers = by_numpy._Buffers()
    first = buffers.array("rows", (4, 8), np.float32)
    assert first.ctypes.data % 64 == 0
    assert np.shares_memory(first, buffers.array("rows", (2, 8), np.float64))
    assert not np.shares_memory(first, buffers.array("scores", (4, 8), np.float32))
    others = []
    thread = threading.Thread(
        target=lambda: others.append(buffers.array("rows", (4, 8), np.float32))
    )
    thread.start()
    thread.join()
    assert not np.shares_memory(first, others[0])
    larger = buffers.array("rows", (40, 8), np.float32)
    assert larger.shape == (40, 8)


@pytest.mark.parametrize("distance", Distance)
def test_the_number_of_blas_threads_changes_no_bits(distance):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20_000, 33)).astype(np.float32)
    centers = Centers(rows[:70].copy(), distance)
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"):
            sums, index, distances = by_numpy.assign(rows, centers)
        bits = units(sums.sums).tolist(), index.tobytes(), distances.tobytes()
        results.append(bits)
    assert results[0] == results[1]


@pytest.mark.parametrize("size", [1, 4])
def test_groups_have_each_row_once_in_its_cluster(size):
    index = np.array([2, 0, 2, 2, 0, 2, 2, 4])
    counts = np.bincount(index, minlength=5)
    clusters, members, is_padding = by_numpy._groups(index, counts, size)
    assert members.shape == is_padding.shape == (len(clusters), size)
    assert sorted(members[~is_padding].tolist()) == list(range(8))
    for cluster, rows, padding in zip(clusters, members, is_padding, strict=True):
        assert (index[rows[~padding]] == cluster).all()
        assert rows[~padding].tolist() == sorted(rows[~padding])


def test_the_description_names_the_library_of_matrix_products():
    description = by_numpy.describe()
    assert description["numpy"] == np.__version__
    assert "matrix products by" in description


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("far", [1e12, 1e15, 1e18])
def test_an_outlier_among_the_centers_costs_distances_to_the_others_no_digits(far, dtype):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 2)).astype(dtype)
    centers = np.vstack([rows[:9] + 0.5, [[far, far]], [[-far, far]]]).astype(dtype)
    found = by_numpy.distances(rows, Centers(centers, Distance.SQUARED_EUCLIDEAN))
    expected = reference.distances(rows, centers, EUCLIDEAN).astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_an_outlier_among_the_rows_or_columns_costs_other_distances_no_digits(axis):
    rng = np.random.default_rng(1)
    rows, centers = rng.normal(size=(50, 3)), rng.normal(size=(7, 3))
    if axis == 0:
        rows[4] = 1e15
    else:
        rows[:, 2], centers[:, 2] = 1e15, 1e15
    found = by_numpy.distances(rows, Centers(centers, Distance.SQUARED_EUCLIDEAN))
    expected = reference.distances(rows, centers, EUCLIDEAN).astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
