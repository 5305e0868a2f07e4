"""The choice of the scoring, which changes no bit of the results."""

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.native import backend as native
from dkmeans.backends.native import packed_centers, processor
from dkmeans.distance import Centers, Distance
from tests.exactly import units
from tests.reference import METRICS

DTYPES = (np.float32, np.float64)


def centers_of(values, metric=Distance.SQUARED_EUCLIDEAN):
    return Centers(values, Distance(metric))


@pytest.mark.parametrize("metric", METRICS)
def test_every_scoring_gives_the_same_bits(metric, monkeypatch):
    rng = np.random.default_rng(4)
    values = rng.normal(size=(80, 20)) + 1e3
    rows = values[rng.integers(80, size=700)] + rng.normal(size=(700, 20))
    results = []
    for scoring in packed_centers.scorings(np.dtype(np.float64)):
        monkeypatch.setattr(packed_centers, "scorings", lambda dtype, scoring=scoring: (scoring,))
        sums = native.partial_sums(rows, centers_of(values.copy(), metric))
        index, distance = native.nearest(rows, centers_of(values.copy(), metric))
        results.append((units(sums.sums).tolist(), index.tolist(), distance.tolist()))
    assert all(each == results[0] for each in results)


def test_a_scoring_that_leaves_many_rows_ambiguous_is_replaced_by_the_next():
    rng = np.random.default_rng(5)
    far = np.repeat([[1e6, 0.0], [-1e6, 0.0]], 20, axis=0)
    values = far + rng.normal(size=(40, 2))
    rows = np.tile(far, (20, 1)) + rng.normal(size=(800, 2))
    cache = packed_centers.PackedCentersCache()
    centers, dtype = centers_of(values), np.dtype(np.float64)
    expected = by_numpy.nearest(rows, centers)[0].tolist()
    tile, packed, _ = cache(centers, dtype)
    assert packed.weights.dtype == np.float32
    cache.note_ambiguous(centers, dtype, tile, rows=800, ambiguous=79)
    cache.note_ambiguous(centers, dtype, tile, rows=255, ambiguous=255)
    assert cache(centers, dtype)[1].weights.dtype == np.float32
    # The first scorings of so few centers are one: neither bytes nor a matrix unit are of use.
    for _ in range(3):
        tile, packed, _ = cache(centers, dtype)
        cache.note_ambiguous(centers, dtype, tile, rows=800, ambiguous=81)
    assert cache(centers, dtype)[1].weights.dtype == np.float64
    for _ in range(3):
        assert native.nearest(rows, centers_of(values))[0].tolist() == expected
    assert native._packed_centers(centers_of(values), dtype)[1].weights.dtype == np.float64


def test_threads_that_report_the_same_scoring_change_to_the_next_one_once(monkeypatch):
    monkeypatch.setattr(processor, "multiplies_bytes", lambda: True)
    monkeypatch.setattr(processor, "matrix_unit", lambda: False)
    values = np.random.default_rng(6).normal(size=(512, 32))
    cache, dtype = packed_centers.PackedCentersCache(), np.dtype(np.float64)
    centers = centers_of(values)
    first = cache(centers, dtype)[0]
    assert first.in_bytes
    for _ in range(3):
        # Too many scores in 8 bits were computed again.
        cache.note_ambiguous(centers, dtype, first, rows=800, ambiguous=0, is_slow=True)
    tile, packed, _ = cache(centers, dtype)
    assert not tile.in_bytes
    assert packed.weights.dtype == np.float32
