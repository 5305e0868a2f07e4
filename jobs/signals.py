"""Handling of SIGTERM, which ends a job as Ctrl-C does, but with its own exit code.

`__main__` runs every job under `raise_on_sigterm`. `client` starts worker processes under
`defer_sigterm`. `Terminated` is a `KeyboardInterrupt`, so training saves a checkpoint before it
passes the exception on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    """Ignore further SIGTERMs and raise `Terminated`. The signature is that of a handler."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
