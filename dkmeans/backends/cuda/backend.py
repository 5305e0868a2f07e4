"""The functions of the CUDA backend, and the choice of what computes them.

The import fails with ImportError where no GPU can be used; `dkmeans.backends.select` catches it.
Each process tries the kernels on small problems first. If they cannot be used, or give other
answers than NumPy, CuPy's own functions compute instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dkmeans.backends import Implementation
from dkmeans.backends.array_api import ArrayApi
from dkmeans.backends.cuda.device import Gpu, GpuArrays, check_device, describe_device
from dkmeans.backends.cuda.launches import Launches
from dkmeans.backends.cuda.trial import first_correct
from dkmeans.distance import Centers
from dkmeans.state import FloatArray, IndexArray, PartialSums

# The implementations on a GPU, the fastest first.
IMPLEMENTATIONS: dict[str, Callable[[], Implementation]] = {
    "its own kernels": lambda: Launches(Gpu()),
    "CuPy's functions": lambda: ArrayApi(GpuArrays()),
}


check_device()
_name, _implementation = first_correct(IMPLEMENTATIONS)


def partial_sums(points: FloatArray, centers: Centers) -> PartialSums:
    """Assign each of the (n, d) rows to its nearest center; return sums, counts and inertia."""
    return _implementation.partial_sums(points, centers)


def assign(points: FloatArray, centers: Centers) -> tuple[PartialSums, IndexArray, FloatArray]:
    """Return the results of `partial_sums` and `nearest` in one pass."""
    return _implementation.assign(points, centers)


def nearest(points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
    """Return each row's nearest center, (n,) int64, and distance to it, (n,) float64."""
    return _implementation.nearest(points, centers)


def distances(points: FloatArray, centers: Centers) -> FloatArray:
    """Return the distance of each row to every center, (n, k) float32."""
    return _implementation.distances(points, centers)


def describe() -> dict[str, Any]:
    """Return the GPU, the implementation that computes on it, and the versions of its software."""
    return describe_device(computes_by=_name)
