"""Interchangeable siblings: a backend is a module with these functions, chosen on the worker."""

from __future__ import annotations

from functools import cache
from typing import Protocol

from dkmeans.backends import array_api
from dkmeans.distance import Centers
from dkmeans.state import FloatArray, IndexArray, PartialSums


class Backend(Protocol):
    """What every backend can do with a chunk's (n, d) rows and (k, d) centers.

    The winner of a row is the center whose float64 distance to it is least, the lowest index
    among equals: a property of the row and the centers alone, so no backend, block size or
    number of workers can change it.
    """

    def partial_sums(self, points: FloatArray, centers: Centers) -> PartialSums:
        """The sums, counts and inertia of the rows."""
        ...

    def nearest(self, points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
        """Each row's winner, (n,) int64, and its distance to it, (n,) float64."""
        ...

    def distances(self, points: FloatArray, centers: Centers) -> FloatArray:
        """Each row's distance to every center, (n, k) float32."""
        ...


@cache
def select() -> Backend:
    """The backend of this process."""
    return array_api
