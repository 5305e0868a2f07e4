"""Skipping: a fit with bounds has the bits of one without, whatever is evicted."""

from collections import defaultdict
from threading import get_ident

import numpy as np
import pandas as pd
import pytest

from dkmeans import Dataset, KMeans, RunConfig
from dkmeans.backends.native import backend as native
from dkmeans.backends.native import bounds
from dkmeans.backends.native.groups import Course
from dkmeans.data.cache import row_cache
from dkmeans.distance import Centers, Distance
from dkmeans.skipping import bounds_bytes

EUCLIDEAN = Distance.SQUARED_EUCLIDEAN
K, N = 64, 20_000
RNG = np.random.default_rng(3)
ROWS = (RNG.normal(size=(N, 20)) + 4 * RNG.normal(size=(50, 20))[np.arange(N) % 50]).astype("f")
WEIGHTS = np.where(np.arange(N) % 9, RNG.integers(1, 9, N) / 4, 0)


def trained(rows=ROWS, steps=12, **more):
    """Return the centers and losses of a full-batch fit."""
    config = RunConfig(**{name: more.pop(name) for name in ("cache", "backend") if name in more})
    model = KMeans(K, use_mini_batch=False, config=config, **{"initial_clusters": ROWS[:K], **more})
    model.train(lambda: rows, steps=steps)
    return model.cluster_centers().tobytes(), model.score(lambda: ROWS)


@pytest.fixture
def advances(monkeypatch):
    """Return a list that grows by the number of rows of each chunk that is computed by bounds."""
    monkeypatch.setattr(bounds, "_FEWEST_CHUNK_PRODUCTS", 0)
    calls, advance = [], bounds.advance

    def counted(points, centers, found):
        calls.append(len(points))
        return advance(points, centers, found)

    monkeypatch.setattr(bounds, "advance", counted)
    return calls


RELOCATING = {"empty_clusters": "relocate", "initial_clusters": np.r_[ROWS[:60], [[99] * 20] * 4]}


@pytest.mark.parametrize(
    "more",
    [
        {},
        RELOCATING,
        {"distance_metric": "cosine"},
        {"num_restarts": 2, "initial_clusters": "random", "seed": 1},
        {"rows": (ROWS, {"weights": WEIGHTS})},
    ],
)
def test_a_fit_by_bounds_has_the_bits_of_one_without(more, advances):
    with_bounds = trained(**more)
    assert advances
    del advances[:]
    assert trained(cache="none", **more) == with_bounds
    assert trained(backend="numpy", **more) == with_bounds
    assert not advances


def test_bounds_that_are_evicted_cost_nothing_but_time(advances, monkeypatch):
    expected = trained(cache="none", steps=30)
    take, taken = row_cache.take_entry, []

    def lossy(key):
        taken.append(key)
        found = take(key)
        return None if len(taken) % 17 == 0 else found

    monkeypatch.setattr(row_cache, "take_entry", lossy)
    assert trained(steps=30) == expected
    assert advances


def test_bounds_without_room_are_not_made_again_and_again(monkeypatch):
    monkeypatch.setattr(bounds, "_FEWEST_CHUNK_PRODUCTS", 0)
    expected, begin, begun = trained(cache="none", steps=20), bounds.begin, []

    def counted(points, *more, with_sums):
        begun.append(len(points))
        return begin(points, *more, with_sums=with_sums)

    def refusing(key, entry, *, evicts_rows):
        return entry.nbytes < 1000 and put(key, entry, evicts_rows=evicts_rows)

    put = row_cache.put_entry
    monkeypatch.setattr(bounds, "begin", counted)
    monkeypatch.setattr(row_cache, "put_entry", refusing)
    assert trained(steps=20) == expected
    assert sum(begun) == N


def test_batches_in_another_order_have_no_bounds(advances):
    dataset = Dataset.from_array(ROWS).shuffle(seed=1).repeat()
    trained(dataset, steps=6)
    assert not advances


def test_tables_of_several_parts_have_bounds_for_each(tmp_path, advances):
    parts = [ROWS[:8000], ROWS[8000:16_000], ROWS[16_000:]]
    for number, part in enumerate(parts):
        pd.DataFrame(part.astype(np.float32)).add_prefix("x").to_parquet(
            tmp_path / f"{number}.parquet"
        )
    assert trained(Dataset.from_parquet(str(tmp_path))) == trained(cache="none")
    assert sorted(set(advances)) == [4000, 8000]


@pytest.mark.parametrize("k", [32, 256, 257, 1000])
def test_the_size_of_bounds_is_that_of_their_arrays(k):
    stage = Course(Centers(np.random.default_rng(0).random((k, 8)), EUCLIDEAN), np.float32)._stage
    assert bounds_bytes(100, k) == 100 * (2 * stage.groups + 8)
    assert bounds_bytes(100, k, with_weights=True) == 100 * (2 * stage.groups + 12)


def test_nothing_is_kept_after_the_fit():
    before = row_cache.bytes
    trained()
    assert row_cache.bytes == before


def test_clusters_are_used_before_their_bounds_are_cached(advances, monkeypatch):
    # After that another task may overwrite them.
    put, add_up = row_cache.put_entry, native.weighted_sums
    events = defaultdict(list)  # of each thread: a chunk is computed by one

    def put_entry(key, *entry, **how):
        events[get_ident()].append(key[0])
        return put(key, *entry, **how)

    def weighted_sums(*arguments):
        events[get_ident()].append("sums")
        return add_up(*arguments)

    monkeypatch.setattr(row_cache, "put_entry", put_entry)
    monkeypatch.setattr(native, "weighted_sums", weighted_sums)
    trained((ROWS, {"weights": WEIGHTS}))
    assert advances
    for found in events.values():
        chunks = found.count("bounds")
        assert found == ["sums", "weighted sums", "bounds"] * chunks
