"""Memory budgets: how much a process may cache, and what an executor reports of its memory."""

import psutil

from dkmeans.executors.budget import (
    PROCESS_BYTES,
    Memory,
    budget_for,
    cacheable_bytes,
    free_cache_bytes,
    system_limit,
)

GB = 10**9


def test_cached_rows_leave_room_for_everything_else():
    assert cacheable_bytes(10 * GB, GB) == 5 * GB
    assert cacheable_bytes(GB, 0) == int(0.6 * GB) - PROCESS_BYTES
    assert cacheable_bytes(GB // 2, 0) == 0


def test_memory_that_the_process_uses_already_is_not_free_for_the_cache():
    used = psutil.Process().memory_info().rss
    assert free_cache_bytes(used) == 0
    assert 0 < free_cache_bytes(100 * used) < 60 * used


def test_the_limit_of_this_machine_is_no_more_than_its_memory():
    assert 0 < system_limit() <= psutil.virtual_memory().total


def test_a_fit_without_a_cache_has_a_budget_of_nothing():
    budget = budget_for("fit", "none", 10 * GB)
    assert (budget.fit, budget.cache_bytes, budget.process_bytes) == ("fit", 0, 10 * GB)
    assert budget_for("fit", "auto", 10**15).cache_bytes > 0
    assert budget_for("fit", "none", None).process_bytes == system_limit()


def test_memory_describes_workers_and_threads():
    assert str(Memory(1, 4, GB, GB)) == "1 worker with 4 threads"
    assert str(Memory(3, 8, GB, GB)) == "3 workers with 8 threads"


def test_threads_of_a_worker_are_rounded_up():
    assert Memory(3, 8, GB, GB).threads_per_worker == 3
    assert Memory(0, 1, GB, GB).threads_per_worker == 1


def test_a_fifth_of_a_worker_is_for_the_chunks_in_work():
    assert Memory(1, 1, 10 * GB, 0).spare == 2 * GB
