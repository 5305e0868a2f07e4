"""Handling of SIGTERM, which ends a job as Ctrl-C does, but with its own exit code.

`command` runs every job under `raise_on_sigterm`. `client` starts worker processes under
`defer_sigterm` and `defer_interrupt`. `Terminated` is a `KeyboardInterrupt`, so training saves a
checkpoint before it passes the exception on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM was received: a pod is evicted, or a machine is taken back."""


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raise `Terminated` in the main thread at the first SIGTERM while the block runs.

    Later SIGTERMs are ignored, so that the last checkpoint can be saved. A job that takes too long
    for that is killed by the system with SIGKILL.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows no handler here
        yield
        return
    previous = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def defer_sigterm() -> Iterator[Callable[[], None]]:
    """Hold back SIGTERM while the block runs, for work that must not stop half way.

    Yields:
        A function that raises `Terminated` if a SIGTERM was held back. Call it after the block.
    """
    received: list[int] = []

    def raise_if_received() -> None:
        if received:
            _raise_terminated(signal.SIGTERM, None)

    if threading.current_thread() is not threading.main_thread():
        yield raise_if_received
        return
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield raise_if_received
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def defer_interrupt() -> Iterator[Callable[[], None]]:
    """Hold back SIGINT while the block runs, and start processes that never get it.

    A terminal sends Ctrl-C to every process of a job. Threads and processes inherit which signals
    are blocked. If the handler were `SIG_IGN` instead, processes would inherit that too, but Ctrl-C
    in the block would be lost.

    Yields:
        A function that raises `KeyboardInterrupt` if a SIGINT was held back. Call it after the
        block.
    """
    received: list[int] = []

    def raise_if_received() -> None:
        if received:
            raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not hasattr(signal, "pthread_sigmask"):  # Windows has no such masks
        yield raise_if_received
        return
    # The first start of a process would start the tracker, which unblocks SIGINT.
    resource_tracker.ensure_running()
    previous = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield raise_if_received
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)  # calls the handler of a held back one
        signal.signal(signal.SIGINT, previous)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    """Ignore further SIGTERMs and raise `Terminated`. The signature is that of a handler."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
