"""The rows of an epoch, samples of it and single rows by number: the same for any chunking."""

import dask.array as da
import numpy as np
import pytest

from dkmeans import Dataset
from dkmeans.executors import Serial, Threads
from dkmeans.initialization.sample import fetch, one_epoch, sample

ROWS = np.arange(100.0)[:, None]


def epoch_of(rows, size=None):
    """Return one epoch of rows in chunks of a size."""
    array = rows if size is None else da.from_array(rows, chunks=(size, 1))
    whole, _ = one_epoch(Dataset.from_array(array).batches(), len(rows))
    return whole


def test_an_epoch_ends_where_the_rows_begin_again():
    dataset = Dataset.from_array(ROWS).repeat().batch(30)
    batches = dataset.batches()
    whole, seen = one_epoch(batches, dataset.rows)
    assert (whole.rows, len(seen)) == (100, 4)
    assert next(batches).rows == 30


def test_of_an_unknown_number_of_rows_the_first_batch_stands_for_all():
    batches = Dataset.from_array(ROWS).batch(30).batches()
    whole, seen = one_epoch(batches, None)
    assert (whole.rows, len(seen)) == (30, 1)
    assert next(batches).rows == 30


def test_the_rows_of_an_epoch_are_numbered():
    assert all(chunk.load(1)[0, 0] == chunk.number for chunk in epoch_of(ROWS, 7))


def test_a_sample_is_of_few_blocks_and_no_chunking_changes_it():
    rows = np.arange(100_000.0)[:, None]

    def numbers(size):
        array = da.from_array(rows, chunks=(size, 1))
        whole, _ = one_epoch(Dataset.from_array(array).batches(), len(rows))
        some = sample(whole, 20_000, np.random.default_rng(3))
        assert some.rows <= 20_000
        assert all(chunk.load(1)[0, 0] == chunk.number for chunk in some)
        return np.concatenate([chunk.load(1)[:, 0] for chunk in some])

    found = numbers(999)
    assert len(np.unique(found)) == len(found) > 19_000
    assert np.count_nonzero(np.diff(found) != 1) < 70
    for size in (7000, 100_000):
        np.testing.assert_array_equal(numbers(size), found)


@pytest.mark.parametrize("most", [None, 100, 1000])
def test_a_sample_of_enough_rows_is_all_of_them(most):
    whole = epoch_of(ROWS)
    assert sample(whole, most, np.random.default_rng(3)) is whole


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("executor", [Serial(), Threads(2)], ids=["serial", "threads"])
def test_rows_are_fetched_by_number_in_the_order_of_the_numbers(executor, size):
    numbers = np.random.default_rng(1).permutation(100)[:40]
    found = fetch(epoch_of(ROWS, size), numbers, executor)
    assert found[:, 0].tolist() == numbers.tolist()


def test_a_row_can_be_fetched_several_times():
    assert fetch(epoch_of(ROWS, 7), np.array([5, 99, 5]), Serial())[:, 0].tolist() == [5, 99, 5]


def test_no_memory_is_cast_that_was_never_written(monkeypatch):
    def of_signals(shape, dtype=float, **more):
        found = empty(shape, dtype, **more)
        if found.dtype == np.float32:
            found.view(np.uint32)[...] = 0x7FA00000  # a NaN that every operation warns of
        return found

    empty = np.empty
    monkeypatch.setattr("numpy.empty", of_signals)
    rows = fetch(epoch_of(ROWS, 7), np.array([3, 50]), Serial())
    assert rows.tolist() == [[3.0], [50.0]]
