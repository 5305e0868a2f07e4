"""The GPU of this process, through CuPy: streams, buffers, compiled kernels and error messages.

`Gpu` runs the kernels for `launches`, and says for `fallback` what an error means. Each thread has
two streams: one copies the next piece of rows while the other computes the last one. Rows reach the
GPU through page-locked memory (`staging`). Rows that cannot change, such as those of the row cache,
stay on the GPU while they fit (`resident`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from dkmeans.backends.cuda.compiler import OPTIONS, cubin
from dkmeans.backends.cuda.fallback import Fault
from dkmeans.backends.cuda.kernel_device import DEFINES, THREADS
from dkmeans.backends.cuda.kernel_source import kernel_source
from dkmeans.backends.cuda.resident import Resident
from dkmeans.backends.cuda.staging import Staging, StagingBlock
from dkmeans.machine import usable_cores
from dkmeans.state import FloatArray

try:
    import cupy
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "CuPy is missing; install dkmeans[gpu-cuda12] or dkmeans[gpu-cuda13]", name=error.name
    ) from error

# CUDA's error code for a missing driver, and for a driver older than CUDA's libraries need.
_INSUFFICIENT_DRIVER = 35
# The first GPUs with the tensor cores and copies that the kernels use.
_LEAST_CAPABILITY = 80
# CUDA's error code for too little memory, in its runtime and in its driver.
_OUT_OF_MEMORY = 2
# Resident rows leave this share of the device's memory free, for kernels and other processes.
_RESERVED_SHARE = 0.25
# Static shared memory of the kernels that have dynamic shared memory too, at most.
_STATIC_SHARED_BYTES = 6 * 2**10
# Share of a processor's fast memory that is shared memory and not cache, for some kernels.
_ALL_SHARED_PERCENT = 100
# GPUs from this major version on have instructions that only the architecture's name with an `a`
# allows, such as the products of the H100's tensor cores.
_FIRST_MAJOR_WITH_A = 9
# Buffers of a thread, at most: one is copied to while the other is computed.
_BUFFERS = 2
# Largest size of the rows of a piece, and so of a buffer, and its largest share of the memory.
_PIECE_ROW_BYTES, _PIECE_ROW_SHARE = 2**30, 1 / 64
# The same for the rows and all results of a piece.
_PIECE_BYTES, _PIECE_SHARE = 2**32, 1 / 16
# Results of these sizes are copied to page-locked memory, which is several times as fast. It is not
# used for larger ones, because CuPy does not free it.
_LEAST_LOCKED, _MOST_LOCKED = 2**20, 2**26
# Threads that copy rows into page-locked memory, at most. So many are faster than PCIe.
_MOST_STAGING_THREADS = 8


def check_device() -> None:
    """Check that this process can use a GPU.

    Raises:
        ImportError: there is none, or it or its driver is too old.
    """
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise ImportError(_complaint(error, runtime)) from error
    if not count:
        raise ImportError("CuPy is installed and sees no GPU")
    capability = cupy.cuda.Device().compute_capability  # the digits of major and minor, such as 90
    if int(capability) < _LEAST_CAPABILITY:
        raise ImportError(
            f"the GPU must have compute capability {_dotted(_LEAST_CAPABILITY)} or more, "
            f"got {_dotted(int(capability))}"
        )


def describe_device() -> dict[str, Any]:
    """Return the GPU, and the versions of CuPy and CUDA."""
    runtime = cupy.cuda.runtime
    device = runtime.getDeviceProperties(cupy.cuda.Device().id)
    library, driver = _version(_library_version()), _version(runtime.driverGetVersion())
    return {
        "GPU": device["name"].decode(),
        "memory": f"{device['totalGlobalMem'] / 2**30:.0f} GiB",
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


def _dotted(capability: int) -> str:
    """Return a compute capability as CUDA's documentation writes it: 90 is 9.0."""
    return f"{capability // 10}.{capability % 10}"


