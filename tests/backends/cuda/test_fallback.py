"""What computes after an error of the device, with stand-ins that raise errors."""

import logging
import weakref
from contextlib import nullcontext
from dataclasses import replace
from threading import Barrier, Thread

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.cuda.device_sums import DeviceSums
from dkmeans.backends.cuda.fallback import Fault, Guarded, GuardedSums
from dkmeans.distance import Centers, Distance
from dkmeans.errors import ResultLost
from dkmeans.exact import of_rows
from dkmeans.exact_grid import Grid
from dkmeans.exact_total import ExactTotal
from dkmeans.state import PartialSums, on_host, sum_up
from tests.backends.cuda.problems import assert_same_sums, exact_sums

ROWS = np.random.default_rng(0).normal(size=(40, 3))
CENTERS = Centers(ROWS[:4], Distance.SQUARED_EUCLIDEAN)
FUNCTIONS = ("partial_sums", "squares", "assign", "nearest", "distances")

FULL = "the GPU has too little memory for some chunks; the processor computes them"
LOST = "the GPU failed; this process computes on its processor from now on: illegal address"


class DeviceError(RuntimeError):
    """A stand-in for an error of CUDA."""


class Computer:
    """An implementation that counts its calls, and fails where it is told to.

    Args:
        name: Name in the record of calls.
        calls: The record.
        errors: An error for each of the first calls; None: the call gets an answer.
    """

    def __init__(self, name, calls, errors=()):
        self._name, self._calls, self._errors = name, calls, list(errors)

    def _run(self, function, *arguments):
        self._calls.append(self._name)
        error = self._errors.pop(0) if self._errors else None
        if error is not None:
            raise error
        return getattr(by_numpy, function)(*arguments)

    def partial_sums(self, points, centers):
        return self._run("partial_sums", points, centers)

    def squares(self, points):
        return self._run("squares", points)

    def assign(self, points, centers):
        return self._run("assign", points, centers)

    def nearest(self, points, centers):
        return self._run("nearest", points, centers)

    def distances(self, points, centers):
        return self._run("distances", points, centers)


class Device:
    """A stand-in for the device, which records what is asked of it."""

    def __init__(self, calls, lost_in_make_room=False):
        self._calls, self._lost_in_make_room = calls, lost_in_make_room

    def fault_of(self, error):
        if isinstance(error, MemoryError):
            return Fault.OUT_OF_MEMORY
        return Fault.LOST if isinstance(error, DeviceError) else None

    def make_room(self):
        self._calls.append("make room")
        if self._lost_in_make_room:
            raise DeviceError("illegal address")

    def abandon(self):
        self._calls.append("abandon")


def guarded(calls, *, usual=(), smaller=(), lost_in_make_room=False):
    """Make a `Guarded` whose implementations raise these errors in their first calls."""
    later = Computer("smaller", calls, smaller)
    return Guarded(
        Device(calls, lost_in_make_room),
        Computer("usual", calls, usual),
        smaller=lambda: later,
        processor=lambda: Computer("processor", calls),
    )


def out_of_memory(count=1):
    return [MemoryError("full") for _ in range(count)]


def lost(count=1):
    return [DeviceError("illegal address") for _ in range(count)]


def arrays_of(result):
    """Return the arrays of a result of any function."""
    if isinstance(result, tuple):
        return [array for part in result for array in arrays_of(part)]
    if isinstance(result, PartialSums):
        return [np.array(exact_sums(result)), result.counts]
    return [np.array(result.units)] if isinstance(result, ExactTotal) else [result]


def assert_right(backend, function="nearest"):
    arguments = (ROWS,) if function == "squares" else (ROWS, CENTERS)
    found = arrays_of(getattr(backend, function)(*arguments))
    expected = arrays_of(getattr(by_numpy, function)(*arguments))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_without_errors_only_the_usual_implementation_computes(function):
    assert_right(guarded(calls := []), function)
    assert calls == ["usual"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_out_of_memory_the_device_makes_room_and_computes_smaller_pieces(function, caplog):
    backend = guarded(calls := [], usual=out_of_memory())
    assert_right(backend, function)
    assert calls == ["usual", "make room", "smaller"]
    assert caplog.messages == []
    assert_right(backend, function)
    assert calls[3:] == ["usual"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_if_smaller_pieces_do_not_fit_the_processor_computes_this_chunk(function, caplog):
    backend = guarded(calls := [], usual=out_of_memory(2), smaller=out_of_memory(2))
    for _ in range(2):
        assert_right(backend, function)
        assert calls == ["usual", "make room", "smaller", "processor"]
        calls.clear()
    assert_right(backend, function)
    assert calls == ["usual"]
    assert caplog.messages == [FULL]
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize("function", FUNCTIONS)
def test_after_the_loss_of_the_device_the_processor_computes_everything(function, caplog):
    backend = guarded(calls := [], usual=[None, *lost()])
    for _ in range(4):
        assert_right(backend, function)
    assert calls == ["usual", "usual", "abandon", "processor", "processor", "processor"]
    assert caplog.messages == [LOST]
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"smaller": lost()}, ["usual", "make room", "smaller", "abandon", "processor"]),
        ({"lost_in_make_room": True}, ["usual", "make room", "abandon", "processor"]),
    ],
)
def test_the_device_may_be_lost_while_it_makes_room(options, expected, caplog):
    backend = guarded(calls := [], usual=out_of_memory(), **options)
    assert_right(backend)
    assert_right(backend)
    assert calls == [*expected, "processor"]
    assert caplog.messages == [LOST]


