"""The protocol of a device that runs the kernels, and the sizes that the kernels have too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from dkmeans.state import FloatArray

# The same as in `kernels/instructions.cu` and `kernels/few_singles.cu`.
THREADS, WARP_THREADS, OCTET = 256, 32, 8
FEW_CENTERS, FEW_COLUMNS, FEW_ROWS = 16, 32, 4096
FEW_TILE, FEW_STAGES, FEW_GAP = 64, 2, 4
COUNTED_ROWS = 4096
SLAB, KEPT_SLABS, STAGE_COLUMNS, STAGES = 16, 8, 32, 4
# Compiler options for rows of a dtype.
DEFINES = {
    np.dtype(np.float32): ("-DSCALAR=float", "-DSINGLE"),
    np.dtype(np.float64): ("-DSCALAR=double",),
}
# The kernels `score_N` and `list_pairs_N`, by their number of centers at a time, and the rows of
# one of their blocks. The same sizes as in the `SCORE` lines of `kernels/nearest.cu`.
BLOCK_ROWS = {128: 256, 256: 128}
# Digits of float16 with which rows are scored at most.
MOST_DIGITS = 2

# The null pointer: a kernel's argument where it gets no array.
NULL = np.uint64(0)


class KernelDevice(Protocol):
    """A device that runs kernels, and holds the arrays that the kernels read."""

    @property
    def xp(self) -> Any:
        """Namespace of the device's arrays, with NumPy's functions."""
        ...

    @property
    def shared_bytes(self) -> int:
        """Largest dynamic shared memory of a block."""
        ...

    @property
    def processors(self) -> int:
        """Number of processors, each of which runs some blocks at a time."""
        ...

    def stream(self) -> AbstractContextManager[object]:
        """Return a context in which the thread's launches and array functions run in order."""
        ...

    def launch(
        self, kernel: str, dtype: DTypeLike, blocks: int, *arguments: Any, shared_bytes: int = 0
    ) -> None:
        """Start a kernel for rows of a dtype, in blocks of `THREADS` threads."""
        ...

    def pieces(self, points: FloatArray, max_rows: int) -> Iterator[Any]:
        """Yield the (n, d) rows on the device, at most `max_rows` at a time.

        A piece is valid until the next one is asked for.
        """
        ...

    def synchronize(self) -> None:
        """Wait for everything that the calling thread has started."""
        ...

    def to_host(self, values: Any) -> FloatArray:
        """Wait until an array of the device is computed, and return a copy on the host."""
        ...


def power_of_two(number: int) -> int:
    """Return the least power of two that is not below a number."""
    return 1 << (number - 1).bit_length()
