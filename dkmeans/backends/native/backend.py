"""The native backend: the compiled kernels, made ready and called. They run without the GIL.

The first call for a dtype compiles, which takes seconds; the machine code is kept on disk for all
processes after, and processes that start together compile once.
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
from dkmeans.distance import Centers, Distance, cosine_inertia
from dkmeans.state import FloatArray, IndexArray, PartialSums

logger = logging.getLogger("dkmeans")

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")

# A process that waits longer for another's compiler compiles for itself.
_COMPILE_SECONDS = 60
_NO_INDEX: IndexArray = np.empty(0, np.int64)
_NO_APART: FloatArray = np.empty(0)
# Rows that are not finite, or too large to square, are found and named by the caller.
_QUIET = np.errstate(all="ignore")


@_QUIET
def partial_sums(points: FloatArray, centers: Centers) -> PartialSums:
    """The sums, counts and inertia of the (n, d) rows; see `Backend`.

    Rows are added in their order, as residuals x - c, exact in float64 for float32 data, so that
    neither the sums nor the inertia lose digits to an offset that all rows share.
    """
    return _add_up(points, centers, _NO_INDEX, _NO_APART)


@_QUIET
def assign(points: FloatArray, centers: Centers) -> tuple[PartialSums, IndexArray, FloatArray]:
    """In one pass what `partial_sums` and `nearest` give; see `Backend`."""
    index, apart = np.empty(len(points), np.int64), np.empty(len(points))
    return _add_up(points, centers, index, apart), index, apart


@_QUIET
def nearest(points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
    """Each row's winner and its distance to it; see `Backend`."""
    index, apart = np.empty(len(points), np.int64), np.empty(len(points))
    _assign(points, centers, index, apart, _NO_INDEX, np.empty((0, 0)))
    return index, apart


@_QUIET
def distances(points: FloatArray, centers: Centers) -> FloatArray:
    """Each row's distance to every center, (n, k) float32; see `Backend`."""
    points, tile = _readable(points), packing.tile_of(np.float64)
    found = np.empty((len(points), len(centers.values)), np.float32)
    packed = packing.for_distances(centers, tile)
    _run(kernels.measure, points, packed, tile, _scratch(tile, packed), found)
    return found


def _add_up(
    points: FloatArray, centers: Centers, index: IndexArray, apart: FloatArray
) -> PartialSums:
    (k, d) = centers.values.shape
    counts, octets = np.zeros(k, np.int64), packing.in_octets(np.zeros((k, d)))
    inertia = _assign(points, centers, index, apart, counts, octets)
    sums = np.ascontiguousarray(octets[:, :d])
    if centers.distance is Distance.COSINE:
        return PartialSums(sums, counts, cosine_inertia(sums, counts, centers))
    return PartialSums(sums, counts, inertia)


def _assign(
    points: FloatArray,
    centers: Centers,
    index: IndexArray,
    apart: FloatArray,
    counts: IndexArray,
    sums: FloatArray,
) -> float:
    points = _readable(points)
    tile, packed = _prepared(centers, points.dtype)
    scratch = _scratch(tile, packed)
    inertia: float = _run(kernels.assign, points, packed, tile, scratch, index, apart, counts, sums)
    _prepared.learn(centers, points.dtype, len(points), int(scratch.doubts[0]))
    return inertia


def describe() -> dict[str, Any]:
    """What this machine would run; see `Backend`."""
    return {
        "processor": config.CPU_NAME or llvm.get_host_cpu_name(),
        "vectors": f"{8 * packing.vector_bytes()} bits",
        "matrix unit": "AMX, for float32" if packing.matrix_unit() else "none",
        "compiled code kept in": str(
            kernels.assign.stats.cache_path or "memory: no folder can be written to"
        ),
    }


_prepared = packing.Prepared()
_scratch = packing.Rooms()


def _readable(points: FloatArray) -> FloatArray:
    """The rows in the one form that the kernels are compiled for."""
    points = np.require(points, requirements=["C", "A"]).view()
    points.flags.writeable = False
    return points


class _Compiler:
    """Sees to it that a kernel is there before it is called, and says how long that took."""

    def __init__(self) -> None:
        self._ready: set[tuple[Any, ...]] = set()
        self._lock = threading.Lock()

    def __call__(self, kernel: Any, *arguments: Any) -> Any:
        """Call a kernel, compiled or loaded first where this process has not done so yet."""
        points, packed, tile = arguments[:3]
        kind = (kernel, points.dtype, packed.weights.dtype, packed.origins.dtype, tile)
        if kind not in self._ready:
            with self._lock:
                if kind not in self._ready:
                    _make(kernel, arguments)
                    self._ready.add(kind)
        return kernel(*arguments)


def _make(kernel: Any, arguments: Sequence[Any]) -> None:
    """Load a kernel for such arguments, or compile it where no process has done so before."""
    loaded = sum(kernel.stats.cache_hits.values())
    began = time.perf_counter()
    with _alone(kernel.stats.cache_path):
        try:
            kernel.compile(tuple(map(typeof, arguments)))
        except OSError as error:  # it is there, and only not kept
            logger.warning("the compiled kernel cannot be kept on disk: %s", error)
    seconds = time.perf_counter() - began
    name = f"kernel {kernel.__name__!r} for {arguments[0].dtype}"
    if sum(kernel.stats.cache_hits.values()) > loaded:
        logger.debug("loaded the compiled %s in %.1f s", name, seconds)
    else:
        kept = kernel.stats.cache_path or "this process's memory only"
        logger.info("compiled the %s in %.1f s, kept in %s", name, seconds, kept)


@contextmanager
def _alone(folder: str | None) -> Iterator[None]:
    """One process at a time: those that wait find what the first has compiled."""
    with ExitStack() as stack:
        if folder is not None:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
                lock = FileLock(Path(folder) / "dkmeans.lock", timeout=_COMPILE_SECONDS)
                stack.enter_context(lock)
            except (OSError, Timeout):  # then several may compile the same: no harm but the time
                logger.debug("no lock in %s", folder, exc_info=True)
        yield


_run = _Compiler()
