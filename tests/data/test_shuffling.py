"""Shuffling: the same order on every worker, another one in every epoch."""

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import Dataset
from dkmeans.data.arrays import array_chunks
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.data.shuffling import Shuffled, shuffled, shuffled_epoch
from dkmeans.data.sources.memory import MemoryRows, ShippedRows
from tests.data.sources.rows import loaded_batch
from tests.data.twenty_rows import ROWS, chunk_of, spans


def loaded(source, start, stop):
    return Chunk(source, start, stop).load(source.width)


def test_each_batch_of_an_epoch_has_an_order_of_its_own():
    batch = array_chunks(np.arange(50.0)[:, None], "rows")
    first, second = (
        loaded_batch(each).ravel().tolist() for each in shuffled_epoch(iter([batch, batch]), 3, 0)
    )
    assert first != second
    assert sorted(first) == sorted(second) == list(range(50))


@given(spans(), spans(), st.integers(0, 2**63))
def test_shuffled_rows_are_the_same_permutation_however_they_are_sliced(inner, span, seed):
    chunk = chunk_of(ROWS).cut(*inner)
    source = Shuffled(chunk, (seed, 0, 1))
    start, stop = (min(number, chunk.rows) for number in span)
    rows = ROWS[slice(*inner)]
    whole = loaded(source, 0, source.rows)
    assert np.array_equal(np.sort(whole, axis=0), np.sort(rows, axis=0))
    assert np.array_equal(loaded(source, start, stop), whole[start:stop])
    assert (source.rows, source.width, source.dtype) == (len(rows), 3, np.float64)


def test_another_seed_gives_another_order():
    orders = {
        loaded(Shuffled(chunk_of(ROWS), seed), 0, 20).tobytes()
        for seed in [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]
    }
    assert len(orders) == 4


def test_a_run_of_shuffled_rows_in_memory_brings_no_others_along():
    sources = [MemoryRows(np.zeros((1000, 1)), "rows", 1000 * i) for i in range(10)]
    batch = Batch.of(*(Chunk(s, s.first, s.first + s.rows) for s in sources))
    batch = shuffled(batch, (1,))
    used = set(batch.chunks_between(2, 4).sources())
    assert len({part.chunk.source for part in used}) == 2


def test_shuffled_rows_in_memory_do_not_carry_the_weights_of_others():
    rows = Dataset.from_array(np.zeros((50_000, 1)), np.ones(50_000))
    batch = next(rows.shuffle(1).batch(100).batches())
    leaves = []

    def seen(source):
        leaves.append(source)
        return ShippedRows(0, source.name, source.rows, source.width, source.dtype, source.first)

    sent = batch.with_leaves(seen)
    assert sum(leaf.rows for leaf in leaves) >= 50_000  # rows, and beside them their weights
    assert len(pickle.dumps(sent)) < 10_000
