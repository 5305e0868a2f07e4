"""Requests that are under way at the same time."""

import time
from threading import Barrier

import pytest

from dkmeans.data.sources.requests import MOST_REQUESTS, in_parallel


def test_results_are_in_order_though_requests_are_under_way_together():
    together = Barrier(MOST_REQUESTS, timeout=60)

    def request(number):
        together.wait()  # fails unless so many requests come
        return -number

    numbers = range(2 * MOST_REQUESTS)
    assert in_parallel(request, numbers) == [-number for number in numbers]


def test_the_error_of_the_first_item_is_raised_and_the_rest_is_not_asked_for():
    asked = []

    def request(number):
        asked.append(number)
        time.sleep(0.1 if number else 0)
        raise ValueError(number)

    with pytest.raises(ValueError, match=r"^0$"):
        in_parallel(request, range(5000))
    assert len(asked) < 5000
