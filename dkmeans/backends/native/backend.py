"""The native backend: compiled kernels, called on one chunk at a time. They run without the GIL.

`dkmeans.backends.select` imports this module on machines with Numba. The first call for a dtype
compiles a kernel, which takes seconds. The machine code is cached on disk for later processes, and
of several processes that start together only one compiles.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from filelock import FileLock, Timeout
from numba import typeof
from numba.core import config

from dkmeans.backends.native import kernels, packing
from dkmeans.backends.rounding import QUIET
from dkmeans.distance import Centers, Distance, cosine_inertia
from dkmeans.state import FloatArray, IndexArray, PartialSums

logger = logging.getLogger("dkmeans")

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")

# A process that has waited this long for another process to compile compiles the kernel itself.
_COMPILE_SECONDS = 60
_NO_INDEX: IndexArray = np.empty(0, np.int64)
_NO_DISTANCES: FloatArray = np.empty(0)


@QUIET
def partial_sums(points: FloatArray, centers: Centers) -> PartialSums:
    """Assign each of the (n, d) rows to its nearest center; return sums, counts and inertia.

    Euclidean: rows are added in their order, as residuals x - c. For float32 rows and centers
    float64 holds them almost always exactly, so an offset that all rows share costs sums and
    inertia no digits. Cosine: rows of length one are added in their order.
    """
    return _add_up(points, centers, _NO_INDEX, _NO_DISTANCES)


@QUIET
def assign(points: FloatArray, centers: Centers) -> tuple[PartialSums, IndexArray, FloatArray]:
    """Return the results of `partial_sums` and `nearest` in one pass."""
    index, distance = np.empty(len(points), np.int64), np.empty(len(points))
    return _add_up(points, centers, index, distance), index, distance


@QUIET
def nearest(points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
    """Return each row's nearest center, (n,) int64, and distance to it, (n,) float64."""
    index, distance = np.empty(len(points), np.int64), np.empty(len(points))
    _assign(points, centers, index, distance, _NO_INDEX, np.empty((0, 0)))
    return index, distance


@QUIET
def distances(points: FloatArray, centers: Centers) -> FloatArray:
    """Return the distance of each row to every center, (n, k) float32."""
    points, tile = _kernel_rows(points), packing.tile_of(np.float64)
    result = np.empty((len(points), len(centers.values)), np.float32)
    packed = packing.for_distances(centers, tile)
    _run(kernels.measure, points, packed, tile, _scratch(tile, packed), result)
    return result


def _add_up(
    points: FloatArray, centers: Centers, index: IndexArray, distance: FloatArray
) -> PartialSums:
    """Return the partial sums, and fill `index` and `distance` unless they are empty."""
    (k, d) = centers.values.shape
    counts, padded = np.zeros(k, np.int64), packing.pad_to_octets(np.zeros((k, d)))
    inertia = _assign(points, centers, index, distance, counts, padded)
    sums = np.ascontiguousarray(padded[:, :d])
    if centers.distance is Distance.COSINE:
        return PartialSums(sums, counts, cosine_inertia(sums, counts, centers))
    return PartialSums(sums, counts, inertia)


def _assign(
    points: FloatArray,
    centers: Centers,
    index: IndexArray,
    distance: FloatArray,
    counts: IndexArray,
    sums: FloatArray,
) -> float:
    """Call `kernels.assign`; its arguments and its result are described there."""
    points = _kernel_rows(points)
    tile, packed = _packed_centers(centers, points.dtype)
    scratch = _scratch(tile, packed)
    inertia: float = _run(
        kernels.assign, points, packed, tile, scratch, index, distance, counts, sums
    )
    _packed_centers.note_ambiguous(centers, points.dtype, len(points), int(scratch.ambiguous[0]))
    return inertia


def describe() -> dict[str, Any]:
    """Return the processor, the width of its vectors and the cache of kernels, for display."""
    return {
        "processor": config.CPU_NAME or llvm.get_host_cpu_name(),
        "vectors": f"{8 * packing.vector_bytes()} bits",
        "matrix unit": "AMX, for float32" if packing.matrix_unit() else "none",
        "compiled code kept in": str(
            kernels.assign.stats.cache_path or "memory: no folder can be written to"
        ),
    }


_packed_centers = packing.PackedCentersCache()
_scratch = packing.ScratchPerThread()


def _kernel_rows(points: FloatArray) -> FloatArray:
    """Return the rows C-contiguous, aligned and read-only.

    Numba would compile the kernels again for rows of another kind.
    """
    points = np.require(points, requirements=["C", "A"]).view()
    points.flags.writeable = False
    return points


class _KernelRunner:
    """Caller of kernels, which compiles or loads each kernel before its first call and logs that.

    Numba alone would compile at the first call, in several processes at once and without a log
    record.
    """

    def __init__(self) -> None:
        self._ready: set[tuple[Any, ...]] = set()
        self._lock = threading.Lock()

    def __call__(self, kernel: Any, *arguments: Any) -> Any:
        """Call a kernel. The first arguments are the rows, the packed centers and the tile."""
        points, packed, tile = arguments[:3]
        signature = (kernel, points.dtype, packed.weights.dtype, packed.origins.dtype, tile)
        if signature not in self._ready:
            with self._lock:
                if signature not in self._ready:
                    _load_or_compile(kernel, arguments)
                    self._ready.add(signature)
        return kernel(*arguments)


def _load_or_compile(kernel: Any, arguments: Sequence[Any]) -> None:
    """Load a kernel for such arguments from Numba's cache on disk, or compile it."""
    hits = sum(kernel.stats.cache_hits.values())
    began = time.perf_counter()
    with _one_process(kernel.stats.cache_path):
        try:
            kernel.compile(tuple(map(typeof, arguments)))
        except OSError as error:  # the kernel is compiled, but could not be written
            logger.warning("the compiled kernel cannot be cached on disk: %s", error)
    seconds = time.perf_counter() - began
    name = f"kernel {kernel.__name__!r} for {arguments[0].dtype}"
    if sum(kernel.stats.cache_hits.values()) > hits:
        logger.debug("loaded the compiled %s in %.1f s", name, seconds)
    else:
        folder = kernel.stats.cache_path or "this process's memory only"
        logger.info("compiled the %s in %.1f s, cached in %s", name, seconds, folder)


@contextmanager
def _one_process(folder: str | None) -> Iterator[None]:
    """Hold a lock among the processes that share a folder, so that only the first compiles.

    A process that has waited loads what the first one has compiled. Without a lock, several
    processes compile the same, which costs only time.
    """
    with ExitStack() as stack:
        if folder is not None:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                lock = FileLock(Path(folder) / "dkmeans.lock", timeout=_COMPILE_SECONDS)
                stack.enter_context(lock)
            except (OSError, Timeout):
                logger.debug("no lock in %s", folder, exc_info=True)
        yield


_run = _KernelRunner()
