"""The CUDA backend: the kernels on a GPU, through CuPy. What is launched, `launches` says.

Where they cannot be used, or give other answers than a processor, CuPy's own functions do the work.

Rows are copied by way of page-locked memory on a stream of their own, the next piece while the last
one is computed. Every thread has its streams, so several threads fill one GPU's waits. Rows that
nobody can write to and that live on, as those of the worker's cache do, stay on the GPU while there
is room.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans.backends import Way
from dkmeans.backends.array_api import ArrayApi
from dkmeans.backends.cuda.launches import DEFINED, THREADS, Launches
from dkmeans.backends.cuda.resident import Resident
from dkmeans.backends.trial import first_right
from dkmeans.distance import Centers
from dkmeans.state import FloatArray, IndexArray, PartialSums

try:
    import cupy
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "CuPy is missing; install dkmeans[gpu-cuda12] or dkmeans[gpu-cuda13]", name=error.name
    ) from error

# What CUDA says where there is no driver, or an older one than its libraries want.
_INSUFFICIENT_DRIVER = 35
# Of the memory that is free at first, rows that stay may take this part.
_KEPT_PART = 0.5
# How many pieces are on their way at a time: one is computed, one is copied.
_BUFFERS = 2


def _check_device() -> None:
    """See that there is a GPU to use.

    Raises:
        ImportError: there is none, or its driver is too old.
    """
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise ImportError(_complaint(error, runtime)) from error
    if not count:
        raise ImportError("CuPy is installed and sees no GPU")


def _complaint(error: Any, runtime: Any) -> str:
    """Why there is no GPU, as far as CUDA says so."""
    if error.status != _INSUFFICIENT_DRIVER:
        return f"CuPy is installed and sees no GPU: {error}"
    driver, wanted = (_version(found()) for found in (runtime.driverGetVersion, _wanted))
    if driver == "0.0":
        return "CuPy is installed and sees no GPU: there is no NVIDIA driver"
    return (
        f"the NVIDIA driver must support CUDA {wanted}, got one for CUDA {driver}; update it, or "
        "install dkmeans[gpu-cuda12] instead of dkmeans[gpu-cuda13]"
    )


def _wanted() -> int:
    return int(cupy.cuda.runtime.runtimeGetVersion())


def _version(number: int) -> str:
    """CUDA's 12090 as 12.9."""
    return f"{number // 1000}.{number % 1000 // 10}"


class _Buffer:
    """Room for a piece of rows, page-locked on the host and on the device.

    Attributes:
        copied: When the last piece had left the host.
        used: When the last piece had been computed.
    """

    def __init__(self, size: int) -> None:
        self.pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.uint8, size)
        self.device = cupy.empty(size, np.uint8)
        self.copied, self.used = (cupy.cuda.Event(disable_timing=True) for _ in range(2))


class _Lane(threading.local):
    """What a thread works with: a stream to compute on, one to copy on, and buffers."""

    def __init__(self) -> None:
        self._buffers: list[_Buffer] = []

    @cached_property
    def compute(self) -> Any:
        return cupy.cuda.Stream(non_blocking=True)

    @cached_property
    def copy(self) -> Any:
        return cupy.cuda.Stream(non_blocking=True)

    def buffers(self, size: int) -> list[_Buffer]:
        """Buffers of this size at least."""
        if not self._buffers or self._buffers[0].pinned.size < size:
            self._buffers = [_Buffer(size) for _ in range(_BUFFERS)]
        return self._buffers

    def send(self, rows: FloatArray, buffer: _Buffer, target: Any) -> None:
        """Copy rows to where they belong; what is computed after waits for them."""
        buffer.copied.synchronize()
        staged = buffer.pinned[: rows.nbytes].view(rows.dtype).reshape(rows.shape)
        staged[...] = rows
        self.copy.wait_event(buffer.used)
        target.set(staged, stream=self.copy)
        buffer.copied.record(self.copy)
        self.compute.wait_event(buffer.copied)


