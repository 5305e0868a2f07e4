"""How much memory a process may fill with rows that it keeps."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from dkmeans.config import NONE
from dkmeans.data.cache import CacheBudget, row_cache

# With what it keeps, a process stays below this part of its limit: at 0.8 Dask pauses a worker.
_MOST, _SAFE = 0.6, 0.8
# What a process takes up beside rows that it keeps: interpreter, libraries, code, rows under way.
PROCESS_BYTES = 500 * 2**20


@dataclass(frozen=True, slots=True)
class Memory:
    """What the workers have; the threads of this process count as one worker.

    Attributes:
        workers: How many there are.
        threads: How many threads they have together.
        limit: How many bytes the smallest of them may have.
        room: How many bytes of rows they can keep, together.
    """

    workers: int
    threads: int
    limit: int
    room: int

    def __str__(self) -> str:
        workers = f"{self.workers} workers" if self.workers > 1 else "1 worker"
        return f"{workers} with {self.threads} threads"

    @property
    def threads_per_worker(self) -> int:
        """How many threads a worker has."""
        return -(-self.threads // max(1, self.workers))

    @property
    def spare(self) -> int:
        """What a worker may use beside what it keeps and what the process itself takes up."""
        return max(0, int((_SAFE - _MOST) * self.limit))


def room(limit: int, taken: int) -> int:
    """How many bytes of rows a process may keep that has taken so many for other things."""
    return max(0, int(_MOST * limit) - max(taken, PROCESS_BYTES))


def free_cache_bytes(limit: int) -> int:
    """The same of this process, now."""
    memory = int(psutil.Process().memory_info().rss) - row_cache.bytes
    available = int(psutil.virtual_memory().available)
    return min(room(limit, memory), available // 2 + row_cache.bytes)


def budget_for(fit: str, cache: str, limit: int | None) -> CacheBudget:
    """What this process keeps for a fit.

    Args:
        fit: Its name.
        cache: One of `CACHES`.
        limit: How many bytes the process may have; None: what the machine, or its container, has.
    """
    limit = limit or system_limit()
    return CacheBudget(fit, 0 if cache == NONE else free_cache_bytes(limit), limit)


def system_limit() -> int:
    """The memory of the machine, or of the container, in bytes."""
    from distributed.system import memory_limit  # noqa: PLC0415 half a second, for stored rows only

    return int(memory_limit())
