"""How much memory a process may fill with rows that it keeps."""

from __future__ import annotations

import psutil

from dkmeans.cache import Keeping, kept
from dkmeans.config import NONE

# With what it keeps, a process stays below this part of its limit: at 0.8 Dask pauses a worker.
_MOST = 0.6
# What a process that computes takes up beside rows: the interpreter, libraries, compiled code.
PROCESS_BYTES = 400 * 2**20


def room(limit: int, taken: int) -> int:
    """How many bytes of rows a process may keep that has taken so many for other things."""
    return max(0, int(_MOST * limit) - max(taken, PROCESS_BYTES))


def own_room(limit: int) -> int:
    """The same of this process, now."""
    memory = int(psutil.Process().memory_info().rss) - kept.bytes
    available = int(psutil.virtual_memory().available)
    return min(room(limit, memory), available // 2 + kept.bytes)


def keeping_of(fit: str, cache: str, limit: int | None) -> Keeping:
    """What this process keeps for a fit.

    Args:
        fit: Its name.
        cache: One of `CACHES`.
        limit: How many bytes the process may have; None: what the machine, or its container, has.
    """
    return Keeping(fit, 0 if cache == NONE else own_room(limit or system_limit()))


def system_limit() -> int:
    """The memory of the machine, or of the container, in bytes."""
    from distributed.system import memory_limit  # noqa: PLC0415 half a second, for stored rows only

    return int(memory_limit())
