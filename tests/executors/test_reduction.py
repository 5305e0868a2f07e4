"""Costs and throughputs: monoids, of which every total is a sum."""

import pytest

from dkmeans.executors.reduction import Cost, Throughput

ONE = Cost(1.0, 2.0, 3, 7, {"a": Throughput(4, 2.0)})
TWO = Cost(0.5, 0.25, 1, 4, {"a": Throughput(2, 1.0), "b": Throughput(8, 0.5)})


def test_costs_add_up_number_by_number_and_worker_by_worker():
    total = ONE + TWO
    assert (total.read_seconds, total.compute_seconds) == (1.5, 2.25)
    assert (total.retries, total.skipped) == (4, 11)
    assert total.throughputs == {"a": Throughput(6, 3.0), "b": Throughput(8, 0.5)}


def test_costs_add_up_in_any_order_and_grouping():
    three = Cost(0.125, 0.5, 0, 0, {"b": Throughput(1, 0.25)})
    assert ONE + TWO == TWO + ONE
    assert (ONE + TWO) + three == ONE + (TWO + three)
    assert ONE + Cost() == Cost() + ONE == ONE


def test_adding_leaves_both_costs_as_they_were():
    before = dict(ONE.throughputs)
    ONE + TWO  # the sum itself is not needed
    assert ONE.throughputs == before


def test_speed_is_chunks_per_second_and_finite_for_no_time():
    assert Throughput(6, 3.0).speed == 2.0
    assert Throughput(1, 0.0).speed == pytest.approx(10_000)
    assert Throughput().speed == 0.0
