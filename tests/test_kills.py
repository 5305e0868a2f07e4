"""Killed drivers and workers do not change the results: a short run of `kills`, and a long one."""

import pytest

from tests import kills


@pytest.mark.parametrize(
    ("count", "seed"),
    [(2, 7), pytest.param(200, 1, marks=[pytest.mark.long, pytest.mark.timeout(3600)])],
)
def test_drivers_and_workers_killed_at_random_change_no_bit(tmp_path, count, seed):
    assert len(kills.rehearse(tmp_path, kills=count, seed=seed)) == count
