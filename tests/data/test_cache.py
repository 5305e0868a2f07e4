"""The row cache: which rows it holds for a fit, and when it evicts them."""

import subprocess
import sys
import threading
import time
from contextvars import copy_context

import numpy as np
import pytest

from dkmeans.data import cache as module
from dkmeans.data.cache import Cache, CacheBudget, cache_budget


@pytest.fixture
def cache():
    return Cache()


@pytest.fixture
def reader():
    """Return a function that reads rows of 800 bytes and counts its calls."""

    class Reader:
        times = 0

        def __call__(self):
            self.times += 1
            return np.full((100, 1), self.times, np.float64)

    return Reader()


def read_rows(
    cache, key, read, *, fit="fit", cache_bytes=10_000, process_bytes=2**40, in_parts=False
):
    def run():
        cache_budget.set(CacheBudget(fit, cache_bytes, process_bytes))
        return cache.rows(key, read, in_parts=in_parts)

    return copy_context().run(run)


def test_rows_are_read_once_and_cannot_be_changed(cache, reader):
    first = read_rows(cache, "a", reader)
    assert read_rows(cache, "a", reader) is first
    assert reader.times == 1
    assert cache.bytes == 800
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 7


def test_the_array_that_rows_are_a_view_of_cannot_be_changed_either(cache):
    decoded = np.zeros(100)
    read_rows(cache, "a", lambda: decoded.reshape(50, 2))
    with pytest.raises(ValueError, match="read-only"):
        decoded[0] = 7


def test_rows_that_do_not_fit_are_read_again_and_evict_nothing(cache, reader):
    for _ in range(3):
        for key in "abc":
            read_rows(cache, key, reader, cache_bytes=2000)
    assert cache.bytes == 1600
    assert reader.times == 2 + 3


def test_each_fit_has_rows_of_its_own_and_they_are_evicted_with_it(cache, reader):
    read_rows(cache, "a", reader, fit="one")
    read_rows(cache, "a", reader, fit="two")
    assert reader.times == 2
    cache.evict_fit("one")
    assert cache.bytes == 800
    read_rows(cache, "a", reader, fit="two")
    assert reader.times == 2
    read_rows(cache, "a", reader, fit="one")
    assert reader.times == 3


def test_a_chunk_that_is_read_in_parts_is_held_for_the_next_part(cache, reader):
    for _ in range(5):
        read_rows(cache, "a", reader, cache_bytes=0, in_parts=True)
    assert reader.times == 1
    assert cache.bytes == 0


EVICTING = """
import numpy as np
import psutil

from dkmeans.data.cache import CacheBudget, cache_budget, row_cache
from dkmeans.executors.dask.process import prepare_worker

prepare_worker()
cache_budget.set(CacheBudget("fit", 2**40, 2**40))
others = []  # what a process allocates between its chunks keeps freed memory from the system
for number in range(40):
    row_cache.rows(number, lambda: np.ones((2**18, 4)), in_parts=False)
    others.append(bytes(10_000))
before = psutil.Process().memory_info().rss
row_cache.evict_fit("fit")
print(before - psutil.Process().memory_info().rss)
"""


def test_the_memory_of_evicted_rows_goes_back_to_the_system():
    freed = subprocess.run(
        [sys.executable, "-c", EVICTING], capture_output=True, text=True, check=True
    )
    assert int(freed.stdout) > 0.9 * 40 * 2**23


def test_the_oldest_chunk_read_in_parts_is_evicted_first(cache, reader, monkeypatch):
    monkeypatch.setattr(module, "_RECENT_BYTES", 1600)
    for key in "abca":
        read_rows(cache, key, reader, cache_bytes=0, in_parts=True)
    assert reader.times == 4
    read_rows(cache, "c", reader, cache_bytes=0, in_parts=True)
    assert reader.times == 4


