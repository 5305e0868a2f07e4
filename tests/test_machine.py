"""The machine: the cores that a process may use."""

import os

from dkmeans.machine import usable_cores


def test_usable_cores_are_those_that_the_process_is_bound_to():
    assert usable_cores() == len(os.sched_getaffinity(0))
