"""The processors of this process: how many it may use, and how it is set while they compute."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from threading import Lock
from types import FrameType, TracebackType

from threadpoolctl import ThreadpoolController

_SWITCH_SECONDS = 1e-4
# glibc's numbers for what it can be told (malloc.h), and what it is told: pieces of up to so many
# bytes, the most that it takes, come from memory of which so much may lie free, in few places.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_REUSED, _MOST_REUSED, _ARENAS = 2**25, 2**27, 2


def usable_cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Computing(AbstractContextManager[None]):
    """How this process is set while its threads compute: fits that overlap share the setting.

    BLAS starts no threads of its own: the cores are taken. And a thread that waits for the
    interpreter has it soon: NumPy gives it up for each operation and takes it back before the
    thread that was woken for it arrives; asking early made two threads a tenth faster.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._running = 0
        self._restore = ExitStack()
        # threadpoolctl heeds one thread at a time: who restores must be who has set.
        self._keeper = ThreadPoolExecutor(1, "dkmeans-settings")

    def __enter__(self) -> None:
        with self._lock:
            self._running += 1
            if self._running == 1:
                self._keeper.submit(self._set).result()

    def _set(self) -> None:
        self._restore.enter_context(_blas().limit(limits=1, user_api="blas"))
        self._restore.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(_SWITCH_SECONDS)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                self._keeper.submit(self._restore.close).result()


computing = Computing()


def _renew_after_fork() -> None:
    """A forked child has no thread but the one that forked it: the keeper did not come along."""
    global computing
    computing = Computing()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)


@cache
def prepare_worker() -> None:
    """Set a worker's process, for good: its threads are for tasks, and its memory for reuse.

    BLAS would add as many threads for each task. And glibc, as Dask's nanny configures it, gives a
    chunk's memory back to the system when the chunk is done: to touch that of the next one for the
    first time takes longer than to read what goes there (1.2 GB/s from an uncompressed Zarr array,
    instead of 3.3).
    """
    if sys.version_info < (3, 11, 9):
        _let_frames_be_looked_at()
    _blas().limit(limits=1, user_api="blas")
    sys.setswitchinterval(_SWITCH_SECONDS)
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_REUSED)
        library.mallopt(_TRIM_THRESHOLD, _MOST_REUSED)
        library.mallopt(_ARENA_MAX, _ARENAS)  # what one thread has freed is of use to another


def _let_frames_be_looked_at() -> None:
    """Have threads' frames be looked at, as Dask's profiler does all the time, at no risk.

    Python before 3.11.9 may collect garbage while it looks, and let another thread begin one: then
    neither goes on, ever (github.com/python/cpython/issues/106883).
    """
    look, looking = sys._current_frames, Lock()

    def current_frames() -> dict[int, FrameType]:
        with looking:
            was_enabled = gc.isenabled()
            gc.disable()
            try:
                return look()
            finally:
                if was_enabled:
                    gc.enable()

    sys._current_frames = current_frames


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()
