"""The caller of kernels: it compiles or loads each kernel before its first call, and logs that.

The modules beside this one call kernels by `run`, with arrays from `kernel_array`. Numba alone
would compile at the first call, in several processes at once and without a log record. The machine
code is cached on disk for later processes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numba import typeof

from dkmeans.interrupts import held_interrupts
from dkmeans.state import FloatArray

logger = logging.getLogger("dkmeans")

# A process that has waited this long for another process to compile compiles the kernel itself.
_COMPILE_SECONDS = 60
# What takes longer is no loading from the cache, which takes a tenth of a second.
_LOAD_SECONDS = 2.0


class KernelRunner:
    """Caller of kernels, which compiles or loads each kernel before its first call."""

    def __init__(self) -> None:
        self._ready: set[tuple[Any, ...]] = set()
        self._lock = threading.Lock()

    def __call__(self, kernel: Any, variant: tuple[Any, ...], *arguments: Any) -> Any:
        """Call a kernel; its first argument is rows, and `variant` decides the types of all."""
        signature = (kernel, *variant)
        if signature not in self._ready:
            with self._lock:
                if signature not in self._ready:
                    _load_or_compile(kernel, arguments)
                    self._ready.add(signature)
        return kernel(*arguments)


def _load_or_compile(kernel: Any, arguments: Sequence[Any]) -> None:
    """Load a kernel for such arguments from Numba's cache on disk, or compile it."""
    hits = sum(kernel.stats.cache_hits.values())
    name = f"kernel {kernel.__name__!r} for {arguments[0].dtype}"
    began = time.perf_counter()
    message = "compiling the %s, which is done once on a machine and takes some seconds"
    compiling = threading.Timer(_LOAD_SECONDS, logger.info, (message, name))
    compiling.daemon = True
    compiling.start()
    try:
        # Numba imports parts of itself for its first kernel.
        with _one_process(kernel), held_interrupts():
            kernel.compile(tuple(map(typeof, arguments)))
    except OSError as error:  # the kernel is compiled, but could not be written
        logger.warning("the compiled kernel cannot be cached on disk: %s", error)
    finally:
        compiling.cancel()
    seconds = time.perf_counter() - began
    if sum(kernel.stats.cache_hits.values()) > hits:
        logger.debug("loaded the compiled %s in %.1f s", name, seconds)
    else:
        folder = kernel.stats.cache_path or "this process's memory only"
        logger.info("compiled the %s in %.1f s, cached in %s", name, seconds, folder)


@contextmanager
def _one_process(kernel: Any) -> Iterator[None]:
    """Hold a kernel's lock among the processes that share a folder, so that only one compiles it.

    A process that has waited loads what the first one has compiled. Numba's index of a kernel's
    code on disk is not made for several writers. Without a lock, several processes compile the
    same, which costs only time.
    """
    folder, name = kernel.stats.cache_path, f"{kernel.__module__}.{kernel.__name__}.lock"
    with ExitStack() as stack:
        if folder is not None:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                lock = FileLock(Path(folder) / name, timeout=_COMPILE_SECONDS)
                stack.enter_context(lock)
            except (OSError, Timeout):
                logger.debug("no lock in %s", folder, exc_info=True)
        yield


run = KernelRunner()


def kernel_array(values: FloatArray) -> FloatArray:
    """Return an array C-contiguous, aligned and read-only, without a copy if it is so already.

    Numba would compile the kernels again for arrays of another kind.
    """
    flags = values.flags
    if not (flags.c_contiguous and flags.aligned):
        values = np.require(values, requirements=["C", "A"])
    values = values.view()
    values.flags.writeable = False
    return values
