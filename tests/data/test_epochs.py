"""Batches of an epoch: cut anew and sliced across batches, lazily."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.data.arrays import array_chunks
from dkmeans.data.batches import Batch
from dkmeans.data.epochs import changed, cut_anew, slice_rows
from tests.data.sources.rows import loaded_batch


def batches_of(*sizes):
    """Return batches of so many rows, whose values count through all batches."""
    stops = np.cumsum(sizes)
    return [
        array_chunks(np.arange(stop - size, stop, dtype=float)[:, None], "rows")
        for size, stop in zip(sizes, stops, strict=True)
    ]


def values(batch):
    return loaded_batch(batch).ravel().tolist()


@given(st.lists(st.integers(1, 9), max_size=5), st.integers(1, 12))
def test_the_rest_of_a_batch_begins_the_next_one(sizes, rows):
    found = list(map(values, cut_anew(iter(batches_of(*sizes)), rows)))
    everything = list(range(sum(sizes)))
    assert found == [everything[start : start + rows] for start in range(0, sum(sizes), rows)]


@given(st.lists(st.integers(1, 9), max_size=5), st.integers(0, 30), st.integers(0, 30))
def test_slices_count_rows_through_all_batches(sizes, start, stop):
    found = slice_rows(iter(batches_of(*sizes)), start, stop)
    everything = list(range(sum(sizes)))
    assert [value for batch in found for value in values(batch)] == everything[start:stop]


def test_a_slice_that_is_complete_asks_for_no_further_batch():
    left = iter(batches_of(4, 2, 5))
    assert list(map(values, slice_rows(left, 1, 6))) == [[1, 2, 3], [4, 5]]
    assert values(next(left)) == [6, 7, 8, 9, 10]
    untouched = iter(batches_of(4))
    assert list(slice_rows(untouched, 0, 0)) == []
    assert values(next(untouched)) == [0, 1, 2, 3]


def test_the_same_batch_again_is_changed_to_the_same_object():
    (batch,) = batches_of(3)
    first, again = changed(iter([batch, batch]), lambda batch: Batch.of(batch.parts[0].cut(1, 3)))
    assert first is again
    assert values(first) == [1, 2]
