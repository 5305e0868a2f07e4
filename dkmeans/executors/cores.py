"""The settings of this process while its cores compute."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from threading import Lock

from threadpoolctl import ThreadpoolController

# Python's default is 5 ms, which is longer than most NumPy calls on a block.
SWITCH_SECONDS = 1e-4


class Computing(AbstractContextManager[None]):
    """Settings of this process while its threads compute; fits that overlap share them.

    BLAS uses one thread per call, because each core has a thread of its own already. And a thread
    that waits for the interpreter lock gets it soon. NumPy releases the lock for each operation and
    takes it back before the waiting thread has woken up; a short switch interval made two threads a
    tenth faster.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._running = 0
        self._restore = ExitStack()
        # threadpoolctl's settings belong to a thread: the thread that sets them must restore them.
        self._setter = ThreadPoolExecutor(1, "dkmeans-settings")

    def __enter__(self) -> None:
        with self._lock:
            self._running += 1
            if self._running == 1:
                self._setter.submit(self._set).result()

    def _set(self) -> None:
        self._restore.enter_context(blas().limit(limits=1, user_api="blas"))
        # Python cuts off to whole microseconds: without a half more, one may be lost.
        self._restore.callback(sys.setswitchinterval, sys.getswitchinterval() + 5e-7)
        sys.setswitchinterval(SWITCH_SECONDS)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                self._setter.submit(self._restore.close).result()


computing = Computing()


def _renew_after_fork() -> None:
    """Replace the settings in a forked child, which lacks the thread that set them."""
    global computing
    computing = Computing()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)


@cache
def blas() -> ThreadpoolController:
    """Return the controller of the BLAS libraries that are loaded at the first call: NumPy's.

    Chunks are computed with no other one, and to look for libraries takes milliseconds.
    """
    return ThreadpoolController()
