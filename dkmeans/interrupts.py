"""Interrupts by the user (Ctrl-C, the stop button of a notebook): none is lost or breaks an import.

Python raises `KeyboardInterrupt` wherever the main thread is. In a finalizer, such as the callback
of a weak reference, Python prints the exception and goes on: nothing stops, and the user must press
again. `training` asks between two iterations whether there was an interrupt. An import that is
interrupted leaves modules without their parts, and each later call of the process fails: imports of
backends hold interrupts back until they are done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Hold back interrupts in a block of the main thread: their handler is called at its end.

    Nothing is held back if interrupts have no handler in Python.
    """
    handler, received = signal.getsignal(signal.SIGINT), list[tuple[int, Any]]()

    def hold(number: int, frame: Any) -> None:
        received.append((number, frame))

    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        # What runs in the block may have set a handler, which stays.
        if signal.getsignal(signal.SIGINT) is hold:
            signal.signal(signal.SIGINT, handler)
        for interrupt in received:
            handler(*interrupt)


@contextmanager
def noticed_interrupts() -> Iterator[Callable[[], None]]:
    """Notice the interrupts in a block of the main thread.

    If the program handles interrupts in a way of its own, nothing is noticed.

    Yields:
        A function that raises `KeyboardInterrupt` if there was an interrupt in the block.
    """
    received: list[int] = []

    def notice(number: int, frame: Any) -> None:
        received.append(number)
        signal.default_int_handler(number, frame)

    def raise_if_interrupted() -> None:
        if received:
            raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not (is_main and is_default):
        yield raise_if_interrupted
        return
    signal.signal(signal.SIGINT, notice)
    try:
        yield raise_if_interrupted
    finally:
        # The program may have set a handler in the block, which stays.
        if signal.getsignal(signal.SIGINT) is notice:
            signal.signal(signal.SIGINT, signal.default_int_handler)
