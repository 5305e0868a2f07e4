"""Rows that stay on a device: a cache with a budget.

`device` looks here before it copies rows. Only rows in read-only memory may stay, such as those of
the row cache: changes to other rows would go unnoticed. The rows are dropped when the host frees
its own copy.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from dkmeans.state import FloatArray


class Resident:
    """Rows on a device, looked up by the address of their copy on the host.

    Several threads may use one `Resident`.

    Rows are added in three steps: `reserve` counts the bytes and allocates, the caller copies, and
    `add` lets `find` see them. A caller that fails between them must `release` the room.

    Args:
        find_budget: Returns the largest total size in bytes. Called at the first use.
        empty: Makes an array on the device of a shape and a dtype.
    """

    def __init__(self, find_budget: Callable[[], int], empty: Callable[..., Any]) -> None:
        self._find_budget, self._empty = find_budget, empty
        self._bytes = 0
        self._arrays: dict[Any, Any] = {}
        # Reentrant: any allocation may collect garbage and so call `_drop`, in here too.
        self._lock = threading.RLock()

    @cached_property
    def _budget(self) -> int:
        return self._find_budget()

    @property
    def bytes(self) -> int:
        """Total size in bytes of the resident rows and of reserved room."""
        return self._bytes

    def find(self, points: FloatArray) -> Any:
        """Return these rows on the device; None if they are not there."""
        return None if _owner(points) is None else self._arrays.get(_key(points))

    def reserve(self, points: FloatArray) -> Any:
        """Return room for rows on the device; None if they exceed the budget or may change."""
        with self._lock:
            if _owner(points) is None or self._bytes + points.nbytes > self._budget:
                return None
            self._bytes += points.nbytes
        return self._empty(points.shape, points.dtype)

    def add(self, points: FloatArray, room: Any) -> None:
        """Add rows that were copied to their room, until the host frees its copy."""
        key = _key(points)
        with self._lock:
            if key in self._arrays:  # another thread was faster
                self.release(room)
            else:
                self._arrays[key] = room
                weakref.finalize(_owner(points), self._drop, key).atexit = False

    def release(self, room: Any) -> None:
        """Subtract the size of room that is not needed."""
        with self._lock:
            self._bytes -= room.nbytes

    def _drop(self, key: Any) -> None:
        with self._lock:
            self._bytes -= self._arrays.pop(key).nbytes


def _owner(points: FloatArray) -> Any:
    """Return the array that owns the rows' memory; None if the memory may change.

    Memory that no array owns, such as a memory map, may change too.
    """
    owner = points if points.base is None else points.base
    frozen = isinstance(owner, np.ndarray) and owner.base is None and not owner.flags.writeable
    return owner if frozen else None


def _key(points: FloatArray) -> Any:
    # The address names the rows as long as their owner lives; `_drop` runs when the owner dies.
    return points.ctypes.data, points.shape, points.strides, points.dtype