def _library_version() -> int:
    """Return the version of CUDA's libraries as CUDA's number."""
    return int(cupy.cuda.runtime.runtimeGetVersion())


def _version(number: int) -> str:
    """Return CUDA's number of a version as text: 12090 is 12.9."""
    return f"{number // 1000}.{number % 1000 // 10}"


@cache  # CUDA refuses to count the GPUs after this one was lost
def share_of_cores() -> int:
    """Return the number of cores that this process may use for each GPU that it sees, at least 1.

    One process computes on one GPU. The processes of the other GPUs need their share of the cores.
    """
    return max(1, usable_cores() // max(1, int(cupy.cuda.runtime.getDeviceCount())))


def _new_block(size: int) -> StagingBlock:
    """Return a new block of page-locked memory."""
    memory = np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.uint8, size)
    # A thread that waits for a blocking event leaves its core to the threads that fill and decode.
    return StagingBlock(memory, cupy.cuda.Event(block=True, disable_timing=True))


class _PieceBuffer:
    """Memory on the device for one piece of rows.

    Attributes:
        memory: Bytes on the device.
        used: Event after the last computation with the memory. Before it, the memory must not be
            written.
    """

    def __init__(self, size: int) -> None:
        self.memory = cupy.empty(size, np.uint8)
        # Events without times cost less. An event that was never recorded counts as reached.
        self.used = cupy.cuda.Event(disable_timing=True)


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

    def buffers(self, size: int, count: int) -> list[_PieceBuffer]:
        """Return at least `count` buffers of the thread, of at least `size` bytes each."""
        if self._buffers and self._buffers[0].memory.size < size:
            self._buffers = []  # freed before the larger ones are allocated
        size = self._buffers[0].memory.size if self._buffers else size
        while len(self._buffers) < count:
            self._buffers.append(_PieceBuffer(size))
        return self._buffers

    def free_buffers(self) -> None:
        """Wait for the thread's copies and computations, and free its buffers."""
        self.copy.synchronize()
        self.compute.synchronize()
        self._buffers = []


class _Kernels:
    """The kernels on the device, compiled when the first one is needed. Threads may share them."""

    def __init__(self) -> None:
        self._modules: dict[np.dtype[Any], Any] = {}
        self._functions: dict[tuple[str, np.dtype[Any]], Any] = {}
        # Largest dynamic shared memory that each function was allowed.
        self._allowed: dict[Any, int] = {}
        # Compiling takes seconds: threads that need the same kernels wait for the first one.
        self._lock = threading.Lock()

    def find(self, name: str, dtype: np.dtype[Any], shared_bytes: int) -> Any:
        """Return the kernel for rows of a dtype, allowed to use dynamic shared memory."""
        with self._lock:
            key = name, dtype
            if key not in self._functions:
                if dtype not in self._modules:
                    self._modules[dtype] = _compiled(dtype)
                self._functions[key] = self._modules[dtype].get_function(name)
            if shared_bytes > self._allowed.get(key, 0):
                driver, function = cupy.cuda.driver, self._functions[key].ptr
                largest = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                driver.funcSetAttribute(function, largest, shared_bytes)
                # As many blocks as possible at a time: the driver might choose room for one.
                share = driver.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
                driver.funcSetAttribute(function, share, _ALL_SHARED_PERCENT)
                self._allowed[key] = shared_bytes
            return self._functions[key]


