"""Settings of a worker's process, made by its first task and never undone."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

from dkmeans.executors.cores import SWITCH_SECONDS, blas
from dkmeans.executors.dask import internals

# Parameters of glibc's mallopt (malloc.h) and their values. Pieces of up to 32 MB, the most that
# glibc takes, come from memory of which 128 MB may stay free, in two arenas.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_REUSED_BYTES, _MOST_FREE_BYTES, _ARENAS = 2**25, 2**27, 2


@cache
def prepare_worker() -> None:
    """Set up this process for computing: one BLAS thread per task, and memory that is reused.

    BLAS would start as many threads for each task as there are cores. And glibc, as Dask's nanny
    configures it, returns a chunk's memory to the system after each chunk. Touching fresh memory
    for the first time takes longer than reading the rows into it: 1.2 GB/s from an uncompressed
    Zarr array, instead of 3.3.
    """
    internals.make_profiler_safe()
    blas().limit(limits=1, user_api="blas")
    sys.setswitchinterval(SWITCH_SECONDS)
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_REUSED_BYTES)
        library.mallopt(_TRIM_THRESHOLD, _MOST_FREE_BYTES)
        # Few arenas, so that memory that one thread has freed can be used by another.
        library.mallopt(_ARENA_MAX, _ARENAS)
