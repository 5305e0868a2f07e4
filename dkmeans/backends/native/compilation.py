"""How functions become machine code: the decorators of the modules whose functions are compiled.

A `kernel` is called from Python, by `runner`. Kernels call `inlined` functions, whose body takes
the place of the call, and `compiled` ones, which are called. All run without the GIL.

Two rules keep compilation short. Numba drops a branch before it infers types, if the condition is
the length of a tuple and this tuple is an argument of the function: so an argument that only some
calls need is an empty tuple in the others. And a `compiled` function is compiled once for each set
of types. A Python literal has a type of its own: pass `np.int64(0)`, not `0`.

Numba's cache on disk is valid until the file of the kernel changes. Kernels also depend on other
files of this folder, and on constants of other modules. Each file of kernels has a hash of them in
`INTRINSICS`, so that a change of any of them changes this file too. `test_compilation.py` computes
the hash; if it differs, the failure shows the right one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

_F = TypeVar("_F", bound=Callable[..., Any])

# `_nrt` is Numba's runtime. It is off because counting references to arrays takes longer than
# most calls.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "_nrt": False,
    "no_cfunc_wrapper": True,
}
compiled: Callable[[_F], _F] = njit(no_cpython_wrapper=True, **_OPTIONS)
inlined: Callable[[_F], _F] = njit(inline="always", **_OPTIONS)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, and cache the machine code on disk.

    The function must not be recursive, and must not call a recursive function: Numba crashes when
    it loads such code from the cache.
    """
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # there is no folder to cache it in
        return njit(**_OPTIONS)(function)
