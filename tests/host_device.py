"""A device for tests: the CUDA kernels, compiled as C++, run on the host; arrays are NumPy's."""

import ctypes
import subprocess
import threading
from contextlib import nullcontext
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from dkmeans.backends.cuda.launches import DEFINED, THREADS

HERE = Path(__file__).parent
SOURCE = files("dkmeans.backends.cuda") / "kernels.cu"
# Between barriers, and what is added up, must be as the device does it: nothing fused unasked.
FLAGS = ["-std=c++17", "-O1", "-march=native", "-ffp-contract=off", "-shared", "-fPIC"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]
CHECKS = ["-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
KERNELS = ["score_16", "score_64", "settle", "find_scales", "measure_winners", "measure_all"]
KERNELS += ["add_few", "add_sorted", "fold"]


def compile_kernels(folder, dtype, *flags):
    """The kernels for rows of a dtype as a library of the host's."""
    names = [*KERNELS, *(["score_128"] if dtype == np.float32 else [])]
    program, library = folder / f"{dtype}.cpp", folder / f"{dtype}.so"
    lines = ['#include "host_cuda.h"', f'#include "{SOURCE}"', *(f"CALLABLE({n})" for n in names)]
    program.write_text("\n".join(lines) + "\n")
    command = ["g++", *FLAGS, *flags, *DEFINED[dtype], f"-I{HERE}", str(program), "-o", library]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


class Poisoned:
    """NumPy, but for fresh memory, which is full of what is no number."""

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, shape, dtype=np.float64):
        values = np.empty(shape, dtype)
        values.view(np.uint8)[...] = 0xFF
        return values


class HostDevice:
    """Runs kernels thread by thread; backwards shows whether their order matters."""

    xp = Poisoned()

    def __init__(self, folder, *flags, backwards=False):
        self.backwards = backwards
        self._folder, self._flags = folder, flags
        self._lock = threading.Lock()
        self._library = cache(self._compile)

    def _compile(self, dtype):
        return compile_kernels(self._folder, dtype, *self._flags)

    def work(self):
        return nullcontext()

    def launch(self, kernel, dtype, blocks, *arguments):
        assert blocks > 0, "CUDA launches no empty grid"
        values = [_value(argument) for argument in arguments]
        places = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        with self._lock:
            run = getattr(self._library(np.dtype(dtype)), f"host_{kernel}")
            run(ctypes.c_uint(blocks), ctypes.c_uint(THREADS), int(self.backwards), places)

    def pieces(self, points, most):
        for start in range(0, len(points), most):
            yield np.array(points[start : start + most], order="C")

    def finish(self):
        pass

    def to_host(self, values):
        return values


def _value(argument):
    """What a kernel reads an argument from: an array's address, or the number itself."""
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous
        return np.array([argument.ctypes.data], np.uint64)
    assert isinstance(argument, np.generic), f"a kernel's number needs a dtype, got {argument!r}"
    return np.array([argument])
