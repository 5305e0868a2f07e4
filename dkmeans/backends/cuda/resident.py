"""What a device keeps of the rows it was sent: a cache under a budget, never a dependency."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from dkmeans.state import FloatArray


class Resident:
    """Rows that stay on a device for as long as the host has them; safe for threads.

    Only rows that nobody can write to, as those of the workers' cache, may stay: of the others
    nobody would say that they have changed.
    """

    def __init__(self, most: Callable[[], int], empty: Callable[..., Any]) -> None:
        """Keep so many bytes at the most, in arrays that `empty` makes of a shape and dtype."""
        self._find_most, self._empty = most, empty
        self._bytes = 0
        self._kept: dict[Any, Any] = {}
        # The host may let go of rows wherever memory is taken, in here too.
        self._lock = threading.RLock()

    @cached_property
    def _most(self) -> int:
        return self._find_most()

    @property
    def bytes(self) -> int:
        """How much is taken."""
        return self._bytes

    def find(self, points: FloatArray) -> Any:
        """These rows on the device, or None."""
        return None if _owner(points) is None else self._kept.get(_name(points))

    def room(self, points: FloatArray) -> Any:
        """Room for rows to stay; None where there is none, or they may change."""
        with self._lock:
            if _owner(points) is None or self._bytes + points.nbytes > self._most:
                return None
            self._bytes += points.nbytes
        return self._empty(points.shape, points.dtype)

    def keep(self, points: FloatArray, copied: Any) -> None:
        """Keep rows, which are in their room by now, until the host lets go of its own."""
        name = _name(points)
        with self._lock:
            if name in self._kept:  # another thread was first
                self.give_back(copied)
            else:
                self._kept[name] = copied
                weakref.finalize(_owner(points), self._drop, name).atexit = False

    def give_back(self, copied: Any) -> None:
        """Count room no more that is not needed."""
        with self._lock:
            self._bytes -= copied.nbytes

    def _drop(self, name: Any) -> None:
        with self._lock:
            self._bytes -= self._kept.pop(name).nbytes


def _owner(points: FloatArray) -> Any:
    """The array whose memory rows lie in; None where that may change, or is no array's."""
    owner = points if points.base is None else points.base
    frozen = isinstance(owner, np.ndarray) and owner.base is None and not owner.flags.writeable
    return owner if frozen else None


def _name(points: FloatArray) -> Any:
    return points.ctypes.data, points.shape, points.strides, points.dtype
