"""Signals that end a job: SIGTERM is heeded as Ctrl-C is, with an exit code of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The job was told to end: a pod that is evicted, a machine that is taken back."""


@contextmanager
def termination_heeded() -> Iterator[None]:
    """Have SIGTERM raise `Terminated` in the main thread, once: what it interrupts is saved then.

    Another one that comes meanwhile is ignored; what does not heed the first is killed in the end.
    """
    if threading.current_thread() is not threading.main_thread():  # which cannot set signals
        yield
        return
    previous = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def termination_deferred() -> Iterator[Callable[[], None]]:
    """Have SIGTERM wait while the block begins what must not be begun by half.

    Yields:
        What raises `Terminated`, where that has been asked for meanwhile.
    """
    came: list[int] = []

    def heed() -> None:
        if came:
            _raise(signal.SIGTERM, None)

    if threading.current_thread() is not threading.main_thread():
        yield heed
        return
    previous = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield heed
    finally:
        signal.signal(signal.SIGTERM, previous)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
