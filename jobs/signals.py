"""Handling of the signals that end a job: as Ctrl-C does, but with exit codes of their own.

`command` runs every job under `raise_on_signals`. `client` starts worker processes under
`defer_signals`. `Terminated` is a `KeyboardInterrupt`, so training saves a checkpoint before the
exception ends the job.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

from dkmeans_jobs import ENDING_SIGNALS

logger = logging.getLogger("dkmeans")

# The signals of an evicted pod, of a closed terminal, and of a batch system that warns before a
# job's time is over (Slurm's --signal). SIGINT (Ctrl-C) has a handler of its own.
_SIGNALS = tuple(
    getattr(signal, name) for name in ENDING_SIGNALS if name != "SIGINT" and hasattr(signal, name)
)
# Signals that a terminal or a batch system sends to every process of a job, and that only the
# driver handles: the driver saves a checkpoint, and ends the other processes with SIGTERM.
_DRIVERS_SIGNALS = (signal.SIGINT, *(each for each in _SIGNALS if each != signal.SIGTERM))
# What shells add to the number of the signal that has ended a command.
_EXIT_BASE = 128
# Ctrl-C again within this time interrupts nothing.
_ENDING_SECONDS = 5.0


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
    """Raise `Terminated`, or `KeyboardInterrupt` for Ctrl-C, at the first signal in the block.

    Later signals are ignored, and later Ctrl-C for some seconds, so that the last checkpoint can be
    saved. But Ctrl-C after another signal still raises, and another signal after Ctrl-C. A job that
    takes too long is killed by the system with SIGKILL; by a person with SIGQUIT.
    """
    with _handled(_SIGNALS, _raise_terminated), _handled([signal.SIGINT], _raise_interrupt):
        yield


@contextmanager
def defer_signals() -> Iterator[Callable[[], None]]:
    """Hold back the signals and Ctrl-C in a block that starts processes and must not stop half way.

    Processes that are started in the block never get the signals of `_DRIVERS_SIGNALS`.

    Yields:
        A function that raises `Terminated`, or `KeyboardInterrupt` for Ctrl-C, if a signal was
        held back. Call it after the block.
    """
    received: list[int] = []

    def raise_if_received() -> None:
        if received:
            signal.raise_signal(received[0])

    with (
        _handled((*_SIGNALS, signal.SIGINT), lambda number, _: received.append(number)),
        _blocked_for_processes(),
    ):
        yield raise_if_received


@contextmanager
def _handled(
    signals: Iterable[int], handler: Callable[[int, FrameType | None], Any]
) -> Iterator[None]:
    """Handle signals in a block; afterwards they are handled as before."""
    if threading.current_thread() is not threading.main_thread():  # Python allows no handler here
        yield
        return
    # A signal that is ignored stays ignored: `nohup` ignores SIGHUP for its command.
    caught = [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in caught}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextmanager
def _blocked_for_processes() -> Iterator[None]:
    """Block `_DRIVERS_SIGNALS` in this thread, and for the threads and processes that it starts.

    Threads and processes inherit which signals are blocked. So do the processes that Dask starts
    later, in place of lost ones: a thread that is started in the block starts them. Signals that
    arrive in the block are handled at its end; if they were ignored instead, they would be lost.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _DRIVERS_SIGNALS)
    try:
        # The first start of a process would start the tracker, which unblocks SIGINT.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _DRIVERS_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _raise_interrupt(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`; for some seconds further Ctrl-C say that the job is ending.

    Later ones raise it again: Python drops an interrupt that arrives in a finalizer.
    """
    again_at = time.monotonic() + _ENDING_SECONDS

    def again(number: int, frame: FrameType | None) -> None:
        if time.monotonic() > again_at:
            raise KeyboardInterrupt
        logger.warning(
            "ending already, once the last checkpoint is saved; Ctrl-\\ does not wait for it"
        )

    signal.signal(number, again)
    raise KeyboardInterrupt


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    """Ignore further `_SIGNALS` and raise `Terminated`. The signature is that of a handler."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Terminated(number)
