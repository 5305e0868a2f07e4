"""Handling of the signals that end a job: as Ctrl-C does, but with exit codes of their own.

`command` runs every job under `raise_on_signals`. `client` starts worker processes under
`defer_signals` and `defer_interrupt`. `Terminated` is a `KeyboardInterrupt`, so training saves a
checkpoint before it passes the exception on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

# A pod is evicted; a terminal is closed; a batch system warns before a job's time is over (Slurm's
# --signal). Systems other than Unix have the first one only.
_NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1")
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
# What shells add to the number of the signal that has ended a command.
_EXIT_BASE = 128


class Terminated(KeyboardInterrupt):
    """One of the signals was received: the job must end soon.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = _EXIT_BASE + number


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Raise `Terminated` in the main thread at the first of the signals while the block runs.

    Later ones are ignored, so that the last checkpoint can be saved. A job that takes too long for
    that is killed by the system with SIGKILL.
    """
    with _handled(_raise_terminated):
        yield


@contextmanager
def defer_signals() -> Iterator[Callable[[], None]]:
    """Hold back the signals while the block runs, for work that must not stop half way.

    Yields:
        A function that raises `Terminated` if a signal was held back. Call it after the block.
    """
    received: list[int] = []

    def raise_if_received() -> None:
        if received:
            _raise_terminated(received[0], None)

    with _handled(lambda number, _: received.append(number)):
        yield raise_if_received


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Handle the signals in a block; afterwards they are handled as before."""
    if threading.current_thread() is not threading.main_thread():  # Python allows no handler here
        yield
        return
    # A signal that is ignored stays ignored: `nohup` ignores SIGHUP for its command.
    caught = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in caught}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


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
    """Ignore further signals and raise `Terminated`. The signature is that of a handler."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Terminated(number)
