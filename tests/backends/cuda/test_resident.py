"""Rows that stay on a device: which may, for how long, and how they are counted."""

import numpy as np

from dkmeans.backends.cuda.resident import Resident


def frozen(rows):
    """Make rows read-only, as the row cache does."""
    rows.flags.writeable = False
    return rows


def test_rows_that_cannot_change_stay_until_the_host_frees_its_copy():
    resident = Resident(lambda: 100, np.empty)
    rows = frozen(np.ones((3, 4), np.float32))
    assert resident.find(rows) is None
    room = resident.reserve(rows)
    room[...] = rows
    resident.add(rows, room)
    assert resident.find(rows) is resident.find(rows[:]) is room
    assert resident.find(rows[1:]) is None
    assert resident.bytes == 48
    part = rows[:2]
    del rows
    assert resident.bytes == 48  # a part of the rows is still in use
    del part
    assert resident.bytes == 0


def test_rows_that_may_change_or_exceed_the_budget_do_not_stay():
    resident = Resident(lambda: 100, np.empty)
    assert resident.reserve(np.ones((3, 4), np.float32)) is None
    assert resident.reserve(frozen(np.ones((30, 4), np.float32))) is None
    view = np.ones((3, 4), np.float32)[:2]
    assert (
        resident.reserve(frozen(view)) is None
    )  # the array that owns the memory can still be written to
    assert resident.bytes == 0


def test_if_two_threads_send_the_same_rows_those_of_the_first_stay():
    resident, rows = Resident(lambda: 100, np.empty), frozen(np.ones((3, 4), np.float32))
    first, second = resident.reserve(rows), resident.reserve(rows)
    assert resident.bytes == 96
    resident.add(rows, first)
    resident.add(rows, second)
    assert resident.find(rows) is first
    assert resident.bytes == 48
    failed = resident.reserve(frozen(np.zeros((3, 4), np.float32)))
    resident.release(failed)
    assert resident.bytes == 48
