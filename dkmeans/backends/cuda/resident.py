"""Rows that stay on a device: a cache that takes the memory that the device can spare.

`device` looks here before it copies rows. Only rows in read-only memory may stay, such as those of
the row cache: changes to other rows would go unnoticed. The rows are dropped when the host frees
its own copy.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from dkmeans.state import FloatArray

logger = logging.getLogger("dkmeans")

# Rows on lost devices. They are referenced for ever, because freeing them would raise errors.
_abandoned: list[Any] = []


class Resident:
    """Rows on a device, looked up by the address of their copy on the host.

    Several threads may use one `Resident`.

    Rows are added in three steps: `reserve` allocates room, the caller copies, and `add` lets
    `find` see the rows.

    Args:
        has_room: Returns whether the device can spare so many bytes for further rows.
        empty: Makes an array on the device of a shape and a dtype. Raises MemoryError if the
            device has too little memory.
    """

    def __init__(self, has_room: Callable[[int], bool], empty: Callable[..., Any]) -> None:
        self._has_room, self._empty = has_room, empty
        self._arrays: dict[Any, Any] = {}
        self._logged = False
        # Reentrant: any allocation may collect garbage and so call `_drop`, in here too.
        self._lock = threading.RLock()

    @property
    def bytes(self) -> int:
        """Total size in bytes of the resident rows."""
        with self._lock:
            return sum(array.nbytes for array in self._arrays.values())

    def find(self, points: FloatArray) -> Any:
        """Return these rows on the device; None if they are not there."""
        return None if _owner(points) is None else self._arrays.get(_key(points))

    def reserve(self, points: FloatArray) -> Any:
        """Return room for rows on the device; None if there is too little or the rows may change.

        Other processes may use the same device, so each call asks the device for its free memory.
        """
        if _owner(points) is None:
            return None
        # Under the lock, so that two threads cannot both take the last room.
        with self._lock:
            if not self._has_room(points.nbytes):
                return None
            try:
                return self._empty(points.shape, points.dtype)
            except MemoryError as error:  # another process was faster
                self._log_once(error)
                return None

    def add(self, points: FloatArray, room: Any) -> None:
        """Add rows that were copied to their room, until the host frees its copy."""
        key = _key(points)
        with self._lock:
            if key not in self._arrays:  # else another thread was faster
                self._arrays[key] = room
                weakref.finalize(_owner(points), self._drop, key).atexit = False

    def clear(self) -> None:
        """Drop all resident rows."""
        with self._lock:
            self._arrays = {}

    def abandon(self) -> None:
        """Forget all resident rows without freeing their memory, after the device was lost."""
        with self._lock:
            _abandoned.append(self._arrays)
            self._arrays = {}

    def _drop(self, key: Any) -> None:
        with self._lock:
            self._arrays.pop(key, None)  # `clear` may have dropped the rows already

    def _log_once(self, error: MemoryError) -> None:
        if not self._logged:
            logger.info("the GPU is full; further rows are copied in every iteration: %s", error)
            self._logged = True


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
