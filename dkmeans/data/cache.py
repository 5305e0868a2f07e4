"""The row cache of a process: decoded rows of storage, cached between iterations.

Chunks read through it. Executors evict a fit's rows when the fit ends. Beside the rows of a chunk
it caches entries that were computed from them: bounds and sums of weighted rows (`skipping`),
nearest candidates (`initialization.kmeans_parallel`). The cache only saves time: a row that is not
cached is read from storage again. Rows of a running fit are not evicted to make room for newer
ones. Unless rows are shuffled, a fit reads them in the same order in every epoch, so the newest row
is the one that is needed last.
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
from typing import Any, NamedTuple

import numpy as np
import psutil

from dkmeans.state import Cached, FloatArray

# Largest total size of the recent chunks (`_recent`). They do not count in any budget.
_RECENT_BYTES = 64 * 2**20
# After more than this was evicted with a fit, freed memory is returned to the operating system.
_TRIMMED_BYTES = 64 * 2**20
# A fit that has read nothing for this long may be evicted: its driver was probably killed.
_ABANDONED_SECONDS = 600
# Above this share of its memory limit a process evicts. Dask pauses a worker at 0.8.
_HIGH_WATER = 0.7


@dataclass(frozen=True, slots=True)
class CacheBudget:
    """Limits of the cache for one fit in this process.

    Attributes:
        fit: Name of the fit. Its rows are evicted when the fit ends.
        cache_bytes: Largest total size in bytes of all cached rows and entries in this process.
        process_bytes: Memory limit of the process in bytes.
    """

    fit: str
    cache_bytes: int
    process_bytes: int


# The budget of the fit that the current thread reads for. Without one nothing is cached.
cache_budget: ContextVar[CacheBudget | None] = ContextVar("cache_budget", default=None)


class _Entry(NamedTuple):
    """An entry, and its size in bytes, which takes long to add up."""

    value: Cached
    nbytes: int


class Cache:
    """Rows and entries by key, for all fits and threads of a process.

    One class does five things, because one lock must guard their common state:

    * Store: `_rows` and `_entries`, by fit and key. `_bytes` is always the sum of their sizes.
      `_cut` says of which chunks the entries are those of pieces.
    * Budget: rows are added only while `_bytes` stays within the budget of the fit that adds them.
      An entry may evict rows of its own fit, if its caller says so (`evicts_rows`).
    * Single flight: `_reading` has a future for each fit and key that some thread is reading. Other
      threads that ask for them wait for that future. Reading happens outside the lock.
    * Pressure: when the process nears its memory limit, `relieve` evicts the fit's entries, then
      its rows, and marks the fit in `_full`. A full fit caches no more rows: it would cache and
      evict the same rows again and again.
    * Recent chunks: `_recent` holds whole chunks that the budget has no room for, and of which only
      a part was used. It has a fixed size of its own and serves batches that are smaller than a
      chunk of storage.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, dict[Hashable, FloatArray]] = {}
        self._entries: dict[str, dict[Hashable, _Entry]] = {}
        self._used_at: dict[str, float] = {}
        # The chunks of which pieces are computed, by their numbers and rows.
        self._cut: dict[str, set[tuple[int, int]]] = {}
        self._bytes = 0
        self._full: set[str] = set()
        self._recent: OrderedDict[Hashable, FloatArray] = OrderedDict()
        self._reading: dict[Hashable, Future[FloatArray]] = {}

    @property
    def bytes(self) -> int:
        """Total size in bytes of the cached rows and entries of all fits."""
        # Recent chunks do not count: the next one may replace them at any time.
        return self._bytes

    def __contains__(self, key: Hashable) -> bool:
        """Return whether the rows of a key are cached for the fit of this context."""
        budget = cache_budget.get()
        return budget is not None and key in self._rows.get(budget.fit, ())

    def rows(self, key: Hashable, read: Callable[[], FloatArray], *, in_parts: bool) -> FloatArray:
        """Return the rows of a key, from the cache or by calling `read`.

        Args:
            key: Unique key of the rows.
            read: Reads the rows, (n, d). Called by one thread at a time for each fit and key.
            in_parts: True if the caller uses only a part of the rows and may soon use another.

        Raises:
            LookupError: no budget is set in this context.
        """
        budget = cache_budget.get()
        if budget is None:
            raise LookupError("no fit is active in this context")
        with self._lock:
            self._used_at[budget.fit] = time.monotonic()
            found = self._rows.get(budget.fit, {}).get(key)
            # Recent chunks are shared by all fits: their key has no fit.
            found = self._recent.get(key) if found is None else found
            if found is not None:
                return found
            mine: Future[FloatArray] = Future()
            reading = self._reading.setdefault((budget.fit, key), mine)
        if reading is not mine:
            return reading.result()
        try:
            rows = read()
            _freeze(rows)
            self.relieve(budget)
            with self._lock:
                self._add(budget, key, rows, in_parts=in_parts)
                del self._reading[budget.fit, key]
            mine.set_result(rows)
        except BaseException as error:
            self._reading.pop((budget.fit, key), None)
            mine.set_exception(error)
            raise
        return rows

    def put_entry(self, key: Hashable, entry: Cached, *, evicts_rows: bool) -> bool:
        """Cache an entry if this context has a budget with room; return whether it was cached.

        With `evicts_rows`, rows of the same fit are evicted if room is short. Without, only room
        that is free is used, and nothing is cached for a fit in `_full`.
        """
        # The old entry of this key leaves first, so that `_bytes` stays right.
        self.take_entry(key)
        budget = cache_budget.get()
        if budget is None:
            return False
        size = entry.nbytes
        with self._lock:
            self._used_at[budget.fit] = time.monotonic()
            room = budget.cache_bytes - self._bytes
            rows = self._rows.get(budget.fit, {}) if evicts_rows else {}
            # Rows are evicted only if that makes room for the entry.
            if room < size <= room + sum(each.nbytes for each in rows.values()):
                while room < size:
                    # The newest rows, which are needed last.
                    freed = rows.popitem()[1].nbytes
                    self._bytes, room = self._bytes - freed, room + freed
            has_room = size <= room
            if not has_room or (budget.fit in self._full and not evicts_rows):
                return False
            self._entries.setdefault(budget.fit, {})[key] = _Entry(entry, size)
            self._bytes += size
            return True

    def take_entry(self, key: Hashable) -> Cached | None:
        """Remove the entry of a key and return it; None if there is none."""
        budget = cache_budget.get()
        with self._lock:
            found = self._entries.get(budget.fit, {}).pop(key, None) if budget else None
            self._bytes -= 0 if found is None else found.nbytes
        return None if found is None else found.value

    def note_cut(self, number: int, rows: int, *, is_cut: bool) -> None:
        """Evict the entries of a chunk if it is cut into pieces now, else those of its pieces.

        No later iteration would take them. The keys of entries end with the number and the rows of
        a chunk or of a piece.

        Args:
            number: Number of the chunk's first row.
            rows: Number of its rows.
            is_cut: True if pieces of the chunk are computed, False if all of it is.
        """
        budget = cache_budget.get()
        if budget is None:
            return
        with self._lock:
            cut = self._cut.setdefault(budget.fit, set())
            if ((number, rows) in cut) == is_cut:
                return
            (cut.add if is_cut else cut.remove)((number, rows))
            entries: dict[Any, _Entry] = self._entries.get(budget.fit, {})
            for key in list(entries):
                first, count = key[-2:]
                if number <= first < number + rows and (count < rows) != is_cut:
                    self._bytes -= entries.pop(key).nbytes

    def relieve(self, budget: CacheBudget) -> None:
        """Free memory when the process nears its limit.

        Freed memory is returned to the system first; then entries and rows of this fit are evicted.
        A Dask worker above 0.8 of its limit gets no more tasks, so no task could end the shortage.
        Therefore memory is freed from 0.7 on.
        """
        if _resident_bytes() < _HIGH_WATER * budget.process_bytes:
            return
        _trim()
        with self._lock:
            limit = int(_HIGH_WATER * budget.process_bytes)
            # Repeated, because evicted rows that a thread still uses free nothing.
            while (excess := _resident_bytes() - limit) > 0 and self._evict(budget, excess):
                _trim()

    def _evict(self, budget: CacheBudget, size: int) -> bool:
        """Evict so many bytes of a fit, entries before rows, or all; mark the fit in `_full`.

        Returns:
            True if anything was evicted.
        """
        evicted = 0
        mine: dict[Hashable, Any]
        for mine in (self._entries.get(budget.fit, {}), self._rows.get(budget.fit, {})):
            while mine and evicted < size:
                evicted += mine.popitem()[1].nbytes
        self._bytes -= evicted
        self._full.add(budget.fit)
        return evicted > 0

    def evict_fit(self, fit: str) -> None:
        """Evict all rows and entries of a fit, and all recent chunks."""
        with self._lock:
            before = self._bytes
            self._evict_fit(fit)
            self._recent.clear()
            freed = before - self._bytes
        # Memory that stays with the process would count as used, and be no room for the next fit.
        if freed > _TRIMMED_BYTES:
            _trim()

    def _evict_fit(self, fit: str) -> None:
        self._used_at.pop(fit, None)
        self._full.discard(fit)
        self._cut.pop(fit, None)
        self._bytes -= sum(rows.nbytes for rows in self._rows.pop(fit, {}).values())
        self._bytes -= sum(entry.nbytes for entry in self._entries.pop(fit, {}).values())

    def _add(self, budget: CacheBudget, key: Hashable, rows: FloatArray, *, in_parts: bool) -> None:
        if self._bytes + rows.nbytes > budget.cache_bytes:
            for other, used_at in list(self._used_at.items()):
                if used_at < time.monotonic() - _ABANDONED_SECONDS:
                    self._evict_fit(other)
        if self._bytes + rows.nbytes <= budget.cache_bytes and budget.fit not in self._full:
            self._rows.setdefault(budget.fit, {})[key] = rows
            self._bytes += rows.nbytes
            # Noted again: the fit may have been evicted while its rows were read.
            self._used_at[budget.fit] = time.monotonic()
        elif in_parts and rows.nbytes <= _RECENT_BYTES:
            self._recent[key] = rows
            while sum(each.nbytes for each in self._recent.values()) > _RECENT_BYTES:
                self._recent.popitem(last=False)


def _freeze(rows: FloatArray) -> None:
    """Make rows read-only, and the array that they are a view of: other threads share them."""
    rows.flags.writeable = False
    if isinstance(rows.base, np.ndarray):
        rows.base.flags.writeable = False


def _resident_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    return int(psutil.Process().memory_info().rss)


def _trim() -> None:
    """Return freed memory to the operating system, where the C library can."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


row_cache = Cache()