class Gpu:
    """The current GPU as a `KernelDevice`, which also explains its errors to `fallback`.

    Nothing is allocated on the GPU before its first use.
    """

    xp = cupy

    def __init__(self) -> None:
        self._streams = _ThreadStreams()
        self._staging = Staging(_new_block, min(share_of_cores(), _MOST_STAGING_THREADS))
        self._resident = Resident(_has_room, _resident_array)
        self._kernels = _Kernels()

    @cached_property
    def shared_bytes(self) -> int:
        """Largest dynamic shared memory of a block; a kernel's static arrays are small."""
        limit = cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]
        return int(limit) - _STATIC_SHARED_BYTES

    @cached_property
    def processors(self) -> int:
        """Number of the GPU's processors."""
        return int(cupy.cuda.Device().attributes["MultiProcessorCount"])

    @cached_property
    def piece_bytes(self) -> int:
        """Largest size of a piece of rows with its results."""
        return min(_PIECE_BYTES, int(_PIECE_SHARE * self._memory))

    @cached_property
    def _memory(self) -> int:
        return int(cupy.cuda.runtime.memGetInfo()[1])

    def stream(self) -> AbstractContextManager[object]:
        """Return the stream on which the thread computes."""
        return self._streams.compute  # type: ignore[no-any-return]

    def launch(
        self, kernel: str, dtype: DTypeLike, blocks: int, *arguments: Any, shared_bytes: int = 0
    ) -> None:
        """Start a kernel for rows of a dtype, in blocks of `THREADS`, on the thread's stream."""
        function = self._kernels.find(kernel, np.dtype(dtype), shared_bytes)
        # CuPy passes the values of the host's arrays, but not of structures.
        arguments = tuple(np.array(x) if isinstance(x, np.void) else x for x in arguments)
        function((blocks,), (THREADS,), arguments, shared_bytes)

    def pieces(self, points: FloatArray, max_rows: int) -> Iterator[Any]:
        """Yield the (n, d) rows on the device in pieces, from the resident rows if possible.

        Results do not depend on how rows are cut into pieces.
        """
        resident = self._resident.find(points)
        if resident is not None:
            starts = range(0, len(points), max_rows)
            yield from (resident[start : start + max_rows] for start in starts)
            return
        most = min(_PIECE_ROW_BYTES, int(_PIECE_ROW_SHARE * self._memory))
        size = min(max_rows, max(1, most // (points.shape[1] * points.itemsize)))
        room = self._resident.reserve(points)
        # Only complete rows may stay on the GPU: what follows is not reached if the caller stops.
        yield from self._sent(points, size, room)
        if room is not None:
            # Other threads may use the rows as soon as they are added: all copies must be done.
            self._streams.copy.synchronize()
            self._resident.add(points, room)

    def _sent(self, points: FloatArray, size: int, room: Any) -> Iterator[Any]:
        """Copy the rows piece by piece to a buffer, or to the room in which they will stay.

        Yields:
            Pieces of `size` rows on the device. A piece in a buffer is valid until the next piece.
        """
        streams = self._streams
        if room is not None:
            # Nothing has used the room before, so nothing must be waited for.
            for start in range(0, len(points), size):
                piece = room[start : start + size]
                self._send(points[start : start + size], piece)
                yield piece
            return
        count = min(_BUFFERS, -(-len(points) // size))
        row_bytes = points.shape[1] * points.itemsize
        buffers = streams.buffers(min(size, len(points)) * row_bytes, count)
        # CuPy's pool may give out memory that an earlier computation of this stream still reads.
        streams.copy.wait_event(streams.compute.record())
        for number, start in enumerate(range(0, len(points), size)):
            rows, buffer = points[start : start + size], buffers[number % count]
            piece = _view(buffer.memory, rows)
            # The GPU copies only when the last piece in this buffer was computed.
            streams.copy.wait_event(buffer.used)
            self._send(rows, piece)
            yield piece
            # The caller has launched all computations with this piece before it asks for the next.
            buffer.used.record(streams.compute)

    def _send(self, rows: FloatArray, target: Any) -> None:
        """Copy rows to the device. Computations that start later wait for the copies.

        Why nothing is overwritten too early: `Staging` fills a block only after its event `copied`,
        which is recorded here, behind the copy from it. All copies of this thread are in one stream
        and in order, so computing may begin after the event of the last block.
        Another thread may take that block and record its event again before this thread waits for
        the event. It does so only after the copy from here was done.

        Args:
            rows: (n, d) on the host.
            target: (n, d) on the device, contiguous.
        """
        streams, block = self._streams, None
        # Blocks are cut without regard to rows: a row may be larger than a block.
        values, flat = np.ascontiguousarray(rows).reshape(-1), target.reshape(-1)
        for block, staged, place in self._staging.blocks(values):
            flat[place].set(staged, stream=streams.copy)
            block.copied.record(streams.copy)
        if block is not None:
            streams.compute.wait_event(block.copied)

    def synchronize(self) -> None:
        """Wait for the computations that the calling thread has started."""
        self._streams.compute.synchronize()

    def to_host(self, values: Any) -> FloatArray:
        """Wait until an array of the device is computed, and return a copy on the host."""
        stream = self._streams.compute
        if not _LEAST_LOCKED <= values.nbytes <= _MOST_LOCKED:
            return np.asarray(values.get(stream=stream))
        # The array keeps the memory, which CuPy's pool gets back afterwards.
        memory = cupy.cuda.alloc_pinned_memory(values.nbytes)
        result = np.frombuffer(memory, values.dtype, values.size).reshape(values.shape)
        values.get(stream=stream, out=result)
        return result

    def fault_of(self, error: Exception) -> Fault | None:
        """Return which fault of the GPU an exception stands for; None for any other error."""
        if _is_out_of_memory(error):
            return Fault.OUT_OF_MEMORY
        if _is_cuda_error(error):
            return Fault.LOST
        # The libraries behind CuPy's functions raise exceptions of their own. If the context is
        # lost, CUDA repeats its error at every call.
        try:
            cupy.cuda.runtime.deviceSynchronize()
        except cupy.cuda.runtime.CUDARuntimeError:
            return Fault.LOST
        return None

    def make_room(self) -> None:
        """Free the resident rows, the thread's buffers and all unused memory of CuPy's pools."""
        self._streams.free_buffers()
        self._resident.clear()
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()

    def abandon(self) -> None:
        """Leave the memory of the lost GPU as it is: freeing it would only raise more errors."""
        self._resident.abandon()


def _is_cuda_error(error: BaseException) -> bool:
    errors = cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError
    return isinstance(error, errors)


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was too little, on the GPU or for pages locked on the host."""
    if _is_cuda_error(error):
        return getattr(error, "status", None) == _OUT_OF_MEMORY
    return isinstance(error, MemoryError)  # CuPy's OutOfMemoryError is one


def _has_room(size: int) -> bool:
    """Return whether `size` more bytes of resident rows leave enough of the device's memory."""
    # CUDA counts the memory of all processes on the device, and that of CuPy's pools as used.
    free, total = cupy.cuda.runtime.memGetInfo()
    return bool(free - size >= _RESERVED_SHARE * total)


def _resident_array(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Return a new array for resident rows, in memory of its own.

    CuPy's pool could give the memory out again while a kernel of another stream still reads it.
    CUDA frees memory of its own only after all kernels that were launched before.

    Raises:
        MemoryError: the device has too little memory.
    """
    size = math.prod(shape) * dtype.itemsize
    try:
        memory = cupy.cuda.Memory(size)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        if _is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise
    return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(memory, 0))


def _view(memory: Any, rows: FloatArray) -> Any:
    """Return device memory as an array of the shape and dtype of rows."""
    return memory[: rows.nbytes].view(rows.dtype).reshape(rows.shape)


def _compiled(dtype: np.dtype[Any]) -> Any:
    """Return the kernels for rows of a dtype, on the device. The machine code is cached on disk."""
    code = cubin(kernel_source(), (*OPTIONS, *DEFINES[dtype]), _architecture(), cupy.cuda.nvrtc)
    module = cupy.cuda.Module()
    module.load(code)
    return module


def _architecture() -> str:
    """Return the name of the device's architecture for the compiler, such as sm_80 or sm_90a."""
    version = cupy.cuda.Device().compute_capability
    return f"sm_{version}{'a' if int(version[:-1]) >= _FIRST_MAJOR_WITH_A else ''}"
