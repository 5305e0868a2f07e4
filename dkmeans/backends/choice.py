"""The choice of the backend: the one that a user names, or the fastest that this machine can use.

Every process chooses for itself, on the first call. The import of a backend's module fails where
the backend cannot be used; that of `cuda.backend` tries the GPU. Within the native backend,
`panels` and `packing` choose tiles by the processor, `packed_centers` chooses the scoring, and
`bounds` whether `reassign` or `reassign_few` computes an iteration.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from collections.abc import Sequence
from functools import cache
from typing import cast

from dkmeans.backends.protocol import Backend
from dkmeans.config import BACKENDS, GPU
from dkmeans.errors import Invalid, expected
from dkmeans.interrupts import held_interrupts

# The module of each backend, by the name that users give.
_MODULES = {"cuda": "cuda.backend", "native": "native.backend", "numpy": "numpy"}

logger = logging.getLogger("dkmeans")

# Of threads that import a module at once, one may get what is left of it when the import of another
# has just failed. A backend's module may choose another backend while it is imported.
_importing = threading.RLock()


@cache
def select(name: str | None = None) -> Backend:
    """Return the backend with this name; for None, the fastest that this machine can use.

    Raises:
        Invalid: no backend has this name, or this machine cannot use it.
    """
    if name is None:
        return _fastest(BACKENDS)
    if name not in BACKENDS:
        raise Invalid(expected("backend", f"one of {', '.join(BACKENDS)}", name))
    try:
        return _load(name)
    except ImportError as error:
        raise Invalid(f"backend {name!r} cannot be used on this machine: {error}") from error


@cache
def select_processor(name: str | None = None) -> Backend:
    """Return the fastest backend without a GPU that this machine can use, for the driver.

    The driver of a cluster computes little itself. On a GPU it would keep a context that a worker
    may need, and it may have none. It may also have no Numba where workers have it.

    Args:
        name: The backend that the user names for the workers. If it is NumPy's, that one is
            returned; others change nothing, as the results have the same bits.
    """
    names = BACKENDS[-1:] if name == BACKENDS[-1] else BACKENDS
    return _fastest([each for each in names if each != GPU])


def _fastest(names: Sequence[str]) -> Backend:
    for name in names[:-1]:
        try:
            return _load(name)
        except ImportError as error:
            # A machine without CuPy is not expected to have a GPU: no warning is needed.
            level = logging.DEBUG if error.name == "cupy" else logging.WARNING
            logger.log(level, "backend %s cannot be used: %s", name, error)
    # The last backend, NumPy, can be used on every machine.
    return _load(names[-1])


def chooses_gpu() -> bool:
    """Return whether this process computes on a GPU where the user names no backend."""
    return select() is sys.modules.get(_path(GPU))


def cores_per_gpu() -> int | None:
    """Return the number of cores for each GPU; None if this process has not chosen a GPU yet.

    Nothing is chosen or imported here.
    """
    # Python removes a module whose import failed. During the import, the function is missing.
    backend = sys.modules.get(_path(GPU))
    count = getattr(backend, "cores_per_gpu", None)
    return None if count is None else int(count())


def _path(name: str) -> str:
    return f"dkmeans.backends.{_MODULES[name]}"


def _load(name: str) -> Backend:
    # Imported late: a backend that is not used must not import Numba or CuPy. A user who interrupts
    # the first seconds of a call would find Numba half imported in the next one.
    with _importing, held_interrupts():
        return cast(Backend, importlib.import_module(_path(name)))


def _renew_after_fork() -> None:
    """Replace the lock in a forked child: a thread of the parent may have held it."""
    global _importing
    _importing = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)
