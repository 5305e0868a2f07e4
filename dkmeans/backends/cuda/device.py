"""The GPU of this process, through CuPy: streams, buffers, compiled kernels and error messages.

`Gpu` runs the kernels for `launches`, and `GpuArrays` holds arrays for `array_api`. Each thread has
two streams: one copies the next piece of rows while the other computes the last one. Rows reach the
GPU through page-locked memory. Rows that cannot change, such as those of the row cache, stay on the
GPU while they fit (`resident`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans.backends.cuda.launches import DEFINES, THREADS
from dkmeans.backends.cuda.resident import Resident
from dkmeans.state import FloatArray

try:
    import cupy
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "CuPy is missing; install dkmeans[gpu-cuda12] or dkmeans[gpu-cuda13]", name=error.name
    ) from error

# CUDA's error code for a missing driver, and for a driver older than CUDA's libraries need.
_INSUFFICIENT_DRIVER = 35
# Resident rows may take this share of the memory that is free at first.
_RESIDENT_SHARE = 0.5
# Buffers of a thread: one is copied to while the other is computed.
_BUFFERS = 2


def check_device() -> None:
    """Check that this process can use a GPU.

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


def describe_device(*, computes_by: str) -> dict[str, Any]:
    """Return the GPU, the name of the implementation, and the versions of CuPy and CUDA."""
    runtime = cupy.cuda.runtime
    device = runtime.getDeviceProperties(cupy.cuda.Device().id)
    library, driver = _version(_library_version()), _version(runtime.driverGetVersion())
    return {
        "GPU": device["name"].decode(),
        "memory": f"{device['totalGlobalMem'] / 2**30:.0f} GiB",
        "computes by": computes_by,
        "CuPy": cupy.__version__,
        "CUDA": f"{library}, driver for {driver}",
    }


def _complaint(error: Any, runtime: Any) -> str:
    """Return the reason why no GPU can be used, as precisely as CUDA's error allows."""
    if error.status != _INSUFFICIENT_DRIVER:
        return f"CuPy is installed and sees no GPU: {error}"
    # CUDA has one code for both cases. The version 0 stands for no driver.
    driver, wanted = (_version(get()) for get in (runtime.driverGetVersion, _library_version))
    if driver == "0.0":
        return "CuPy is installed and sees no GPU: there is no NVIDIA driver"
    return (
        f"the NVIDIA driver must support CUDA {wanted}, got one for CUDA {driver}; update it, or "
        "install dkmeans[gpu-cuda12] instead of dkmeans[gpu-cuda13]"
    )


def _library_version() -> int:
    """Return the version of CUDA's libraries as CUDA's number."""
    return int(cupy.cuda.runtime.runtimeGetVersion())


def _version(number: int) -> str:
    """Return CUDA's number of a version as text: 12090 is 12.9."""
    return f"{number // 1000}.{number % 1000 // 10}"


class _PieceBuffer:
    """Memory for one piece of rows: page-locked on the host, and on the device.

    Attributes:
        pinned: Page-locked bytes on the host.
        device: Bytes on the device.
        copied: Event after the last copy from `pinned`. Before it, `pinned` must not be written.
        used: Event after the last computation with `device`. Before it, `device` must not be
            written.
    """

    def __init__(self, size: int) -> None:
        self.pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.uint8, size)
        self.device = cupy.empty(size, np.uint8)
        # Events without times cost less. An event that was never recorded counts as reached.
        self.copied, self.used = (cupy.cuda.Event(disable_timing=True) for _ in range(2))


class _ThreadStreams(threading.local):
    """The streams and buffers of one thread.

    Threads share no stream, so one thread's copies fill the time of another's computations.
    """

    def __init__(self) -> None:
        self._buffers: list[_PieceBuffer] = []

    @cached_property
    def compute(self) -> Any:
        """Stream of the kernels and of CuPy's functions."""
        # A blocking stream would wait for the default stream, which all threads share.
        return cupy.cuda.Stream(non_blocking=True)

    @cached_property
    def copy(self) -> Any:
        """Stream of the copies to the device."""
        return cupy.cuda.Stream(non_blocking=True)

    def buffers(self, size: int) -> list[_PieceBuffer]:
        """Return the thread's buffers, of at least `size` bytes each."""
        if not self._buffers or self._buffers[0].pinned.size < size:
            self._buffers = [_PieceBuffer(size) for _ in range(_BUFFERS)]
        return self._buffers

    def send(self, rows: FloatArray, buffer: _PieceBuffer, target: Any) -> None:
        """Copy rows to the device. Computations that start later wait for the copy.

        Args:
            rows: (n, d) on the host.
            buffer: Page-locked memory for the copy.
            target: (n, d) on the device.
        """
        # The order matters: the host waits until the last copy has left the pinned memory, the copy
        # waits until the last piece in the buffer was computed, and computing waits for the copy.
        buffer.copied.synchronize()
        staged = buffer.pinned[: rows.nbytes].view(rows.dtype).reshape(rows.shape)
        staged[...] = rows
        self.copy.wait_event(buffer.used)
        target.set(staged, stream=self.copy)
        buffer.copied.record(self.copy)
        self.compute.wait_event(buffer.copied)


