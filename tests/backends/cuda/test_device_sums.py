"""Sums on the device: they are added up there as long as they are on one grid."""

from fractions import Fraction

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.cuda.device_sums import DeviceSums
from dkmeans.distance import Centers, Distance
from dkmeans.exact_total import ExactTotal
from dkmeans.state import sum_up
from tests.backends.cuda.problems import assert_same_sums, exact_sums, needs_compiler, problem
from tests.reference import METRICS


@needs_compiler
@pytest.mark.parametrize(("d", "dtype"), [(2, np.float64), (2, np.float32), (33, np.float32)])
def test_sums_of_many_large_values_are_carried(on_host, d, dtype):
    n, sampled = 3 * 2**16, 32
    # The rows in the sample are small. All others are at the top of the window: 2^16 of them are
    # almost 2^62 units of the grid.
    rows = np.full((n, d), 512 - 2.0**-15, dtype)
    rows[:: n // sampled] = 1
    centers = Centers(rows[:1].copy(), Distance.SQUARED_EUCLIDEAN)
    sums = on_host.partial_sums(rows, centers)
    expected = sampled + (n - sampled) * Fraction(float(rows[1, 0]))
    assert exact_sums(sums.on_host()) == [expected] * d
    doubled = sum_up([sums] * 9)
    assert isinstance(doubled, DeviceSums)
    assert exact_sums(doubled.on_host()) == [9 * expected] * d
    assert doubled.on_host().counts.tolist() == [9 * n]
    # So many chunks that three planes are needed.
    for _ in range(20):
        doubled += doubled
    assert set(doubled.on_host().sums.planes) == {0, 1}
    assert exact_sums(doubled.on_host()) == [9 * 2**20 * expected] * d
    negative = on_host.partial_sums(-rows, centers)
    assert exact_sums((negative + negative).on_host()) == [-2 * expected] * d


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [5, 40])
def test_sums_of_similar_chunks_stay_on_the_device(on_host, k, metric):
    rows, centers = problem(k, 7, np.float32, metric, n=300)
    parts = [on_host.partial_sums(part, centers) for part in (rows[:130], rows[130:])]
    total = sum_up(parts)
    assert isinstance(total, DeviceSums)
    assert total.rest is None
    expected = by_numpy.partial_sums(rows, centers)
    assert_same_sums(total.on_host(), expected)
    assert_same_sums(total.on_host(), expected)
    assert_same_sums(parts[0].on_host() + parts[1].on_host(), expected)


@needs_compiler
def test_sums_of_chunks_of_different_sizes_are_added_on_the_host(on_host):
    rng = np.random.default_rng(0)
    chunks = [(rng.normal(size=(60, 5)) * scale).astype("f") for scale in (1, 1e6, 1e-9, 1)]
    # Values that are left to the host, too.
    chunks[0][3, 1] = chunks[1][4, 2] = 1e-30
    centers = Centers(np.concatenate(chunks)[::12].copy(), Distance.SQUARED_EUCLIDEAN)
    total = sum_up(on_host.partial_sums(chunk, centers) for chunk in chunks)
    assert isinstance(total, DeviceSums)
    expected = by_numpy.partial_sums(np.concatenate(chunks), centers)
    assert_same_sums(total.on_host(), expected)


@needs_compiler
def test_a_chunk_without_rows_has_zero_sums(on_host):
    rows, centers = problem(20, 3, np.float32, "squared_euclidean", n=5)
    sums = on_host.partial_sums(rows[:0], centers).on_host()
    assert (set(exact_sums(sums)), set(sums.counts.tolist())) == ({0}, {0})
    assert on_host.squares(rows[:0]) == ExactTotal()
