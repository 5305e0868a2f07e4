"""The cache: what is kept, for whom, and that nothing depends on it."""

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
    """Reads rows of 800 bytes, and counts."""

    class Reader:
        times = 0

        def __call__(self):
            self.times += 1
            return np.full((100, 1), self.times, np.float64)

    return Reader()


def keep(cache, key, read, *, fit="fit", most=10_000, limit=2**40, in_parts=False):
    def run():
        cache_budget.set(CacheBudget(fit, most, limit))
        return cache.rows(key, read, in_parts=in_parts)

    return copy_context().run(run)


def test_rows_are_read_once_and_cannot_be_changed(cache, reader):
    first = keep(cache, "a", reader)
    assert keep(cache, "a", reader) is first
    assert reader.times == 1
    assert cache.bytes == 800
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 7


def test_what_rows_are_a_view_of_cannot_be_changed_either(cache):
    decoded = np.zeros(100)
    keep(cache, "a", lambda: decoded.reshape(50, 2))
    with pytest.raises(ValueError, match="read-only"):
        decoded[0] = 7


def test_what_does_not_fit_is_read_anew_and_puts_nothing_out(cache, reader):
    for _ in range(3):
        for key in "abc":
            keep(cache, key, reader, most=2000)
    assert cache.bytes == 1600
    assert reader.times == 2 + 3


def test_each_fit_has_rows_of_its_own_and_they_go_with_it(cache, reader):
    keep(cache, "a", reader, fit="one")
    keep(cache, "a", reader, fit="two")
    assert reader.times == 2
    cache.evict_fit("one")
    assert cache.bytes == 800
    keep(cache, "a", reader, fit="two")
    assert reader.times == 2
    keep(cache, "a", reader, fit="one")
    assert reader.times == 3


def test_a_chunk_that_is_wanted_in_parts_is_kept_for_the_next_part(cache, reader):
    for _ in range(5):
        keep(cache, "a", reader, most=0, in_parts=True)
    assert reader.times == 1
    assert cache.bytes == 0


def test_of_such_chunks_the_oldest_goes_first(cache, reader, monkeypatch):
    monkeypatch.setattr(module, "_RECENT_BYTES", 1600)
    for key in "abca":
        keep(cache, key, reader, most=0, in_parts=True)
    assert reader.times == 4
    keep(cache, "c", reader, most=0, in_parts=True)
    assert reader.times == 4


def test_threads_that_want_the_same_rows_read_them_once(cache):
    times = []

    def read():
        times.append(1)
        time.sleep(0.05)
        return np.zeros((1, 1))

    threads = [threading.Thread(target=keep, args=(cache, "a", read)) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(times) == 1


def test_rows_that_cannot_be_read_are_tried_again_by_the_next(cache, reader):
    def fail():
        raise OSError("away")

    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            keep(cache, "a", fail)
    assert keep(cache, "a", reader)[0, 0] == 1


def test_a_fit_whose_driver_was_killed_makes_room_for_another(cache, reader, monkeypatch):
    keep(cache, "a", reader, fit="killed", most=1000)
    monkeypatch.setattr(module, "_ABANDONED_SECONDS", 0.0)
    time.sleep(0.01)
    keep(cache, "a", reader, fit="living", most=1000)
    keep(cache, "a", reader, fit="living", most=1000)
    assert reader.times == 2
    assert cache.bytes == 800


def test_a_process_near_its_limit_gives_back_what_it_keeps_and_keeps_no_more(cache, reader):
    for key in "abc":
        keep(cache, key, reader)
    keep(cache, "d", reader, limit=1)
    assert cache.bytes == 0
    keep(cache, "e", reader)
    assert cache.bytes == 0
    cache.evict_fit("fit")
    keep(cache, "e", reader)
    assert cache.bytes == 800


# Notes.


def noting(cache, action, *arguments, fit="fit", most=1000):
    def run():
        cache_budget.set(CacheBudget(fit, most, 2**40))
        return getattr(cache, action)(*arguments)

    return copy_context().run(run)


def test_a_note_is_there_until_it_is_taken(cache):
    note = np.zeros(50)
    noting(cache, "put_entry", "a", note)
    assert cache.bytes == 400
    assert noting(cache, "take_entry", "a", fit="another") is None
    assert noting(cache, "take_entry", "a") is note
    assert noting(cache, "take_entry", "a") is None
    assert cache.bytes == 0


def test_a_new_note_takes_the_place_of_the_old(cache):
    for size in (50, 100):
        noting(cache, "put_entry", "a", np.zeros(size))
    assert cache.bytes == 800


def test_rows_make_room_for_a_note_but_notes_do_not(cache, reader):
    keep(cache, "rows", reader, most=1000)
    noting(cache, "put_entry", "a", np.zeros(100))
    assert cache.bytes == 800
    keep(cache, "rows", reader, most=1000)
    assert reader.times == 2
    noting(cache, "put_entry", "b", np.zeros(50))
    assert noting(cache, "take_entry", "b") is None
    assert noting(cache, "take_entry", "a") is not None


def test_nothing_is_noted_for_nobody(cache):
    cache.put_entry("a", np.zeros(1))
    assert cache.take_entry("a") is None


def test_notes_are_forgotten_with_their_fit(cache):
    noting(cache, "put_entry", "a", np.zeros(50))
    cache.evict_fit("fit")
    assert cache.bytes == 0
    assert noting(cache, "take_entry", "a") is None
