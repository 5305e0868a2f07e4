"""A device for tests: the CUDA kernels, compiled as C++ for the host, with NumPy's arrays."""

import ctypes
import subprocess
import threading
from contextlib import nullcontext
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from dkmeans.backends.cuda.launches import DEFINES, THREADS

HERE = Path(__file__).parent
SOURCE = files("dkmeans.backends.cuda") / "kernels.cu"
# The compiler must not fuse operations: the kernels' sums must have the device's bits.
FLAGS = ["-std=c++17", "-O1", "-march=native", "-ffp-contract=off", "-shared", "-fPIC"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]
CHECKS = ["-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
KERNELS = ["score_16", "score_64", "resolve", "find_scales", "measure_nearest", "measure_all"]
KERNELS += ["add_few", "add_sorted", "reduce"]


def compile_kernels(folder, dtype, *flags):
    """Compile the kernels for rows of a dtype, and load them as a library."""
    names = [*KERNELS, *(["score_128"] if dtype == np.float32 else [])]
    program, library = folder / f"{dtype}.cpp", folder / f"{dtype}.so"
    lines = ['#include "host_cuda.h"', f'#include "{SOURCE}"', *(f"CALLABLE({n})" for n in names)]
    program.write_text("\n".join(lines) + "\n")
    command = ["g++", *FLAGS, *flags, *DEFINES[dtype], f"-I{HERE}", str(program), "-o", library]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


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
        folder: Folder for the compiled kernels.
        flags: Further flags for the compiler.
        backwards: Whether the last thread runs first. The results must not depend on it.
    """

    xp = Poisoned()

    def __init__(self, folder, *flags, backwards=False):
        self.backwards = backwards
        self._folder, self._flags = folder, flags
        self._lock = threading.Lock()
        self._library = cache(self._compile)

    def _compile(self, dtype):
        return compile_kernels(self._folder, dtype, *self._flags)

    def stream(self):
        return nullcontext()

    def launch(self, kernel, dtype, blocks, *arguments):
        assert blocks > 0, "CUDA launches no empty grid"
        values = [_value(argument) for argument in arguments]
        places = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        with self._lock:
            run = getattr(self._library(np.dtype(dtype)), f"host_{kernel}")
            run(ctypes.c_uint(blocks), ctypes.c_uint(THREADS), int(self.backwards), places)

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
