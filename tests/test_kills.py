"""A short run of `kills`: killed drivers and workers do not change the results."""

from tests import kills


def test_drivers_and_workers_killed_at_random_change_no_bit(tmp_path):
    assert len(kills.rehearse(tmp_path, kills=6, seed=7)) == 6