def test_threads_that_meet_the_loss_together_log_it_once(caplog):
    threads, met = 4, Barrier(4)

    class Losing(Computer):
        def _run(self, function, *arguments):
            met.wait()
            raise DeviceError("illegal address")

    calls = []
    backend = Guarded(
        Device(calls),
        Losing("usual", calls),
        smaller=lambda: pytest.fail("smaller pieces"),
        processor=lambda: by_numpy,
    )
    workers = [Thread(target=assert_right, args=(backend,)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert calls == ["abandon"]
    assert caplog.messages == [LOST]


def test_errors_that_are_not_the_devices_are_raised(caplog):
    backend = guarded(calls := [], usual=[ValueError("a mistake")])
    with pytest.raises(ValueError, match="a mistake"):
        backend.nearest(ROWS, CENTERS)
    assert calls == ["usual"]
    assert caplog.messages == []


def test_arrays_of_the_failed_attempt_are_freed_before_the_next():
    class Array:
        pass

    held = []

    class Failing(Computer):
        def nearest(self, points, centers):
            array = Array()
            held.append(weakref.ref(array))
            raise MemoryError("full")

    class Watching(Device):
        def make_room(self):
            assert held[0]() is None

    backend = Guarded(
        Watching([]),
        Failing("usual", []),
        smaller=lambda: by_numpy,
        processor=lambda: pytest.fail("the processor"),
    )
    assert_right(backend)
    assert len(held) == 1


class Memory:
    """A stand-in for the device's memory, which may fail.

    Attributes:
        error: The error of every access; None while it works.
    """

    error, xp = None, np

    def launch(self, *arguments):
        """Carry nothing: no sum of a few rows is large."""

    def stream(self):
        if self.error is not None:
            raise self.error
        return nullcontext()

    def to_host(self, values):
        return values


class Array(np.ndarray):
    """An array that cannot be added where the memory is full."""

    full = False

    def __add__(self, other):
        if self.full:
            raise MemoryError("full")
        return super().__add__(other)


class OnDevice(Computer):
    """NumPy's answers, with sums on a stand-in for the device."""

    def __init__(self, memory, errors=(), full=False):
        super().__init__("usual", [], errors)
        self._memory, self._full = memory, full

    def partial_sums(self, points, centers):
        counts = super().partial_sums(points, centers).counts
        index, grid, shape = by_numpy.nearest(points, centers)[0], Grid.of(ROWS), (4, 3)
        planes = of_rows(points, index, 4, grid).planes
        assert set(planes) <= {1, 0, -1}
        parts = [planes.get(m, np.zeros(shape, np.int64)).ravel() for m in (1, 0, -1)]
        values = np.concatenate([*parts, counts]).view(Array)
        values.full = self._full
        return DeviceSums(values, grid, shape, self._memory)


def sums_on(memory, **options):
    """Make a `Guarded` whose sums stay in this memory."""
    return Guarded(
        Device([]),
        OnDevice(memory, **options),
        smaller=lambda: OnDevice(memory),
        processor=lambda: by_numpy,
    )


def parts_of(backend, count=5):
    """Return the sums of parts of the rows, and their total by NumPy."""
    parts = np.array_split(ROWS, count)
    expected = sum_up(by_numpy.partial_sums(part, CENTERS) for part in parts)
    return [backend.partial_sums(part, CENTERS) for part in parts], expected


def assert_sums(found, expected):
    assert isinstance(found, PartialSums)
    assert_same_sums(found, expected)


def test_sums_are_added_on_the_device_and_copied_at_the_end():
    parts, expected = parts_of(sums_on(Memory()))
    total = sum_up(parts)
    assert isinstance(total, GuardedSums)
    assert_sums(on_host(total), expected)


def test_squares_are_added_beside_the_sums_wherever_these_are():
    first, second, *_ = parts_of(sums_on(Memory()))[0]
    first, second = replace(first, squares=ExactTotal(3)), replace(second, squares=ExactTotal(4))
    assert (first + second).squares == ExactTotal(7)
    assert on_host(first + second).squares == ExactTotal(7)
    assert (first + on_host(second)).squares == ExactTotal(7)
    assert (on_host(first) + second).squares == ExactTotal(7)


@pytest.mark.parametrize("failing", range(5))
def test_sums_of_the_device_and_of_the_processor_are_added_on_the_host(failing):
    errors = [None] * failing + out_of_memory()
    backend = Guarded(
        Device([]),
        OnDevice(Memory(), errors),
        smaller=lambda: Computer("smaller", [], out_of_memory()),
        processor=lambda: by_numpy,
    )
    parts, expected = parts_of(backend)
    assert [isinstance(part, PartialSums) for part in parts].index(True) == failing
    assert_sums(on_host(sum_up(parts)), expected)


def test_if_the_device_cannot_add_for_lack_of_memory_the_host_does():
    parts, expected = parts_of(sums_on(Memory(), full=True))
    assert_sums(on_host(sum_up(parts)), expected)


@pytest.mark.parametrize(
    "use", [on_host, lambda sums: sums + sums, lambda sums: by_numpy_sums() + sums]
)
def test_sums_on_a_lost_device_are_lost_and_may_be_computed_again(use, caplog):
    backend = sums_on(memory := Memory())
    sums = backend.partial_sums(ROWS, CENTERS)
    memory.error = DeviceError("illegal address")
    for _ in range(2):
        with pytest.raises(ResultLost):
            use(sums)
    assert_sums(backend.partial_sums(ROWS, CENTERS), by_numpy_sums())
    assert caplog.messages == [LOST]


def by_numpy_sums():
    return by_numpy.partial_sums(ROWS, CENTERS)
