"""Sizes of shares: much faster workers get larger shares, small differences change nothing."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.executors.dask.share_sizes import ShareSizes
from dkmeans.executors.reduction import Throughput

WORKERS = {"slow": 1, "fast": 2}


def learned(slow, fast, seconds=1.0, sizes=None, iterations=2, work_part=1.0):
    """Return the sizes after some iterations of two workers with these speeds."""
    sizes = sizes or ShareSizes()
    measured = {
        "slow": Throughput(slow * seconds, seconds),
        "fast": Throughput(2 * fast * seconds, 2 * seconds),
    }
    for _ in range(iterations):
        sizes.learn(measured, WORKERS, work_part)
    return sizes


def test_all_threads_have_shares_of_the_same_size_at_first():
    assert ShareSizes().of(WORKERS) == (1.0, 2.0)


def test_a_much_faster_worker_has_a_share_in_proportion_to_its_speed():
    assert learned(1, 20).of(WORKERS) == (1.0, 40.0)


def test_a_worker_that_needs_almost_no_time_has_a_very_large_share():
    sizes = ShareSizes()
    for _ in range(2):
        sizes.learn({"slow": Throughput(10, 1.0), "fast": Throughput(20, 0.002)}, WORKERS, 1.0)
    slow, fast = sizes.of(WORKERS)
    assert fast / slow == pytest.approx(2 * 1000)


@pytest.mark.parametrize("speed", [0.7, 1.0, 1.5])
def test_small_differences_change_nothing(speed):
    assert learned(1, speed).of(WORKERS) == (1.0, 2.0)


@pytest.mark.parametrize(("work_part", "fast"), [(0.5, 40.0), (0.3, 2.0)])
def test_a_time_that_does_not_depend_on_the_shares_is_not_counted(work_part, fast):
    assert learned(1, 20, work_part=work_part).of(WORKERS) == (1.0, fast)


def test_one_bad_iteration_changes_nothing():
    sizes = learned(1, 1)
    learned(0.01, 1, sizes=sizes, iterations=1)
    assert sizes.of(WORKERS) == (1.0, 2.0)
    learned(0.01, 1, sizes=sizes, iterations=3)
    assert sizes.of(WORKERS) == (0.01, 2.0)


def test_shares_that_fit_the_speeds_stay_as_they_are():
    sizes = learned(1, 20)
    assert learned(1, 25, sizes=sizes).of(WORKERS) == (1.0, 40.0)


def test_a_worker_that_becomes_fast_gets_a_larger_share_again():
    workers = {"slow": 3, "fast": 1}
    sizes = ShareSizes()
    for _ in range(2):
        sizes.learn({"slow": Throughput(3, 3), "fast": Throughput(20, 1)}, workers, 1.0)
    assert sizes.of(workers) == (3.0, 20.0)
    changed = [
        sizes.learn({"slow": Throughput(60, 3), "fast": Throughput(20, 1)}, workers, 1.0)
        for _ in range(3)
    ]
    assert changed == [False, True, False]
    assert sizes.of(workers) == (60.0, 20.0)


def test_a_new_worker_has_an_average_share():
    sizes = learned(1, 20)
    assert sizes.of({"slow": 1, "fast": 1, "new": 2}) == (1.0, 20.0, 21.0)
    assert sizes.of({None: 1}) == (1.0,)


def test_a_very_short_iteration_is_not_measured():
    assert learned(1, 20, seconds=0.001).of(WORKERS) == (1.0, 2.0)


positive = st.floats(0.01, 100)


@given(st.lists(positive, min_size=1, max_size=6), st.lists(st.integers(0, 5), min_size=1))
def test_after_learning_no_worker_is_much_slower_than_the_others(speeds, numbers):
    workers = dict(Counter(f"worker {number % len(speeds)}" for number in numbers))
    known = {f"worker {number}": Throughput(speed, 1.0) for number, speed in enumerate(speeds)}
    sizes = ShareSizes()
    for _ in range(2):
        sizes.learn(known, workers, 1.0)
    found = np.array(sizes.of(workers))
    of_each = np.array([known[worker].speed * n for worker, n in workers.items()])
    assert (found / of_each).max() * 0.6 <= found.sum() / of_each.sum() * (1 + 1e-9)