class _Gpu:
    """The current GPU of this process, which is not touched before it is used."""

    xp = cupy

    def __init__(self) -> None:
        self._lane = _Lane()
        self._resident = Resident(_room_to_keep, cupy.empty)

    def work(self) -> AbstractContextManager[object]:
        return self._lane.compute  # type: ignore[no-any-return]

    def launch(self, kernel: str, dtype: DTypeLike, blocks: int, *arguments: Any) -> None:
        _kernel(kernel, np.dtype(dtype))((blocks,), (THREADS,), arguments)

    def pieces(self, points: FloatArray, most: int) -> Iterator[Any]:
        found = self._resident.find(points)
        if found is not None:
            yield from (found[start : start + most] for start in range(0, len(points), most))
            return
        room = self._resident.room(points)
        try:
            yield from self._sent(points, most, room)
        except BaseException:
            if room is not None:
                self._resident.give_back(room)
            raise
        if room is not None:
            self._lane.copy.synchronize()
            self._resident.keep(points, room)

    def _sent(self, points: FloatArray, most: int, room: Any) -> Iterator[Any]:
        """The rows, piece by piece, copied to a buffer, or into the room where they will stay."""
        lane = self._lane
        buffers = lane.buffers(min(most, len(points)) * points.shape[1] * points.itemsize)
        # Memory that the pool hands out may still be read by what was launched before.
        lane.copy.wait_event(lane.compute.record())
        for number, start in enumerate(range(0, len(points), most)):
            rows, buffer = points[start : start + most], buffers[number % _BUFFERS]
            target = _view(buffer.device, rows) if room is None else room[start : start + most]
            lane.send(rows, buffer, target)
            yield target
            buffer.used.record(lane.compute)

    def finish(self) -> None:
        self._lane.compute.synchronize()

    def to_host(self, values: Any) -> FloatArray:
        return np.asarray(values.get(stream=self._lane.compute))


def _room_to_keep() -> int:
    return int(_KEPT_PART * cupy.cuda.runtime.memGetInfo()[0])


def _view(memory: Any, rows: FloatArray) -> Any:
    """Device memory as an array like these rows."""
    return memory[: rows.nbytes].view(rows.dtype).reshape(rows.shape)


@cache
def _module(dtype: np.dtype[Any]) -> Any:
    """The kernels for rows of a dtype; CuPy keeps what it compiled on disk."""
    source = (files("dkmeans.backends.cuda") / "kernels.cu").read_text()
    return cupy.RawModule(code=source, options=("-std=c++17", "--fmad=false", *DEFINED[dtype]))


@cache
def _kernel(name: str, dtype: np.dtype[Any]) -> Any:
    return _module(dtype).get_function(name)


class _Arrays:
    """The GPU for the functions of CuPy alone."""

    @property
    def xp(self) -> Any:
        import array_api_compat.cupy  # noqa: PLC0415 for GPUs that cannot run the kernels

        return array_api_compat.cupy

    def put(self, values: NDArray[Any]) -> Any:
        return cupy.asarray(values)

    def get(self, array: Any) -> NDArray[Any]:
        return np.asarray(cupy.asnumpy(array))


# How a GPU may compute, the best first.
WAYS: dict[str, Callable[[], Way]] = {
    "its own kernels": lambda: Launches(_Gpu()),
    "CuPy's functions": lambda: ArrayApi(_Arrays()),
}


_check_device()
_name, _way = first_right(WAYS)


def partial_sums(points: FloatArray, centers: Centers) -> PartialSums:
    """The sums, counts and inertia of the (n, d) rows; see `Backend`."""
    return _way.partial_sums(points, centers)


def assign(points: FloatArray, centers: Centers) -> tuple[PartialSums, IndexArray, FloatArray]:
    """In one pass what `partial_sums` and `nearest` give; see `Backend`."""
    return _way.assign(points, centers)


def nearest(points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
    """Each row's winner and its distance to it; see `Backend`."""
    return _way.nearest(points, centers)


def distances(points: FloatArray, centers: Centers) -> FloatArray:
    """Each row's distance to every center, (n, k) float32; see `Backend`."""
    return _way.distances(points, centers)


def describe() -> dict[str, Any]:
    """What this machine would run; see `Backend`."""
    runtime = cupy.cuda.runtime
    device = runtime.getDeviceProperties(cupy.cuda.Device().id)
    return {
        "GPU": device["name"].decode(),
        "memory": f"{device['totalGlobalMem'] / 2**30:.0f} GiB",
        "computes by": _name,
        "CuPy": cupy.__version__,
        "CUDA": f"{_version(_wanted())}, driver for {_version(runtime.driverGetVersion())}",
    }
