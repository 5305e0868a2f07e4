"""The settings of this process while its cores compute."""

import multiprocessing
import sys
import threading

import pytest
from threadpoolctl import threadpool_info

from dkmeans.executors import cores


def settings():
    return sys.getswitchinterval(), [pool["num_threads"] for pool in threadpool_info()]


def test_while_threads_compute_blas_has_one_thread_and_the_lock_is_passed_on_soon():
    before = settings()
    with cores.computing:
        assert abs(sys.getswitchinterval() - cores.SWITCH_SECONDS) < 1e-9
        blas = [pool for pool in cores.blas().info() if pool["user_api"] == "blas"]
        assert {pool["num_threads"] for pool in blas} <= {1}
    assert settings() == before


@pytest.mark.parametrize("seconds", [0.005, cores.SWITCH_SECONDS, 9.7e-5])
def test_the_switch_interval_is_the_same_after_many_calls(seconds):
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(seconds)
        found = sys.getswitchinterval()
        for _ in range(20):
            with cores.Computing():
                pass
        assert sys.getswitchinterval() == found
    finally:
        sys.setswitchinterval(before)


def test_settings_are_restored_when_the_last_of_several_fits_ends():
    before = settings()
    computing = cores.Computing()
    first_may_end, second_computes = threading.Event(), threading.Event()

    def first():
        with computing:
            first_may_end.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    with computing:
        second_computes.set()
        first_may_end.set()
        thread.join()
        assert abs(sys.getswitchinterval() - cores.SWITCH_SECONDS) < 1e-9
    assert settings() == before


def test_a_forked_child_can_change_its_settings():
    with cores.computing:
        child = multiprocessing.get_context("fork").Process(target=enter_and_leave)
        child.start()
        child.join(30)
    assert child.exitcode == 0


def enter_and_leave():
    with cores.computing:
        pass