def test_threads_that_need_the_same_rows_read_them_once(cache):
    times = []

    def read():
        times.append(1)
        time.sleep(0.05)
        return np.zeros((1, 1))

    threads = [threading.Thread(target=read_rows, args=(cache, "a", read)) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(times) == 1


def test_rows_that_could_not_be_read_are_read_again_by_the_next_call(cache, reader):
    def fail():
        raise OSError("away")

    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            read_rows(cache, "a", fail)
    assert read_rows(cache, "a", reader)[0, 0] == 1


def test_a_fit_whose_driver_was_killed_makes_room_for_another(cache, reader, monkeypatch):
    read_rows(cache, "a", reader, fit="killed", cache_bytes=1000)
    monkeypatch.setattr(module, "_ABANDONED_SECONDS", 0.0)
    time.sleep(0.01)
    read_rows(cache, "a", reader, fit="living", cache_bytes=1000)
    read_rows(cache, "a", reader, fit="living", cache_bytes=1000)
    assert reader.times == 2
    assert cache.bytes == 800


def test_rows_that_are_read_while_their_fit_ends_make_room_for_another(cache, reader, monkeypatch):
    def read():
        cache.evict_fit("ended")
        return reader()

    read_rows(cache, "a", read, fit="ended", cache_bytes=1000)
    monkeypatch.setattr(module, "_ABANDONED_SECONDS", 0.0)
    time.sleep(0.01)
    read_rows(cache, "a", reader, fit="living", cache_bytes=1000)
    read_rows(cache, "a", reader, fit="living", cache_bytes=1000)
    assert reader.times == 2
    assert cache.bytes == 800


def test_a_process_near_its_limit_evicts_its_rows_and_caches_no_more(cache, reader):
    for key in "abc":
        read_rows(cache, key, reader)
    read_rows(cache, "d", reader, process_bytes=1)
    assert cache.bytes == 0
    read_rows(cache, "e", reader)
    assert cache.bytes == 0
    cache.evict_fit("fit")
    read_rows(cache, "e", reader)
    assert cache.bytes == 800


# Entries.


def call(cache, action, *arguments, fit="fit", cache_bytes=1000, **more):
    def run():
        cache_budget.set(CacheBudget(fit, cache_bytes, 2**40))
        return getattr(cache, action)(*arguments, **more)

    return copy_context().run(run)


def test_an_entry_is_cached_until_it_is_taken(cache):
    entry = np.zeros(50)
    call(cache, "put_entry", "a", entry, evicts_rows=True)
    assert cache.bytes == 400
    assert call(cache, "take_entry", "a", fit="another") is None
    assert call(cache, "take_entry", "a") is entry
    assert call(cache, "take_entry", "a") is None
    assert cache.bytes == 0


def test_entries_of_a_chunk_leave_when_it_is_cut_and_those_of_pieces_when_it_is_whole(cache):
    whole, pieces, others = ("x", 10, 8), [("x", 10, 4), ("y", 14, 4)], [("x", 18, 2), ("x", 0, 8)]

    def put(*keys):
        for key in keys:
            assert call(cache, "put_entry", key, np.zeros(10), evicts_rows=False)

    put(whole, *others)
    call(cache, "note_cut", 10, 8, is_cut=False)
    assert cache.bytes == 3 * 80
    call(cache, "note_cut", 10, 8, is_cut=True)
    assert call(cache, "take_entry", whole) is None
    put(*pieces)
    call(cache, "note_cut", 10, 8, is_cut=True)
    assert cache.bytes == 4 * 80
    call(cache, "note_cut", 10, 8, is_cut=False)
    assert cache.bytes == 2 * 80
    assert all(call(cache, "take_entry", key) is not None for key in others)
    call(cache, "note_cut", 10, 8, is_cut=True)
    cache.evict_fit("fit")
    put(*pieces)
    call(cache, "note_cut", 10, 8, is_cut=False)  # as at the beginning
    assert cache.bytes == 2 * 80


def test_a_new_entry_replaces_the_old_one(cache):
    for size in (50, 100):
        call(cache, "put_entry", "a", np.zeros(size), evicts_rows=True)
    assert cache.bytes == 800


def test_rows_are_evicted_for_an_entry_but_entries_are_not(cache, reader):
    read_rows(cache, "rows", reader, cache_bytes=1000)
    call(cache, "put_entry", "a", np.zeros(100), evicts_rows=True)
    assert cache.bytes == 800
    read_rows(cache, "rows", reader, cache_bytes=1000)
    assert reader.times == 2
    call(cache, "put_entry", "b", np.zeros(50), evicts_rows=True)
    assert call(cache, "take_entry", "b") is None
    assert call(cache, "take_entry", "a") is not None


def test_no_rows_are_evicted_for_an_entry_that_has_no_room_all_the_same(cache, reader):
    read_rows(cache, "rows", reader, cache_bytes=1000)
    assert not call(cache, "put_entry", "a", np.zeros(1000), evicts_rows=True)
    read_rows(cache, "rows", reader, cache_bytes=1000)
    assert reader.times == 1


def test_rows_stay_where_an_entry_may_not_evict_them(cache, reader):
    read_rows(cache, "rows", reader, cache_bytes=1000)
    assert not call(cache, "put_entry", "a", np.zeros(100), evicts_rows=False)
    assert call(cache, "take_entry", "a") is None
    read_rows(cache, "rows", reader, cache_bytes=1000)
    assert reader.times == 1


def test_an_entry_is_not_cached_without_a_fit(cache):
    cache.put_entry("a", np.zeros(1), evicts_rows=True)
    assert cache.take_entry("a") is None


def test_entries_are_evicted_with_their_fit(cache):
    call(cache, "put_entry", "a", np.zeros(50), evicts_rows=True)
    cache.evict_fit("fit")
    assert cache.bytes == 0
    assert call(cache, "take_entry", "a") is None
