"""Pieces of chunks: the same rows in more chunks, where threads would be idle."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import Dataset, KMeans, RunConfig
from dkmeans.data.batches import Batch
from dkmeans.data.cache import CacheBudget, cache_budget, row_cache
from dkmeans.data.chunks import SMALLEST_BYTES, Chunk
from dkmeans.data.shuffling import shuffled
from dkmeans.executors import chunk_pieces
from dkmeans.executors.chunk_pieces import in_pieces
from dkmeans.executors.chunk_runs import cut_into_runs
from dkmeans.executors.run_queue import reduce_shared
from tests.numbered import Numbers

MEGABYTE_ROWS = SMALLEST_BYTES // 4  # of one column
LARGE = 100 * MEGABYTE_ROWS


def batches_of(*sizes, **options):
    return [Batch.of(Chunk(Numbers(n, None, **options), 0, n)) for n in sizes]


def spans(batches):
    return [[(chunk.start, chunk.stop) for chunk in batch] for batch in batches]


@given(st.lists(st.integers(1, LARGE), min_size=1, max_size=9), st.integers(1, 20))
def test_pieces_have_all_rows_in_order_and_are_many_enough_or_small(sizes, threads):
    batches = batches_of(*sizes)
    cut = in_pieces(batches, threads, None)
    for (whole,), pieces in zip(batches, cut, strict=True):
        starts = [chunk.start for chunk in pieces]
        assert [*starts[1:], whole.stop] == [chunk.stop for chunk in pieces]
        assert starts[0] == whole.start
        assert all(chunk.source is whole.source for chunk in pieces)
    many = sum(map(len, cut)) >= 4 * threads
    assert (
        many
        or all(chunk.rows < 2 * MEGABYTE_ROWS for batch in cut for chunk in batch)
        or (threads == 1)
    )


def test_chunks_stay_whole_if_there_are_enough_or_one_thread_computes():
    many, few = batches_of(*[LARGE] * 8), batches_of(LARGE)
    assert in_pieces(many, 2, None) is many
    assert in_pieces(few, 1, None) is few


def test_pieces_have_more_bytes_than_their_sums():
    (batch,) = in_pieces(batches_of(LARGE), 16, np.zeros(5 * SMALLEST_BYTES // 4, np.float32))
    assert len(batch) == 100 // 40


def test_chunks_are_not_cut_where_gpus_compute(monkeypatch):
    few = batches_of(LARGE)
    monkeypatch.setattr(chunk_pieces, "cores_per_gpu", lambda: 4)
    assert in_pieces(few, 2, None) is few


@pytest.fixture
def fit():
    token = cache_budget.set(CacheBudget("a fit with pieces", 2**30, 2**40))
    yield
    cache_budget.reset(token)
    row_cache.evict_fit("a fit with pieces")


@pytest.mark.usefixtures("fit")
def test_stored_rows_are_cut_once_they_are_cached():
    batches = batches_of(LARGE, key="stored")
    assert spans(in_pieces(batches, 2, None)) == spans(batches)
    (chunk,) = batches[0]
    rows = chunk.load(1)
    pieces = list(in_pieces(batches, 2, None)[0])
    assert len(pieces) == 8
    assert all(np.shares_memory(piece.load(1), rows) for piece in pieces)


def test_shuffled_rows_stay_whole_chunks():
    batches = [shuffled(batch, (1,)) for batch in batches_of(LARGE)]
    assert spans(in_pieces(batches, 2, None)) == spans(batches)


def test_pieces_keep_their_numbers_in_the_batch():
    batch = Batch.chained(batches_of(5, LARGE)).numbered()
    (cut,) = in_pieces([batch], 2, None)
    assert [chunk.number for chunk in cut][:2] == [0, 5]
    assert cut[len(cut) - 1].number + cut[len(cut) - 1].rows == LARGE + 5


def test_totals_of_a_workers_pieces_are_those_of_its_runs():
    batch = Batch.chained(batches_of(7, LARGE, 3, LARGE))
    runs, computed = cut_into_runs([batch], [1, 1], 1), []

    def spans_of(loaded, _):
        computed.append(threading.get_ident())
        time.sleep(0.001)
        return ((loaded.chunk.source, loaded.chunk.start, loaded.chunk.stop),)

    with ThreadPoolExecutor(2) as pool:
        found = reduce_shared(pool, 3, spans_of, runs, batch, None)
    assert len(computed) > len(batch)
    assert len(set(computed)) > 1
    assert [total.run for total in found] == [cut_into_runs([batch], [1], 1)[0]]
    (total,) = found
    spans = [(start, stop) for _, start, stop in total.total]
    sources = [chunk.source for chunk in batch]
    assert [source for source, start, _ in total.total if start == 0] == sources
    assert sum(stop - start for start, stop in spans) == batch.rows


@pytest.mark.parametrize("with_weights", [False, True])
def test_all_threads_compute_a_file_of_one_row_group_and_the_bits_stay(
    with_weights, tmp_path, monkeypatch
):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200_000, 8)).astype(np.float32)
    weights = rng.integers(0, 3, len(rows))
    columns = {f"x{j}": rows[:, j] for j in range(8)} | {"w": weights}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    names = [f"x{j}" for j in range(8)]
    dataset = Dataset.from_parquet(
        str(tmp_path / "rows.parquet"), names, weights="w" if with_weights else None
    )
    counts = []

    def noted(batches, threads, value):
        cut = in_pieces(batches, threads, value)
        counts.append(sum(map(len, cut)))
        return cut

    monkeypatch.setattr("dkmeans.executors.threads.in_pieces", noted)
    monkeypatch.setattr("dkmeans.executors.threads.usable_cores", lambda: 2)

    def centers(cache, name):
        counts.clear()
        config = RunConfig(cache=cache)
        start = {"initial_clusters": rows[:20], "use_mini_batch": False, "config": config}
        model = KMeans(20, str(tmp_path / name), **start)
        model.train(lambda: dataset, steps=25)
        return model.cluster_centers(), list(counts)

    whole, of_whole = centers("none", "whole")
    cut, of_cut = centers("memory", "cut")
    assert set(of_whole) == {1}
    assert of_cut[0] == 1
    assert set(of_cut[2:]) == {6}
    assert np.array_equal(whole, cut)
