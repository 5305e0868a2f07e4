"""Who is faster is given more, and small differences change nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.executors.dask.dealing import Dealing, Throughput

HOMES = ["slow", "fast", "fast"]


def learned(slow, fast, seconds=1.0, paces=None, iterations=2):
    """What some iterations have shown of two workers of such speeds, which work for a second."""
    paces = paces or Dealing()
    measured = {
        "slow": Throughput(slow * seconds, seconds),
        "fast": Throughput(2 * fast * seconds, 2 * seconds),
    }
    for _ in range(iterations):
        paces.learn(measured, HOMES)
    return paces


def test_all_threads_have_the_same_share_at_first():
    assert Dealing().weights(HOMES) == (1.0, 1.0, 1.0)


def test_who_is_much_faster_has_as_much_more_to_do():
    assert learned(1, 20).weights(HOMES) == (1.0, 20.0, 20.0)


def test_so_has_who_is_done_in_no_time():
    paces = Dealing()
    for _ in range(2):
        paces.learn({"slow": Throughput(10, 1.0), "fast": Throughput(20, 0.002)}, HOMES)
    slow, fast, _ = paces.weights(HOMES)
    assert fast / slow == pytest.approx(1000)


@pytest.mark.parametrize("speed", [0.7, 1.0, 1.5])
def test_small_differences_change_nothing(speed):
    assert learned(1, speed).weights(HOMES) == (1.0, 1.0, 1.0)


def test_one_bad_iteration_changes_nothing():
    paces = learned(1, 1)
    learned(0.01, 1, paces=paces, iterations=1)
    assert paces.weights(HOMES) == (1.0, 1.0, 1.0)
    learned(0.01, 1, paces=paces, iterations=3)
    assert paces.weights(HOMES) == (0.01, 1.0, 1.0)


def test_shares_that_fit_the_speeds_stay_as_they_are():
    paces = learned(1, 20)
    assert learned(1, 25, paces=paces).weights(HOMES) == (1.0, 20.0, 20.0)


def test_a_worker_that_becomes_fast_is_given_more_again():
    homes = ["slow", "slow", "slow", "fast"]
    paces = Dealing()
    for _ in range(2):
        paces.learn({"slow": Throughput(3, 3), "fast": Throughput(20, 1)}, homes)
    assert paces.weights(homes) == (1.0, 1.0, 1.0, 20.0)
    changed = [
        paces.learn({"slow": Throughput(60, 3), "fast": Throughput(20, 1)}, homes) for _ in range(3)
    ]
    assert changed == [False, True, False]
    assert paces.weights(homes) == (20.0, 20.0, 20.0, 20.0)


def test_a_worker_that_has_just_come_has_as_much_as_an_average_one():
    paces = learned(1, 20)
    assert paces.weights(["slow", "fast", "new"]) == (1.0, 20.0, 10.5)
    assert paces.weights([None]) == (1.0,)


def test_an_iteration_that_was_over_at_once_tells_nothing():
    assert learned(1, 20, seconds=0.001).weights(HOMES) == (1.0, 1.0, 1.0)


positive = st.floats(0.01, 100)


@given(st.lists(positive, min_size=1, max_size=6), st.lists(st.integers(0, 5), min_size=1))
def test_after_learning_nobody_is_waited_for_for_long(speeds, numbers):
    homes = [f"worker {number % len(speeds)}" for number in numbers]
    known = {f"worker {number}": Throughput(speed, 1.0) for number, speed in enumerate(speeds)}
    paces = Dealing()
    for _ in range(2):
        paces.learn(known, homes)
    weights = np.array(paces.weights(homes))
    of_each = np.array([known[home].speed for home in homes])
    assert (weights / of_each).max() * 0.6 <= weights.sum() / of_each.sum() * (1 + 1e-9)
