"""Reading ahead: the next chunks are read while one is computed, and no more than those."""

import time

import pytest

from dkmeans.data.batches import Batch
from dkmeans.data.cache import CacheBudget, cache_budget
from dkmeans.data.chunks import Chunk
from dkmeans.errors import InvalidData
from dkmeans.executors import read_ahead
from dkmeans.executors.read_ahead import AHEAD, loaded
from tests.executors.laws import wait_until
from tests.executors.slow_rows import SlowRows


def batch_of(source):
    return Batch.of(Chunk(source, 0, source.rows))


def test_the_next_chunks_are_read_while_one_is_computed_and_no_more():
    source, seen = SlowRows(6), []
    for number, chunk in enumerate(loaded(batch_of(source))):
        time.sleep(0.06)
        seen.append(chunk.points[0, 0])
        assert len(source.begun) == min(number + AHEAD + 1, 6)
    assert seen == list(range(6))
    assert sorted(source.begun) == list(range(6))


@pytest.mark.parametrize(
    ("cores", "runs", "budget", "ahead"),
    [
        (None, 1, None, AHEAD),
        (12, 1, None, 12),
        (12, 2, None, 6),
        (12, 12, None, AHEAD),
        (12, 1, 410, 5),  # a tenth of the memory has room for five chunks of 8 bytes
        (12, 1, 10, AHEAD),
    ],
)
def test_where_a_gpu_computes_all_its_cores_read_ahead(monkeypatch, cores, runs, budget, ahead):
    monkeypatch.setattr(read_ahead, "cores_per_gpu", lambda: cores)
    # Iterators that other tests have left, and that Python has not closed yet, would count.
    monkeypatch.setattr(read_ahead, "_runs", read_ahead._Runs())
    source = SlowRows(30)
    token = cache_budget.set(budget and CacheBudget("a fit", 0, process_bytes=budget))
    others = [loaded(batch_of(SlowRows(3))) for _ in range(runs - 1)]
    try:
        for other in others:
            next(other)
        chunks = loaded(batch_of(source))
        for number in range(3):
            next(chunks)
            assert len(source.begun) <= number + 1 + ahead
        wait_until(lambda: len(source.begun) == 3 + ahead)
        time.sleep(0.2)  # in which no further chunk is begun
        assert len(source.begun) == 3 + ahead
        chunks.close()
    finally:
        cache_budget.reset(token)
        for other in others:
            other.close()
    assert read_ahead._runs.count == 0


def test_an_error_is_raised_when_its_chunk_is_due():
    chunks = loaded(batch_of(SlowRows(4, broken=2)))
    assert [next(chunks).chunk.start, next(chunks).chunk.start] == [0, 1]
    with pytest.raises(
        InvalidData, match="rows 2 to 2 of numbers cannot be read: ValueError: broken"
    ):
        next(chunks)


def test_a_caller_that_stops_early_ends_the_reading():
    source = SlowRows(50)
    chunks = loaded(batch_of(source))
    next(chunks)
    chunks.close()
    time.sleep(0.1)
    assert len(source.begun) <= AHEAD + 1


def test_rows_in_memory_are_loaded_by_the_caller_one_at_a_time():
    source = SlowRows(6, key=None)
    for number, _ in enumerate(loaded(batch_of(source)), 1):
        assert source.begun == list(range(number))
