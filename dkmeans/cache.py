"""What a process keeps of the rows it has read: a cache, never a dependency.

Storage is read in whole chunks. Of those a fit reads again and again a process keeps what fits;
what does not is read anew in every pass. Nothing is put out for something newer: of rows that are
gone over in turn, the newest is the one that is needed last.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import psutil

from dkmeans.state import FloatArray

# Chunks of which only a part was wanted, kept for the next part while there are no more bytes.
_RECENT_BYTES = 64 * 2**20
# A fit that has read nothing for so long has to make room for one that does.
_FORGOTTEN_SECONDS = 600
# Above this part of its limit a process gives memory back.
_HIGH = 0.7


@dataclass(frozen=True, slots=True)
class Keeping:
    """On whose behalf a thread reads.

    Attributes:
        fit: Names the fit: its rows are forgotten when it ends.
        most: How many bytes of rows this process may keep.
        limit: How many bytes the process may have altogether.
    """

    fit: str
    most: int
    limit: int


class Note(Protocol):
    """Something found out about rows that would take time to find out again."""

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        ...


# Whatever a thread reads where this is not set is not kept.
keeping: ContextVar[Keeping | None] = ContextVar("keeping", default=None)


class Cache:
    """Decoded rows by what tells them from others; safe for threads, and read once by them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, dict[Hashable, FloatArray]] = {}
        self._notes: dict[str, dict[Hashable, Note]] = {}
        self._used: dict[str, float] = {}
        self._bytes = 0
        self._full: set[str] = set()
        self._recent: OrderedDict[Hashable, FloatArray] = OrderedDict()
        self._reading: dict[Hashable, Future[FloatArray]] = {}

    @property
    def bytes(self) -> int:
        """How much is kept for fits."""
        return self._bytes

    def __contains__(self, key: Hashable) -> bool:
        fit = keeping.get()
        return fit is not None and key in self._kept.get(fit.fit, ())

    def rows(self, key: Hashable, read: Callable[[], FloatArray], *, in_parts: bool) -> FloatArray:
        """The rows that this key tells from all others, read where they are not at hand.

        Args:
            key: What they are known by.
            read: Reads them.
            in_parts: Whether only a part of them is wanted, and soon perhaps another.

        Raises:
            LookupError: `keeping` is not set.
        """
        fit = keeping.get()
        if fit is None:
            raise LookupError("rows are read for nobody")
        mine: Future[FloatArray] = Future()
        with self._lock:
            self._used[fit.fit] = time.monotonic()
            found = self._kept.get(fit.fit, {}).get(key)
            found = self._recent.get(key) if found is None else found
            if found is not None:
                return found
            reading = self._reading.setdefault((fit.fit, key), mine)
        if reading is not mine:
            return reading.result()
        try:
            rows = read()
            _freeze(rows)
            self.relieve(fit)
            with self._lock:
                self._keep(fit, key, rows, in_parts=in_parts)
                del self._reading[fit.fit, key]
            mine.set_result(rows)
        except BaseException as error:
            self._reading.pop((fit.fit, key), None)
            mine.set_exception(error)
            raise
        return rows

    def note(self, key: Hashable, note: Note) -> None:
        """Keep a note of rows, if there is room; kept rows make some, for notes are small.

        Nothing is kept where `keeping` is not set.
        """
        self.take_note(key)
        fit = keeping.get()
        if fit is None:
            return
        with self._lock:
            rows = self._kept.get(fit.fit, {})
            while rows and self._bytes + note.nbytes > fit.most:
                self._bytes -= rows.popitem()[1].nbytes
            if self._bytes + note.nbytes <= fit.most:
                self._used[fit.fit] = time.monotonic()
                self._notes.setdefault(fit.fit, {})[key] = note
                self._bytes += note.nbytes

    def take_note(self, key: Hashable) -> Note | None:
        """The note of this key, which is kept no longer; None where there is none."""
        fit = keeping.get()
        with self._lock:
            note = self._notes.get(fit.fit, {}).pop(key, None) if fit else None
            self._bytes -= 0 if note is None else note.nbytes
        return note

    def relieve(self, fit: Keeping) -> None:
        """Give memory back where the process comes near its limit; at last what is kept too.

        Dask gives a worker above 80 % of its limit no more tasks, and so none that would end that.
        """
        if _resident() < _HIGH * fit.limit:
            return
        _trim()
        with self._lock:
            while (excess := _resident() - int(_HIGH * fit.limit)) > 0 and self._drop(fit, excess):
                _trim()

    def _drop(self, fit: Keeping, size: int) -> bool:
        """Let go of so many bytes that are kept for a fit, for good; whether there were any."""
        dropped = 0
        mine: dict[Hashable, Any]
        for mine in (self._kept.get(fit.fit, {}), self._notes.get(fit.fit, {})):
            while mine and dropped < size:
                dropped += mine.popitem()[1].nbytes
        self._bytes -= dropped
        self._full.add(fit.fit)
        return dropped > 0

    def forget(self, fit: str) -> None:
        """Let go of the rows of a fit."""
        with self._lock:
            self._forget(fit)
            self._recent.clear()

    def _forget(self, fit: str) -> None:
        self._used.pop(fit, None)
        self._full.discard(fit)
        self._bytes -= sum(rows.nbytes for rows in self._kept.pop(fit, {}).values())
        self._bytes -= sum(note.nbytes for note in self._notes.pop(fit, {}).values())

    def _keep(self, fit: Keeping, key: Hashable, rows: FloatArray, *, in_parts: bool) -> None:
        if self._bytes + rows.nbytes > fit.most:
            for other, used in list(self._used.items()):
                if used < time.monotonic() - _FORGOTTEN_SECONDS:  # its driver was killed
                    self._forget(other)
        if self._bytes + rows.nbytes <= fit.most and fit.fit not in self._full:
            self._kept.setdefault(fit.fit, {})[key] = rows
            self._bytes += rows.nbytes
        elif in_parts and rows.nbytes <= _RECENT_BYTES:
            self._recent[key] = rows
            while sum(each.nbytes for each in self._recent.values()) > _RECENT_BYTES:
                self._recent.popitem(last=False)


def _freeze(rows: FloatArray) -> None:
    """See that nobody writes to rows, nor to what they are a view of: others may have copies."""
    rows.flags.writeable = False
    if isinstance(rows.base, np.ndarray):
        rows.base.flags.writeable = False


def _resident() -> int:
    """How much memory this process takes, seen from outside."""
    return int(psutil.Process().memory_info().rss)


def _trim() -> None:
    """Give freed memory back to the system, where the C library can."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


kept = Cache()
