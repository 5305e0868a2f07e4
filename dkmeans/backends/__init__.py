"""Interchangeable siblings: a backend is a module with these functions, chosen on the worker."""

from __future__ import annotations

import importlib
import logging
from functools import cache
from typing import Any, Protocol, cast

from dkmeans.config import BACKENDS
from dkmeans.distance import Centers
from dkmeans.errors import Invalid, expected
from dkmeans.state import FloatArray, IndexArray, PartialSums

_MODULES = {"cuda": "cuda.backend", "native": "native.backend", "numpy": "numpy"}

logger = logging.getLogger("dkmeans")


class Way(Protocol):
    """What every way of computing can do with a chunk's (n, d) rows and (k, d) centers.

    The winner of a row is the center whose float64 distance to it is least, the lowest index
    among equals: a property of the row and the centers alone, so no backend, block size or
    number of workers can change it.
    """

    def partial_sums(self, points: FloatArray, centers: Centers) -> PartialSums:
        """The sums, counts and inertia of the rows."""
        ...

    def assign(
        self, points: FloatArray, centers: Centers
    ) -> tuple[PartialSums, IndexArray, FloatArray]:
        """In one pass what `partial_sums` and `nearest` give."""
        ...

    def nearest(self, points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
        """Each row's winner, (n,) int64, and its distance to it, (n,) float64."""
        ...

    def distances(self, points: FloatArray, centers: Centers) -> FloatArray:
        """Each row's distance to every center, (n, k) float32."""
        ...


class Backend(Way, Protocol):
    """A way of computing that can be chosen by its name."""

    def describe(self) -> dict[str, Any]:
        """What this machine would run, for people."""
        ...


@cache
def select(name: str | None = None) -> Backend:
    """The backend of this process: the one named, or the fastest there is.

    Raises:
        Invalid: there is none of that name, or this machine cannot use it.
    """
    if name is None:
        for choice in BACKENDS[:-1]:
            try:
                return _load(choice)
            except ImportError as error:
                # Nobody misses a GPU where CuPy is not installed either.
                level = logging.DEBUG if error.name == "cupy" else logging.WARNING
                logger.log(level, "backend %s cannot be used: %s", choice, error)
        return _load(BACKENDS[-1])
    if name not in BACKENDS:
        raise Invalid(expected("backend", f"one of {', '.join(BACKENDS)}", name))
    try:
        return _load(name)
    except ImportError as error:
        raise Invalid(f"backend {name!r} cannot be used on this machine: {error}") from error


def _load(name: str) -> Backend:
    # Late, so that the backends not used, and what they need, are not even imported.
    return cast(Backend, importlib.import_module(f"{__name__}.{_MODULES[name]}"))
