"""How functions become machine code: the decorators of the modules whose functions are compiled.

A `kernel` is called from Python, by `runner`. Kernels call `inlined` functions, whose body takes
the place of the call, and `compiled` ones, which are called. All run without the GIL.

Two rules keep compilation short. Numba drops a branch before it infers types, if the condition is
the length of a tuple and this tuple is an argument of the function: so an argument that only some
calls need is an empty tuple in the others. And a `compiled` function is compiled once for each set
of types. A Python literal has a type of its own: pass `np.int64(0)`, not `0`.

Machine code is cached on disk. Numba compiles again when the file of the kernel has changed, but a
kernel also contains code of other files. So a hash of all these files is part of the name that its
code is cached under, and code of another version is never opened: it may refer to classes that are
no more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from numba import njit

_F = TypeVar("_F", bound=Callable[..., Any])

_FOLDER = Path(__file__).parent
# Modules outside of this folder whose constants are compiled in.
CONSTANTS = (
    "backends.moments",
    "backends.rounding",
    "backends.weighted",
    "distance",
    "exact",
    "exact_total",
    "float_pairs",
    "exact_grid",
    "loss",
)

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
    name = function.__qualname__
    function.__qualname__ = f"{name}-{sources_hash()}"  # Numba names the files after it
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # there is no folder to cache it in
        return njit(**_OPTIONS)(function)
    finally:
        function.__qualname__ = name


@cache
def sources_hash() -> str:
    """Return a hash of the source files that kernels are compiled from."""
    package = _FOLDER.parent.parent
    outside = [package / f"{module.replace('.', '/')}.py" for module in CONSTANTS]
    found = sha256()
    for file in sorted([*_FOLDER.glob("*.py"), *filter(Path.exists, outside)]):
        found.update(file.read_bytes())
    return found.hexdigest()[:12]
