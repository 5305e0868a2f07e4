"""What this processor has: its instructions and the width of its vectors.

`vectors` writes code for it, and `packing` lays out rows and centers for it.
"""

from __future__ import annotations

import platform
from functools import cache

import llvmlite.binding as llvm
from numba.core import config


def features() -> set[str]:
    """Return the instruction sets that Numba compiles for, as LLVM names them, like "+avx2"."""
    # Numba compiles for the features that its settings name, else for this processor.
    named = config.CPU_FEATURES
    if named is None:
        named = llvm.get_host_cpu_features().flatten()
    return set(named.split(","))


@cache
def vector_bytes() -> int:
    """Return the width of this processor's vectors in bytes."""
    found = features()
    return 64 if "+avx512f" in found else 32 if "+avx" in found else 16


def is_x86() -> bool:
    """Return whether this processor has the x86 instructions of 64-bit programs."""
    return platform.machine().lower() in ("x86_64", "amd64")
