"""Staging: rows of the host are copied into page-locked memory, from which a GPU copies them.

One thread copies about 9 GB/s into page-locked memory, and PCIe carries 25 to 55 GB/s. So `Staging`
cuts rows into blocks, and several threads copy several blocks at once. All threads that compute on
the GPU share the blocks, so the page-locked memory does not grow with their number. `device` uses
it:

    for block, staged, place in staging.blocks(values):
        ...  # start the copy of `staged` to the values [place] on the device
        block.copied.record(stream)

Nothing here calls CUDA, except that a block's event is waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Size of the page-locked memory of a block. A GPU copies it in 150 to 350 microseconds, several
# times as long as Python needs to start a copy.
BLOCK_BYTES = 8 * 2**20
# Rows are cut into smaller blocks than this only at their end. Smaller blocks would not repay the
# change of threads.
_LEAST_BLOCK_BYTES = 2 * 2**20
# Blocks beside those that are filled: the GPU copies them meanwhile.
_BLOCKS_ON_THE_WAY = 4


class StagingBlock(NamedTuple):
    """Page-locked memory.

    Attributes:
        memory: Bytes on the host.
        copied: Event of a stream of the device, after the last copy from the memory. Before it, the
            memory must not be written.
    """

    memory: NDArray[np.uint8]
    copied: Any


class _Filling(NamedTuple):
    """A block that a thread fills.

    Attributes:
        block: The block.
        staged: The part of its memory that is filled, as an array of the values' dtype.
        place: Where the values stand among all values.
        done: Future of the thread's work.
    """

    block: StagingBlock
    staged: NDArray[Any]
    place: slice
    done: Future[None]


class Staging:
    """Blocks of page-locked memory, and threads that fill them. Any number of threads may use it.

    Args:
        new_block: Allocates a block of so many bytes.
        threads: Number of threads that fill blocks.
    """

    def __init__(self, new_block: Callable[[int], StagingBlock], threads: int) -> None:
        self._new_block, self._threads = new_block, threads
        self._pool = ThreadPoolExecutor(threads, "dkmeans-stage")
        # In the order in which the copies from them were started: the first one is free first.
        self._free: SimpleQueue[StagingBlock] = SimpleQueue()
        # Allocated when they are needed first. Page-locking takes long, and small tables need few.
        self._missing = 2 * threads + _BLOCKS_ON_THE_WAY
        self._lock = Lock()

    def blocks(self, values: NDArray[Any]) -> Iterator[tuple[StagingBlock, NDArray[Any], slice]]:
        """Copy values into blocks, several at a time.

        The caller must start the copy of each block to the device, and record `copied` after it,
        before it asks for the next block.

        Args:
            values: (n,) contiguous.

        Yields:
            The block, its values, and their place in `values`, in order.
        """
        step = self._step(values)
        filling: deque[_Filling] = deque()
        try:
            for start in range(0, len(values), step):
                place = slice(start, start + step)
                # As many blocks as there are threads to fill them. While they are filled, the
                # device copies blocks that were filled before.
                while len(filling) > self._threads or (block := self._take(filling)) is None:
                    yield from self._oldest(filling)
                filling.append(
                    self._fill(block, values[place], place, is_alone=step >= len(values))
                )
            while filling:
                yield from self._oldest(filling)
        finally:
            # Only if the caller stopped early. Threads still write into these blocks.
            wait([each.done for each in filling])
            for each in filling:
                self._free.put(each.block)

    def _step(self, values: NDArray[Any]) -> int:
        """Return the number of values in a block: all threads get blocks if there are enough."""
        share = -(-values.nbytes // self._threads)
        size = min(max(share, _LEAST_BLOCK_BYTES), BLOCK_BYTES)
        return size // values.itemsize

    def _take(self, filling: deque[_Filling]) -> StagingBlock | None:
        """Return a block that may be written; None if the caller must first send one of its own.

        A thread that waits here holds no block. So some thread always can go on.
        """
        try:
            block = self._free.get_nowait()
        except Empty:
            allocated = self._allocate()
            if allocated is not None:
                return allocated
            if filling:
                return None
            block = self._free.get()
        try:
            block.copied.synchronize()
        except BaseException:
            self._free.put(block)
            raise
        return block

    def _allocate(self) -> StagingBlock | None:
        """Return a new block; None if all have been allocated."""
        with self._lock:
            if not self._missing:
                return None
            block = self._new_block(BLOCK_BYTES)
            self._missing -= 1
            return block

    def _fill(
        self, block: StagingBlock, values: NDArray[Any], place: slice, *, is_alone: bool
    ) -> _Filling:
        """Begin to copy values into a block. A block without others is filled by this thread."""
        staged = block.memory[: values.nbytes].view(values.dtype)
        done: Future[None]
        if is_alone:
            np.copyto(staged, values)
            done = Future()
            done.set_result(None)
        else:
            # NumPy copies without the interpreter's lock.
            done = self._pool.submit(np.copyto, staged, values)
        return _Filling(block, staged, place, done)

    def _oldest(
        self, filling: deque[_Filling]
    ) -> Iterator[tuple[StagingBlock, NDArray[Any], slice]]:
        """Yield the block that was begun first, and free it when the caller has sent it."""
        oldest = filling[0]
        oldest.done.result()
        yield oldest.block, oldest.staged, oldest.place
        filling.popleft()
        self._free.put(oldest.block)
