"""What this processor has: its instructions, the width of its vectors, and a matrix unit.

`llvm_code` writes code for it, and `packing` lays out centers for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import sys
from functools import cache

import llvmlite.binding as llvm
from numba.core import config

# The system call arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) of Linux.
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
# The call getauxval(AT_HWCAP) of Linux, and its bit for dot products of bytes on ARM.
_AT_HWCAP, _HWCAP_ASIMDDP = 16, 1 << 20


def features() -> frozenset[str]:
    """Return the instruction sets that Numba compiles for, as LLVM names them, like "+avx2"."""
    # Numba compiles for the features that its settings name, else for this processor.
    named = config.CPU_FEATURES
    return _own_features() if named is None else frozenset(named.split(","))


@cache
def _own_features() -> frozenset[str]:
    # To ask LLVM takes as long as an iteration over 100,000 rows.
    found = frozenset(llvm.get_host_cpu_features().flatten().split(","))
    # LLVM 22 does not report this instruction set.
    return found | {"+dotprod"} if is_arm() and _has_dot_products() else found


def _has_dot_products() -> bool:
    """Ask the operating system whether this ARM processor has dot products of bytes (SDOT)."""
    if sys.platform == "darwin":
        return True  # all processors of Apple's computers have them
    with contextlib.suppress(OSError, AttributeError, TypeError):
        getauxval = ctypes.CDLL(None).getauxval
        getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
        return bool(getauxval(_AT_HWCAP) & _HWCAP_ASIMDDP)
    return False  # not Linux


@cache
def vector_bytes() -> int:
    """Return the width of this processor's vectors in bytes."""
    found = features()
    return 64 if "+avx512f" in found else 32 if "+avx" in found else 16


def is_x86() -> bool:
    """Return whether this processor has the x86 instructions of 64-bit programs."""
    return platform.machine().lower() in ("x86_64", "amd64")


def is_arm() -> bool:
    """Return whether this processor has the ARM instructions of 64-bit programs."""
    return platform.machine().lower() in ("aarch64", "arm64")


@cache
def matrix_unit() -> bool:
    """Ask Linux for the registers of the matrix unit; return whether this process may use it."""
    if not {"+amx-tile", "+amx-bf16", "+avx512f"} <= features() or sys.platform != "linux":
        return False
    refused = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
    return bool(refused == 0)


def multiplies_bytes() -> bool:
    """Return whether the vectors of this processor multiply bytes, as in `eight_bits`."""
    if is_arm():
        return "+dotprod" in features()
    needed = "+avx512vnni" if vector_bytes() == 64 else "+avxvnni"
    return vector_bytes() > 16 and needed in features()
