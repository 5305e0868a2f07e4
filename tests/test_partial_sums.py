"""The partial sums of a chunk: what is refused, and by which entries each start goes on."""

import numpy as np
import pytest

from dkmeans.backends.native import bounds
from dkmeans.data.cache import CacheBudget, cache_budget, row_cache
from dkmeans.data.dataset import Dataset
from dkmeans.distance import Centers, Distance
from dkmeans.executors.reduction import skips
from dkmeans.partial_sums import StartCenters, accumulate, accumulate_starts
from dkmeans.retry import EventCount


def chunk_of(rows):
    (batch,) = Dataset.from_array(rows).batches()
    (chunk,) = batch.numbered()
    return chunk.loaded()


def test_rows_of_another_width_are_refused_with_both_numbers():
    centers = Centers(np.zeros((2, 3)), Distance.SQUARED_EUCLIDEAN)
    with pytest.raises(ValueError, match=r"3 columns.*\(5, 4\)"):
        accumulate(chunk_of(np.zeros((5, 4))), centers)


def test_a_start_goes_on_with_its_own_bounds_when_another_one_has_ended(monkeypatch):
    monkeypatch.setattr(bounds, "_FIRST_OF_FEW", 0)
    rows = np.random.default_rng(0).normal(size=(20_000, 4)).astype(np.float32)
    loaded = chunk_of(rows)
    first, second = (
        Centers(rows[some].copy(), Distance.SQUARED_EUCLIDEAN) for some in (slice(8), slice(8, 16))
    )

    def skipped(centers, numbers):
        counter = EventCount()
        skips.set(counter)
        accumulate_starts(loaded, StartCenters(centers, False, False, numbers))
        return counter.count

    token = cache_budget.set(CacheBudget("starts", 2**30, 2**40))
    try:
        assert skipped((first, second), (0, 1)) == 0
        assert skipped((second,), (1,)) > 0.9 * len(rows) * 8
        assert skipped((second,), (0,)) < 0.5 * len(rows) * 8
    finally:
        skips.set(None)
        cache_budget.reset(token)
        row_cache.evict_fit("starts")
