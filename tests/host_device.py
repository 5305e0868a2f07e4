"""A device for tests: the CUDA kernels, compiled as C++ for the host, with NumPy's arrays."""

import ctypes
import hashlib
import re
import subprocess
import threading
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np
from filelock import FileLock

from dkmeans.backends.cuda.kernel_device import DEFINES, THREADS
from dkmeans.backends.cuda.kernel_source import kernel_source

HERE = Path(__file__).parent
# The compiler must not fuse operations: the kernels' sums must have the device's bits.
FLAGS = ["-std=c++17", "-O2", "-march=native", "-ffp-contract=off", "-shared", "-fPIC"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]
# Without optimization the compiler needs a third of the time, and removes no access.
CHECKS = ["-O0", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
CHECKS += ["-fno-sanitize-recover"]
# Dynamic shared memory that a block can have, as in host_cuda.h.
MAX_SHARED_BYTES = 227 * 1024
# One launch at a time: a library has one block and one order, and devices share libraries.
_LAUNCHING = threading.Lock()
_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__[^;{]*?\)\s+)?(\w+)\('
)


def kernel_names(source, *defines):
    """Return the names of a source's kernels, also of those that macros define."""
    command = ["g++", "-E", "-P", "-x", "c++", "-DON_HOST", *defines, str(source)]
    return _KERNEL.findall(subprocess.check_output(command, text=True))


def source_file(folder):
    """Return the path of a file with the source of the library's kernels, which it writes."""
    source = kernel_source()
    path = folder / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.cu"
    if not path.exists():
        path.write_text(source)
    return path


def compile_kernels(folder, dtype, *flags, source=None):
    """Compile a source's kernels for rows of a dtype; return the path of the library.

    A library that is already in the folder is not compiled again. Processes may share a folder.
    """
    options = [*FLAGS, *flags, *DEFINES[dtype]]
    source = source or source_file(folder)
    texts = [source.read_text(), (HERE / "host_cuda.h").read_text(), *options]
    name = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    library = folder / f"{name}.so"
    with FileLock(folder / f"{name}.lock"):
        if not library.exists():
            names = kernel_names(source, *DEFINES[dtype])
            program = folder / f"{name}.cpp"
            lines = ['#include "host_cuda.h"', f'#include "{source}"']
            program.write_text("\n".join([*lines, *(f"CALLABLE({n})" for n in names), ""]))
            new = library.with_suffix(".new")
            subprocess.run(["g++", *options, f"-I{HERE}", program, "-o", new], check=True)
            new.rename(library)
    return library


class Poisoned:
    """NumPy, but fresh memory is full of NaN, so reading it before writing it shows in results."""

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, shape, dtype=np.float64):
        values = np.empty(shape, dtype)
        values.view(np.uint8)[...] = 0xFF
        return values


class HostDevice:
    """A `KernelDevice` that runs the threads of a kernel one after the other.

    Args:
        folder: Folder of the compiled kernels, which devices may share.
        flags: Further flags for the compiler.
        order: Order of the threads between barriers: 0 ascending, 1 descending, else the seed of
            random orders. The results must not depend on it.
        source: The kernels' source file; None for those of the library.
    """

    xp = Poisoned()
    shared_bytes, processors = MAX_SHARED_BYTES, 2

    def __init__(self, folder, *flags, order=0, source=None):
        self.order = order
        self._folder, self._flags, self._source = folder, flags, source
        self._library = cache(self._compile)

    def _compile(self, dtype):
        path = compile_kernels(self._folder, dtype, *self._flags, source=self._source)
        return ctypes.CDLL(str(path))

    def stream(self):
        return nullcontext()

    def launch(self, kernel, dtype, blocks, *arguments, shared_bytes=0):
        assert blocks > 0, "CUDA launches no empty grid"
        assert 0 <= shared_bytes <= MAX_SHARED_BYTES, f"{shared_bytes} bytes of shared memory"
        values = [_value(argument) for argument in arguments]
        places = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        sizes = ctypes.c_uint(blocks), ctypes.c_uint(THREADS), ctypes.c_uint(self.order)
        with _LAUNCHING:
            dtype = np.dtype(dtype)
            run = getattr(self._library(dtype), f"host_{kernel}", None)
            assert run is not None, (
                f"{self._source or 'the source'} has no kernel {kernel!r} for {dtype} rows"
            )
            run(*sizes, ctypes.c_size_t(shared_bytes), places)

    def pieces(self, points, max_rows):
        for start in range(0, len(points), max_rows):
            yield np.array(points[start : start + max_rows], order="C")

    def synchronize(self):
        pass

    def to_host(self, values):
        return values


def _value(argument):
    """Return the memory from which a kernel reads an argument: an array's address, or a number."""
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous
        return np.array([argument.ctypes.data], np.uint64)
    assert isinstance(argument, np.generic), f"a kernel's number needs a dtype, got {argument!r}"
    return np.array([argument])
