"""Packing: which scoring and which unit are used, and that neither changes a bit of the results."""

import tracemalloc

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.native import backend as native
from dkmeans.backends.native import packing
from dkmeans.distance import Centers, Distance
from tests.exactly import same_partial_sums, units
from tests.reference import METRICS

DTYPES = (np.float32, np.float64)


def centers_of(values, metric=Distance.SQUARED_EUCLIDEAN):
    return Centers(values, Distance(metric))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_the_scratch_of_a_thread_carries_nothing_over_to_another_shape(metric, dtype):
    rng = np.random.default_rng(1)
    problems = []
    for n, d, k in ((50, 3, 4), (9, 130, 2), (70, 17, 60), (33, 3, 5)):
        rows = rng.normal(size=(n, d)).astype(dtype)
        problems.append((rows, centers_of(rows[:k].copy(), metric)))
    first = [native.partial_sums(*problem) for problem in problems]
    again = [native.partial_sums(*problem) for problem in reversed(problems)]
    for one, other in zip(first, reversed(again), strict=True):
        assert same_partial_sums(one, other)


def test_a_matrix_unit_is_used_for_large_problems_only():
    if not packing.matrix_unit():
        pytest.skip("this processor has no matrix unit")

    def is_used(k, d, dtype, scale=1.0):
        centers = centers_of((np.random.default_rng(0).normal(size=(k, d)) * scale).astype(dtype))
        return bool(packing.PackedCentersCache()(centers, np.dtype(dtype))[0].matrix_panels)

    assert is_used(64, 16, np.float32)
    assert not is_used(63, 16, np.float32)
    assert not is_used(64, 15, np.float32)
    assert is_used(64, 16, np.float64)
    assert not is_used(64, 16, np.float32, scale=1e-30)


@pytest.mark.parametrize(("unit", "k", "d"), [("vectors", 128, 64), ("matrix", 512, 128)])
def test_first_scores_in_eight_bits_are_used_for_large_problems_only(unit, k, d, monkeypatch):
    has_products = packing.matrix_unit() if unit == "matrix" else packing.multiplies_bytes()
    if not has_products:
        pytest.skip("this processor does not multiply bytes")
    monkeypatch.setattr(packing, "matrix_unit", lambda: unit == "matrix")

    def is_used(k, d, dtype=np.float32, **options):
        centers = centers_of(np.random.default_rng(0).normal(size=(k, d)).astype(dtype))
        return bool(packing.PackedCentersCache()(centers, np.dtype(dtype), **options)[0].in_bytes)

    assert is_used(k, d)
    assert is_used(k, d, np.float64)
    assert is_used(k * d // 16, 16)
    assert not is_used(k * d // 15 + 1, 15)
    assert not is_used(k - 1, 2 * d)
    assert not is_used(k, d - 1)
    assert not is_used(k, d, with_second=True)


@pytest.mark.parametrize("metric", METRICS)
def test_every_scoring_gives_the_same_bits(metric, monkeypatch):
    rng = np.random.default_rng(4)
    values = rng.normal(size=(80, 20)) + 1e3
    rows = values[rng.integers(80, size=700)] + rng.normal(size=(700, 20))
    results = []
    for scoring in packing.scorings(np.dtype(np.float64)):
        monkeypatch.setattr(packing, "scorings", lambda dtype, scoring=scoring: (scoring,))
        sums = native.partial_sums(rows, centers_of(values.copy(), metric))
        index, distance = native.nearest(rows, centers_of(values.copy(), metric))
        results.append((units(sums.sums).tolist(), index.tolist(), distance.tolist()))
    assert all(each == results[0] for each in results)


def test_a_scoring_that_leaves_many_rows_ambiguous_is_replaced_by_the_next():
    rng = np.random.default_rng(5)
    far = np.repeat([[1e6, 0.0], [-1e6, 0.0]], 20, axis=0)
    values = far + rng.normal(size=(40, 2))
    rows = np.tile(far, (20, 1)) + rng.normal(size=(800, 2))
    cache = packing.PackedCentersCache()
    centers, dtype = centers_of(values), np.dtype(np.float64)
    expected = by_numpy.nearest(rows, centers)[0].tolist()
    tile, packed = cache(centers, dtype)
    assert packed.weights.dtype == np.float32
    cache.note_ambiguous(centers, dtype, tile, rows=800, ambiguous=79)
    cache.note_ambiguous(centers, dtype, tile, rows=255, ambiguous=255)
    assert cache(centers, dtype)[1].weights.dtype == np.float32
    # The first scorings of so few centers are one: neither bytes nor a matrix unit are of use.
    for _ in range(3):
        tile, packed = cache(centers, dtype)
        cache.note_ambiguous(centers, dtype, tile, rows=800, ambiguous=81)
    assert cache(centers, dtype)[1].weights.dtype == np.float64
    for _ in range(3):
        assert native.nearest(rows, centers_of(values))[0].tolist() == expected
    assert native._packed_centers(centers_of(values), dtype)[1].weights.dtype == np.float64


def test_threads_that_report_the_same_scoring_change_to_the_next_one_once(monkeypatch):
    monkeypatch.setattr(packing, "multiplies_bytes", lambda: True)
    monkeypatch.setattr(packing, "matrix_unit", lambda: False)
    values = np.random.default_rng(6).normal(size=(512, 32))
    cache, dtype = packing.PackedCentersCache(), np.dtype(np.float64)
    centers = centers_of(values)
    first = cache(centers, dtype)[0]
    assert first.in_bytes
    for _ in range(3):
        # Too many scores in 8 bits were computed again.
        cache.note_ambiguous(centers, dtype, first, rows=800, ambiguous=0, is_slow=True)
    tile, packed = cache(centers, dtype)
    assert not tile.in_bytes
    assert packed.weights.dtype == np.float32


def test_large_centers_are_packed_within_two_copies_of_them_and_no_bit_changes():
    rng = np.random.default_rng(7)
    values = rng.normal(size=(33_000, 131)).astype(np.float32)
    values[1::2] = values[::2]  # no score decides between two equal centers
    rows, centers = values[:300] + np.float32(0.5), centers_of(values)
    tracemalloc.start()
    try:
        packed = native._packed_centers(centers, np.dtype(np.float32))[1]
        assert tracemalloc.get_traced_memory()[1] < 2 * values.nbytes
    finally:
        tracemalloc.stop()
    assert np.shares_memory(packed.exact, values)
    index, distance = native.nearest(rows, centers)
    expected = by_numpy.nearest(rows, centers)
    assert (index.tolist(), distance.tolist()) == (expected[0].tolist(), expected[1].tolist())
