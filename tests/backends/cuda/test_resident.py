"""Rows that stay on a device: which may, for how long, and how they are counted."""

import logging

import numpy as np
import pytest

from dkmeans.backends.cuda.resident import Resident


def frozen(rows):
    """Make rows read-only, as the row cache does."""
    rows.flags.writeable = False
    return rows


class Device:
    """A stand-in for a device of 100 bytes, which Resident may fill.

    Attributes:
        others: Bytes that other processes take.
    """

    def __init__(self):
        self.others = 0
        self.resident = Resident(self.has_room, np.empty)

    def has_room(self, size):
        return self.others + self.resident.bytes + size <= 100


def add(resident, rows):
    room = resident.reserve(rows)
    room[...] = rows
    resident.add(rows, room)
    return room


def test_rows_that_cannot_change_stay_until_the_host_frees_its_copy():
    resident = Device().resident
    rows = frozen(np.ones((3, 4), np.float32))
    assert resident.find(rows) is None
    room = add(resident, rows)
    assert resident.find(rows) is resident.find(rows[:]) is room
    assert resident.find(rows[1:]) is None
    assert resident.bytes == 48
    part = rows[:2]
    del rows
    assert resident.bytes == 48  # a part of the rows is still in use
    del part
    assert resident.bytes == 0


def test_rows_that_may_change_or_have_no_room_do_not_stay():
    resident = Device().resident
    assert resident.reserve(np.ones((3, 4), np.float32)) is None
    assert resident.reserve(frozen(np.ones((30, 4), np.float32))) is None
    view = np.ones((3, 4), np.float32)[:2]
    assert (
        resident.reserve(frozen(view)) is None
    )  # the array that owns the memory can still be written to
    assert resident.bytes == 0


def test_the_device_is_asked_for_room_each_time():
    device, rows = Device(), frozen(np.ones((3, 4), np.float32))
    device.others = 60
    assert device.resident.reserve(rows) is None
    device.others = 40
    assert device.resident.reserve(rows).nbytes == 48


def test_if_two_threads_send_the_same_rows_those_of_the_first_stay():
    resident, rows = Resident(lambda size: True, np.empty), frozen(np.ones((3, 4), np.float32))
    first, second = resident.reserve(rows), resident.reserve(rows)
    resident.add(rows, first)
    resident.add(rows, second)
    assert resident.find(rows) is first
    assert resident.bytes == 48


def test_if_the_allocation_fails_nothing_is_counted_and_one_line_is_logged(caplog):
    def empty(shape, dtype):
        raise MemoryError("out of memory")

    caplog.set_level(logging.INFO, "dkmeans")
    resident = Resident(lambda size: True, empty)
    for _ in range(3):
        assert resident.reserve(frozen(np.ones((3, 4), np.float32))) is None
    assert resident.bytes == 0
    assert caplog.messages == [
        "the GPU is full; further rows are copied in every iteration: out of memory"
    ]
    assert caplog.records[0].levelname == "INFO"


def test_another_error_of_the_allocation_is_raised_and_nothing_is_counted():
    def empty(shape, dtype):
        raise RuntimeError("the device is lost")

    resident = Resident(lambda size: True, empty)
    with pytest.raises(RuntimeError, match="lost"):
        resident.reserve(frozen(np.ones((3, 4), np.float32)))
    assert resident.bytes == 0


@pytest.mark.parametrize("drop", [Resident.clear, Resident.abandon])
def test_dropped_rows_are_not_found_and_may_be_added_again(drop):
    resident, rows = Device().resident, frozen(np.ones((3, 4), np.float32))
    add(resident, rows)
    drop(resident)
    assert resident.find(rows) is None
    assert resident.bytes == 0
    room = add(resident, rows)
    assert resident.find(rows) is room
    assert resident.bytes == 48
    del rows, room
    assert resident.bytes == 0


def test_rows_may_be_added_to_room_that_was_reserved_before_clear():
    resident, rows = Device().resident, frozen(np.ones((3, 4), np.float32))
    room = resident.reserve(rows)
    resident.clear()
    resident.add(rows, room)
    assert resident.find(rows) is room


def test_rows_on_a_lost_device_are_never_freed():
    freed = []

    class Array(np.ndarray):
        def __del__(self):
            freed.append(self.nbytes)

    resident = Resident(lambda size: True, lambda shape, dtype: Array(shape, dtype))
    for drop in (resident.clear, resident.abandon):
        rows = frozen(np.ones((3, 4), np.float32))
        add(resident, rows)
        drop()
        del rows
    assert freed == [48]  # by `clear` only