class Gpu:
    """The current GPU as a `KernelDevice`. Nothing is allocated on the GPU before its first use."""

    xp = cupy

    def __init__(self) -> None:
        self._streams = _ThreadStreams()
        self._resident = Resident(_resident_bytes, cupy.empty)

    def stream(self) -> AbstractContextManager[object]:
        """Return the stream on which the thread computes."""
        return self._streams.compute  # type: ignore[no-any-return]

    def launch(self, kernel: str, dtype: DTypeLike, blocks: int, *arguments: Any) -> None:
        """Start a kernel for rows of a dtype on the thread's stream."""
        _kernel(kernel, np.dtype(dtype))((blocks,), (THREADS,), arguments)

    def pieces(self, points: FloatArray, max_rows: int) -> Iterator[Any]:
        """Yield the (n, d) rows on the device in pieces, from the resident rows if possible."""
        resident = self._resident.find(points)
        if resident is not None:
            yield from (
                resident[start : start + max_rows] for start in range(0, len(points), max_rows)
            )
            return
        room = self._resident.reserve(points)
        try:
            yield from self._sent(points, max_rows, room)
        # Also if the caller stops early (GeneratorExit): only complete rows may stay on the GPU.
        except BaseException:
            if room is not None:
                self._resident.release(room)
            raise
        if room is not None:
            # Other threads may use the rows as soon as they are added: all copies must be done.
            self._streams.copy.synchronize()
            self._resident.add(points, room)

    def _sent(self, points: FloatArray, max_rows: int, room: Any) -> Iterator[Any]:
        """Copy the rows piece by piece to a buffer, or to the room in which they will stay.

        Yields:
            Pieces on the device. A piece in a buffer is valid until the next piece.
        """
        streams = self._streams
        buffers = streams.buffers(min(max_rows, len(points)) * points.shape[1] * points.itemsize)
        # CuPy's pool may give out memory that an earlier computation of this stream still reads.
        streams.copy.wait_event(streams.compute.record())
        for number, start in enumerate(range(0, len(points), max_rows)):
            rows, buffer = points[start : start + max_rows], buffers[number % _BUFFERS]
            target = _view(buffer.device, rows) if room is None else room[start : start + max_rows]
            streams.send(rows, buffer, target)
            yield target
            # The caller has launched all computations with this piece before it asks for the next.
            buffer.used.record(streams.compute)

    def synchronize(self) -> None:
        """Wait for the computations that the calling thread has started."""
        self._streams.compute.synchronize()

    def to_host(self, values: Any) -> FloatArray:
        """Wait until an array of the device is computed, and return a copy on the host."""
        return np.asarray(values.get(stream=self._streams.compute))


def _resident_bytes() -> int:
    """Return the largest total size of resident rows in bytes."""
    # Only the free memory counts: other processes may use the same GPU.
    return int(_RESIDENT_SHARE * cupy.cuda.runtime.memGetInfo()[0])


def _view(memory: Any, rows: FloatArray) -> Any:
    """Return device memory as an array of the shape and dtype of rows."""
    return memory[: rows.nbytes].view(rows.dtype).reshape(rows.shape)


@cache
def _module(dtype: np.dtype[Any]) -> Any:
    """Return the kernels for rows of a dtype. CuPy caches compiled kernels on disk."""
    source = (files("dkmeans.backends.cuda") / "kernels.cu").read_text()
    # Contracted products would change the bits of exact distances (docs/decisions/014).
    return cupy.RawModule(code=source, options=("-std=c++17", "--fmad=false", *DEFINES[dtype]))


@cache
def _kernel(name: str, dtype: np.dtype[Any]) -> Any:
    return _module(dtype).get_function(name)


class GpuArrays:
    """The current GPU as an `ArrayDevice`: CuPy's functions alone."""

    @property
    def xp(self) -> Any:
        """Namespace of CuPy's functions, of the array API standard."""
        import array_api_compat.cupy  # noqa: PLC0415 for GPUs that cannot run the kernels

        return array_api_compat.cupy

    def put(self, values: NDArray[Any]) -> Any:
        """Copy an array of the host to the GPU."""
        return cupy.asarray(values)

    def get(self, array: Any) -> NDArray[Any]:
        """Copy an array of the GPU to the host."""
        return np.asarray(cupy.asnumpy(array))
