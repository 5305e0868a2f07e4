"""Pieces of chunks: the same rows in more chunks, where threads would be idle."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import Dataset, KMeans, RunConfig
from dkmeans.data.batches import Batch
from dkmeans.data.cache import CacheBudget, cache_budget, row_cache
from dkmeans.data.chunks import Chunk
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.executors.chunk_pieces import in_pieces, num_pieces
from dkmeans.executors.chunk_runs import Run
from dkmeans.executors.run_queue import reduce_shared
from dkmeans.scaling import Scaling
from tests.numbered import Numbers


@pytest.fixture(autouse=True)
def small_chunks():
    """Leave the sizes of chunks as they are: other tests of executors make them small."""


def batch_of(*sizes, piece_rows=10):
    """Return a batch of arrays in memory, each of which is one chunk."""
    arrays = [MemoryRows(np.arange(n, dtype=np.float64)[:, None], f"{n} rows", 0) for n in sizes]
    return Batch(tuple(Chunk(a, 0, a.rows, piece_rows=piece_rows) for a in arrays))


def spans(batch):
    return [(chunk.source.name, chunk.start, chunk.stop) for chunk in batch]


@given(st.lists(st.integers(1, 200), min_size=1, max_size=7), st.integers(2, 9))
def test_pieces_have_all_rows_in_order_and_about_the_wanted_size(sizes, threads):
    whole = batch_of(*sizes)
    (cut,) = in_pieces([whole], threads)
    assert len(cut) == num_pieces(whole)
    rows = np.concatenate([chunk.load(1) for chunk in cut])
    assert np.array_equal(rows, np.concatenate([chunk.load(1) for chunk in whole]))
    if len(cut) > len(sizes):
        assert all(chunk.rows <= 15 for chunk in cut)
        assert all(chunk.rows >= 7 or chunk.rows == chunk.source.rows for chunk in cut)


def test_chunks_stay_whole_if_there_are_enough_or_one_thread_computes():
    many, few = [batch_of(100) for _ in range(8)], [batch_of(100)]
    assert in_pieces(many, 2) is many
    assert in_pieces(few, 1) is few
    assert in_pieces([batch_of(100, piece_rows=None)], 2)[0].rows == 100
    assert len(in_pieces([batch_of(100, piece_rows=None)], 2)[0]) == 1


@pytest.fixture
def fit():
    token = cache_budget.set(CacheBudget("a fit with pieces", 2**30, 2**40))
    yield
    cache_budget.reset(token)
    row_cache.evict_fit("a fit with pieces")


@pytest.mark.usefixtures("fit")
def test_stored_rows_are_cut_once_they_are_cached():
    stored = Batch((Chunk(Numbers(100, None, key="stored"), 0, 100, piece_rows=25),))
    assert len(in_pieces([stored], 2)[0]) == 1
    rows = stored[0].load(1)
    pieces = list(in_pieces([stored], 2)[0])
    assert len(pieces) == 4
    assert all(np.shares_memory(piece.load(1), rows) for piece in pieces)


def test_each_epoch_has_the_same_batch(stored):
    # Executors compare batches by identity, to compute an iteration like the last one.
    (first,), (second,) = stored.batches(), stored.batches()
    assert first is second
    assert first[0].piece_rows == 75_000


def test_pieces_keep_their_numbers_in_the_batch():
    (cut,) = in_pieces([batch_of(5, 40).numbered()], 2)
    assert [chunk.number for chunk in cut] == [0, 5, 15, 25, 35]


def product(rows):
    return rows @ np.ones((4, 4), np.float32)


TABLE = np.random.default_rng(0).normal(size=(600_000, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def stored_path(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("stored") / "rows.zarr")
    zarr.create_array(path, data=TABLE, chunks=TABLE.shape)
    return path


@pytest.fixture
def stored(stored_path):
    return Dataset.from_zarr(stored_path)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda table: table, 8),
        (lambda table: table.standardize().scaled(Scaling.of(np.zeros(4), np.ones(4))), 8),
        (lambda table: table.shuffle(1), 1),
        (lambda table: table.map(product), 1),
    ],
    ids=["stored", "standardized", "shuffled", "mapped"],
)
def test_rows_that_are_mapped_or_shuffled_are_not_cut(change, count, stored):
    (batch,) = change(stored).batches()
    assert len(batch) == 1
    assert num_pieces(batch) == count


def test_totals_of_a_workers_pieces_are_those_of_the_runs_that_it_was_asked_for():
    batch = batch_of(7, 100, 3, 100, 50)
    # The first two runs are adjacent, and the third chunk is another worker's.
    runs = [Run(0, 10, 11, 0), Run(0, 11, 12, 0), Run(0, 13, 15, 0)]
    chunks = batch.chunks_between(0, 2) + batch.chunks_between(3, 5)
    both, threads = threading.Barrier(2, timeout=30), set()

    def rows_of(loaded, _):
        if threading.get_ident() not in threads:  # each thread waits for the other one
            threads.add(threading.get_ident())
            both.wait()
        return tuple(loaded.points[:, 0].tolist())

    with ThreadPoolExecutor(1) as pool:
        found = reduce_shared(pool, 2, rows_of, runs, chunks, None)
    assert [total.run for total in found] == [Run(0, 10, 12, 0), Run(0, 13, 15, 0)]
    assert [total.total for total in found] == [
        (*range(7), *range(100)),
        (*range(100), *range(50)),
    ]


def test_runs_of_other_batches_are_not_joined():
    runs = [Run(0, 1, 2, 0), Run(1, 2, 3, 0)]
    with ThreadPoolExecutor(1) as pool:
        found = reduce_shared(pool, 2, lambda *_: 1, runs, batch_of(5, 50), None)
    assert [(total.run, total.total) for total in found] == [(runs[0], 1), (runs[1], 5)]


class Noted:
    """Notes how many chunks the threads of this process reduce in each call."""

    def __init__(self, monkeypatch):
        self.counts = []
        monkeypatch.setattr("dkmeans.executors.threads.in_pieces", self)
        monkeypatch.setattr("dkmeans.executors.threads.usable_cores", lambda: 2)

    def __call__(self, batches, threads):
        cut = in_pieces(batches, threads)
        self.counts.append(sum(map(len, cut)))
        return cut


def trained(dataset, folder, steps=30, **options):
    config = RunConfig(backend="native", **options)
    model = KMeans(
        40, str(folder), initial_clusters=TABLE[:40], use_mini_batch=False, config=config
    )
    model.train(lambda: dataset, steps=steps)
    return model


@pytest.mark.parametrize("with_weights", [False, True])
def test_all_threads_compute_a_file_of_one_row_group_with_the_bits_of_the_whole(
    with_weights, tmp_path, monkeypatch
):
    noted, names = Noted(monkeypatch), [f"x{j}" for j in range(4)]
    columns = {name: TABLE[:, j] for j, name in enumerate(names)}
    columns["w"] = np.random.default_rng(1).integers(0, 3, len(TABLE))
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    weights = "w" if with_weights else None
    dataset = Dataset.from_parquet(str(tmp_path / "rows.parquet"), names, weights=weights)
    whole = trained(dataset, tmp_path / "whole", cache="none").cluster_centers()
    assert set(noted.counts) == {1}
    noted.counts.clear()
    model = trained(dataset, tmp_path / "cut", cache="memory")
    assert noted.counts[0] == 1
    assert set(noted.counts[1:]) == {8}
    assert np.array_equal(model.cluster_centers(), whole)
    assert model.history["skipped"][-1] > 0.5  # pieces are large enough for bounds


@pytest.mark.parametrize("start", ["k-means||", "random", "kmeans_plus_plus"])
def test_first_centers_of_rows_with_weights_do_not_depend_on_pieces(
    start, stored_path, tmp_path, monkeypatch
):
    noted, weights = Noted(monkeypatch), np.random.default_rng(1).integers(0, 3, len(TABLE))
    zarr.create_array(str(tmp_path / "w.zarr"), data=weights, chunks=weights.shape)
    dataset = Dataset.from_zarr(stored_path, weights=str(tmp_path / "w.zarr"))

    def centers(cache):
        config = RunConfig(backend="native", cache=cache)
        options = {"seed": 1, "use_mini_batch": False, "config": config}
        model = KMeans(30, str(tmp_path / cache), initial_clusters=start, **options)
        model.train(lambda: dataset, steps=2)
        return model.cluster_centers()

    whole = centers("none")
    assert set(noted.counts) == {1}
    assert np.array_equal(centers("memory"), whole)
    assert noted.counts[-1] == 8


def test_pieces_stay_the_same_while_several_starts_become_fewer(stored, tmp_path, monkeypatch):
    noted = Noted(monkeypatch)
    model = KMeans(
        5, str(tmp_path), num_restarts=3, seed=1, use_mini_batch=False, relative_tolerance=1e-3
    )
    model.train(lambda: stored)
    assert set(noted.counts[1:]) == {8}
