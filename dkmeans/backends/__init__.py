"""Backends: the computations on a chunk's rows, for NumPy, for compiled code and for GPUs.

A backend is a module with the functions of `Backend`. `select` chooses one in each process, so
workers of one fit may use different backends. All backends find the same nearest centers, and
tests/backends/test_backends.py holds all of them to the same answers.

    backend = select()
    sums = backend.partial_sums(rows, Centers(values, Distance.COSINE))
"""

from __future__ import annotations

import importlib
import logging
from functools import cache
from typing import Any, Protocol, cast

from dkmeans.config import BACKENDS
from dkmeans.distance import Centers
from dkmeans.errors import Invalid, expected
from dkmeans.state import FloatArray, IndexArray, PartialSums

# The module of each backend, by the name that users give.
_MODULES = {"cuda": "cuda.backend", "native": "native.backend", "numpy": "numpy"}

logger = logging.getLogger("dkmeans")


class Implementation(Protocol):
    """The computations on a chunk's (n, d) rows and (k, d) centers.

    Every implementation must guarantee:

    * The nearest center of a row is the argmin of its float64 distances to all centers, and the
      lowest index among equals (docs/decisions/001). So the nearest center depends on the row and
      the centers alone. Block sizes, backends and the number of workers cannot change it.
    * Distances to nearest centers are float64, and so are sums and inertia.
    * A row that is not finite raises no error and makes the inertia of its chunk not finite.
    * The arguments are not changed, and any number of threads may call at the same time.
    """

    def partial_sums(self, points: FloatArray, centers: Centers) -> PartialSums:
        """Return the sums, counts and inertia of the rows of each nearest center."""
        ...

    def assign(
        self, points: FloatArray, centers: Centers
    ) -> tuple[PartialSums, IndexArray, FloatArray]:
        """Return the results of `partial_sums` and `nearest`, with the same bits, in one pass."""
        ...

    def nearest(self, points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
        """Return the nearest center of each row and the distance to it.

        Returns:
            The cluster indices, (n,) int64, and the distances, (n,) float64.
        """
        ...

    def distances(self, points: FloatArray, centers: Centers) -> FloatArray:
        """Return the distance of each row to every center, (n, k) float32."""
        ...


class Backend(Implementation, Protocol):
    """An implementation that users can choose by its name."""

    def describe(self) -> dict[str, Any]:
        """Return what computes on this machine, for display."""
        ...


@cache
def select(name: str | None = None) -> Backend:
    """Return the backend of a name; without a name the fastest that this machine can use.

    Raises:
        Invalid: no backend has this name, or this machine cannot use it.
    """
    if name is None:
        for choice in BACKENDS[:-1]:
            try:
                return _load(choice)
            except ImportError as error:
                # A machine without CuPy is not expected to have a GPU: no warning is needed.
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
    # Imported late: a backend that is not used must not import Numba or CuPy.
    return cast(Backend, importlib.import_module(f"{__name__}.{_MODULES[name]}"))
