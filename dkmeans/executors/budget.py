"""Memory budgets: how much of its memory a process may fill with cached rows."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from dkmeans.config import NONE
from dkmeans.data.cache import CacheBudget, row_cache
from dkmeans.errors import counted

# With its cache a process stays below this share of its limit.
_CACHED_SHARE = 0.6
# Above this share Dask pauses a worker, which then gets no task that could end the shortage.
_PAUSED_SHARE = 0.8
# Memory of a process beside its cached rows: interpreter, libraries, code, chunks in work.
PROCESS_BYTES = 500 * 2**20


@dataclass(frozen=True, slots=True)
class Memory:
    """Workers, threads and memory of an executor; the threads of this process count as one worker.

    Attributes:
        workers: Number of workers.
        threads: Number of threads of all workers.
        limit: Memory limit in bytes of the smallest worker.
        room: Size in bytes of the rows that all workers can cache together.
    """

    workers: int
    threads: int
    limit: int
    room: int

    def __str__(self) -> str:
        return f"{counted(self.workers, 'worker')} with {counted(self.threads, 'thread')}"

    @property
    def threads_per_worker(self) -> int:
        """Number of threads of a worker, rounded up."""
        return -(-self.threads // max(1, self.workers))

    @property
    def spare(self) -> int:
        """Memory in bytes that a worker has for the chunks in work."""
        return max(0, int((_PAUSED_SHARE - _CACHED_SHARE) * self.limit))


def cacheable_bytes(limit: int, used: int) -> int:
    """Return the size in bytes of the rows that a process may cache.

    Args:
        limit: Memory limit of the process in bytes.
        used: Memory that the process uses for other things.
    """
    return max(0, int(_CACHED_SHARE * limit) - max(used, PROCESS_BYTES))


def free_cache_bytes(limit: int) -> int:
    """Return the size in bytes of the rows that this process may cache now.

    Args:
        limit: Memory limit of this process in bytes.
    """
    used = int(psutil.Process().memory_info().rss) - row_cache.bytes
    available = int(psutil.virtual_memory().available)
    return min(cacheable_bytes(limit, used), available // 2 + row_cache.bytes)


def budget_for(fit: str, cache: str, limit: int | None) -> CacheBudget:
    """Return the budget of a fit in this process.

    Args:
        fit: Name of the fit.
        cache: One of `dkmeans.config.CACHES`.
        limit: Memory limit of the process in bytes; None takes that of the machine or container.
    """
    limit = limit or system_limit()
    return CacheBudget(fit, 0 if cache == NONE else free_cache_bytes(limit), limit)


def system_limit() -> int:
    """Return the memory of the machine or container in bytes."""
    # Takes half a second, so it is imported only for stored rows.
    from distributed.system import memory_limit  # noqa: PLC0415

    return int(memory_limit())
