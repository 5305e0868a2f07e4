"""Interrupts are noticed, also those that Python discards."""

import signal
import sys
import threading

import numpy as np
import pytest

import dkmeans
from dkmeans.hooks import SessionRunHook
from dkmeans.interrupts import held_interrupts, noticed_interrupts
from tests.programs import output_of


class Finalized:
    """An object that is interrupted while Python finalizes it."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def discarded(monkeypatch):
    """Exceptions that Python has printed and discarded."""
    found = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: found.append(args.exc_type))
    return found


def test_an_interrupt_in_a_finalizer_is_noticed(discarded):
    with noticed_interrupts() as raise_if_interrupted:
        raise_if_interrupted()
        Finalized()
        assert discarded == [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt):
            raise_if_interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_any_other_interrupt_is_raised_at_once(discarded):
    with pytest.raises(KeyboardInterrupt), noticed_interrupts():
        signal.raise_signal(signal.SIGINT)
    assert discarded == []


def test_a_handler_of_the_program_stays(monkeypatch):
    received = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        with noticed_interrupts() as raise_if_interrupted:
            signal.raise_signal(signal.SIGINT)
            raise_if_interrupted()
        assert received == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_change_no_handler():
    def run():
        with noticed_interrupts() as raise_if_interrupted:
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            raise_if_interrupted()
            done.append(True)

    done = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [True]


def test_an_interrupt_that_is_held_back_is_raised_at_the_end_of_the_block():
    def block():
        with held_interrupts():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    done = []
    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupts_are_held_back_from_a_handler_of_the_program_too():
    received = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        with held_interrupts():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert received == []
        assert received == [signal.SIGINT] * 2
        with held_interrupts():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


FIRST_CALL = """
import signal, sys, threading, time
import numpy as np, dkmeans

def interrupt():
    while "numba.core" not in sys.modules:
        time.sleep(0.001)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

rows = np.eye(4, dtype=np.float32)
model = dkmeans.KMeans(3, None, rows[:3], use_mini_batch=False)
threading.Thread(target=interrupt, daemon=True).start()
try:
    model.train(lambda: rows, steps=10**9)
except KeyboardInterrupt:
    print("interrupted")
model.train(lambda: rows, steps=1)
"""


def test_a_first_call_that_is_interrupted_can_be_repeated():
    assert "interrupted\n" in output_of(FIRST_CALL)


class InterruptsFinalizer(SessionRunHook):
    """Interrupts the finalizer of an object after the third step."""

    def __init__(self):
        self.steps = 0

    def after_run(self, run_context, run_values):
        self.steps += 1
        if self.steps == 3:
            Finalized()


def test_training_stops_after_an_interrupt_that_python_discards(tmp_path, discarded):
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype("f")
    kmeans, hook = dkmeans.KMeans(5, tmp_path, use_mini_batch=True, seed=0), InterruptsFinalizer()
    with pytest.raises(KeyboardInterrupt):
        kmeans.train(lambda: dkmeans.Dataset.from_array(rows).repeat(), [hook], max_steps=100)
    assert discarded == [KeyboardInterrupt]
    assert hook.steps == 3
    assert kmeans.get_variable_value("global_step") == 3
