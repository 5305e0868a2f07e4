"""The caller of kernels: each is compiled or loaded once, before its first call."""

import logging
import threading

import numpy as np
from numba import njit

from dkmeans.backends.native.runner import KernelRunner


def test_a_compilation_that_takes_long_is_logged_before_it_ends(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "dkmeans")
    monkeypatch.setattr("dkmeans.backends.native.runner._LOAD_SECONDS", 0.0)

    @njit
    def halve(values):
        for i in range(len(values)):
            values[i] /= 2

    KernelRunner()(halve, (), np.ones(3))
    assert caplog.messages[0].startswith("compiling the kernel 'halve' for float64, which is done")
    assert caplog.messages[1].startswith("compiled the kernel 'halve'")


def test_a_kernel_is_compiled_once_however_many_threads_call_it(caplog):
    caplog.set_level(logging.INFO, "dkmeans")

    @njit
    def double(values):
        for i in range(len(values)):
            values[i] *= 2

    run, arrays = KernelRunner(), [np.ones(3) for _ in range(4)]
    threads = [threading.Thread(target=run, args=(double, (), each)) for each in arrays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.tolist() for each in arrays] == [[2, 2, 2]] * 4
    (message,) = [each for each in caplog.messages if "'double'" in each]
    assert message.startswith("compiled the kernel 'double' for float64 in ")
    assert message.endswith("cached in this process's memory only")
    run(double, ("another variant",), np.ones(3, np.float32))
    assert len([each for each in caplog.messages if "'double' for float32" in each]) == 1
